"""Does a heatmap tell the truth? Three questions that a method has to pass on a run's own pictures.

1. Randomised weights (Adebayo et al. 2018): a map that hardly changes when the weights are replaced by random ones
   shows the picture and not the model.
2. Deletion: covering the patches a map calls important must hurt the class more than covering as many at random.
3. Pointing, where the object's place is known (``shapes``, ``digits-clutter``): the peak must lie on the object more
   often than chance would have it.

A method that fails one is "not faithful" wherever it is shown. Whole curves of deletion and of insertion, each tested
against random orders, how maps change as weights are replaced from the head down, and mask overlap are reported beside.

Shapes: n pictures, C channels, S side in pixels, R rows and K columns of patches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous import sealed
from vitreous.classifier import Classifier
from vitreous.data.shapes import CLASSES, masks
from vitreous.evaluate import run_images, weights_name
from vitreous.heatmaps import METHODS, VERDICTS, as_shares, heat, known_method, methods_for
from vitreous.models import build_model
from vitreous.runs import read_config

SIMILAR = 0.2
"""Mean rank correlation with maps of random weights above which a method is no longer about the weights; on grids of
fewer than 65 patches, where chance alone comes near, twice what unrelated maps have (see :func:`limit`)."""
DELETED = 0.2
"""Share of the patches whose deletion is compared with deletion at random."""
SURE = 0.01
"""Probability of chance below which a difference counts."""
FRACTIONS = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
"""Of the patches, where the curves are measured."""
RANDOM_ORDERS = 3
"""Random orders that deletion is compared with, averaged, for each picture."""
RANDOMISED = 64
"""Pictures on which maps of random weights are compared."""


def ranks(values: np.ndarray) -> np.ndarray:
    """Ranks of each row, ties sharing their mean rank: (n, m) -> float (n, m)."""
    found = np.empty(values.shape)
    for row, own in zip(values, found, strict=True):
        _, place, counts = np.unique(row, return_inverse=True, return_counts=True)
        own[:] = (np.cumsum(counts) - (counts + 1) / 2)[place]
    return found


def rank_correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Spearman's correlation of each picture's two maps: two of (n, R, K) -> (n,); 0 where one of them is constant."""
    a, b = (ranks(maps.reshape(len(maps), -1)) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return np.divide((a * b).sum(axis=1), size, out=np.zeros(len(a)), where=size > 0)


def chance_of(mean: float, error: float) -> float:
    """One-sided probability that a mean this far above 0, with this standard error, is chance (normal, large n)."""
    return 0.5 * math.erfc(mean / error / math.sqrt(2)) if error > 0 else float(mean <= 0)


def paired(gains: np.ndarray) -> tuple[float, float, float]:
    """Of each picture's gain (n,): the mean, its standard error, and how likely chance makes it as large."""
    mean, error = float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains)))
    return mean, error, chance_of(mean, error)


def limit(patches: int) -> float:
    """The highest mean magnitude of rank correlation that passes for unrelated, on maps of so many patches."""
    return max(SIMILAR, 2 * math.sqrt(2 / (math.pi * max(1, patches - 1))))


def _stages(model: nn.Module) -> list[tuple[str, list[str]]]:
    """The parts of a model from the head down to the pixels, with the names of their weights."""
    names = list(model.state_dict())
    parts: dict[str, list[str]] = {"head": [name for name in names if name.split(".")[0] in ("head", "norm")]}
    for trunk in ("blocks", "stages"):
        numbers = sorted({int(name.split(".")[1]) for name in names if name.startswith(trunk + ".")}, reverse=True)
        for number in numbers:
            parts[f"{trunk[:-1]} {number + 1}"] = [name for name in names if name.startswith(f"{trunk}.{number}.")]
    known = {name for part in parts.values() for name in part}
    parts["stem"] = [name for name in names if name not in known]
    return [(stage, part) for stage, part in parts.items() if part]


