"""Where a Vision Transformer looks: attention maps recomputed from the weights, what they say, and a picture of them.

Nothing is hooked or kept during training: a map is asked of a model and the pictures whenever somebody wants to see.
Not here: rollout and gradient methods, and whether a map is a faithful explanation.

Shapes: B batch, C channels, H W pixels, R rows and K columns of patches, S special tokens (class token and
registers), N = S + R*K tokens, A heads, L depth, n pictures.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitreous.classifier import Classifier
from vitreous.data import Images, load
from vitreous.evaluate import check_fit, run_images
from vitreous.pictures import MOST_PANELS, Panel, gallery
from vitreous.vit import Block, ViT, attention_weights

BATCH = 64
"""Pictures whose maps are made at a time."""
QUERIES_AT_ONCE = 64
"""Patch tokens whose attention rows are held at a time, for mean-pooled models."""
OBSERVED = 500
"""Pictures of a data set that the numbers are about: ten are too few to compare right and wrong predictions."""


def _class_row(block: Block, x: Tensor, special: int) -> Tensor:
    """How much the class token looks at every token: (B, N, D) -> (B, A, N)."""
    return block.attn.weights(block.norm1(x), queries=slice(0, 1))[:, :, 0]


def _mean_row(block: Block, x: Tensor, special: int) -> Tensor:
    """How much the average patch token looks at every token: (B, N, D) -> (B, A, N), some queries at a time."""
    q, k, _ = block.attn.project(block.norm1(x))
    patches = q[:, :, special:].split(QUERIES_AT_ONCE, dim=2)  # each (B, A, Q, E)
    rows = [attention_weights(some, k).sum(dim=2) for some in patches]
    return torch.stack(rows).sum(dim=0) / (q.shape[2] - special)


ROWS: dict[str, Callable[[Block, Tensor, int], Tensor]] = {"class": _class_row, "mean": _mean_row}
"""Whose attention a map shows, by what the head reads: the class token's, or the mean over the patch tokens."""


def _with_attention(model: nn.Module) -> ViT:
    if not hasattr(model, "walk"):
        raise ValueError(f"a {type(model).__name__} has no attention to show: heatmaps need a Vision Transformer")
    return cast(ViT, model)


def _layers(
    model: nn.Module, images: Tensor, source: Callable[[Block, Tensor, int], Tensor] | None = None
) -> Iterator[Tensor]:
    """The map of every layer, first to last: (B, C, H, W) -> L x float32 (B, A, R, K).

    ``source`` says whose attention it is; None for the row of ROWS that the model's head goes by.
    """
    vit = _with_attention(model)
    row, special = source or ROWS[vit.config.pool], vit.config.special
    for block, x in vit.walk(images):
        yield row(block, x, special)[..., special:].float().unflatten(-1, vit.grid(images))


