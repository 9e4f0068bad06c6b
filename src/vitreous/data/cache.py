"""Decoded pictures kept on disk and mapped into memory: the second run of a source decodes nothing, and a source larger
than memory is trained from the map.

An entry is a folder: `pixels.u8`, the raw uint8 (N, C, H, W), and `about.json` with its shape, what failed and a
SHA-256 of every portion. It is keyed by what the source says of itself (names, sizes and times of its files), the size
and channels decoded to, and the decoders' versions: a changed source is decoded anew. It is built beside its final name
and renamed, under a lock, so that of several processes one decodes and the others wait; and its checksums are verified
whenever it is opened: one that is damaged, half-written or of another version is built again, never trusted.

All of them together stay below a limit ($VITREOUS_CACHE_GB); the one unused for longest goes first. Delete the folder
at will.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock

from vitreous.data.decode import DECODERS, Source, quiet
from vitreous.data.images import Mapped, Sizes
from vitreous.data.opened import Pictures
from vitreous.data.pixels import (
    Decoded,
    Portion,
    TooLarge,
    decode_all,
    decode_portion,
    kept_of,
    memory,
    portions,
    shape_of,
    totals,
)
from vitreous.data.plan import Plan
from vitreous.data.spread import in_order

_VERSION = 2
_ABOUT, _PIXELS = "about.json", "pixels.u8"
_LIMIT = 20.0  # GB of all entries together, unless $VITREOUS_CACHE_GB says otherwise
_SPARE = 10**9  # bytes of the disk that are left alone
_WORTH = 0.5  # seconds that decoding must be expected to take; below, it is done every time
_SECONDS_A_PICTURE, _SECONDS_A_BYTE = 60e-6, 20e-9  # about what one core takes, for a small JPEG half of it
_STALE = 86_400  # seconds after which what a killed process left is nobody's


def folder(cache: Path | None) -> Path:
    """Where vitreous keeps what it can get again: `cache`, else $XDG_CACHE_HOME/vitreous, else ~/.cache/vitreous."""
    if cache is not None:
        return cache
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "vitreous"


def limit() -> int:
    """Bytes that all entries may take together. ValueError where $VITREOUS_CACHE_GB is no number."""
    text = os.environ.get("VITREOUS_CACHE_GB", "") or str(_LIMIT)
    try:
        gigabytes = float(text)
    except ValueError:
        gigabytes = math.nan
    if not 0 <= gigabytes < math.inf:
        raise ValueError(f"VITREOUS_CACHE_GB is {text!r}: give a number of gigabytes, such as 20, or 0 for no cache")
    return int(gigabytes * 1e9)


def remembered(pictures: Pictures, target: Plan, cache: Path | None) -> tuple[Decoded, str]:
    """All pictures decoded, from the cache where they are in it; and a sentence if they could not be kept there.

    Few or small pictures are decoded every time. TooLarge for more than fit into either cache or memory.
    """
    if not worth(pictures):
        return decode_all(pictures, target), ""
    entry = entry_of(cache, key(pictures, target.size, target.channels))
    shape = shape_of(pictures, target)
    found = _open(entry, shape)
    if found is not None:
        return found, ""
    try:
        with building(entry, math.prod(shape)):
            return _open(entry, shape) or _build(entry, pictures, target), ""
    except (OSError, NotImplementedError) as error:  # full, read-only or without locks: only the cache is lost
        why = f"decoded pictures were not kept in {entry.parent} for next time ({error})"
    try:
        return decode_all(pictures, target), why
    except TooLarge as error:
        raise TooLarge(f"{error}, and {why}") from None


def entry_of(cache: Path | None, key: str) -> Path:
    """Where the entry of a key is, or would be."""
    return folder(cache) / "decoded" / key


@contextlib.contextmanager
def building(entry: Path, need: int) -> Iterator[None]:
    """Of several processes that want an entry of `need` bytes only one is inside at a time.

    OSError where there is no room or the folder cannot be written, NotImplementedError where it cannot be locked.
    """
    why = _no_room(entry.parent, need)
    if why:
        raise OSError(why)
    with FileLock(f"{entry}.lock"):
        yield


def build(entry: Path, fill: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """An entry is there in whole or not at all: `fill` writes into a folder and says what is to be known about it."""
    beside = entry.with_name(f"{entry.name}.{uuid.uuid4().hex}.partial")
    beside.mkdir(parents=True)
    try:
        about = fill(beside)
        _write_json(beside / _ABOUT, about)
        shutil.rmtree(entry, ignore_errors=True)  # damaged, or it would have been opened
        os.rename(beside, entry)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    _prune(entry)
    return about


def known(entry: Path) -> dict[str, Any] | None:
    """What `fill` said of an entry; None where it is not there or damaged."""
    found = _read_json(entry / _ABOUT)
    if found is not None:
        _touch(entry)
    return found


def worth(pictures: Pictures) -> bool:
    """Whether decoding takes long enough to remember anything about it."""
    return len(pictures) * _SECONDS_A_PICTURE + pictures.weight * _SECONDS_A_BYTE >= _WORTH and limit() > 0


def noted(pictures: Pictures, what: str, cache: Path | None, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What `build` finds out about pictures, as plain JSON values, kept in the cache too: a sample of headers takes
    long to read where pictures are large."""
    if not worth(pictures):
        return build()
    return facts(key(pictures, what), cache, build)


