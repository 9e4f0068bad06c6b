"""What can be asked of the served classifiers, and how a group of questions is answered in few forward passes.

Maps come from heatmaps.py, whose METHODS are what can be asked for. Not here: HTTP, queues, decoding.

Shapes: B questions, C channels, S picture side, L layers, A heads, R rows and K columns of patches.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from vitreous.classifier import Classifier
from vitreous.heatmaps import (
    METHODS,
    class_number,
    explained,
    heat,
    known_method,
    methods_for,
    patch_attention,
    stored_verdicts,
)
from vitreous.models import count_parameters, describe
from vitreous.vit import ViTConfig

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

PATCHED = "attention"
"""The method that can show one patch's attention."""


@dataclass(frozen=True)
class View:
    """Which map is wanted. ``layer`` and ``head`` count from 1; None is the mean over all of them."""

    method: str
    layer: int | None = None
    head: int | None = None
    patch: tuple[int, int] | None = None
    """Whose attention: the patch in this row and column, counted from 0; None is what the head reads."""
    target: str | None = None
    """The class that the map is about; None is the one predicted."""


@dataclass(frozen=True, eq=False)
class Run:
    """A classifier under the name it is asked for by."""

    name: str
    classifier: Classifier
    verdicts: Mapping[str, Any] = field(default_factory=dict)
    """By method, whether its maps were found to tell the truth about this classifier."""

    @property
    def attentive(self) -> ViTConfig | None:
        """The config of a Vision Transformer; None for a model without attention."""
        config = self.classifier.config
        return config if isinstance(config, ViTConfig) else None

    def view(
        self,
        method: str | None = None,
        layer: int | None = None,
        head: int | None = None,
        patch: tuple[int, int] | None = None,
        target: str | None = None,
    ) -> View:
        """What is asked for; without a method the model's first. Raises ValueError for what this run cannot show."""
        method = known_method(self.classifier.model, method or methods_for(self.classifier.model)[0])
        way, vit = METHODS[method], self.attentive
        if target is not None:
            if not way.asks_class:
                raise ValueError(f"the maps of {method} are the same for every class: leave target out")
            class_number(self.classifier.classes, target)
        if (layer is not None or head is not None) and (way.layered is None or vit is None):
            raise ValueError(f"{method} goes through all layers and heads at once: leave layer and head out")
        if vit is not None:
            for name, value, most in (("layer", layer, vit.depth), ("head", head, vit.heads)):
                if value is not None and not 1 <= value <= most:
                    raise ValueError(f"there is no {name} {value}: the model has {name}s 1 to {most}")
        if patch is not None:
            if method != PATCHED or vit is None:
                raise ValueError(f"only {PATCHED} shows what one patch looks at: leave patch out")
            rows, columns = vit.grid
            if patch[0] >= rows or patch[1] >= columns:
                raise ValueError(
                    f"patch {patch[0]},{patch[1]} is not on the grid: rows are 0 to {rows - 1}, "
                    f"columns 0 to {columns - 1}"
                )
        return View(method, layer, head, patch, target)

    def to_json(self) -> dict[str, Any]:
        """What ``/v1/model`` tells of a run."""
        classifier, vit = self.classifier, self.attentive
        source = None if vit is None else "class token" if vit.pool == "class" else "average patch"
        return {
            "name": self.name,
            "model": describe(classifier.config),
            "classes": list(classifier.classes),
            "size": classifier.size,
            "channels": classifier.channels,
            "patch_size": classifier.config.patch_size,
            "grid": list(vit.grid) if vit else None,
            "layers": vit.depth if vit else 0,
            "heads": vit.heads if vit else 0,
            "source": source,
            "parameters": count_parameters(classifier.model),
            "methods": [self._method(name) for name in methods_for(classifier.model)],
            "provenance": classifier.provenance,
        }

    def _method(self, name: str) -> dict[str, Any]:
        way, verdict = METHODS[name], self.verdicts.get(name)
        return {
            "name": name,
            "explains": explained(name, self.classifier.config),
            "layers": way.layered is not None and self.attentive is not None,
            "patch": name == PATCHED,
            "target": way.asks_class,
            "faithful": None if verdict is None else bool(verdict["faithful"]),
        }


def open_runs(paths: Sequence[Path]) -> dict[str, Run]:
    """The classifiers of run or classifier folders by the folders' names, a number added where two share one."""
    runs: dict[str, Run] = {}
    for path in paths:
        resolved = path.resolve()
        base = (resolved.parent if resolved.name == "classifier" else resolved).name or "run"
        name, number = base, 1
        while name in runs:
            number += 1
            name = f"{base}-{number}"
        runs[name] = Run(name, Classifier.load(path), stored_verdicts(path))
    return runs


@dataclass(frozen=True, eq=False)
class Question:
    """One picture for one run: uint8 (C, S, S); with a view, its map is wanted as well."""

    run: Run
    pixels: Tensor
    view: View | None = None


@dataclass(frozen=True, eq=False)
class Answer:
    """Class scores before softmax, float32 (classes,), and the map, float32 (R, K), if one was asked for."""

    logits: Tensor
    map: Tensor | None


def answer(questions: Sequence[Question]) -> list[Answer | Exception]:
    """One forward pass for each run and one for each kind of map, over all questions that share it."""
    logits: dict[int, Tensor] = {}
    maps: dict[int, Tensor] = {}
    for run, group in _grouped((q.run, i) for i, q in enumerate(questions)).items():
        pixels = torch.stack([questions[i].pixels for i in group])
        logits.update(zip(group, run.classifier.logits(pixels), strict=True))
    views = _grouped(((q.run, q.view), i) for i, q in enumerate(questions) if q.view)
    for (run, view), group in views.items():
        assert view
        pixels = torch.stack([questions[i].pixels for i in group])
        predicted = torch.stack([logits[i] for i in group]).argmax(dim=1)
        maps.update(zip(group, _maps(run.classifier, pixels, view, predicted), strict=True))
    return [Answer(logits[i], maps.get(i)) for i in range(len(questions))]


def _maps(classifier: Classifier, pixels: Tensor, view: View, predicted: Tensor) -> Tensor:
    """One view of several pictures, uint8 (B, C, S, S), whose predicted classes are known, (B,) -> (B, R, K)."""
    if view.patch is None:
        target = predicted if view.target is None else view.target
        return heat(classifier, pixels, view.method, target, view.layer, view.head)
    device = next(classifier.model.parameters()).device
    maps = patch_attention(classifier.model, classifier.prepare(pixels.to(device)), view.patch)  # (B, L, A, R, K)
    layers = maps if view.layer is None else maps[:, view.layer - 1, None]
    heads = layers if view.head is None else layers[:, :, view.head - 1, None]
    return heads.mean(dim=(1, 2)).cpu()


def _grouped(pairs: Iterable[tuple[K, T]]) -> dict[K, list[T]]:
    groups: defaultdict[K, list[T]] = defaultdict(list)
    for key, value in pairs:
        groups[key].append(value)
    return groups
