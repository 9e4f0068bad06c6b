"""Decoded pictures kept on disk, so that the second run of a parquet set skips decoding.

A file is written beside its final name and renamed, and carries a SHA-256 that is checked on every read: an entry that
is damaged, half-written or of another version is decoded again, never trusted. Nothing is pruned yet: delete the folder
at will. The form is safetensors, which runs no code when read.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from vitreous.data.gather import Decoded
from vitreous.data.images import Sizes

_VERSION = 1
_WORTH = 5_000  # pictures; fewer decode in the time that a file takes to write
_LARGEST = 2 * 10**9  # bytes of pixels; more would fill people's home folders unasked
_EDGE = 1 << 16


def folder(cache: Path | None) -> Path:
    """Where vitreous keeps what it can get again: `cache`, else $XDG_CACHE_HOME/vitreous, else ~/.cache/vitreous."""
    if cache is not None:
        return cache
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path.home() / ".cache") / "vitreous"


def key_of(files: Sequence[Path], *details: object) -> str:
    """A name for what decoding `files` gives: sizes, times, first and last 64 KiB of each, and `details`.

    A parquet file's last bytes are its footer, which changes with any column chunk's place or statistics.
    """
    import PIL  # its decoders decide the pixels

    digest = hashlib.sha256(repr((_VERSION, PIL.__version__, details)).encode())
    for path in files:
        status = path.stat()
        digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode())
        with path.open("rb") as stream:
            digest.update(stream.read(_EDGE))
            stream.seek(max(0, status.st_size - _EDGE))
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()[:32]


def _digest(pixels: torch.Tensor, kept: torch.Tensor, about: str) -> str:
    digest = hashlib.sha256(about.encode())
    digest.update(kept.numpy().data)
    digest.update(pixels.numpy().data)
    return digest.hexdigest()


def _read(path: Path) -> Decoded | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as stream:
            meta = stream.metadata() or {}
            pixels, kept = stream.get_tensor("pixels"), stream.get_tensor("kept")
        if meta.get("sha256") != _digest(pixels, kept, meta.get("about", "")):
            return None
        about = json.loads(meta["about"])
        sizes = about["original"]
        original = Sizes(tuple(sizes[0]), tuple(sizes[1])) if sizes else None
        failed = tuple((place, reason) for place, reason in about["failed"])
        return Decoded(pixels, kept.numpy(), failed, original, about["gray"], about["animated"])
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, IndexError):
        return None


def _write(path: Path, decoded: Decoded) -> None:
    from safetensors.torch import save_file

    sizes = (decoded.original.height, decoded.original.width) if decoded.original else None
    about = json.dumps(
        {"failed": decoded.failed, "original": sizes, "gray": decoded.gray, "animated": decoded.animated}
    )
    kept = torch.from_numpy(decoded.kept)
    meta = {"about": about, "sha256": _digest(decoded.pixels, kept, about)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")
    try:
        save_file({"pixels": decoded.pixels, "kept": kept}, partial, metadata=meta)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def remembered(key: str, count: int, cache: Path | None, build: Callable[[], Decoded]) -> tuple[Decoded, str]:
    """The entry `key`, or what `build` gives, stored for next time; and a sentence if it could not be stored.

    count: how many pictures `build` will decode; small sets are not worth a file.
    """
    path = folder(cache) / "decoded" / f"{key}.safetensors"
    if count < _WORTH:
        return build(), ""
    found = _read(path)
    if found is not None:
        return found, ""
    decoded = build()
    if decoded.pixels.numel() > _LARGEST:
        return decoded, ""
    try:
        _write(path, decoded)
    except Exception as error:  # a full or read-only disk, in safetensors' own exception too: only the cache is lost
        return decoded, f"decoded pictures were not kept in {path.parent} for next time ({error})"
    return decoded, ""
