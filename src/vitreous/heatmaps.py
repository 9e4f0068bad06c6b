"""Where a model looks: every method by name, on the pictures of a run, with a picture of it and what it says in words.

How maps are made is in attention_maps.py and gradient_maps.py, what they say in observations.py, whether they tell the
truth in faithfulness.py.

Shapes: B batch, C channels, S side in pixels, R rows and K columns of patches, A heads, L depth, n pictures.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from vitreous.attention_maps import class_attention, class_map, patch_attention, rollout
from vitreous.classifier import Classifier
from vitreous.config import nearest
from vitreous.data import Images, load
from vitreous.evaluate import check_fit, run_images, weights_name
from vitreous.gradient_maps import (
    grad_cam,
    gradient_attention,
    input_gradient,
    integrated_gradients,
    occlusion,
    relevance,
)
from vitreous.models import ModelConfig
from vitreous.observations import Observed, observations, observe, right_and_wrong, special_tokens
from vitreous.pictures import MOST_PANELS, Panel, gallery
from vitreous.runs import place

__all__ = [
    "METHODS",
    "HeatmapResult",
    "Method",
    "Observed",
    "class_attention",
    "class_map",
    "class_number",
    "heat",
    "heatmap_run",
    "observations",
    "observe",
    "patch_attention",
    "right_and_wrong",
    "stored_verdicts",
]

BATCH = 64
"""Pictures whose maps are made at a time."""
OBSERVED = 500
"""Pictures of a data set that the numbers are about: ten are too few to compare right and wrong predictions."""
VERDICTS = "faithfulness.json"
"""File of a run folder that says which methods tell the truth about its classifier, see faithfulness.py."""


@dataclass(frozen=True)
class Method:
    """A way to make heatmaps. Called with a model, its input (B, C, H, W) and classes (B,), it gives (B, R, K)."""

    sentence: str
    """What its maps show."""
    function: Callable[[nn.Module, Tensor, Tensor], Tensor]
    asks_class: bool = True
    """Whether a map is about one class; else it is the same for every class."""
    layered: Callable[[nn.Module, Tensor, Tensor], Tensor] | None = None
    """The same for every layer and head, (B, L, A, R, K), where the method has them."""
    needs: str | None = None
    """The attribute of a model that it looks into: ``walk`` of a Vision Transformer, ``stages`` of a CNN."""
    shares: bool = False
    """Whether maps are shares of 1, of which special tokens may hold a part; else only their order means something."""

    def __call__(self, model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
        return self.function(model, images, target)


METHODS: dict[str, Method] = {
    "attention": Method(
        "How much the class token attends to each patch, mean over heads and layers.",
        lambda model, images, target: class_map(model, images),
        asks_class=False,
        layered=lambda model, images, target: class_attention(model, images),
        needs="walk",
        shares=True,
    ),
    "rollout": Method(
        "Attention followed back through the layers to the picture, half of each step the residual connection.",
        lambda model, images, target: rollout(model, images),
        asks_class=False,
        needs="walk",
        shares=True,
    ),
    "attention-gradient": Method(
        "Attention times its gradient where that speaks for the class, mean over heads and layers.",
        lambda model, images, target: gradient_attention(model, images, target).mean(dim=(1, 2)),
        layered=gradient_attention,
        needs="walk",
    ),
    "relevance": Method(
        "Attention times its positive gradient, followed back through the layers to the picture.",
        relevance,
        needs="walk",
    ),
    "grad-cam": Method(
        "Which places of a CNN's last grid speak for the class, channels weighed by their gradients.",
        lambda model, images, target: grad_cam(model, images, target, cast(nn.Module, model.stages)),
        needs="stages",
    ),
    "input-gradient": Method("How steeply the class's score changes with the pixels of each patch.", input_gradient),
    "integrated-gradients": Method(
        "What each patch adds to the class's score on the way from the mean colour to the picture.",
        integrated_gradients,
    ),
    "occlusion": Method("How much of the class's probability is lost with each patch covered.", occlusion),
}
"""Every method by name. A new one is a row."""


def methods_for(model: nn.Module) -> tuple[str, ...]:
    """The names of the methods that can be asked of a model; the first is the one that is shown unasked."""
    return tuple(name for name, method in METHODS.items() if method.needs is None or hasattr(model, method.needs))


def known_method(model: nn.Module, name: str) -> str:
    """The name. Raises ValueError for a method that does not exist, or not for this model."""
    if name not in METHODS:
        raise ValueError(f"unknown method {name!r}{nearest(name, METHODS)}")
    if name not in methods_for(model):
        raise ValueError(f"{name} cannot look into this model: use {', '.join(methods_for(model))}")
    return name


def explained(name: str, config: ModelConfig) -> str:
    """What the maps of a method show in a model; one that is mean-pooled has no class token."""
    words = ("the class token attends", "the average patch attends")
    return METHODS[name].sentence.replace(*words) if getattr(config, "pool", "") == "mean" else METHODS[name].sentence


def class_number(classes: Sequence[str], name: str) -> int:
    """The number of a class. Raises ValueError for an unknown one, naming the nearest."""
    if name not in classes:
        raise ValueError(f"there is no class {name!r}{nearest(name, classes)}")
    return list(classes).index(name)


def _one_of(what: str, number: int, count: int) -> int:
    """From 1..count to an index. Raises ValueError outside."""
    if not 1 <= number <= count:
        raise ValueError(f"there is no {what} {number}: the model has {what}s 1 to {count}")
    return number - 1


def heat(
    classifier: Classifier,
    pixels: Tensor,
    method: str | None = None,
    target: str | Tensor | None = None,
    layer: int | None = None,
    head: int | None = None,
    batch: int = BATCH,
) -> Tensor:
    """Maps of one method: pixels uint8 (B, C, S, S) -> float32 (B, R, K) on the CPU.

    method: None for attention, or what there is in a model without. target: the class that maps are about, by name or
    as numbers (B,); None for the predicted ones. layer and head count from 1, the mean over all where they are None;
    only attention and attention-gradient have them.
    Raises ValueError for a method, class, layer or head that is not there.
    """
    model = classifier.model
    method = known_method(model, method or methods_for(model)[0])
    way = METHODS[method]
    if (layer is not None or head is not None) and way.layered is None:
        several = " and ".join(name for name, each in METHODS.items() if each.layered)
        raise ValueError(f"{method} goes through all layers and heads at once: only {several} show one of them")
    device = next(model.parameters()).device
    if isinstance(target, str):
        target = torch.full((len(pixels),), class_number(classifier.classes, target))
    if target is None:
        target = classifier.logits(pixels).argmax(dim=1) if way.asks_class else torch.zeros(len(pixels)).long()
    maps = []
    for some, classes in zip(pixels.split(batch), target.to(device).split(batch), strict=True):
        images = classifier.prepare(some.to(device))
        if layer is None and head is None:
            maps.append(way(model, images, classes))
            continue
        assert way.layered is not None
        found = way.layered(model, images, classes)  # (B, L, A, R, K)
        chosen = found if layer is None else found[:, [_one_of("layer", layer, found.shape[1])]]
        chosen = chosen if head is None else chosen[:, :, [_one_of("head", head, found.shape[2])]]
        maps.append(chosen.mean(dim=(1, 2)))
    return torch.cat(maps).float().cpu() if maps else torch.empty(0, 1, 1)


def as_shares(maps: Tensor) -> Tensor:
    """Maps of any method as shares that sum to 1, what is below 0 left out: (B, R, K) -> the same shape."""
    positive = maps.clamp(min=0)
    total = positive.sum(dim=(1, 2), keepdim=True)
    even = torch.full_like(positive, 1 / (maps.shape[1] * maps.shape[2]))  # where nothing speaks for the class
    return torch.where(total > 0, positive / total.clamp(min=1e-30), even)


def stored_verdicts(run: Path) -> dict[str, Any]:
    """What ``vitreous heatmap --check`` found for the weights that a run has now; empty where it was not asked."""
    try:
        values = json.loads((run / VERDICTS).read_text(encoding="utf-8"))
        return dict(values["methods"]) if values["weights"] == weights_name(run) else {}
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError, ValueError):
        return {}


@dataclass(frozen=True, eq=False)
class HeatmapResult:
    """What :func:`heatmap_run` wrote and found."""

    picture: Path
    """The gallery, PNG."""
    maps: Path
    """NumPy file, float32 (n, R, K): the maps of the pictures in the gallery, in its order, unscaled."""
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
    paths = [Path(os.path.expanduser(source)) for source in sources]
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
        data = load(sources[0], data_root=root, size=classifier.size, channels=classifier.channels, splits={"val"})
        if data.val is None:
            raise ValueError(f"{data.name} has no validation pictures: give picture files instead")
        check_fit(classifier, data.val)
        images = _drawn(data.val, count, seed)
    else:
        classifier, images, _ = run_images(run, "val", root)
        images = _drawn(images, count, seed)
    return classifier, images.pixels[:], images.ids, images.labels


@dataclass(frozen=True)
class Asked:
    """What a map is asked to show: a row of METHODS, for a class by name or each picture's own, of a layer and head."""

    method: str | None = None
    """None for attention, or what there is in a model without."""
    target: str | None = None
    layer: int | None = None
    head: int | None = None

    def stem(self) -> str:
        """The name of its files: heatmaps, heatmaps-rollout, heatmaps-attention-layer-2."""
        parts = [
            "" if self.method in (None, "attention") else self.method,
            "" if self.layer is None else f"layer-{self.layer}",
            "" if self.head is None else f"head-{self.head}",
        ]
        return "-".join(["heatmaps", *(part for part in parts if part)])

    def caption(self, classifier: Classifier, verdict: dict[str, Any] | None) -> str:
        """What the maps show, and whether the method was found not to tell the truth."""
        assert self.method is not None
        sentence, config = explained(self.method, classifier.config), classifier.config
        if self.layer is not None or self.head is not None:
            layer = "mean over layers" if self.layer is None else f"layer {self.layer}"
            part = "mean over heads" if self.head is None else f"head {self.head}"
            sentence = sentence.replace("mean over heads and layers", f"{layer}, {part}")
        else:
            sentence = sentence.replace(
                "heads and layers", f"{getattr(config, 'heads', 0)} heads and {getattr(config, 'depth', 0)} layers"
            )
        about = "" if self.target is None else f" For the class {self.target}."
        doubt = " NOT FAITHFUL on this run's check." if verdict and not verdict["faithful"] else ""
        return sentence + about + doubt