def randomised(classifier: Classifier, seed: int = 0) -> Sequence[tuple[str, Callable[[], Classifier]]]:
    """A classifier with ever more of its weights replaced by fresh ones, from the head down: stage, and its maker."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = build_model(classifier.config).state_dict()
    weights = {name: value.detach().clone() for name, value in classifier.model.state_dict().items()}

    def up_to(names: list[str]) -> Callable[[], Classifier]:
        def make() -> Classifier:
            model = build_model(classifier.config).eval()
            model.load_state_dict(weights | {name: fresh[name] for name in names})
            return replace(classifier, model=model)

        return make

    made = []
    names: list[str] = []
    for stage, part in _stages(classifier.model):
        names = names + part
        made.append((stage, up_to(names)))
    return made


def as_pixels(patches: Tensor, side: int, size: Sequence[int]) -> Tensor:
    """Which pixels lie in the patches of that ``side``: bool (n, R, K) -> bool (n, H, W), ``size`` being H and W.

    A last patch that sticks out is cut off, and a border that no patch reaches is False.
    """
    height, width = size
    whole = patches.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, :height, :width]
    return F.pad(whole, (0, width - whole.shape[2], 0, height - whole.shape[1]))


def curve(
    classifier: Classifier, pixels: Tensor, target: Tensor, order: np.ndarray, insert: bool = False
) -> np.ndarray:
    """The class's probability as patches go, or come in if ``insert``: -> (n, len(FRACTIONS)).

    pixels uint8 (n, C, S, S); order (n, R, K) is high for the patches that go first; what is covered has the mean
    colour of the training pictures. What lies beyond the last patch is never covered.
    """
    n, rows, columns = order.shape
    # a tie is broken by place, the same in every map
    place = np.argsort(np.argsort(-order.reshape(n, -1), axis=1, kind="stable"), axis=1)
    first = torch.from_numpy(place.reshape(n, rows, columns))
    images = classifier.prepare(pixels)
    found = []
    for fraction in FRACTIONS:
        gone = first < round(fraction * rows * columns)
        covered = as_pixels(~gone if insert else gone, classifier.config.patch_size, images.shape[2:])
        with torch.no_grad():
            parts = zip((images * ~covered[:, None]).split(250), target.split(250), strict=True)
            sure = [classifier.model(some).softmax(dim=1).gather(1, own[:, None])[:, 0] for some, own in parts]
        found.append(torch.cat(sure).numpy())
    return np.stack(found, axis=1)


def area(curves: np.ndarray) -> np.ndarray:
    """Mean height of each curve over FRACTIONS: (n, len(FRACTIONS)) -> (n,)."""
    return (curves[:, 1:] + curves[:, :-1]).mean(axis=1) / 2


@dataclass(frozen=True)
class Verdict:
    """What was found of one method."""

    n: int
    """Pictures."""
    similarity: float
    """Mean magnitude of the rank correlation with the maps of a model of random weights."""
    allowed: float
    """How large that may be, see :func:`limit`."""
    cascade: dict[str, float]
    """The same as weights are replaced from the head down; the last stage is ``similarity``."""
    deletion: float
    """By how much the class's probability falls further than at random with the top DELETED of the patches covered."""
    deletion_error: float
    """Standard error of that, paired over pictures."""
    deletion_chance: float
    """Probability of such a difference by chance, one-sided."""
    deletion_area: float
    """Mean probability over the deletion curve less that of random orders: below 0 is good."""
    deletion_area_error: float
    insertion_area: float
    """The same for patches that come in: above 0 is good."""
    insertion_area_error: float
    insertion_chance: float
    """Probability of such an insertion curve by chance, one-sided."""
    curves: dict[str, tuple[float, ...]]
    """Mean probability of the class at FRACTIONS, by ``deletion``, ``insertion``, and patches that go ``at random``."""
    pointing: float | None = None
    """Share of pictures whose peak lies on the object; None where its place is not known."""
    pointing_by_chance: float | None = None
    """What a peak anywhere would reach: the share of patches that touch the object."""
    pointing_chance: float | None = None
    """Probability of ``pointing`` by chance."""
    overlap: float | None = None
    """Share of the map that lies on the object's patches."""

    @property
    def failed(self) -> list[str]:
        """In words, the questions that it failed."""
        reasons = []
        if self.similarity > self.allowed:
            numbers = f"correlation {self.similarity:.2f} > {self.allowed:.2f}"
            reasons.append(f"random weights give similar maps ({numbers})")
        if self.deletion_chance >= SURE:
            reasons.append(
                f"covering its top {DELETED:.0%} of patches hurts no more than covering others ({self.deletion:+.1%})"
            )
        if self.pointing_chance is not None and self.pointing_chance >= SURE:
            reasons.append(f"its peak is on the object no more often than by chance ({self.pointing:.0%})")
        return reasons

    @property
    def words(self) -> str:
        """The verdict in one line."""
        return "not faithful: " + "; ".join(self.failed) if self.failed else "faithful by every check"

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**asdict(self), "faithful": not self.failed, "words": self.words}


def touched(where: np.ndarray, grid: tuple[int, int], side: int) -> np.ndarray:
    """Patches of that ``side`` that hold some of the object: bool (n, S, S) -> bool (n, R, K)."""
    rows, columns = grid
    part = where[:, : rows * side, : columns * side]
    whole = np.pad(part, ((0, 0), (0, rows * side - part.shape[1]), (0, columns * side - part.shape[2])))
    return np.asarray(whole.reshape(len(where), rows, side, columns, side).any(axis=(2, 4)))


def random_curve(
    classifier: Classifier, pixels: Tensor, target: Tensor, grid: tuple[int, int], seed: int
) -> np.ndarray:
    """The class's probability as patches go in random order, mean over RANDOM_ORDERS: -> (n, len(FRACTIONS))."""
    random = np.random.default_rng(seed)
    orders = [random.random((len(pixels), *grid)) for _ in range(RANDOM_ORDERS)]
    return np.asarray(np.mean([curve(classifier, pixels, target, order) for order in orders], axis=0))


