"""Which pictures are meant: folders, patterns and list files to one line a picture, in an order that stays.

For pictures without labels, of any number: names come one after the other and are never held all at once, but for
those of one folder, which are sorted. Also files of one kind among any number of others (`below`). Not here: opening
any of them (decode.py), pictures with labels (folder.py).
"""

from __future__ import annotations

import contextlib
import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from vitreous.data.folder import hidden, is_folder

LISTS = (".txt", ".list")
"""Suffixes of a file that names pictures, one a line, seen from the current folder."""


def listed(sources: Iterable[str]) -> Iterator[str]:
    """The paths that ``sources`` mean, in their order: a folder with all below it, a quoted pattern, a list, a file.

    Every file of a folder is named, whatever it holds, hidden ones aside: what is no picture is for the reader to
    tell, and so is a folder that cannot be listed. Links are followed, each real folder once. Raises ValueError for a
    source that is not there or names nothing.
    """
    for source in sources:
        found = False
        for path in _meant(source):
            found = True
            yield path
        if not found:
            raise ValueError(f"{source}: names no picture")


def below(root: Path, suffix: str, levels: int) -> list[Path]:
    """Files that end in ``suffix``, sorted, in a folder and ``levels`` deeper.

    Hidden ones (a table that ``predict`` is still writing, say) are passed over, and so is what cannot be listed.
    """
    found, folders = [], [str(root)]
    for _ in range(levels + 1):
        deeper = []
        for folder in folders:
            with contextlib.suppress(OSError), os.scandir(folder) as entries:
                for entry in entries:
                    if is_folder(entry):
                        deeper += [] if hidden(entry.name) else [entry.path]
                    elif entry.name.endswith(suffix) and not hidden(entry.name):
                        found.append(Path(entry.path))
        folders = deeper
    return sorted(found)


def _meant(source: str) -> Iterator[str]:
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        return _below(str(path), set())
    if path.is_file():
        return _lines(path) if path.suffix.lower() in LISTS else iter([str(path)])
    if glob.has_magic(source):
        return (each for each in sorted(glob.iglob(str(path), recursive=True)) if os.path.isfile(each))
    raise ValueError(f"{source}: no such folder, picture or list of pictures")


def _below(folder: str, seen: set[tuple[int, int]]) -> Iterator[str]:
    try:
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            names = sorted((entry.name, is_folder(entry)) for entry in entries if not hidden(entry.name))
    except OSError:
        yield folder
        return
    for name, inner in names:
        path = os.path.join(folder, name)
        if inner:
            yield from _below(path, seen)
        else:
            yield path


def _lines(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line in file:
            if name := line.strip("\r\n"):
                yield name