def _paths(run: Path, out: Path | None, stem: str) -> tuple[Path, Path]:
    """Where the gallery and the maps go."""
    folder = place(run) if out is None else out
    picture = folder if folder.suffix.lower() == ".png" else folder / f"{stem}.png"
    return picture, picture.with_suffix(".npy")


def heatmap_run(
    run: Path,
    sources: Sequence[str | Path] | None = None,
    n: int = 10,
    seed: int = 0,
    out: Path | None = None,
    data_root: Path | None = None,
    asked: Asked = Asked(),
) -> HeatmapResult:
    """Draw what a run's classifier looks at, and say it in numbers.

    sources: None for ``n`` validation pictures of the run's data, drawn by ``seed``; one data set (name, folder of
    classes, parquet) for ``n`` of its validation pictures; or picture files, all of which are drawn, without a true
    class. Of a data set, up to OBSERVED pictures are measured and the first ``n`` of them drawn.
    out: a folder for heatmaps.png and heatmaps.npy, or the name of the PNG; None for the run folder.
    asked: the method, class, layer and head.
    Raises ValueError or FileNotFoundError, before anything is written, for what cannot be read or drawn.
    """
    n = len(_files(sources or [])) or n
    if not 1 <= n <= MOST_PANELS:
        raise ValueError(f"{n} pictures in one gallery: give 1 to {MOST_PANELS}")
    classifier = Classifier.load(run)  # what was asked is checked before pictures are read, which takes longer
    method = known_method(classifier.model, asked.method or methods_for(classifier.model)[0])
    if asked.target is not None:
        class_number(classifier.classes, asked.target)
        if not METHODS[method].asks_class:
            raise ValueError(
                f"the maps of {method} are the same for every class: leave the class out, or use relevance"
            )
    classifier, pixels, names, truth = _looked_at(run, sources or [], max(n, OBSERVED), seed, data_root)
    asked, way = replace(asked, method=method), METHODS[method]
    maps = heat(classifier, pixels, method, asked.target, asked.layer, asked.head)
    sure, guess = classifier.logits(pixels).softmax(dim=1).max(dim=1)
    shares = maps if way.shares else as_shares(maps)
    seen = observe(shares.numpy(), None if truth is None else (guess == truth).numpy())
    panels = [
        Panel(
            source=names[i],
            pixels=pixels[i],
            map=shares[i].numpy(),
            patch=classifier.config.patch_size,
            true=None if truth is None else classifier.classes[truth[i]],
            predicted=classifier.classes[guess[i]],
            probability=float(sure[i]),
        )
        for i in range(min(n, len(pixels)))
    ]
    picture, array = _paths(run, out, asked.stem())
    verdict = stored_verdicts(run).get(method)
    of = "attention" if way.shares else "relevance"
    gallery(panels, picture, caption=asked.caption(classifier, verdict), of=of)
    np.save(array, maps[: len(panels)].numpy())
    sentences = observations(seen, of, special_tokens(classifier.config))
    if verdict:
        sentences.append(f"Check: {method} is {verdict['words']}.")
    return HeatmapResult(picture, array, seen.to_json(), tuple(sentences), tuple(panels))