@contextmanager
def _looking(model: nn.Module) -> Iterator[None]:
    """No gradients, and eval mode for as long as it lasts: a normalisation must not learn from being looked at."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def class_attention(model: nn.Module, images: Tensor) -> Tensor:
    """How much the head's source looks at each patch, layer by layer, head by head: (B, C, H, W) -> (B, L, A, R, K).

    The source is the class token; in a mean-pooled model, which has none, it is the average patch token (the mean
    over the patch tokens of their attention rows). The numbers are raw shares of the softmax: a map sums to 1 less
    the share that special tokens (class token and registers) received. Memory grows with N, not with N x N. Raises
    ValueError for a model without attention.
    """
    with _looking(model):
        return torch.stack(list(_layers(model, images)), dim=1)


def patch_attention(model: nn.Module, images: Tensor, patch: tuple[int, int]) -> Tensor:
    """How much one patch, ``(row, column)``, looks at each patch: (B, C, H, W) -> (B, L, A, R, K), raw shares.

    Raises ValueError for a model without attention, and for a patch that is not on the grid.
    """

    def patch_row(block: Block, x: Tensor, special: int) -> Tensor:
        token = special + patch[0] * columns + patch[1]
        return block.attn.weights(block.norm1(x), queries=slice(token, token + 1))[:, :, 0]

    rows, columns = _with_attention(model).grid(images)
    if not (0 <= patch[0] < rows and 0 <= patch[1] < columns):
        raise ValueError(f"patch {patch} is not on the grid: rows are 0 to {rows - 1}, columns 0 to {columns - 1}")
    with _looking(model):
        return torch.stack(list(_layers(model, images, patch_row)), dim=1)


def class_map(model: nn.Module, images: Tensor, batch: int = BATCH) -> Tensor:
    """The mean of :func:`class_attention` over heads and layers, ``batch`` pictures at a time: -> (B, R, K)."""
    maps = []
    with _looking(model):
        for some in images.split(batch):
            layers = [heads.mean(dim=1) for heads in _layers(model, some)]  # L x (B, R, K)
            maps.append(torch.stack(layers).mean(dim=0))
    return torch.cat(maps)


@dataclass(frozen=True, eq=False)
class Observed:
    """What maps say, one number a picture: arrays (n,)."""

    entropy: np.ndarray
    """Of the map's shares among the patches, over log(R*K): 1 for an even map, 0 for a single patch."""
    peak: np.ndarray
    """Share of the attention to patches that the most looked-at 10 % of them (rounded up) hold."""
    centre: np.ndarray
    """Attention to a patch of the middle half (of height and width), over an even share."""
    border: np.ndarray
    """Attention to a patch of the outermost ring, over an even share."""
    special: np.ndarray
    """Share of the attention that went to the class token and registers and is in none of the above."""
    even_peak: float
    """What ``peak`` would be for an even map."""
    correct: np.ndarray | None
    """Whether the prediction is right, bool (n,); None where that is not known of every picture."""

    def to_json(self) -> dict[str, Any]:
        """Means, the difference of right and wrong predictions with its standard error, and the number of pictures."""
        values: dict[str, Any] = {"n": len(self.entropy), "even_peak": self.even_peak}
        for name in ("entropy", "peak", "centre", "border", "special"):
            values[name] = float(getattr(self, name).mean())
        if self.correct is not None:
            values["right"] = int(self.correct.sum())
            for name in COMPARED:
                gap = right_and_wrong(getattr(self, name), self.correct)
                values[f"{name}_right_wrong"] = None if gap is None else dataclasses.asdict(gap)
        return values


def observe(maps: np.ndarray, correct: np.ndarray | None = None) -> Observed:
    """Measure maps of raw shares (n, R, K), each summing to at most 1; ``correct`` is bool (n,) where known."""
    n, rows, columns = maps.shape
    if not n:
        raise ValueError("0 maps say nothing: give at least one")
    flat = maps.reshape(n, -1).astype(np.float64)
    total = flat.sum(axis=1)
    shares = flat / np.maximum(total, np.finfo(np.float64).tiny)[:, None]
    count = rows * columns
    logs = np.log(shares, where=shares > 0, out=np.zeros_like(shares))
    entropy = -(shares * logs).sum(axis=1) / math.log(count) if count > 1 else np.ones(n)
    top = math.ceil(count / 10)
    down = np.abs((np.arange(rows) + 0.5) / rows - 0.5)  # distance of each row from the middle, 0 to 0.5
    across = np.abs((np.arange(columns) + 0.5) / columns - 0.5)
    centre = (np.maximum.outer(down, across) <= 0.25).ravel()
    if not centre.any():  # no patch has its middle there: take the innermost
        centre = np.logical_and.outer(down == down.min(), across == across.min()).ravel()
    border = np.logical_or.outer(down == down.max(), across == across.max()).ravel()
    return Observed(
        entropy=entropy,
        peak=np.sort(shares, axis=1)[:, -top:].sum(axis=1),
        centre=shares[:, centre].mean(axis=1) * count,
        border=shares[:, border].mean(axis=1) * count,
        special=1 - total,
        even_peak=top / count,
        correct=None if correct is None else np.asarray(correct, dtype=bool),
    )


COMPARED = {"entropy": "entropy", "peak": "share of the most looked-at patches", "centre": "weight of the centre"}
"""Measures that are compared between right and wrong predictions, and how a sentence names them."""
FEWEST = 5
"""Pictures that a group must have to be compared: a spread of fewer is a guess."""


