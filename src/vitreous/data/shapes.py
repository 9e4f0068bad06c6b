"""Pictures made from a seed, in which it is known where the object is: coloured shapes, and digits, on clutter.

A heatmap that claims to show what a classifier looks at can be tried on them. A scene is described by numbers in units
of the picture's side, drawn once and for all, so that the same scene exists at every size and its mask can be made
again from the picture's id alone.

Shapes: N pictures, S side in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from vitreous.data.images import Images, Parts, Sizes
from vitreous.data.named import read_digits
from vitreous.data.plan import check_size
from vitreous.data.splits import needed

COUNTS = {"train": 5000, "test": 1000}
SIDE = 32
"""Pixels of a side where none is asked for."""
SIDES = (16, 256)
BARS = 7
"""Thin bars of clutter in a picture: none of them is as wide as an object."""
FINER = 2
"""Points a pixel and axis that a shape's coverage is measured at."""
GRAIN = 0.04
"""Deviation of the noise of a pixel, of 0..1."""
AT_ONCE = 64
"""Scenes drawn at a time."""


def _star(u: np.ndarray, v: np.ndarray) -> np.ndarray:
    angle = np.abs((np.arctan2(v, u) / (2 * np.pi) * 5) % 1 - 0.5) * 2  # 1 at the five points, 0 between them
    return np.hypot(u, v) < 0.42 + 0.58 * angle**1.5


KINDS: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": lambda u, v: np.hypot(u, v) < 0.9,
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "triangle": lambda u, v: (v < 0.55) & (v > 1.9 * np.abs(u) - 1.0),
    "cross": lambda u, v: (np.minimum(np.abs(u), np.abs(v)) < 0.3) & (np.maximum(np.abs(u), np.abs(v)) < 0.95),
    "ring": lambda u, v: np.abs(np.hypot(u, v) - 0.72) < 0.24,
    "star": _star,
}
"""Which points (u, v) of the square from -1 to 1 a shape covers."""
CLASSES = {"shapes": tuple(KINDS), "digits-clutter": tuple("0123456789")}


@dataclass(frozen=True)
class Scenes:
    """Everything that is in N pictures, in units of the side. Colours are 0..1."""

    labels: np.ndarray
    """(N,)"""
    centre: np.ndarray
    """Of the object, row and column, (N, 2)."""
    radius: np.ndarray
    """Half of the object's side, (N,)."""
    angle: np.ndarray
    """Radians, (N,)."""
    colour: np.ndarray
    """(N, 3)"""
    corners: np.ndarray
    """The background's colours, (N, 2, 2, 3)."""
    bars: np.ndarray
    """Row, column, angle, half length, half width of the clutter, (N, BARS, 5)."""
    paint: np.ndarray
    """Of the bars, (N, BARS, 3)."""
    ink: np.ndarray
    """What a digit is drawn from, 0..1 (N, 8, 8); not used by shapes."""

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, places: np.ndarray) -> Scenes:
        """Some of the scenes."""
        return Scenes(*(getattr(self, field.name)[places] for field in fields(self)))


def scenes(name: str, which: str) -> Scenes:
    """All scenes of a split, the same in every process."""
    random = np.random.default_rng([7, list(CLASSES).index(name), list(COUNTS).index(which)])
    count, digits = COUNTS[which], name == "digits-clutter"
    labels, ink = np.arange(count) % len(KINDS), np.zeros((count, 8, 8))
    if digits:
        pictures, numbers = _digits(which)
        drawn = random.integers(len(pictures), size=count)
        labels, ink = numbers[drawn], pictures[drawn]
    radius = random.uniform(0.16, 0.26, count) if not digits else random.uniform(0.2, 0.28, count)
    corners = random.uniform(0.15, 0.85, (count, 2, 2, 3))
    colour = random.uniform(0, 1, (count, 3))
    ground = corners.mean(axis=(1, 2))
    near = np.abs(colour - ground).max(axis=1) < 0.35  # too like its background to be told from it
    colour[near] = np.where(ground[near] > 0.5, ground[near] - 0.45, ground[near] + 0.45)
    margin = radius[:, None]
    return Scenes(
        labels=labels.astype(np.int64),
        centre=margin + random.uniform(0, 1, (count, 2)) * (1 - 2 * margin),
        radius=radius,
        angle=random.uniform(-0.4, 0.4, count) * (0.3 if digits else 1),
        colour=colour.clip(0, 1),
        corners=corners,
        bars=np.concatenate(
            [
                random.uniform(0, 1, (count, BARS, 2)),
                random.uniform(0, np.pi, (count, BARS, 1)),
                random.uniform(0.08, 0.35, (count, BARS, 1)),
                random.uniform(0.012, 0.03, (count, BARS, 1)),
            ],
            axis=2,
        ),
        paint=random.uniform(0, 1, (count, BARS, 3)),
        ink=ink,
    )


def _digits(which: str) -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's digits, 0..1 (n, 8, 8), and their labels; each split from the same split of theirs."""
    images = read_digits({which}, None).splits[which]
    return images.pixels[:][:, 0].numpy() / 255.0, images.labels.numpy()


def _axis(count: int) -> np.ndarray:
    """The middles of ``count`` points over the side."""
    return ((np.arange(count) + 0.5) / count).astype(np.float32)


