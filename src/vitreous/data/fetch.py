"""Files of known content: fetched over HTTPS into the cache, and checked by SHA-256 before anything reads them."""

from __future__ import annotations

import hashlib
import logging
import os
import urllib.error
import urllib.request
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_BLOCK = 1 << 20
_TIMEOUT = 15  # seconds without a byte


@dataclass(frozen=True)
class Remote:
    """A file of a known set: its name, where it is published, its SHA-256 and its length in bytes."""

    name: str
    base: str
    sha256: str
    length: int

    @property
    def url(self) -> str:
        return self.base + self.name


def check(path: Path, remote: Remote) -> None:
    """ValueError unless the file is the published one, byte for byte."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != remote.sha256:
        raise ValueError(
            f"{path}: not the published file (SHA-256 begins {digest.hexdigest()[:12]}, not {remote.sha256[:12]}; "
            f"{path.stat().st_size} of {remote.length} bytes): delete it, or fetch {remote.url} again"
        )


def fetch(remote: Remote, folder: Path) -> Path:
    """The file, in `folder`, fetched unless it is there. OSError when it cannot be fetched.

    A download that is cut short or differs from the published file is deleted, and never had the file's name.
    """
    path = folder / remote.name
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f"{remote.name}.{uuid.uuid4().hex}.partial"
    logging.getLogger(__name__).warning("fetching %s (%.0f MB)", remote.url, remote.length / 1e6)
    try:
        with urllib.request.urlopen(remote.url, timeout=_TIMEOUT) as answer, partial.open("wb") as stream:
            length = 0
            while length <= remote.length and (block := answer.read(_BLOCK)):
                stream.write(block)
                length += len(block)
        check(partial, remote)
        os.replace(partial, path)
    except (urllib.error.URLError, TimeoutError) as error:
        raise OSError(str(getattr(error, "reason", error))) from error
    finally:
        partial.unlink(missing_ok=True)
    return path


def locate(remotes: Sequence[Remote], folders: Sequence[Path]) -> list[Path] | None:
    """The first of `folders` that holds all the files, as paths; None when none does."""
    for folder in folders:
        paths = [folder / remote.name for remote in remotes]
        if all(path.is_file() for path in paths):
            return paths
    return None