@dataclass(frozen=True)
class Gap:
    """A difference of two means with its standard error."""

    first: float
    second: float
    error: float

    @property
    def clear(self) -> bool:
        """Larger than two standard errors: more than noise would usually make it."""
        return abs(self.first - self.second) > 2 * self.error


def right_and_wrong(values: np.ndarray, correct: np.ndarray) -> Gap | None:
    """Mean over right (first) against wrong (second) predictions, unpaired (Welch); None where a group is too small."""
    groups = values[correct], values[~correct]
    if min(map(len, groups)) < FEWEST:
        return None
    error = math.sqrt(sum(group.var(ddof=1) / len(group) for group in groups))
    return Gap(float(groups[0].mean()), float(groups[1].mean()), error)


def observations(seen: Observed) -> list[str]:
    """Sentences that put the numbers into words; a difference within two standard errors is called no difference."""
    low, high = np.quantile(seen.entropy, (0.1, 0.9))
    sentences = [
        f"Concentration over {len(seen.entropy)} pictures: the entropy is {seen.entropy.mean():.1%} of an even map's "
        f"({low:.1%} to {high:.1%} for the middle 80% of pictures); the most looked-at tenth of the patches holds "
        f"{seen.peak.mean():.1%} of the attention, where an even map gives it {seen.even_peak:.1%}.",
        _centre_and_border(seen),
    ]
    if seen.special.mean() > 1e-4:
        sentences.append(
            f"Outside the picture: {seen.special.mean():.1%} of the attention goes to the class token and registers; "
            f"the other numbers are about the rest."
        )
    if seen.correct is not None:
        sentences += _right_and_wrong(seen, seen.correct)
    return sentences


def _centre_and_border(seen: Observed) -> str:
    gaps = seen.centre - seen.border  # paired: both are of the same map
    numbers = (
        f"a patch of the centre gets {seen.centre.mean():.2f} times an even share, one of the border "
        f"{seen.border.mean():.2f} times"
    )
    if len(gaps) < FEWEST:
        return f"Centre and border: {numbers}; {len(gaps)} pictures are too few to tell that from noise."
    error = float(gaps.std(ddof=1)) / math.sqrt(len(gaps))
    size = f"difference {gaps.mean():+.2f}, standard error {error:.2f}"
    if abs(gaps.mean()) <= 2 * error:
        return f"Centre and border: no difference beyond noise; {numbers} ({size})."
    return f"Centre and border: the {'centre' if gaps.mean() > 0 else 'border'} is preferred; {numbers} ({size})."


def _right_and_wrong(seen: Observed, correct: np.ndarray) -> list[str]:
    right, wrong = int(correct.sum()), int((~correct).sum())
    if min(right, wrong) < FEWEST:
        return [
            f"Right and wrong: {right} right and {wrong} wrong predictions; maps are compared from {FEWEST} of each on."
        ]
    sentences = []
    for name, words in COMPARED.items():
        gap = right_and_wrong(getattr(seen, name), correct)
        assert gap is not None
        numbers = (
            f"{gap.first:.3f} over {right} right against {gap.second:.3f} over {wrong} wrong predictions "
            f"(difference {gap.first - gap.second:+.2g}, standard error {gap.error:.2g})"
        )
        if gap.clear:
            verdict = f"the {words} is {'higher' if gap.first > gap.second else 'lower'} where the prediction is right"
        else:
            verdict = f"no difference beyond noise in the {words}"
        sentences.append(f"Right and wrong: {verdict}: {numbers}.")
    return sentences


@dataclass(frozen=True, eq=False)
class HeatmapResult:
    """What :func:`heatmap_run` wrote and found."""

    picture: Path
    """The gallery, PNG."""
    maps: Path
    """NumPy file, float32 (n, R, K): the raw shares of the pictures in the gallery, in its order."""
    observations: dict[str, Any]
    """Means over the observed pictures, see :meth:`Observed.to_json`."""
    sentences: tuple[str, ...]
    """The same in words."""
    rows: tuple[Panel, ...]
    """The pictures of the gallery."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {
            "picture": str(self.picture),
            "maps": str(self.maps),
            "n": len(self.rows),
            "observations": self.observations,
            "sentences": list(self.sentences),
            "rows": [row.to_json() for row in self.rows],
        }


def _files(sources: Sequence[str | Path]) -> list[Path]:
    """The picture files among sources, in order; empty where the only source is a data set."""
    paths = [Path(source).expanduser() for source in sources]
    if len(paths) == 1 and (paths[0].is_dir() or paths[0].suffix.lower() == ".parquet" or not paths[0].is_file()):
        return []
    for path in paths:
        if path.is_dir():
            raise ValueError(f"{path} is a folder among other sources: give picture files, or one data set alone")
    return paths


def _drawn(images: Images, count: int, seed: int) -> Images:
    """``count`` pictures in a random order, or all of them where there are fewer."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images.select(order[:count])


