"""Which config suits the pictures, the budget and the machine. Every choice comes back as a sentence.

What the numbers below rest on is in docs/results.md (what won) and docs/log.md (what lost).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from vitreous.augment import AugmentConfig
from vitreous.config import DataConfig, Phase, RunConfig, nearest
from vitreous.data import DataSet
from vitreous.optim import OptimConfig
from vitreous.vit import PRESETS, ViTConfig


@dataclass(frozen=True)
class Wish:
    """What the user asked for; whatever is None is chosen."""

    source: str
    budget: float | None = None
    epochs: float | None = None
    steps: int | None = None
    size: str | None = None
    stem: str | None = None
    seed: int = 0
    device: str = "auto"
    val_fraction: float = 0.1


def plan(wish: Wish, data: DataSet) -> tuple[RunConfig, list[str]]:
    """The config of a run and the reasons for it. Raises ValueError for a size name that does not exist."""
    if wish.size is not None and wish.size not in PRESETS:
        raise ValueError(f"unknown size {wish.size!r}{nearest(wish.size, PRESETS)}")
    if data.train is None:
        raise ValueError(f"{data.name} has no training pictures")
    count, channels, side = len(data.train), data.train.pixels.shape[1], data.train.pixels.shape[2]
    notes = []

    size = wish.size or "nano"
    patch = patch_for(side)
    stem = wish.stem or "conv"
    dial = PRESETS[size]
    model = ViTConfig(
        image_size=side,
        patch_size=patch,
        channels=channels,
        classes=len(data.train.classes),
        width=dial["width"],
        depth=2 if stem == "conv" and size == "nano" else dial["depth"],
        heads=dial["heads"],
        stem=stem,
    )
    rows, columns = model.grid
    notes.append(
        f"{size}: {model.depth} blocks of width {model.width} with {model.heads} heads, {stem} stem; "
        f"patches of {patch} pixels make {rows} x {columns} tokens of a {side}-pixel picture"
    )

    flips = not looks_like_characters(data.name)
    if not flips:
        notes.append("no mirrored pictures: left and right carry meaning in characters")
    batch = max(2, min(128, 2 ** int(math.log2(max(2, count / 8)))))
    phases: tuple[Phase, ...] = ()
    if side >= 32 and stem == "conv":
        small = round(side * 0.75 / patch) * patch
        phases = (Phase(small, 0.6), Phase(side, 0.4))
        notes.append(f"60 % of the run on pictures of {small} pixels, which cost less, the rest on {side}")
    config = RunConfig(
        data=DataConfig(source=wish.source, val_fraction=wish.val_fraction),
        model=model,
        augment=AugmentConfig(flip=flips),
        optim=OptimConfig(),
        budget=wish.budget,
        epochs=wish.epochs,
        steps=wish.steps,
        seed=wish.seed,
        batch=batch,
        phases=phases,
        device=wish.device,
        recipe=f"{size}-{stem}",
    )
    return config, notes


def patch_for(side: int) -> int:
    """A patch side, a power of two, that cuts a picture into about 8 x 8 patches."""
    patch = 2 ** max(0, round(math.log2(side / 8)))
    while side % patch:
        patch //= 2
    return patch


def looks_like_characters(name: str) -> bool:
    """Whether a data set holds written characters, which a mirror would turn into others."""
    return any(word in name.lower().replace("fashion-mnist", "").replace("fashion mnist", "") for word in CHARACTERS)


CHARACTERS = ("digit", "mnist", "svhn", "letter", "character", "omniglot")
