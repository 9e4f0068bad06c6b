"""Pictures in parquet files, as Hugging Face lays them out, to `Parts`.

A picture column `img` or `image` (bytes, or a struct with `bytes`), a label column `label`, `labels` or `fine_label`
(integers or names). The split is the start of a file's name (train-00000-of-00001.parquet) or the folder it is in
(train/0000.parquet); files that name none are train. Class names come from the files' own metadata.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from vitreous.data import cache as store
from vitreous.data.decode import Source
from vitreous.data.gather import Decoded, Plan, decode_all, gather
from vitreous.data.images import Images, Parts, Rejected
from vitreous.data.splits import canonical, needed

PICTURE_COLUMNS = ("img", "image")
LABEL_COLUMNS = ("label", "labels", "fine_label")
Label = int | str | None
_BATCH = 1024
_GROUPS = 8  # row groups looked into when size and channels are chosen


def split_files(root: Path) -> dict[str, list[Path]]:
    """{split: its files, in order} of a parquet file or of a folder, two levels deep; empty when there are none.

    ValueError when one split is spread over several folders, which are configurations to choose from.
    """
    if root.is_file():
        return {_split_of(root, root.parent) or "train": [root]}
    paths = sorted(path for pattern in ("*.parquet", "*/*.parquet", "*/*/*.parquet") for path in root.glob(pattern))
    found: dict[str, list[Path]] = {}
    unnamed = [path for path in paths if _split_of(path, root) is None]
    for path in paths:
        name = _split_of(path, root)
        if name:
            found.setdefault(name, []).append(path)
    if unnamed and found:
        raise ValueError(
            f"{unnamed[0]}: the file's name tells no split, others here do; rename it to begin with train, "
            "val or test, or move it away"
        )
    if unnamed:
        found = {"train": unnamed}
    for name, files in found.items():
        folders = sorted({str(path.parent.relative_to(root)) for path in files})
        if len(folders) > 1:
            raise ValueError(
                f"{root}: {name} is in several folders ({', '.join(folders[:6])}); name the one you mean, "
                f"such as {root / folders[0]}"
            )
    return found


def _split_of(path: Path, root: Path) -> str | None:
    start = re.match(r"[a-z]+", path.stem.lower())
    own = canonical(start.group()) if start else None
    return own or (canonical(path.parent.name) if path.parent != root else None)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: not a readable parquet file ({text}); it may be cut short: fetch it again") from None


def _column(schema: pa.Schema, names: tuple[str, ...], what: str, path: Path) -> str:
    present = schema.names
    for name in names:
        if name in present:
            return name
    lowered = {name.lower(): name for name in present}
    near = difflib.get_close_matches(names[0], lowered, 1, 0.5) or [
        match for name in names for match in difflib.get_close_matches(name, lowered, 1, 0.5)
    ]
    hint = f"; did you mean {lowered[near[0]]!r}? Rename it to {names[0]!r}" if near else ""
    raise ValueError(f"{path}: no {what} column (looked for {', '.join(names)}; found {', '.join(present)}){hint}")


@dataclass(frozen=True)
class _Columns:
    picture: str
    label: str

    @staticmethod
    def of(schema: pa.Schema, path: Path) -> _Columns:
        """The two columns of a file; ValueError for one that is missing or of a type that cannot be used."""
        picture = _column(schema, PICTURE_COLUMNS, "picture", path)
        label = _column(schema, LABEL_COLUMNS, "label", path)
        kind = schema.field(picture).type
        if pa.types.is_struct(kind):
            if kind.get_field_index("bytes") < 0:
                raise ValueError(
                    f"{path}: column {picture!r} is a struct without 'bytes'; store the pictures themselves"
                )
            kind = kind.field("bytes").type
        if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
            raise ValueError(f"{path}: column {picture!r} holds {kind}, not bytes; store encoded pictures (PNG, JPEG)")
        label_kind = schema.field(label).type
        inner = label_kind.value_type if pa.types.is_dictionary(label_kind) else label_kind
        if not (pa.types.is_integer(inner) or pa.types.is_string(inner) or pa.types.is_large_string(inner)):
            raise ValueError(f"{path}: column {label!r} holds {label_kind}; labels must be integers or names")
        return _Columns(picture, label)


def _pictures(column: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    if pa.types.is_struct(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        # flatten, unlike field, keeps a null struct null
        return [value for chunk in chunks for value in chunk.flatten()[chunk.type.get_field_index("bytes")].to_pylist()]
    return list(column.to_pylist())


@dataclass(frozen=True)
class Rows:
    """`Pictures` from parquet files."""

    files: list[Path]
    columns: list[_Columns]
    counts: list[int]

    @staticmethod
    def of(files: list[Path]) -> Rows:
        """Open each file's footer; ValueError for one that is damaged or lacks a column."""
        columns, counts = [], []
        for path in files:
            with _readable(path), pq.ParquetFile(path) as file:
                schema, count = file.schema_arrow, file.metadata.num_rows
            columns.append(_Columns.of(schema, path))
            counts.append(count)
        return Rows(files, columns, counts)

    def __len__(self) -> int:
        return sum(self.counts)

    def sample(self, count: int) -> list[Source]:
        groups: list[tuple[Path, str, int]] = []
        for path, columns in zip(self.files, self.columns, strict=True):
            with _readable(path), pq.ParquetFile(path) as file:
                groups += [(path, columns.picture, group) for group in range(file.num_row_groups)]
        chosen = groups[:: max(1, -(-len(groups) // _GROUPS))]
        found: list[Source] = []
        for path, picture, group in chosen:
            with _readable(path), pq.ParquetFile(path) as file:
                table = file.read_row_group(group, columns=[picture])
            step = max(1, table.num_rows * len(chosen) // count)
            rows = table.take(pa.array(range(0, table.num_rows, step))) if step > 1 else table
            found += [value for value in _pictures(rows.column(0)) if value is not None]
        return found

    def batches(self) -> Iterator[Sequence[Source | None]]:
        for path, columns in zip(self.files, self.columns, strict=True):
            with _readable(path):
                file = pq.ParquetFile(path)
            with file:
                batches = file.iter_batches(_BATCH, columns=[columns.picture])
                while True:
                    with _readable(path):  # around the read alone: what the decoder raises is not this file's fault
                        batch = next(batches, None)
                    if batch is None:
                        break
                    yield _pictures(batch.column(0))

    def labels(self) -> list[Label]:
        """One label a row, None for null. ValueError when some files have names and others numbers."""
        values: list[Label] = []
        for path, columns in zip(self.files, self.columns, strict=True):
            with _readable(path), pq.ParquetFile(path) as file:
                values += file.read(columns=[columns.label]).column(0).to_pylist()
        if len({type(value) for value in values if value is not None}) > 1:
            raise ValueError(f"{self.files[0].parent}: some labels are numbers and some are names; use one kind")
        return values

    def class_names(self) -> tuple[str, ...]:
        """From the metadata that Hugging Face's library writes, or none."""
        for path, columns in zip(self.files, self.columns, strict=True):
            with _readable(path):
                meta = pq.read_schema(path).metadata or {}
            try:
                names = json.loads(meta[b"huggingface"])["info"]["features"][columns.label]["names"]
            except (KeyError, TypeError, ValueError):
                continue
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return tuple(names)
        return ()


def _classes(
    sources: dict[str, Rows], known: tuple[str, ...], values: dict[str, list[Label]]
) -> tuple[tuple[str, ...], dict[int | str, int]]:
    """(class names, {label as stored: class number}) from metadata, from `known`, else from the labels themselves."""
    reference = "train" if "train" in sources else next(iter(sources))
    present = {value for value in values[reference] if value is not None and value != -1}  # -1: "label withheld"
    numbers = all(isinstance(value, int) for value in present)
    named = next((names for rows in sources.values() if (names := rows.class_names())), ())
    if numbers and not named and known and present <= set(range(len(known))):
        named = known
    if numbers and named:
        return named, {label: label for label in range(len(named))}
    ordered = sorted(present, key=lambda value: (str(value) if not numbers else "", value if numbers else 0))
    return tuple(str(value) for value in ordered), {value: label for label, value in enumerate(ordered)}


def _images(
    name: str,
    rows: list[Label],
    decoded: Decoded,
    classes: tuple[str, ...],
    number: dict[int | str, int],
    rejected: list[Rejected],
) -> Images | None:
    """The rows with a picture and a label; None when every label is withheld, as in many test splits."""
    if rows and all(value is None or value == -1 for value in rows):
        return None
    bad: dict[int, str] = dict(decoded.failed)
    for row, value in enumerate(rows):
        if value is None:
            bad[row] = "no label in this row"
        elif value not in number:
            bad[row] = f"label {value!r} is none of the {len(classes)} classes"
    rejected += [Rejected(f"{name}/row {row}", bad[row]) for row in sorted(bad)]
    good = np.asarray([row not in bad for row in decoded.kept.tolist()], dtype=bool)
    kept = decoded.kept[good]
    pixels = decoded.pixels if good.all() else decoded.pixels[torch.from_numpy(good)]
    labels = torch.tensor([number[rows[row]] for row in kept.tolist()], dtype=torch.int64)
    return Images(pixels, labels, classes, tuple(f"{name}/row {row}" for row in kept.tolist()))


def read_parquet(
    root: Path, wanted: set[str], size: int | None, cache: Path | None, title: str = "", known: tuple[str, ...] = ()
) -> Parts:
    """Read the splits in `wanted` (and train, where validation has to come out of it).

    title and known: the name and the classes of a well-known set. Raises ValueError naming the file for damage, a
    missing column (and the nearest one), or labels that cannot be used. Rows are counted from 0.
    """
    found = split_files(root)
    if not found:
        raise ValueError(f"{root}: no parquet file there")
    sources = {name: Rows.of(files) for name, files in found.items()}
    needs = needed(found, wanted)
    notes: list[str] = []

    def decoder(name: str, target: Plan) -> Decoded:
        rows = sources[name]
        key = store.key_of(rows.files, target.size, target.channels)
        decoded, note = store.remembered(key, len(rows), cache, lambda: decode_all(rows, target))
        if note:
            notes.append(note)
        return decoded

    reference = "train" if "train" in sources else next(iter(sources))
    values = {name: sources[name].labels() for name in dict.fromkeys([*needs, reference])}
    classes, number = _classes(sources, known, values)
    if len(classes) < 2:
        raise ValueError(f"{root}: one class only ({', '.join(classes) or 'no labels'}); a classifier needs at least 2")
    try:
        gathered = gather(dict(sources), needs, size, decoder)
    except ValueError as error:
        raise ValueError(str(error) if str(root) in str(error) else f"{root}: {error}") from None
    splits: dict[str, Images] = {}
    rejected: list[Rejected] = []
    for name, decoded in gathered.splits.items():
        images = _images(name, values[name], decoded, classes, number, rejected)
        if images is None:
            notes.append(f"{name} has no labels and is left out")
        elif not len(images):
            first = rejected[-1] if rejected else Rejected(name, "there are no rows")
            raise ValueError(f"{root}: no usable row in {name} ({first.path}: {first.reason})")
        else:
            splits[name] = images
    label = title or root.resolve().name
    if title and gathered.target.format == "JPEG":
        label = f"{title} (JPEG copy)"  # the known sets were published without loss; results must tell them apart
    return Parts(label, splits, "val" in found, rejected, [*gathered.notes, *notes], gathered.original)
