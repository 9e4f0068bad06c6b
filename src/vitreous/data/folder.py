"""A folder per class, with or without split folders.

    pets/cat/1.jpg                one class per folder (and all pictures below it)
    pets/train/cat/1.jpg          train, val (or valid, validation, dev) and test, each with the same classes
    pets/pets/train/cat/1.jpg     a folder that holds a single folder is looked into

Rules: every file in a class folder is either used or named as rejected. Hidden files and those that systems leave
behind (Thumbs.db, desktop.ini) do not count. Links are followed, each real folder once. Nothing is ever written here.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from vitreous.data.decode import Source
from vitreous.data.images import Rejected
from vitreous.data.opened import Listing, Opened, spacing
from vitreous.data.splits import canonical, looks_like, needed

_LEFT_BEHIND = {"thumbs.db", "desktop.ini", "icon\r"}
PICTURES = {".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm"}
_BATCH = 256
_NESTED = 3  # single folders to look into before giving up


def printable(path: Path | str) -> str:
    """A name that can be printed and stored as UTF-8, whatever bytes the file system holds."""
    text = os.fspath(path)
    return text if text.isascii() else os.fsencode(text).decode("utf-8", "backslashreplace")


@dataclass
class Files:
    """`Pictures` from files: their paths, sizes in bytes and times of change in nanoseconds."""

    root: str
    paths: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    times: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def weight(self) -> int:
        return sum(self.sizes)

    def add(self, path: str, size: int, time: int) -> None:
        self.paths.append(path)
        self.sizes.append(size)
        self.times.append(time)

    def identity(self) -> str:
        names = "\0".join(path.removeprefix(self.root) for path in self.paths)
        return hashlib.sha256(repr((self.sizes, self.times)).encode() + os.fsencode(names)).hexdigest()

    def sample(self, count: int) -> list[Source]:
        return [Path(path) for path in self.paths[:: spacing(len(self.paths), count)]]

    def at(self, place: int) -> Source:
        return Path(self.paths[place])

    def batches(self) -> Iterator[Sequence[Source | None]]:
        for start in range(0, len(self.paths), _BATCH):
            yield [Path(path) for path in self.paths[start : start + _BATCH]]


def hidden(name: str) -> bool:
    """Whether a file or folder is nobody's picture: its name begins with a dot, or a system left it behind."""
    return name.startswith(".") or name.lower() in _LEFT_BEHIND


def _entries(folder: Path | str) -> list[os.DirEntry[str]]:
    """What a folder holds, hidden things aside, in an order that does not depend on the file system."""
    try:
        with os.scandir(folder) as entries:
            return sorted((each for each in entries if not hidden(each.name)), key=lambda each: each.name)
    except OSError as error:
        raise ValueError(f"{printable(folder)}: cannot be listed ({error.strerror}); check its permissions") from None


def folders_in(folder: Path) -> list[Path]:
    """The folders that a folder holds, hidden ones aside. ValueError where it cannot be listed."""
    return [Path(entry.path) for entry in _entries(folder) if is_folder(entry)]


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link that leads round in a circle
        return False


def holds_picture(folder: Path, levels: int = 1) -> bool:
    """Whether a file in a folder, or ``levels`` deeper, has a picture's suffix; False where it cannot be listed."""
    try:
        entries = _entries(folder)
    except ValueError:
        return False
    if any(os.path.splitext(entry.name)[1].lower() in PICTURES for entry in entries):
        return True
    return levels > 0 and any(holds_picture(Path(entry.path), levels - 1) for entry in entries if is_folder(entry))


