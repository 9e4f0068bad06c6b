"""Tar shards as WebDataset has them: files of one name belong together, the picture and beside it its label.

    train-000.tar: 0001.jpg 0001.cls 0002.jpg 0002.cls ...     .cls or .txt: the label; .json: an object with one

Shards are read where they lie: their headers once (kept in the cache for large ones), then the bytes of each picture.
Nothing is unpacked, so whatever a member is called, nothing is written anywhere; nothing is unpickled either. The split
is the start of a file's name, or its folder.
"""

from __future__ import annotations

import glob
import hashlib
import json
import re
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vitreous.data import cache as store
from vitreous.data import columns
from vitreous.data.decode import Source, Span
from vitreous.data.folder import PICTURES, printable
from vitreous.data.images import Rejected
from vitreous.data.labels import Label, labelled, number
from vitreous.data.listing import below
from vitreous.data.opened import Opened, spacing
from vitreous.data.splits import by_split, needed
from vitreous.data.tables import files_identity

_BATCH = 256
_LABELS = ("cls", "json", "txt")  # the first there is counts
_LONGEST = 1 << 20  # bytes of a label
_REMEMBERED = 1 << 24  # bytes from which a shard's headers take long enough to be kept
_MOST_SHARDS = 100_000


@dataclass(frozen=True, eq=False)
class Members:
    """`Pictures` from members of tar files."""

    shards: Sequence[Path]
    spans: Sequence[Span]

    def __len__(self) -> int:
        return len(self.spans)

    @property
    def weight(self) -> int:
        return sum(span.length for span in self.spans)

    def identity(self) -> str:
        places = repr([(span.start, span.length) for span in self.spans])
        return files_identity(self.shards) + hashlib.sha256(places.encode()).hexdigest()

    def sample(self, count: int) -> list[Source]:
        return list(self.spans[:: spacing(len(self.spans), count)])

    def at(self, place: int) -> Source:
        return self.spans[place]

    def batches(self) -> Iterator[Sequence[Source | None]]:
        for start in range(0, len(self.spans), _BATCH):
            yield self.spans[start : start + _BATCH]


def is_pattern(source: str) -> bool:
    """Whether a source is a name with braces or a wildcard, such as shards/train-{000..009}.tar."""
    return bool(re.search(r"[{*?\[]", source))


def matching(pattern: str) -> list[Path]:
    """The files that a pattern means, in order. ValueError for one that is not there, or none at all."""
    found: list[Path] = []
    for each in _braces(pattern):
        if glob.has_magic(each):
            found += [Path(path) for path in sorted(glob.glob(each, recursive=True))]
        elif Path(each).is_file():
            found.append(Path(each))
        else:
            raise ValueError(f"{each}: no such file, which {pattern!r} names")
    found = list(dict.fromkeys(found))
    other = [path for path in found if path.suffix.lower() != ".tar"]
    if other or not found:
        raise ValueError(f"{pattern!r}: {f'names {other[0]}, which is' if other else 'names'} no tar file")
    return found


def _braces(pattern: str) -> list[str]:
    """{000..009} and {a,b} written out, from the left."""
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", pattern)
    if not found:
        return [pattern]
    first, last, names = found.groups()
    if names is None:
        if int(last) - int(first) >= _MOST_SHARDS:
            raise ValueError(f"{pattern!r}: more than {_MOST_SHARDS} files; write a smaller range")
        words = [str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)]
    else:
        words = names.split(",")
    head, tail = pattern[: found.start()], pattern[found.end() :]
    return [each for word in words for each in _braces(f"{head}{word}{tail}")]


def shard_files(root: Path) -> list[Path]:
    """The tar files of a folder, two levels deep."""
    return below(root, ".tar", 1)