def _turned(axis: np.ndarray, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates across and down from a centre and along an angle: place (n, 3) -> two of (n, S, S)."""
    down = axis[None, :, None] - place[:, 0, None, None].astype(np.float32)
    across = axis[None, None, :] - place[:, 1, None, None].astype(np.float32)
    cos, sin = (f(place[:, 2])[:, None, None].astype(np.float32) for f in (np.cos, np.sin))
    return across * cos + down * sin, down * cos - across * sin


def _coarse(fine: np.ndarray) -> np.ndarray:
    """Mean over FINER x FINER points: (n, S*FINER, S*FINER) -> (n, S, S)."""
    n, side, _ = fine.shape
    return fine.reshape(n, side // FINER, FINER, side // FINER, FINER).mean(axis=(2, 4))


def coverage(some: Scenes, name: str, side: int) -> np.ndarray:
    """How much of each pixel the object covers: -> 0..1 (N, S, S)."""
    digits = name == "digits-clutter"
    axis = _axis(side if digits else side * FINER)
    place = np.concatenate([some.centre, some.angle[:, None]], axis=1)
    u, v = (each / some.radius[:, None, None].astype(np.float32) for each in _turned(axis, place))
    if digits:
        return _sampled(some.ink, u, v)
    fine = np.zeros(u.shape, dtype=np.float32)
    for number, shape in enumerate(KINDS.values()):
        own = some.labels == number
        fine[own] = shape(u[own], v[own])
    return _coarse(fine)


def _sampled(ink: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Ink (n, 8, 8) at points of the square from -1 to 1, linear between pixels, 0 outside."""
    padded = np.pad(ink, ((0, 0), (1, 1), (1, 1)))
    across, down = (((each + 1) * 4 + 0.5).clip(0, 8.999) for each in (u, v))
    i, j = down.astype(int), across.astype(int)
    a, b = down - i, across - j
    n = np.arange(len(ink))[:, None, None]
    above = padded[n, i, j] * (1 - b) + padded[n, i, j + 1] * b
    below = padded[n, i + 1, j] * (1 - b) + padded[n, i + 1, j + 1] * b
    return above * (1 - a) + below * a


def draw(some: Scenes, name: str, side: int, seed: int) -> np.ndarray:
    """The pictures: -> uint8 (N, 3, S, S). ``seed`` is of the grain of the pixels."""
    random = np.random.default_rng([seed, side])
    axis = _axis(side)
    blend = np.stack([1 - axis, axis])  # (2, S)
    pictures = np.einsum("nijc,ia,jb->ncab", some.corners.astype(np.float32), blend, blend, optimize=True)
    for number in range(BARS):
        bar = some.bars[:, number].astype(np.float32)
        u, v = _turned(axis, bar)
        inside = np.minimum(bar[:, 3, None, None] - np.abs(u), bar[:, 4, None, None] - np.abs(v))  # from the edge
        covered = (inside * side + 0.5).clip(0, 1)[:, None]
        pictures += covered * (some.paint[:, number, :, None, None].astype(np.float32) - pictures)
    pictures += coverage(some, name, side)[:, None] * (some.colour[:, :, None, None].astype(np.float32) - pictures)
    pictures += GRAIN * random.standard_normal(pictures.shape, dtype=np.float32)
    return (pictures.clip(0, 1) * 255).round().astype(np.uint8)


def read_generated(name: str, wanted: set[str], size: int | None) -> Parts:
    """One of the generated sets, drawn at ``size`` or SIDE pixels. ValueError for a size that shows nothing."""
    check_size(size)
    side = size or SIDE
    if not SIDES[0] <= side <= SIDES[1]:
        raise ValueError(f"{name} is drawn with sides of {SIDES[0]} to {SIDES[1]} pixels, not {side}")
    splits = {}
    for which in needed(COUNTS, wanted):
        all_of = scenes(name, which)
        parts = np.array_split(np.arange(len(all_of)), max(1, len(all_of) // AT_ONCE))
        pixels = np.concatenate([draw(all_of.select(part), name, side, int(part[0])) for part in parts])
        ids = tuple(f"{which}/scene {number}" for number in range(len(all_of)))
        splits[which] = Images(torch.from_numpy(pixels), torch.from_numpy(all_of.labels), CLASSES[name], ids)
    return Parts(name, splits, False, [], [f"size: drawn at {side} x {side}"], Sizes((side, side), (side, side)))


def masks(name: str, ids: Sequence[str], side: int) -> np.ndarray:
    """Where the objects of generated pictures are, by their ids: -> bool (N, S, S).

    Raises ValueError for ids that are not of the set.
    """
    if name not in CLASSES:
        raise ValueError(f"masks are known of {' and '.join(CLASSES)}, not of {name!r}")
    found = np.zeros((len(ids), side, side), dtype=bool)
    for which in COUNTS:
        head = f"{which}/scene "
        own = np.array([i for i, each in enumerate(ids) if each.startswith(head)], dtype=int)
        if len(own):
            some = scenes(name, which).select(np.array([int(ids[i].removeprefix(head)) for i in own]))
            found[own] = coverage(some, name, side) > 0.5
    if not found.any(axis=(1, 2)).all():
        odd = ids[int((~found.any(axis=(1, 2))).argmax())]
        raise ValueError(f"{odd!r} is no picture of {name}")
    return found