@dataclass
class _Walk:
    """The state of one scan: real folders seen, what was refused, links that lead out of the root."""

    root: Path
    seen: dict[tuple[int, int], str] = field(default_factory=dict)
    rejected: list[Rejected] = field(default_factory=list)
    outside: int = 0

    def refuse(self, path: Path | str, reason: str) -> None:
        self.rejected.append(Rejected(printable(path), reason))

    def reserve(self, folders: Iterable[Path]) -> None:
        """Folders that are read as what they are, whichever link leads to them: a class is never read as another's."""
        for folder in folders:
            with contextlib.suppress(OSError):
                status = os.stat(folder)
                self.seen.setdefault((status.st_dev, status.st_ino), str(folder))

    def collect(self, folder: str, files: Files) -> None:
        """Add the regular files below `folder`, sorted; whatever else is there is refused by name."""
        try:
            status = os.stat(folder)
        except OSError as error:
            self.refuse(folder, f"cannot be read: {error.strerror}")
            return
        first = self.seen.setdefault((status.st_dev, status.st_ino), folder)
        if first != folder:
            self.refuse(folder, f"link to a folder already read as {printable(first)}")
            return
        for entry in _entries(folder):
            try:
                status = entry.stat()
            except OSError as error:
                reason = "broken link" if entry.is_symlink() else f"cannot be read: {error.strerror}"
                self.refuse(entry.path, "link that leads round in a circle" if error.errno == errno.ELOOP else reason)
                continue
            if entry.is_symlink() and not Path(entry.path).resolve().is_relative_to(self.root):
                self.outside += 1
            if stat.S_ISDIR(status.st_mode):
                self.collect(entry.path, files)
            elif stat.S_ISREG(status.st_mode):
                files.add(entry.path, status.st_size, status.st_mtime_ns)
            else:
                self.refuse(entry.path, "not a regular file")


def _layout(root: Path) -> tuple[Path, dict[str, Path], list[str]]:
    """(the folder that holds classes or splits, {split: folder}, names of folders beside these, which nobody reads);
    without split folders all is train."""
    for _ in range(_NESTED):
        folders = folders_in(root)
        splits = {path: canonical(path.name) for path in folders}
        named = {name: path for path, name in splits.items() if name}
        # A class can be called "train" (beside "bus" and "car"): then it holds pictures, not classes.
        if named and (len(named) == len(folders) or ("train" in named and folders_in(named["train"]))):
            doubled = [path.name for path, name in splits.items() if name and named[name] != path]
            if doubled:
                raise ValueError(
                    f"{printable(root)}: {doubled[0]!r} and {named[canonical(doubled[0]) or ''].name!r} are "
                    "the same split; keep one"
                )
            return root, named, [printable(path.name) for path, name in splits.items() if not name]
        if len(folders) != 1 or not folders_in(folders[0]):
            _check_no_splits(root, folders)
            break
        root = folders[0]
    return root, {"train": root}, []


def _check_no_splits(root: Path, folders: list[Path]) -> None:
    """ValueError where folders that would be classes are splits by their looks: seg_train and seg_test, say, each with
    the same folders in it."""
    words = [looks_like(path.name) for path in folders]
    if None in words or not {"train", "training"} & set(words):
        return
    inner = [names for path in folders if len(names := _inner(path)) > 1]  # those to predict have no classes
    if len(inner) > 1 and all(names == inner[0] for names in inner):
        raise ValueError(
            f"{printable(root)}: {' and '.join(repr(printable(path.name)) for path in folders[-2:])} look like splits "
            "and not like classes; rename them train, val or test, with the class folders directly in them"
        )


def _inner(folder: Path) -> set[str]:
    """Names of the folders in one, or in the only folder that it holds."""
    folders = folders_in(folder)
    if len(folders) == 1:
        folders = folders_in(folders[0]) or folders
    return {path.name for path in folders}


