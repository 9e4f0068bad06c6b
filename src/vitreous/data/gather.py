"""Many pictures to one uint8 tensor of one size: chooses that size, decodes, and reports what could not be decoded.

A source (folder, parquet) hands its pictures over as `Pictures`; memory holds the decoded result and one batch.

Shapes: N pictures, C channels, H W pixels.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Protocol

import numpy as np
import torch

from vitreous.data.decode import Channels, Header, Source, fit, peek, quiet, read
from vitreous.data.images import Sizes

SAMPLE = 1000  # headers read to choose size and channels
SIZES = (8, 1024)  # what a caller may ask for
_CHOSEN = (16, 96)  # what is chosen for a caller who does not ask
# Mean bytes a picture from which threads decode. Pillow lets go of Python's lock in the codec alone, and for small
# pictures most of the time is spent outside it. The place of the turn is a guess: only 1 kB pictures were measured.
_THREADED = 12_000


class Pictures(Protocol):
    """The undecoded pictures of one split, in a fixed order."""

    def __len__(self) -> int: ...

    def sample(self, count: int) -> list[Source]:
        """About `count` pictures, evenly spaced."""
        ...

    def batches(self) -> Iterator[Sequence[Source | None]]:
        """All pictures in order, some hundreds at a time; None where there is none to decode."""
        ...


@dataclass(frozen=True)
class Plan:
    """What every picture becomes: (height, width) and channels. format: that of the sampled pictures, "" if mixed."""

    size: tuple[int, int]
    channels: Channels
    note: str
    format: str


@dataclass(frozen=True, eq=False)
class Decoded:
    """pixels uint8 (K, C, H, W) of the K pictures that decoded; kept: their places (K,) in the source, ascending;
    failed: (place, reason) of the others; gray and animated count pictures."""

    pixels: torch.Tensor
    kept: np.ndarray
    failed: tuple[tuple[int, str], ...]
    original: Sizes | None
    gray: int
    animated: int


def _choose_size(headers: list[Header]) -> tuple[tuple[int, int], str]:
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(next(iter(sizes))) <= _CHOSEN[1]:
        rows, columns = next(iter(sizes))
        return (rows, columns), f"size: {rows} x {columns}, as the pictures are"
    short = median(min(header.height, header.width) for header in headers)
    side = min(max(8 * round(short / 8), _CHOSEN[0]), _CHOSEN[1])
    heights, widths = sorted(h for h, _ in sizes), sorted(w for _, w in sizes)
    found = Sizes((heights[0], heights[-1]), (widths[0], widths[-1]))
    return (side, side), (
        f"size: {side} x {side} (pictures are {found}, the median short side is {short:g}, rounded to a multiple of 8 "
        f"and kept within {_CHOSEN[0]} to {_CHOSEN[1]}); short side resized, then the centre cut out; --size changes it"
    )


def plan(pictures: Pictures, size: int | None) -> Plan:
    """Choose size and channels from the headers of a sample; `size` overrides the first.

    ValueError when nothing in the sample is a picture.
    """
    check_size(size)
    headers: list[Header] = []
    reason = "there is none"
    with quiet():
        for source in pictures.sample(SAMPLE):
            try:
                headers.append(peek(source))
            except ValueError as error:
                reason = str(error)
    if not headers:
        raise ValueError(f"no readable picture (the last one tried: {reason})")
    if size is None:
        chosen, note = _choose_size(headers)
    else:
        chosen, note = (size, size), f"size: {size} x {size}, as asked for"
    formats = {header.format for header in headers}
    channels: Channels = 1 if all(header.gray for header in headers) else 3
    return Plan(chosen, channels, note, formats.pop() if len(formats) == 1 else "")


def check_size(size: int | None) -> None:
    """ValueError for a side out of bounds."""
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size={size}: a picture's side must be {SIZES[0]} to {SIZES[1]} pixels, for example 32")


def _check_memory(shape: tuple[int, ...]) -> None:
    """ValueError when the pixels alone would take more than half of this machine's memory."""
    if not hasattr(os, "sysconf"):
        return
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    need = int(np.prod([int(side) for side in shape]))
    if 2 * need > total:
        raise ValueError(
            f"{shape[0]} pictures of {shape[2]} x {shape[3]} take {need / 1e9:.1f} GB, more than half of this "
            f"machine's {total / 1e9:.1f} GB: choose a smaller --size, or fewer pictures"
        )


@dataclass(frozen=True, slots=True)
class _One:
    pixels: np.ndarray | None
    reason: str = ""
    height: int = 0
    width: int = 0
    gray: bool = False
    animated: bool = False