def facts(key: str, cache: Path | None, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The JSON values kept under `key`, or what `build` gives, kept for next time where that is possible."""
    path = entry_of(cache, f"{key}.json")
    found = _read_json(path)
    if found is not None:
        _touch(path)
        return found
    with _one_at_a_time(path):
        made = _read_json(path)
        if made is None:
            made = build()
            with contextlib.suppress(OSError):
                beside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
                try:
                    _write_json(beside, made)
                    os.replace(beside, path)
                finally:
                    beside.unlink(missing_ok=True)
    return made


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Of several processes, where the folder can be written and locked."""
    lock = FileLock(f"{path}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except (OSError, NotImplementedError):
        yield
        return
    try:
        yield
    finally:
        lock.release()


def key_of(*details: object) -> str:
    """A name for what follows from `details`."""
    return hashlib.sha256(repr((_VERSION, *details)).encode("utf-8", "backslashreplace")).hexdigest()[:32]


def key(pictures: Pictures, *details: object) -> str:
    """A name for what is made of pictures."""
    return key_of(DECODERS, pictures.identity(), details)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        sha256, text = path.read_text(encoding="utf-8").split("\n", 1)
        if sha256 != hashlib.sha256(text.encode()).hexdigest():
            return None
        values = json.loads(text)
    except (OSError, ValueError):
        return None
    return values if isinstance(values, dict) else None


def _write_json(path: Path, values: dict[str, Any]) -> None:
    text = json.dumps(values)
    path.write_text(f"{hashlib.sha256(text.encode()).hexdigest()}\n{text}", encoding="utf-8")


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written can still be read
        os.utime(path)


def _map(path: Path, shape: Sequence[int]) -> torch.Tensor:
    """The file as a tensor. Writing to one that fits into memory changes a private copy; a larger one is read-only."""
    total = memory()
    private = total is not None and 2 * math.prod(shape) < total  # the system may refuse to promise more
    pixels = np.memmap(path, np.uint8, "c" if private else "r", shape=tuple(shape))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(pixels)


def _open(entry: Path, shape: tuple[int, ...]) -> Decoded | None:
    """The entry, or None where it is not there, not whole or not of `shape`."""
    about = _read_json(entry / _ABOUT)
    if about is None or about["shape"] != list(shape):
        return None
    path = entry / _PIXELS
    try:
        if path.stat().st_size != math.prod(shape):
            return None
        store = _map(path, shape)
    except (OSError, ValueError):
        return None
    blocks = ((store[first : first + count], sha256) for first, count, sha256 in about["portions"])
    if not all(in_order(_is_whole, blocks, "threads")):
        return None
    _touch(entry)
    return _decoded(store, about)


def _is_whole(pixels: torch.Tensor, sha256: str) -> bool:
    return hashlib.sha256(pixels.numpy().data).hexdigest() == sha256


def _decoded(store: torch.Tensor, about: dict[str, Any]) -> Decoded:
    failed = tuple((place, reason) for place, reason in about["failed"])
    kept = np.delete(np.arange(len(store), dtype=np.int64), [place for place, _ in failed])
    sizes = about["original"]
    original = Sizes(tuple(sizes[0]), tuple(sizes[1])) if sizes else None
    return Decoded(Mapped(store, torch.from_numpy(kept)), kept, failed, original, about["gray"], about["animated"])


def _into_file(path: Path, target: Plan, first: int, sources: Sequence[Source | None]) -> tuple[Portion, str]:
    """Decode a portion to its place in the file; returns its SHA-256 too."""
    pixels = np.zeros((len(sources), target.channels, *target.size), dtype=np.uint8)
    portion = decode_portion(first, sources, target, pixels)
    with path.open("r+b") as stream:  # written and not mapped: a full disk is then an error and no signal
        stream.seek(first * math.prod(pixels.shape[1:]))
        stream.write(pixels.data)
    return portion, hashlib.sha256(pixels.data).hexdigest()


def _build(entry: Path, pictures: Pictures, target: Plan) -> Decoded:
    shape = shape_of(pictures, target)

    def fill(beside: Path) -> dict[str, Any]:
        path = beside / _PIXELS
        with path.open("wb") as stream:
            stream.truncate(math.prod(shape))
        with quiet():
            done = list(in_order(partial(_into_file, path, target), portions(pictures, target), "processes"))
        original, gray, animated = totals([portion for portion, _ in done])
        return {
            "shape": list(shape),
            "portions": [(portion.first, portion.count, sha256) for portion, sha256 in done],
            "failed": kept_of(len(pictures), [portion for portion, _ in done])[1],
            "original": (original.height, original.width) if original else None,
            "gray": gray,
            "animated": animated,
        }

    about = build(entry, fill)
    return _decoded(_map(entry / _PIXELS, shape), about)


def _no_room(root: Path, need: int) -> str:
    """Why an entry of `need` bytes has no room, or nothing."""
    if need > limit():
        return f"{need / 1e9:.1f} GB, more than VITREOUS_CACHE_GB allows: {limit() / 1e9:g}"
    root.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(root).free
    if need + _SPARE > free:
        return f"{need / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left"
    return ""


def _prune(newest: Path) -> None:
    """Remove what has been unused for longest until all is below the limit, and what killed processes left."""
    now = time.time()
    kept: list[tuple[float, int, Path]] = []
    for path in newest.parent.iterdir():
        with contextlib.suppress(OSError):  # another process may be pruning too
            used = path.stat().st_mtime
            if path.suffix in (".partial", ".lock"):
                if now - used > _STALE:
                    _remove(path)
            else:
                kept.append((used, sum(_sizes(path)), path))
    total = sum(size for _, size, _ in kept)
    for _, size, path in sorted(kept):
        if total <= limit():
            return
        if path != newest:
            _remove(path)
            total -= size


def _sizes(path: Path) -> Iterator[int]:
    for each in path.iterdir() if path.is_dir() else [path]:
        yield each.stat().st_size


def _remove(path: Path) -> None:
    """A map of the entry that a process still has open stays valid."""
    with contextlib.suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
