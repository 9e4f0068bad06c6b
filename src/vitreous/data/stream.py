"""Pictures decoded whenever they are asked for: for those that, decoded, neither the cache nor memory has room for.

What is asked for comes out as the cache would have it, so the order of training, resuming and shares among processes
are what they always are. While a step goes on, the pictures of the next are decoded beside it.

Files and members of tar shards are read where they lie. Rows of parquet cannot be read one at a time: their pictures
are copied once, encoded as they are, into the cache.

All pictures are decoded once before the first start, to find those that cannot be, and once more for fingerprint, mean
and deviation. Both are remembered.
"""

from __future__ import annotations

import itertools
import warnings
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitreous.data import cache as store
from vitreous.data.decode import Source, encoded, quiet
from vitreous.data.images import Mapped, Sizes
from vitreous.data.opened import Apart, Pictures
from vitreous.data.pixels import Decoded, Portion, decode_portion, for_threads, kept_of, portions, totals
from vitreous.data.plan import Plan
from vitreous.data.spread import in_order, processors

_TOGETHER = 8  # pictures that a thread decodes at a time
_COPY = "pictures.bin"


def streamed(pictures: Pictures, target: Plan, cache: Path | None) -> Decoded:
    """A split whose pictures are decoded when they are asked for.

    ValueError where those of parquet have no room in the cache even encoded.
    """
    apart = pictures if isinstance(pictures, Apart) else _copied(pictures, cache)
    seen = store.noted(pictures, f"stream {target.size} {target.channels}", cache, lambda: _seen(pictures, target))
    failed = tuple((place, reason) for place, reason in seen["failed"])
    kept = np.delete(np.arange(len(pictures), dtype=np.int64), [place for place, _ in failed])
    original = Sizes(*map(tuple, seen["original"])) if seen["original"] else None

    def remember(what: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        return store.noted(pictures, f"stream {target.size} {target.channels} {what}", cache, build)

    stream = Streamed(apart, target, len(pictures), remember, processors() if for_threads(pictures) else 1)
    return Decoded(Mapped(stream, torch.from_numpy(kept)), kept, failed, original, seen["gray"], seen["animated"])


class Streamed:
    """Pictures that stay encoded where they lie, uint8 (M, C, H, W): `streamed[places]` decodes those asked for.

    ValueError naming the place of one that decoded before and no longer does.
    """

    device, dtype, ndim = torch.device("cpu"), torch.uint8, 4

    def __init__(
        self,
        pictures: Apart,
        target: Plan,
        count: int,
        remember: Callable[[str, Callable[[], dict[str, Any]]], dict[str, Any]],
        threads: int,
    ) -> None:
        self._pictures, self._target, self._remember, self._count = pictures, target, remember, threads
        self._facts: dict[str, dict[str, Any]] = {}
        self.shape = torch.Size((count, target.channels, *target.size))
        self._next: tuple[torch.Tensor, _Decoding] | None = None

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor:
        wanted = places.reshape(-1)
        if self._next is not None and torch.equal(self._next[0], wanted):
            decoding, self._next = self._next[1], None
        else:
            decoding = self._begin(wanted)
        return decoding.done().reshape(*places.shape, *self.shape[1:])

    def ahead(self, places: torch.Tensor) -> None:
        """Begins to decode what will be asked for next, and returns. What was begun before is given up."""
        if self._next is not None:
            self._next[1].give_up()
        self._next = (places.reshape(-1), self._begin(places.reshape(-1)))

    def remembered(self, what: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `build` finds out by looking at pictures, kept in the cache where that is possible."""
        if what not in self._facts:
            self._facts[what] = self._remember(what, build)
        return self._facts[what]

    @cached_property
    def _threads(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._count, thread_name_prefix="decoding")

    def _begin(self, places: torch.Tensor) -> _Decoding:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # for good: threads share what is set, so none may end it
        pixels = torch.empty((len(places), *self.shape[1:]), dtype=torch.uint8)
        some = places.tolist()
        parts = [
            self._threads.submit(self._decode, some[at : at + _TOGETHER], pixels[at : at + _TOGETHER].numpy())
            for at in range(0, len(some), _TOGETHER)
        ]
        return _Decoding(pixels, parts)

    def _decode(self, places: Sequence[int], out: np.ndarray) -> None:
        portion = decode_portion(0, [self._pictures.at(place) for place in places], self._target, out)
        for place, reason in portion.failed:
            raise ValueError(f"picture {places[place]} could be read at the start and no longer can: {reason}")


class _Decoding:
    """Some pictures on their way."""

    def __init__(self, pixels: torch.Tensor, parts: Sequence[Future[None]]) -> None:
        self._pixels, self._parts = pixels, parts

    def done(self) -> torch.Tensor:
        try:
            for part in self._parts:
                part.result()
        finally:
            self.give_up()  # where one failed
        return self._pixels

    def give_up(self) -> None:
        for part in self._parts:
            part.cancel()


def _seen(pictures: Pictures, target: Plan) -> dict[str, Any]:
    """What decoding them all tells, as plain JSON values."""
    with quiet():
        done = list(in_order(partial(_tried, target), portions(pictures, target), "processes"))
    original, gray, animated = totals(done)
    return {
        "failed": kept_of(len(pictures), done)[1],
        "original": (original.height, original.width) if original else None,
        "gray": gray,
        "animated": animated,
    }


def _tried(target: Plan, first: int, sources: Sequence[Source | None]) -> Portion:
    return decode_portion(first, sources, target, np.empty((len(sources), target.channels, *target.size), np.uint8))


class Copied:
    """Encoded pictures one after the other in a file: where each ends, and a CRC-32 of each (N,).

    The file is mapped, so that it can still be read where the cache has meanwhile made room for another.
    """

    def __init__(self, path: Path, ends: Sequence[int], checks: Sequence[int]) -> None:
        self._path, self._ends, self._checks = path, ends, checks
        self._bytes = np.memmap(path, np.uint8, "r") if ends[-1] else np.empty(0, np.uint8)

    def at(self, place: int) -> Source:
        """ValueError where the file has been damaged since."""
        start = self._ends[place - 1] if place else 0
        data = self._bytes[start : self._ends[place]].tobytes()
        if zlib.crc32(data) != self._checks[place]:
            raise ValueError(f"{self._path}: damaged at picture {place}; delete {self._path.parent} and start again")
        return data


def _copied(pictures: Pictures, cache: Path | None) -> Copied:
    entry = store.entry_of(cache, store.key(pictures, "encoded"))
    about = _whole(entry, len(pictures))
    try:
        if about is None:
            with store.building(entry, pictures.weight):
                about = _whole(entry, len(pictures)) or store.build(entry, partial(_copy, pictures))
    except (OSError, NotImplementedError) as error:
        raise ValueError(
            f"{len(pictures)} pictures have no room in memory, nor in {entry.parent}, encoded as they are ({error}); "
            "rows of parquet cannot be read one at a time without: give the cache more room (VITREOUS_CACHE_GB, or "
            "XDG_CACHE_HOME on another disk), write tar shards, or take smaller pictures (--set model.image_size=N)"
        ) from None
    return Copied(entry / _COPY, about["ends"], about["checks"])


def _whole(entry: Path, count: int) -> dict[str, Any] | None:
    """What is known about a copy of `count` pictures; None where it is not there or not whole."""
    about = store.known(entry)
    try:
        good = about is not None and len(about["ends"]) == count == len(about["checks"])
        return about if good and (entry / _COPY).stat().st_size == about["ends"][-1] else None  # type: ignore[index]
    except (OSError, KeyError, IndexError):
        return None


def _copy(pictures: Pictures, folder: Path) -> dict[str, Any]:
    lengths, checks = [], []
    with (folder / _COPY).open("wb") as file:
        for source in itertools.chain.from_iterable(pictures.batches()):
            data = b"" if source is None else encoded(source)
            assert isinstance(data, bytes)
            file.write(data)
            lengths.append(len(data))
            checks.append(zlib.crc32(data))
    return {"ends": list(itertools.accumulate(lengths)), "checks": checks}