def _decode_one(source: Source | None, size: tuple[int, int], channels: Channels) -> _One:
    if source is None:
        return _One(None, "no picture in this row")
    try:
        pixels, gray, animated = read(source, channels)
    except ValueError as error:
        return _One(None, str(error))
    height, width = pixels.shape[:2]
    return _One(fit(pixels, size), "", height, width, gray, animated)


def _mean_bytes(batch: Sequence[Source | None]) -> float:
    """Of the first few pictures, how large the encoded form is."""
    lengths = []
    for source in batch[:32]:
        if isinstance(source, Path):
            try:
                lengths.append(source.stat().st_size)
            except OSError:
                continue
        elif source is not None:
            lengths.append(len(source))
    return sum(lengths) / max(1, len(lengths))


def processors() -> int:
    """How many threads decode at a time."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(count, 16)


def _mapper(
    executor: ThreadPoolExecutor, batch: Sequence[Source | None]
) -> Callable[[Callable[[Source | None], _One], Iterable[Source | None]], Iterable[_One]]:
    """Plain `map` for small pictures: on 10,000 CIFAR-10 JPEGs two threads took 1.1 s and one 0.66 s (2 cores)."""
    return executor.map if _mean_bytes(batch) >= _THREADED else map


def decode_all(pictures: Pictures, target: Plan) -> Decoded:
    """Decode and fit every picture of a split. A picture that fails is named and left out; none takes its place."""
    count, (rows, columns) = len(pictures), target.size
    shape = (count, target.channels, rows, columns)
    _check_memory(shape)
    pixels = torch.empty(shape, dtype=torch.uint8)
    view = pixels.numpy().transpose(0, 2, 3, 1)  # (N, H, W, C), the same memory
    kept: list[int] = []
    failed: list[tuple[int, str]] = []
    original: Sizes | None = None
    gray = animated = place = 0
    with quiet(), ThreadPoolExecutor(processors()) as executor:
        for batch in pictures.batches():
            spread = _mapper(executor, batch)
            for one in spread(lambda source: _decode_one(source, target.size, target.channels), batch):
                if one.pixels is None:
                    failed.append((place, one.reason))
                else:
                    view[len(kept)] = one.pixels
                    kept.append(place)
                    size = Sizes((one.height, one.height), (one.width, one.width))
                    original = size if original is None else _wider(original, size)
                    gray += one.gray
                    animated += one.animated
                place += 1
    assert place == count, (place, count)
    pixels = pixels if len(kept) == count else pixels[: len(kept)].clone()
    return Decoded(pixels, np.asarray(kept, dtype=np.int64), tuple(failed), original, gray, animated)


def _wider(known: Sizes, size: Sizes) -> Sizes:
    """`known` itself when it covers `size` already, which nearly every picture's does."""
    inside = known.height[0] <= size.height[0] <= known.height[1] and known.width[0] <= size.width[0] <= known.width[1]
    return known if inside else known.joined(size)


@dataclass(frozen=True, eq=False)
class Gathered:
    """The splits that were decoded, what they were decoded to, the sentences to tell, sizes before resizing."""

    splits: dict[str, Decoded]
    target: Plan
    notes: list[str]
    original: Sizes | None


def gather(
    sources: dict[str, Pictures],
    needs: Sequence[str],
    size: int | None,
    decoder: Callable[[str, Plan], Decoded] | None = None,
) -> Gathered:
    """Decode the splits in `needs`, all to one size and number of channels.

    Those two are chosen from train, even when only test is needed, so that a picture is read alike in every run.
    decoder(split, plan) stands in for `decode_all` (the cache does).
    """
    run = decoder or (lambda name, target: decode_all(sources[name], target))
    reference = "train" if "train" in sources else next(iter(sources))
    target = plan(sources[reference], size)
    decoded = {name: run(name, target) for name in needs}
    first = decoded.get(reference)
    if target.channels == 1 and first is not None and first.gray < len(first.kept):
        target = replace(target, channels=3)  # a coloured picture turned up beyond the sample
        decoded = {name: run(name, target) for name in needs}
    original: Sizes | None = None
    for part in decoded.values():
        if part.original is not None:
            original = part.original if original is None else original.joined(part.original)
    return Gathered(decoded, target, _notes(decoded, target, original), original)


def _notes(decoded: dict[str, Decoded], target: Plan, original: Sizes | None) -> list[str]:
    notes = [target.note]
    rows, columns = target.size
    if "as the pictures are" in target.note and original not in (None, Sizes((rows, rows), (columns, columns))):
        notes.append(f"size: a few pictures are not {rows} x {columns}; they were resized and their centre cut out")
    animated = sum(part.animated for part in decoded.values())
    if animated:
        notes.append(f"{animated} animated {'file' if animated == 1 else 'files'}: only the first frame is used")
    return notes
