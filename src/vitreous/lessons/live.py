"""Training that one can watch: the training loop's own steps, with a look at the model every so often.

Shapes: D width, P patch side, C channels, n pictures, R rows and K columns of patches.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from vitreous.augment import AugmentConfig
from vitreous.classifier import Classifier
from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.heatmaps import class_map
from vitreous.lessons.samples import digits
from vitreous.looks import measure
from vitreous.optim import OptimConfig
from vitreous.state import Run
from vitreous.vit import ViTConfig

STEPS = 300
"""Enough for about nine digits in ten."""


@dataclass(frozen=True, eq=False)
class Moment:
    """What the model was like after some steps."""

    step: int
    seconds: float
    losses: tuple[float, ...]
    """Of every step so far."""
    accuracy: float
    """On validation pictures."""
    filters: np.ndarray
    """What each row of the patch embedding looks for: (D, P, P, C)."""
    maps: np.ndarray
    """The class token's attention to each patch of the followed pictures, mean of heads and layers: (n, R, K)."""
    guesses: tuple[str, ...]
    """What it says these pictures are."""
    classifier: Classifier
    """Shares its weights with the training: of the last moment, the trained one."""


def recipe(
    steps: int = STEPS,
    side: int = 16,
    patch: int = 4,
    width: int = 48,
    positions: str = "learned",
    lr: float = 6e-3,
    seed: int = 0,
) -> RunConfig:
    """A model of two blocks that learns the digits in seconds, without a probe of the machine.

    The rates are above those for longer runs, and targets are not smoothed, so that the loss can be seen to near 0.
    """
    return RunConfig(
        model=ViTConfig(side, patch, channels=1, width=width, depth=2, heads=4, mlp_ratio=2.0, positions=positions),
        augment=AugmentConfig(flip=False),
        optim=OptimConfig(lr=lr, muon_lr=lr * 10 / 3),
        steps=steps,
        batch=64,
        label_smoothing=0.0,
        seed=seed,
        precision="fp32",
        attention="explicit",
        device="cpu",
        recipe="lesson",
    )


def learn(config: RunConfig, data: DataSet, followed: Tensor, looks: int = 10) -> Iterator[Moment]:
    """Train for ``config.steps`` steps and look ``looks`` times on the way, before the first and after the last step.

    ``followed`` are pictures, uint8 (n, C, H, W), whose heatmaps every :class:`Moment` holds. Nothing is written.
    """
    if config.steps is None:
        raise ValueError("a lesson trains for a number of steps: give steps, not a budget or epochs")
    started = time.monotonic()
    run = Run(config, Path("lesson"), data, started)
    classifier = run.classifier(data.name)
    losses: list[float] = []
    due = {round(i * config.steps / looks) for i in range(looks + 1)}
    for step in range(config.steps + 1):
        if step in due:
            yield _look(run, classifier, followed, tuple(losses), time.monotonic() - started)
        if step < config.steps:
            run.model.train()
            losses.append(run.advance(step / config.steps))


def _look(run: Run, classifier: Classifier, followed: Tensor, losses: tuple[float, ...], seconds: float) -> Moment:
    _, accuracy = measure(classifier, run.validation)
    weight = run.model.patch_embed.proj.weight  # type: ignore[union-attr]
    return Moment(
        step=run.step,
        seconds=seconds,
        losses=losses,
        accuracy=accuracy,
        filters=weight.detach().permute(0, 2, 3, 1).contiguous().numpy().copy(),  # type: ignore[operator]
        maps=class_map(run.model, classifier.prepare(followed)).numpy(),
        guesses=tuple(prediction.label for prediction in classifier.predict(followed, top=1)),
        classifier=classifier,
    )


@functools.cache
def trained(steps: int = STEPS, positions: str = "learned", side: int = 16, patch: int = 4) -> Classifier:
    """A small model that knows the digits, trained on first use and then kept for as long as the page is open."""
    data = digits(side)
    assert data.val is not None
    *_, last = learn(recipe(steps, side, patch, positions=positions), data, data.val.pixels[:1], looks=1)
    return last.classifier


@torch.no_grad()
def accuracy_at(classifier: Classifier, side: int) -> float:
    """Validation accuracy on the same digits at another size, to which the positions have to stretch."""
    data = digits(side)
    assert data.val is not None
    return measure(classifier, data.val)[1]
