"""A table that names pictures: a row a picture, with its path, its label and perhaps its split.

    path,label,split                    CSV (comma, semicolon or tab), TSV, or parquet; a header is not needed where
    photos/1.jpg,cat,train              only one column can be the path and one other the label
    photos/2.jpg,dog,val

Paths are seen from the table's folder, or from another that the caller names; a suffix may be missing if it is the same
for all. Rows are counted from 1, without the header. A picture that is not there is left out by name, as is any that
cannot be decoded.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from vitreous.data import columns
from vitreous.data.folder import PICTURES, Files, printable
from vitreous.data.images import Rejected
from vitreous.data.labels import Label, labelled, number
from vitreous.data.opened import Opened
from vitreous.data.splits import canonical, needed
from vitreous.data.tables import ParquetTable, holds_bytes, holds_labels

SUFFIXES = (".csv", ".tsv")
_LOOKED_AT = 100  # rows in which a column of paths is told by its endings


def names_files(schema: pa.Schema) -> bool:
    """Whether a parquet file holds paths and no pictures."""
    path = columns.named(schema.names, columns.PATH)
    return path is not None and _is_text(schema.field(path).type) and not any(map(holds_bytes, schema.types))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def open_manifest(path: Path, wanted: set[str], images: Path | None = None) -> Opened:
    """List the splits in `wanted` (and train, where validation has to come out of it).

    images: the folder that paths are seen from, in place of the table's own. ValueError for a table that cannot be
    read, a missing column, a word that is no split, pictures none of which is there, or a source with one class.
    """
    if images is not None and not images.is_dir():
        raise ValueError(f"{images}: no such folder to look for the pictures of {path.name} in")
    table = _parquet(path) if path.suffix.lower() == ".parquet" else _text(path)
    parts, rejected = _parts(path, table, images or path.parent)
    if not parts:
        first = f" (row 1: {rejected[0].reason})" if rejected else ""
        raise ValueError(f"{path}: no row names a picture{first}; write a line a picture, such as cat/1.jpg,cat")
    try:
        classes, numbers = number({name: part.labels for name, part in parts.items()})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if len(classes) < 2:
        raise ValueError(f"{path}: one class only ({', '.join(classes) or 'no labels'}); a classifier needs at least 2")
    paths = [each for part in parts.values() for each in part.files.paths]
    if not any(map(os.path.exists, paths)):
        raise ValueError(
            f"{path}: none of the {len(paths)} pictures it names is there (the first: {printable(paths[0])}); say with "
            "--images which folder the paths are seen from"
        )
    needs, notes = needed(parts, wanted), [table.note] * bool(table.note)
    splits = {}
    for name, part in parts.items():
        listing = labelled(part.files, part.labels, numbers, [printable(each) for each in part.files.paths])
        if listing is not None:
            splits[name] = listing
        elif name in needs:
            needs.remove(name)
            notes.append(f"{name} has no labels and is left out")
    return Opened(path.stem, printable(path), classes, splits, needs, "val" in parts, rejected, notes)


@dataclass(frozen=True)
class _Table:
    """Three columns of one length. An empty `splits` means that there is no such column."""

    paths: Sequence[str | None]
    labels: Sequence[Label]
    splits: Sequence[str | None]
    note: str


def _text(path: Path) -> _Table:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            first = stream.readline()
            stream.seek(0)
            separator = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=first.count)
            rows = [row for row in csv.reader(stream, delimiter=separator) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        said = "not UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        raise ValueError(f"{path}: not a readable table ({said}); save it as CSV in UTF-8") from None
    if not rows:
        raise ValueError(f"{path}: the table is empty; write a line a picture, such as cat/1.jpg,cat")
    plain = any(_is_picture(cell) for cell in rows[0])  # no header: the first row names a picture already
    header = [f"column {place}" for place in range(1, len(rows[0]) + 1)] if plain else [c.strip() for c in rows.pop(0)]
    cells = {
        name: [row[place].strip() if place < len(row) else "" for row in rows] for place, name in enumerate(header)
    }

    def is_path(name: str) -> bool:
        return any(_is_picture(cell) for cell in cells[name][:_LOOKED_AT])

    found, others = columns.find(header, columns.PATH, "path", path, is_path), list(header)
    others.remove(found)
    split = columns.named(others, columns.SPLIT)
    label = columns.find([each for each in others if each != split], columns.LABEL, "label", path, lambda name: True)
    return _Table(
        [cell or None for cell in cells[found]],
        [cell or None for cell in cells[label]],
        [cell or None for cell in cells[split]] if split else [],
        _note(found, label),
    )


def _parquet(path: Path) -> _Table:
    table = ParquetTable(path)
    names = table.schema.names

    def is_text(name: str) -> bool:
        return _is_text(table.schema.field(name).type)

    found = columns.find(names, columns.PATH, "path", path, is_text)
    others = [name for name in names if name != found]
    split = columns.named(others, columns.SPLIT)

    def is_label(name: str) -> bool:
        return holds_labels(table.schema.field(name).type)

    label = columns.find([each for each in others if each != split], columns.LABEL, "label", path, is_label)
    if not is_text(found) or not is_label(label):
        raise ValueError(f"{path}: paths in {found!r} must be text, and labels in {label!r} whole numbers or names")
    return _Table(
        table.column(found).to_pylist(),
        table.column(label).to_pylist(),
        [each if each is None else str(each) for each in table.column(split).to_pylist()] if split else [],
        _note(found, label),
    )


def _note(path: str, label: str) -> str:
    usual = path.lower() in columns.PATH and label.lower() in columns.LABEL
    return "" if usual else f"columns: paths from {path!r}, labels from {label!r}"


def _is_picture(text: str) -> bool:
    return os.path.splitext(text.strip())[1].lower() in PICTURES


@dataclass
class _Part:
    """The rows of one split."""

    files: Files
    labels: list[Label] = field(default_factory=list)


def _missing_ending(base: Path, paths: Sequence[str | None]) -> str:
    """What has to be added to the first path for it to be a file, as to the numbers in many a competition's table."""
    first = next((os.path.join(base, name) for name in paths if name), "")
    if not first or _is_picture(first) or os.path.exists(first):
        return ""
    return next((ending for ending in sorted(PICTURES) if os.path.isfile(first + ending)), "")


def _parts(table_path: Path, table: _Table, base: Path) -> tuple[dict[str, _Part], list[Rejected]]:
    parts: dict[str, _Part] = {}
    rejected: list[Rejected] = []
    ending = _missing_ending(base, table.paths)
    for row, (name, label) in enumerate(zip(table.paths, table.labels, strict=True), start=1):
        said = table.splits[row - 1] if table.splits else "train"
        split = canonical(said.strip()) if said else None
        if not name or not said:
            rejected.append(Rejected(f"{table_path}: row {row}", f"no {'split' if name else 'path'} in this row"))
            continue
        if split is None:
            raise ValueError(
                f"{table_path}: row {row} has split {said!r}; write train, val (valid, validation) or test in all rows"
            )
        path = os.path.join(base, name + ending)
        part = parts.setdefault(split, _Part(Files(str(base))))
        part.labels.append(label)
        try:
            status = os.stat(path)
            part.files.add(path, status.st_size, status.st_mtime_ns)
        except (OSError, ValueError):  # the decoder says why
            part.files.add(path, 0, 0)
    return parts, rejected
