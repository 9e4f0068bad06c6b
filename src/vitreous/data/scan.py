"""Every picture of a source looked at once, in full: does it decode, what is in it, how large is it, what is it like.

Not here: what follows from it (checking.py).

Shapes: N pictures, T side of a thumbnail.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from vitreous.data.decode import Source, quiet, read
from vitreous.data.images import Images
from vitreous.data.opened import Pictures
from vitreous.data.pixels import portions
from vitreous.data.plan import Plan
from vitreous.data.spread import in_order

T = 16
_ALIKE = 0.98  # correlation of two gray thumbnails from which pictures are nearly the same
_ALIKE_IN_COLOUR = 0.96
_FLAT = 2.0  # deviation of a thumbnail, of 0..255, below which it says nothing
_BLOCK = 512
_ROWS = 32  # of a block, whose pairs are listed at once
_EXPANDED = 16_384  # pairs compared in colour at once, 0.1 GB
_MOST_PAIRS = 20_000
_ARRAYS = ("content", "thumbnails", "heights", "widths", "animated")

Tell = Callable[[int, int], None]
"""(pictures looked at, of how many)"""


@dataclass(frozen=True, eq=False)
class Seen:
    """What N pictures are: a hash of their pixels ("" where they do not decode), thumbnails (N, T, T, 3) uint8, heights
    and widths (N,), which are animated (N,); and why some do not decode."""

    content: np.ndarray
    thumbnails: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    animated: np.ndarray
    failed: dict[int, str]

    def __len__(self) -> int:
        return len(self.content)

    def taken(self, places: np.ndarray) -> Seen:
        """Some of them, none of which failed."""
        return Seen(**{name: getattr(self, name)[places] for name in _ARRAYS}, failed={})

    @staticmethod
    def joined(parts: Sequence[Seen]) -> Seen:
        """One after the other."""
        failed: dict[int, str] = {}
        first = 0
        for part in parts:
            failed |= {first + place: reason for place, reason in part.failed.items()}
            first += len(part)
        joined = {name: np.concatenate([getattr(part, name) for part in (_EMPTY, *parts)]) for name in _ARRAYS}
        return Seen(**joined, failed=failed)


_EMPTY = Seen(
    np.zeros(0, dtype=np.str_),
    np.zeros((0, T, T, 3), dtype=np.uint8),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.int64),
    np.zeros(0, dtype=np.bool_),
    {},
)


def scan(pictures: Pictures, tell: Tell) -> Seen:
    """Look at every picture of a split, on all processors."""
    parts, done = [], 0
    with quiet():
        for part in in_order(_look_at_portion, portions(pictures, Plan((T, T), 3, "", "")), "processes"):
            parts.append(part)
            done += len(part)
            tell(done, len(pictures))
    return Seen.joined(parts)


def scan_images(images: Images) -> Seen:
    """The same of pictures that are decoded already."""
    decoded = (pixels.permute(1, 2, 0).numpy() for part in images.pixels.split(1024) for pixels in part)
    return _seen([_look_at(pixels, animated=False) for pixels in decoded], {})


def _look_at_portion(first: int, sources: Sequence[Source | None]) -> Seen:
    looks: list[_Look] = []
    failed: dict[int, str] = {}
    for place, source in enumerate(sources):
        try:
            if source is None:
                raise ValueError("no picture in this row")
            pixels, _, animated = read(source, None)
            looks.append(_look_at(pixels, animated))
        except ValueError as error:
            failed[place] = str(error)
            looks.append(_NOTHING)
    return _seen(looks, failed)


_Look = tuple[str, np.ndarray, int, int, bool]
_NOTHING: _Look = ("", np.zeros((T, T, 3), dtype=np.uint8), 0, 0, False)


def _look_at(pixels: np.ndarray, animated: bool) -> _Look:
    """One picture (H, W, C): its content's hash, its thumbnail, its size."""
    height, width, channels = pixels.shape
    content = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).hexdigest()[:32]
    image = Image.fromarray(np.ascontiguousarray(pixels[:, :, 0] if channels == 1 else pixels)).convert("RGB")
    return content, np.asarray(image.resize((T, T), Image.Resampling.BOX)), height, width, animated


def _seen(looks: Sequence[_Look], failed: dict[int, str]) -> Seen:
    content, thumbnails, heights, widths, animated = zip(*looks, strict=True)
    return Seen(
        np.array(content), np.stack(thumbnails), np.array(heights), np.array(widths), np.array(animated), failed
    )


def _standardised(values: np.ndarray) -> torch.Tensor:
    """Rows (N, F) with mean 0 and length 1, so that their products are correlations; rows that say nothing are 0."""
    rows = torch.from_numpy(values.astype(np.float32))
    rows -= rows.mean(dim=1, keepdim=True)
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > _FLAT * rows.shape[1] ** 0.5, rows / length.clamp(min=1e-6), 0.0)


def alike(thumbnails: np.ndarray) -> tuple[np.ndarray, bool]:
    """(pairs (K, 2) of places i < j whose thumbnails (N, T, T, 3) are nearly the same; whether there are more).

    Nearly: the thumbnails correlate, in gray and in colour, which bears another size, compression or brightness. All
    pairs are compared, so time grows with the square of N: 60,000 pictures take some seconds.
    """
    gray = _standardised(thumbnails.mean(axis=3).reshape(-1, T * T))
    found: list[np.ndarray] = []
    count = 0
    for start in range(0, len(gray), _BLOCK):
        for pairs in _alike_in_gray(gray, start):
            pairs = pairs[_alike_in_colour(thumbnails, pairs)]
            found.append(pairs[: _MOST_PAIRS - count])
            count += len(pairs)
            if count > _MOST_PAIRS:
                return np.concatenate(found), True
    none = np.zeros((0, 2), dtype=np.int64)
    return np.concatenate([none, *found]), False


def _alike_in_gray(gray: torch.Tensor, start: int) -> Iterator[np.ndarray]:
    """Pairs (K, 2) of a place of the block from `start` and a later one, in order, some at a time: of thousands of
    frames of a film all are alike."""
    likeness = gray[start : start + _BLOCK] @ gray[start:].T
    for first, rows in zip(range(0, len(likeness), _ROWS), likeness.split(_ROWS), strict=True):
        pairs = torch.nonzero(rows >= _ALIKE).numpy()
        pairs[:, 0] += first
        pairs = pairs[pairs[:, 0] < pairs[:, 1]] + start
        for place in range(0, len(pairs), _EXPANDED):
            yield pairs[place : place + _EXPANDED]


def _alike_in_colour(thumbnails: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    """Which pairs (K, 2) correlate in colour too, (K,); each is expanded to two rows of floats for that."""
    own, other = (_standardised(thumbnails[pairs[:, side]].reshape(len(pairs), -1)) for side in (0, 1))
    return ((own * other).sum(dim=1) >= _ALIKE_IN_COLOUR).numpy()