def _read(classifier: Classifier, file: Path) -> Tensor:
    """The pixels of one file. Raises ValueError that names it."""
    try:
        return classifier.read(file)
    except ValueError as problem:
        raise ValueError(f"{file}: {problem}") from None


def _looked_at(
    run: Path, sources: Sequence[str | Path], count: int, seed: int, root: Path | None
) -> tuple[Classifier, Tensor, Sequence[str], Tensor | None]:
    """The classifier, pixels uint8 (n, C, S, S), where each came from, and labels (n,) if those are known."""
    files = _files(sources)
    if files:
        classifier = Classifier.load(run)
        return classifier, torch.stack([_read(classifier, file) for file in files]), [str(f) for f in files], None
    if sources:
        classifier = Classifier.load(run)
        data = load(sources[0], data_root=root, size=classifier.size, splits={"val"})
        if data.val is None:
            raise ValueError(f"{data.name} has no validation pictures: give picture files instead")
        check_fit(classifier, data.val)
        images = _drawn(data.val, count, seed)
    else:
        classifier, images, _ = run_images(run, "val", root)
        images = _drawn(images, count, seed)
    return classifier, images.pixels, images.ids, images.labels


def _paths(run: Path, out: Path | None) -> tuple[Path, Path]:
    """Where the gallery and the maps go."""
    folder = run if out is None else out
    picture = folder if folder.suffix.lower() == ".png" else folder / "heatmaps.png"
    return picture, picture.with_suffix(".npy")


def heatmap_run(
    run: Path,
    sources: Sequence[str | Path] | None = None,
    n: int = 10,
    seed: int = 0,
    out: Path | None = None,
    data_root: Path | None = None,
) -> HeatmapResult:
    """Draw what a run's classifier looks at, and say it in numbers.

    sources: None for ``n`` validation pictures of the run's data, drawn by ``seed``; one data set (name, folder of
    classes, parquet) for ``n`` of its validation pictures; or picture files, all of which are drawn, without a true
    class. Of a data set, up to OBSERVED pictures are measured and the first ``n`` of them drawn.
    out: a folder for heatmaps.png and heatmaps.npy, or the name of the PNG; None for the run folder.
    Raises ValueError or FileNotFoundError, before anything is written, for what cannot be read or drawn.
    """
    n = len(_files(sources or [])) or n
    if not 1 <= n <= MOST_PANELS:
        raise ValueError(f"{n} pictures in one gallery: give 1 to {MOST_PANELS}")
    classifier, pixels, names, truth = _looked_at(run, sources or [], max(n, OBSERVED), seed, data_root)
    device = next(classifier.model.parameters()).device
    maps = torch.cat([class_map(classifier.model, classifier.prepare(p.to(device))).cpu() for p in pixels.split(BATCH)])
    sure, guess = classifier.logits(pixels).softmax(dim=1).max(dim=1)
    seen = observe(maps.numpy(), None if truth is None else (guess == truth).numpy())
    panels = [
        Panel(
            source=names[i],
            pixels=pixels[i],
            map=maps[i].numpy(),
            true=None if truth is None else classifier.classes[truth[i]],
            predicted=classifier.classes[guess[i]],
            probability=float(sure[i]),
        )
        for i in range(min(n, len(pixels)))
    ]
    picture, array = _paths(run, out)
    config = classifier.config
    looker = "class token looks" if config.pool == "class" else "average patch looks"
    gallery(panels, picture, caption=f"Where the {looker}: mean over {config.heads} heads and {config.depth} layers.")
    np.save(array, maps[: len(panels)].numpy())
    return HeatmapResult(picture, array, seen.to_json(), tuple(observations(seen)), tuple(panels))