def judge(
    classifier: Classifier,
    pixels: Tensor,
    method: str,
    where: np.ndarray | None = None,
    seed: int = 0,
    tell: Callable[[str], None] = lambda words: None,
    by_chance: np.ndarray | None = None,
) -> Verdict:
    """All questions to one method, about the class that is predicted: pixels uint8 (n, C, S, S), where bool (n, S, S).

    ``tell`` is told what is being done. ``by_chance`` is :func:`random_curve`'s, where it is known already.
    """
    n = len(pixels)
    target = classifier.logits(pixels).argmax(dim=1)
    tell(f"{method}: maps of {n} pictures")
    maps = heat(classifier, pixels, method, target=target).numpy()
    few = slice(0, RANDOMISED)
    cascade = {}
    for stage, make in randomised(classifier, seed):
        tell(f"{method}: random weights from the head to {stage}")
        other = heat(make(), pixels[few], method, target=target[few]).numpy()
        cascade[stage] = float(np.abs(rank_correlation(maps[few], other)).mean())
    tell(f"{method}: covering patches")
    if by_chance is None:
        by_chance = random_curve(classifier, pixels, target, (maps.shape[1], maps.shape[2]), seed)
    falling = curve(classifier, pixels, target, maps)
    rising = curve(classifier, pixels, target, maps, insert=True)
    # a random order deleted from the end is a random order inserted
    deletion, error, chance = paired((by_chance - falling)[:, FRACTIONS.index(DELETED)])
    lost, lost_error, _ = paired(area(falling) - area(by_chance))
    won, won_error, won_chance = paired(area(rising) - area(by_chance[:, ::-1]))
    means = {"deletion": falling, "insertion": rising, "at random": by_chance}
    verdict = Verdict(
        n=n,
        similarity=list(cascade.values())[-1],
        allowed=limit(maps[0].size),
        cascade=cascade,
        deletion=deletion,
        deletion_error=error,
        deletion_chance=chance,
        deletion_area=lost,
        deletion_area_error=lost_error,
        insertion_area=won,
        insertion_area_error=won_error,
        insertion_chance=won_chance,
        curves={name: tuple(map(float, values.mean(axis=0))) for name, values in means.items()},
    )
    return verdict if where is None else replace(verdict, **_pointing(maps, where, classifier.config.patch_size))


def _pointing(maps: np.ndarray, where: np.ndarray, side: int) -> dict[str, Any]:
    n = len(maps)
    objects = touched(where, (maps.shape[1], maps.shape[2]), side).reshape(n, -1)
    hits = objects[np.arange(n), maps.reshape(n, -1).argmax(axis=1)]
    expected = objects.mean(axis=1)
    error = math.sqrt(float((expected * (1 - expected)).sum())) / n
    shares = as_shares(torch.from_numpy(maps)).numpy().reshape(n, -1)
    return {
        "pointing": float(hits.mean()),
        "pointing_by_chance": float(expected.mean()),
        "pointing_chance": chance_of(float(hits.mean() - expected.mean()), error),
        "overlap": float((shares * objects).sum(axis=1).mean()),
    }


def check_run(
    run: Path,
    methods: Sequence[str] | None = None,
    n: int = 500,
    seed: int = 0,
    data_root: Path | None = None,
    tell: Callable[[str], None] = lambda words: None,
) -> dict[str, Verdict]:
    """The verdict on each method for a run's classifier, on ``n`` of its validation pictures; kept in the run folder.

    methods: None for all that the model has. Verdicts of other methods on the same weights are kept.
    """
    classifier, images, _ = run_images(run, "val", data_root)
    images = images.select(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))[:n])
    if len(images) < 2:
        raise ValueError(f"{len(images)} validation pictures are too few to check heatmaps on: it takes 2, better 200")
    source = read_config(run).data.source.lower()
    where = masks(source, images.ids, classifier.size) if source in CLASSES else None
    target = classifier.logits(images.pixels).argmax(dim=1)
    found: dict[str, Verdict] = {}
    curves: dict[tuple[int, int], np.ndarray] = {}
    for method in methods or methods_for(classifier.model):
        known_method(classifier.model, method)
        shape = heat(classifier, images.pixels[:1], method).shape
        grid = (shape[1], shape[2])
        if grid not in curves:
            tell(f"covering patches at random on {len(images)} pictures")
            curves[grid] = random_curve(classifier, images.pixels[:], target, grid, seed)
        found[method] = judge(classifier, images.pixels[:], method, where, seed, tell, curves[grid])
        _store(run, method, found[method])
    return found


def _store(run: Path, method: str, verdict: Verdict) -> None:
    """Adds one verdict to those of the same weights."""
    path, weights = run / VERDICTS, weights_name(run)
    kept: dict[str, Any] = {}
    if path.is_file():
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            kept = values["methods"] if values["weights"] == weights else {}
        except (KeyError, TypeError, ValueError):
            kept = {}
    ordered = {name: each for name in METHODS if (each := (kept | {method: verdict.to_json()}).get(name))}
    sealed.write(path, json.dumps({"weights": weights, "methods": ordered}, indent=2))
