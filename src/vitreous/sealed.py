"""Folders and files that are whole or not there: written under another name, every file hashed, synced, then renamed.

``manifest.json`` holds the format, the version that wrote it, size and SHA-256 of every file, and a seal over all of
that, so that a flipped bit is found anywhere, in the manifest too. ``README.md`` is for people, who may edit it.

Not here: what the files mean (checkpoint.py, classifier.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

import vitreous

MANIFEST = "manifest.json"
PARTIAL, PREVIOUS, DAMAGED = ".partial", ".previous", ".damaged"
"""What is added to a folder's name while it is written, while it is replaced, and once it was found damaged."""


class Damaged(ValueError):
    """A file is not what the manifest says, or the manifest not what was written."""


class Newer(ValueError):
    """Of a format that this version does not know."""


@contextlib.contextmanager
def writing(target: Path, format: int) -> Iterator[Path]:
    """An empty folder to fill, which takes the name ``target`` once it is whole and on the disk.

    A folder of that name that is there already is replaced; killed at any moment, one of the two is there whole (see
    :func:`standing`). Raises OSError (a full disk, say) with nothing temporary left behind.
    """
    partial = _beside(target, PARTIAL)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        yield partial
        _seal(partial, format)
        for path in [*partial.iterdir(), partial]:
            sync(path)
        _put(partial, target)
    except BaseException as problem:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(problem, SafetensorError):  # how safetensors reports a full disk
            raise OSError(f"could not write {target}: {problem}") from problem
        raise


def write(path: Path, text: str) -> None:
    """A single file of text that is there whole, or as it was before. Raises as :func:`put` does."""
    put(path, lambda partial: partial.write_text(text, encoding="utf-8"))


def put(path: Path, fill: Callable[[Path], object]) -> None:
    """A single file, written by ``fill``, that is there whole, or as it was before.

    Raises OSError with nothing temporary left behind.
    """
    partial = _beside(path, PARTIAL)
    try:
        fill(partial)
        sync(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def standing(target: Path) -> Path:
    """``target``, or what it was to replace where a kill fell between two renames."""
    previous = _beside(target, PREVIOUS)
    return previous if not target.exists() and previous.is_dir() else target


def discard(folder: Path) -> None:
    """Removes a folder so that its name goes first: half of it never stands under the name of the whole."""
    going = _beside(folder, PARTIAL)
    shutil.rmtree(going, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def check(folder: Path, format: int) -> dict[str, Any]:
    """The manifest of a folder whose every file is what it says.

    Raises Newer for a format above ``format``; Damaged, naming the file, where something was changed, cut or lost;
    FileNotFoundError where there is no manifest.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        seal = manifest.pop("seal")
        written, version, files = int(manifest["format"]), manifest["vitreous"], dict(manifest["files"])
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as problem:
        raise Damaged(f"{MANIFEST} cannot be read: {problem}") from None
    if seal != _digest(manifest):
        raise Damaged(f"{MANIFEST} does not match its seal")
    if written > format:
        raise Newer(
            f"{folder} has format {written}, written by vitreous {version}; this is vitreous {vitreous.__version__}, "
            f"which reads up to format {format}: upgrade vitreous"
        )
    for name, expected in files.items():
        path = folder / name
        if not path.is_file():
            raise Damaged(f"{name} is missing")
        if _fingerprint(path) != expected:
            raise Damaged(f"{name} does not match its SHA-256")
    return manifest


def named(path: Path) -> str:
    """ "sha256:" and 16 hexadecimal digits of what a file holds; empty where there is no file."""
    return f"sha256:{_fingerprint(path)['sha256'][:16]}" if path.is_file() else ""


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the system can tell."""
    windows = os.name == "nt"
    if windows and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDWR if windows else os.O_RDONLY)  # Windows syncs only what could be written to
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _seal(folder: Path, format: int) -> None:
    names = sorted(path.name for path in folder.iterdir() if path.name not in ("README.md", MANIFEST))
    files = {name: _fingerprint(folder / name) for name in names}
    manifest = {"format": format, "vitreous": vitreous.__version__, "files": files}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "seal": _digest(manifest)}, indent=1), encoding="utf-8")


def _put(partial: Path, target: Path) -> None:
    """Two renames where ``target`` is there: no system renames a folder over another that holds files."""
    previous = _beside(target, PREVIOUS)
    if target.exists():
        shutil.rmtree(previous, ignore_errors=True)
        target.rename(previous)
    partial.rename(target)
    sync(target.parent)
    shutil.rmtree(previous, ignore_errors=True)


def _beside(target: Path, suffix: str) -> Path:
    return target.with_name(target.name + suffix)


def _digest(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