def _classes(folder: Path, top: bool) -> dict[str, Path]:
    """{class name: folder}, in order; ValueError for none, one, or two that look the same."""
    named = {printable(path.name): path for path in folders_in(folder)}
    found = {name: named[name] for name in sorted(named)}
    if not found:
        tables = [entry.name for entry in _entries(folder) if entry.name.lower().endswith((".csv", ".tsv"))]
        other = f"; or pass the table of paths and labels, {printable(folder / tables[0])}" if tables else ""
        raise ValueError(
            f"{printable(folder)}: no class folders; put the pictures of each class into a folder of its own, "
            f"such as cat/1.jpg and dog/1.jpg{other}"
        )
    if len(found) == 1 and top:
        raise ValueError(f"{printable(folder)}: one class only ({next(iter(found))!r}); a classifier needs at least 2")
    alike: dict[str, str] = {}
    for name in found:
        other = alike.setdefault(unicodedata.normalize("NFKC", name).casefold(), name)
        if other != name:
            raise ValueError(f"{printable(folder)}: classes {other!r} and {name!r} look the same; merge or rename one")
    return found


def _same_classes(classes: dict[str, dict[str, Path]]) -> tuple[str, ...]:
    """The class names all splits share; ValueError naming the first that one lacks."""
    reference = "train" if "train" in classes else next(iter(classes))
    for name, found in classes.items():
        missing = sorted(set(classes[reference]) - set(found))
        extra = sorted(set(found) - set(classes[reference]))
        if missing or extra:
            lacking, owner = (name, reference) if missing else (reference, name)
            raise ValueError(
                f"class {(missing or extra)[0]!r} is in {owner} but not in {lacking}: all splits must have "
                "the same class folders; rename, add or remove it"
            )
    return tuple(classes[reference])


def _list(walk: _Walk, root: Path, classes: dict[str, Path], split_name: str) -> Listing:
    files, labels = Files(str(root)), []
    for label, (name, folder) in enumerate(classes.items()):
        refused, start = len(walk.rejected), len(files)
        walk.collect(str(folder), files)
        if len(files) == start:
            first = walk.rejected[refused:][:1]
            why = f"holds no picture ({first[0].path}: {first[0].reason})" if first else "is empty"
            raise ValueError(
                f"class folder {printable(folder)!r} {why}: add pictures of {name!r} to {split_name}, or remove it"
            )
        labels += [label] * (len(files) - start)
    return Listing(files, np.array(labels, dtype=np.int64), [printable(path) for path in files.paths])


def _strays(walk: _Walk, folder: Path) -> None:
    """Pictures beside the class folders are no class's: refuse them by name, and pass over a README."""
    for entry in _entries(folder):
        if Path(entry.name).suffix.lower() in PICTURES and Path(entry.path).is_file():
            walk.refuse(entry.path, "outside any class folder")


def open_folder(root: Path, wanted: set[str]) -> Opened:
    """List the splits in `wanted` (and train, where validation has to come out of it).

    ValueError for the faults the module's rules name.
    """
    if not _entries(root):
        raise ValueError(
            f"{printable(root)}: the folder is empty; put the pictures of each class into a folder of its own"
        )
    base, folders, unread = _layout(root)
    walk = _Walk(root.resolve())
    classes_of = {name: _classes(path, top=True) for name, path in folders.items()}
    classes = _same_classes(classes_of)
    walk.reserve([base, *folders.values(), *(path for each in classes_of.values() for path in each.values())])
    needs = needed(folders, wanted)
    for beside in dict.fromkeys([base, *(folders[name] for name in needs)]):
        _strays(walk, beside)
    splits = {name: _list(walk, base, classes_of[name], name) for name in needs}
    reference = "train" if "train" in folders else next(iter(folders))
    if reference not in splits:  # listed for its sizes only: what it refuses is for the run that uses it to tell
        aside = _Walk(walk.root, dict(walk.seen))
        splits[reference] = _list(aside, base, classes_of[reference], reference)
    notes = [f"pictures are read from {printable(base)}"] if base != root else []
    if unread:
        notes.append(f"not read, since they are beside the split folders: {', '.join(unread)}")
    if walk.outside:
        notes.append(f"{walk.outside} links lead out of {printable(root)} and were followed")
    name = printable(root.resolve().name)
    return Opened(name, printable(root), classes, splits, needs, "val" in folders, walk.rejected, notes)
