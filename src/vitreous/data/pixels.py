"""Many pictures to one uint8 array of one size; those that cannot be decoded are named.

Shapes: N pictures, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from vitreous.data.decode import Source, fit, quiet, read
from vitreous.data.images import Pixels, Sizes
from vitreous.data.opened import Pictures
from vitreous.data.plan import Plan
from vitreous.data.spread import in_order

_MOST = 256  # pictures a portion
_MOST_IN = 1 << 23  # bytes of a portion, encoded
_MOST_OUT = 1 << 25  # and decoded
# Mean bytes a picture from which threads decode into memory. For smaller ones they only wait for each other: on 10,000
# CIFAR-10 JPEGs two threads took 1.1 s and one 0.66 s (2 cores).
_THREADED = 12_000


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels uint8 (K, C, H, W) of the K pictures that decoded; kept: their places (K,) in the source, ascending;
    failed: (place, reason) of the others; gray and animated count pictures."""

    pixels: Pixels
    kept: np.ndarray
    failed: tuple[tuple[int, str], ...]
    original: Sizes | None
    gray: int
    animated: int


class TooLarge(ValueError):
    """The pixels alone would take more than half of this machine's memory."""


@dataclass(frozen=True)
class Portion:
    """What became of some pictures in a row, from place `first` on. original: sizes before resizing."""

    first: int
    count: int
    failed: tuple[tuple[int, str], ...]
    original: Sizes | None
    gray: int
    animated: int


def decode_portion(first: int, sources: Sequence[Source | None], target: Plan, out: np.ndarray) -> Portion:
    """Decode and fit pictures into out (n, C, H, W). The place of one that fails is left as it was."""
    failed: list[tuple[int, str]] = []
    original: Sizes | None = None
    gray = animated = 0
    view = out.transpose(0, 2, 3, 1)  # (n, H, W, C), the same memory
    for place, source in enumerate(sources):
        if source is None:
            failed.append((first + place, "no picture in this row"))
            continue
        try:
            picture, is_gray, is_animated = read(source, target.channels)
        except ValueError as error:
            failed.append((first + place, str(error)))
            continue
        height, width = picture.shape[:2]
        view[place] = fit(picture, target.size)
        original = _wider(original, height, width)
        gray += is_gray
        animated += is_animated
    return Portion(first, len(sources), tuple(failed), original, gray, animated)


def _wider(known: Sizes | None, height: int, width: int) -> Sizes:
    """`known` itself when it covers the size already, which nearly every picture's does."""
    if known is not None:
        (low, high), (narrow, wide) = known.height, known.width
        if low <= height <= high and narrow <= width <= wide:
            return known
    size = Sizes((height, height), (width, width))
    return size if known is None else known.joined(size)


def portions(pictures: Pictures, target: Plan) -> Iterator[tuple[int, Sequence[Source | None]]]:
    """(place of the first, pictures), all pictures in order, so many that a portion takes little memory."""
    most = max(1, min(_MOST, _MOST_OUT // (target.channels * target.size[0] * target.size[1])))
    first = 0
    for batch in pictures.batches():
        some: list[Source | None] = []
        weight = 0
        for source in batch:
            if some and (len(some) == most or weight > _MOST_IN):
                yield first, some
                first, some, weight = first + len(some), [], 0
            some.append(source)
            weight += len(source) if isinstance(source, bytes) else 0
        if some:
            yield first, some
            first += len(some)
    assert first == len(pictures), (first, len(pictures))


def shape_of(pictures: Pictures, target: Plan) -> tuple[int, int, int, int]:
    """(N, C, H, W) of all pictures, those included that will not decode."""
    return (len(pictures), target.channels, *target.size)


def for_threads(pictures: Pictures) -> bool:
    """Whether pictures are so large that threads of one process decode them faster than one thread does."""
    return pictures.weight >= _THREADED * len(pictures)


def decode_all(pictures: Pictures, target: Plan) -> Decoded:
    """Decode every picture of a split into memory. One that fails is named and left out; none takes its place.

    Raises TooLarge before any is decoded.
    """
    shape = shape_of(pictures, target)
    _check_memory(shape)
    pixels = np.zeros(shape, dtype=np.uint8)
    kind = "threads" if for_threads(pictures) else "here"
    with quiet():
        done = list(in_order(partial(_into_memory, pixels, target), portions(pictures, target), kind))
    kept, failed = kept_of(len(pictures), done)
    tensor = torch.from_numpy(pixels if len(kept) == len(pixels) else pixels[kept])
    return Decoded(tensor, kept, failed, *totals(done))


def _into_memory(pixels: np.ndarray, target: Plan, first: int, sources: Sequence[Source | None]) -> Portion:
    return decode_portion(first, sources, target, pixels[first : first + len(sources)])


def kept_of(count: int, done: Iterable[Portion]) -> tuple[np.ndarray, tuple[tuple[int, str], ...]]:
    """(places that decoded, ascending; those that failed with reasons)."""
    failed = tuple(each for portion in done for each in portion.failed)
    return np.delete(np.arange(count, dtype=np.int64), [place for place, _ in failed]), failed


def totals(done: Sequence[Portion]) -> tuple[Sizes | None, int, int]:
    """Sizes before resizing, how many are gray, how many animated."""
    original: Sizes | None = None
    for portion in done:
        if portion.original is not None:
            original = portion.original if original is None else original.joined(portion.original)
    return original, sum(portion.gray for portion in done), sum(portion.animated for portion in done)


def memory() -> int | None:
    """Bytes of this machine's memory, where that can be known."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else None


def _check_memory(shape: tuple[int, ...]) -> None:
    total = memory()
    need = int(np.prod([int(side) for side in shape]))
    if total is not None and 2 * need > total:
        raise TooLarge(
            f"{shape[0]} pictures of {shape[2]} x {shape[3]} take {need / 1e9:.1f} GB, more than half of this "
            f"machine's {total / 1e9:.1f} GB"
        )