def open_shards(root: Path, shards: Sequence[Path], wanted: set[str], cache: Path | None = None) -> Opened:
    """List the splits in `wanted` (and train, where validation has to come out of it) of tar files below `root`.

    ValueError naming the file for damage, for shards without pictures or labels, and for a source with one class.
    """
    files = by_split(shards, root)
    needs = needed(files, wanted)
    reference = "train" if "train" in files else next(iter(files))
    read = {name: [_indexed(path, cache) for path in files[name]] for name in dict.fromkeys([reference, *needs])}
    values = {name: [each for index in some for each in index.labels] for name, some in read.items()}
    rejected = [each for name in needs for index in read[name] for each in index.rejected]
    classes, numbers = number(values)
    if len(classes) < 2:
        why = ", ".join(classes) or "no picture with a .cls, .txt or .json beside it"
        raise ValueError(f"{printable(root)}: one class only ({why}); a classifier needs at least 2")
    splits, notes = {}, [f"{len(shards)} tar {'shard' if len(shards) == 1 else 'shards'}"]
    for name, some in read.items():
        spans = [span for index in some for span in index.spans]
        ids = [each for index in some for each in index.ids]
        listing = labelled(Members(files[name], spans), values[name], numbers, ids)
        if listing is not None:
            splits[name] = listing
        elif name in needs:
            needs.remove(name)
            notes.append(f"{name} has no labels and is left out")
    where = printable(root)
    return Opened(printable(root.resolve().name), where, classes, splits, needs, "val" in files, rejected, notes)


@dataclass(frozen=True, eq=False)
class _Index:
    """What a shard holds, in order: where its pictures lie, their names and labels; and what was refused."""

    spans: list[Span]
    ids: list[str]
    labels: list[Label]
    rejected: list[Rejected]


def _indexed(path: Path, cache: Path | None) -> _Index:
    if path.stat().st_size < _REMEMBERED or not store.limit():
        facts = _read(path)
    else:
        facts = store.facts(store.key_of("shard", files_identity([path])), cache, lambda: _read(path))
    shown = printable(path)
    return _Index(
        [Span(path, start, length) for start, length in facts["places"]],
        [f"{shown}/{name}" for name in facts["names"]],
        facts["labels"],
        [Rejected(f"{shown}/{name}", reason) for name, reason in facts["rejected"]],
    )


def _read(path: Path) -> dict[str, Any]:
    """The headers of a shard and its labels, as plain JSON values."""
    pictures: dict[str, tuple[str, int, int]] = {}
    labels: dict[str, dict[str, bytes]] = {}
    rejected: list[tuple[str, str]] = []
    try:
        with path.open("rb") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                key, kind = _parted(member.name)
                if f".{kind}" in PICTURES:
                    name = printable(member.name)
                    if not member.isreg() or member.issparse():
                        rejected.append((name, "not a regular file"))
                    elif key in pictures:
                        rejected.append((name, f"the shard has {pictures[key][0]} already"))
                    else:
                        pictures[key] = (name, member.offset_data, member.size)
                elif kind in _LABELS and member.isreg() and member.size <= _LONGEST:
                    inside = archive.extractfile(member)
                    labels.setdefault(key, {})[kind] = inside.read() if inside else b""
            stream.seek(archive.offset)
            if stream.read(512) != bytes(512):  # tarfile passes over that
                raise ValueError("its end is missing")
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        raise ValueError(f"{printable(path)}: not a readable tar file ({error}); fetch or write it again") from None
    if not pictures:
        raise ValueError(f"{printable(path)}: the tar file holds no picture ({', '.join(sorted(PICTURES)[:6])}, ...)")
    return {
        "names": [name for name, _, _ in pictures.values()],
        "places": [(start, length) for _, start, length in pictures.values()],
        "labels": [_label(labels.get(key, {})) for key in pictures],
        "rejected": rejected,
    }


def _parted(name: str) -> tuple[str, str]:
    """A member's name as WebDataset parts it: at the first dot after the last slash."""
    folder, slash, last = name.rpartition("/")
    stem, _, kind = last.partition(".")
    return folder + slash + stem, kind.lower()


def _label(beside: dict[str, bytes]) -> str | None:
    """The label of a picture, from what lies beside it; None where there is none that can be read."""
    kind = next((each for each in _LABELS if each in beside), None)
    if kind is None:
        return None
    try:
        text = beside[kind].decode("utf-8").strip()
        value = json.loads(text) if kind == "json" else text
    except (ValueError, RecursionError):  # no text, no JSON, or JSON without end of brackets
        return None
    if isinstance(value, dict):
        column = columns.named((key for key in value if isinstance(key, str)), columns.LABEL)
        value = value[column] if column else None
    return str(value) if isinstance(value, int | str) and not isinstance(value, bool) and value != "" else None
