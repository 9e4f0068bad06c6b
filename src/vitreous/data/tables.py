"""Rows of pictures and labels in files that Arrow reads: parquet, and the form that `datasets` saves to disk.

Pictures are encoded bytes, or a struct with `bytes`; labels whole numbers or names. Which columns they are in is told
by their names, by the metadata that Hugging Face's library writes, or by their types.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from vitreous.data import columns
from vitreous.data.decode import Source
from vitreous.data.labels import Label

_BATCH = 1024
_GROUPS = 8  # row groups looked into when size and channels are chosen
_EDGE = 1 << 16


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turns what pyarrow says of a damaged file into one sentence."""
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        kind = "parquet" if path.suffix == ".parquet" else "Arrow"
        text = " ".join(str(error).split())[:160]
        raise ValueError(f"{path}: not a readable {kind} file ({text}); it may be cut short: fetch it again") from None


class Table(Protocol):
    """A file of rows."""

    path: Path
    schema: pa.Schema
    rows: int

    def column(self, name: str) -> pa.ChunkedArray: ...

    def batches(self, name: str) -> Iterator[pa.Array]:
        """A column, some hundreds of rows at a time."""
        ...

    def sample(self, name: str, count: int) -> pa.ChunkedArray:
        """About `count` rows of a column, evenly spaced."""
        ...


class ParquetTable:
    """A parquet file, opened only while it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path), pq.ParquetFile(path) as file:
            self.schema: pa.Schema = file.schema_arrow
            self.rows: int = file.metadata.num_rows

    def column(self, name: str) -> pa.ChunkedArray:
        with readable(self.path), pq.ParquetFile(self.path) as file:
            return file.read(columns=[name]).column(0)

    def batches(self, name: str) -> Iterator[pa.Array]:
        with readable(self.path):
            file = pq.ParquetFile(self.path)
        with file:
            batches = file.iter_batches(_BATCH, columns=[name])
            while True:
                with readable(self.path):  # around the read alone: what the decoder raises is not this file's fault
                    batch = next(batches, None)
                if batch is None:
                    break
                yield batch.column(0)

    def sample(self, name: str, count: int) -> pa.ChunkedArray:
        with readable(self.path), pq.ParquetFile(self.path) as file:
            groups = range(0, file.num_row_groups, max(1, -(-file.num_row_groups // _GROUPS)))
            return _thinned(file.read_row_groups(list(groups), columns=[name]).column(0), count)


class ArrowTable:
    """A file in Arrow's streaming form, mapped into memory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with readable(path):
            self._table: pa.Table = pa.ipc.open_stream(pa.memory_map(str(path))).read_all()
        self.schema: pa.Schema = self._table.schema
        self.rows: int = self._table.num_rows

    def column(self, name: str) -> pa.ChunkedArray:
        return self._table.column(name)

    def batches(self, name: str) -> Iterator[pa.Array]:
        for batch in self._table.select([name]).to_batches(_BATCH):
            yield batch.column(0)

    def sample(self, name: str, count: int) -> pa.ChunkedArray:
        return _thinned(self.column(name), count)


def _thinned(column: pa.ChunkedArray, count: int) -> pa.ChunkedArray:
    step = max(1, len(column) // max(1, count))
    return column.take(pa.array(range(0, len(column), step))) if step > 1 else column


def _features(schema: pa.Schema) -> dict[str, Any]:
    """What Hugging Face's library writes about the columns, or nothing."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return features if isinstance(features, dict) else {}


def _kind(features: dict[str, Any], column: str) -> str:
    about = features.get(column)
    return str(about.get("_type")) if isinstance(about, dict) else ""


def holds_bytes(kind: pa.DataType) -> bool:
    """Whether a type can be that of a picture column."""
    if pa.types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and holds_bytes(kind.field("bytes").type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def holds_labels(kind: pa.DataType) -> bool:
    """Whether a type can be that of a label column."""
    inner = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_integer(inner) or pa.types.is_string(inner) or pa.types.is_large_string(inner))


@dataclass(frozen=True)
class Columns:
    """Which two columns of a file are read."""

    picture: str
    label: str

    @staticmethod
    def of(schema: pa.Schema, path: Path) -> Columns:
        """ValueError for one that is missing or of a type that cannot be used."""
        features, names = _features(schema), schema.names

        def has(kind: str) -> Any:
            return lambda name: _kind(features, name) == kind

        def bytes_in(name: str) -> bool:
            return holds_bytes(schema.field(name).type)

        picture = columns.find(names, columns.PICTURE, "picture", path, has("Image"), bytes_in)
        kind = schema.field(picture).type
        if not holds_bytes(kind):
            raise ValueError(f"{path}: column {picture!r} holds {kind}, not bytes; store encoded pictures (PNG, JPEG)")
        others = [name for name in names if name != picture]

        def labels_in(name: str) -> bool:
            return holds_labels(schema.field(name).type)

        label = columns.find(others, columns.LABEL, "label", path, has("ClassLabel"), labels_in)
        if not holds_labels(schema.field(label).type):
            raise ValueError(
                f"{path}: column {label!r} holds {schema.field(label).type}; labels must be integers or names"
            )
        return Columns(picture, label)

    @property
    def note(self) -> str:
        """A sentence where a reader could not have known."""
        usual = self.picture in columns.PICTURE and self.label in columns.LABEL
        return "" if usual else f"columns: pictures from {self.picture!r}, labels from {self.label!r}"


def _bytes(column: pa.Array | pa.ChunkedArray) -> list[bytes | None]:
    if pa.types.is_struct(column.type):
        chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
        # flatten, unlike field, keeps a null struct null
        return [value for chunk in chunks for value in chunk.flatten()[chunk.type.get_field_index("bytes")].to_pylist()]
    return list(column.to_pylist())


@dataclass(frozen=True)
class Rows:
    """`Pictures` from tables."""

    tables: Sequence[Table]
    columns: Sequence[Columns]

    @staticmethod
    def of(tables: Sequence[Table]) -> Rows:
        """ValueError for a table that lacks a column."""
        return Rows(tables, [Columns.of(table.schema, table.path) for table in tables])

    def __len__(self) -> int:
        return sum(table.rows for table in self.tables)

    @property
    def weight(self) -> int:
        return sum(table.path.stat().st_size for table in self.tables)

    def identity(self) -> str:
        return files_identity([table.path for table in self.tables]) + repr([each.picture for each in self.columns])

    def sample(self, count: int) -> list[Source]:
        share = -(-count // len(self.tables))
        found = [_bytes(table.sample(each.picture, share)) for table, each in self._pairs()]
        return [value for part in found for value in part if value is not None]

    def batches(self) -> Iterator[Sequence[Source | None]]:
        for table, each in self._pairs():
            for column in table.batches(each.picture):
                yield _bytes(column)

    def labels(self) -> list[Label]:
        """One label a row, None for null."""
        return [value for table, each in self._pairs() for value in table.column(each.label).to_pylist()]

    def class_names(self) -> tuple[str, ...]:
        """From the metadata that Hugging Face's library writes, or none."""
        for table, each in self._pairs():
            about = _features(table.schema).get(each.label)
            names = about.get("names") if isinstance(about, dict) else None
            if isinstance(names, list) and all(isinstance(name, str) for name in names):
                return tuple(names)
        return ()

    def _pairs(self) -> Iterator[tuple[Table, Columns]]:
        return zip(self.tables, self.columns, strict=True)


def files_identity(paths: Sequence[Path]) -> str:
    """A text that changes with the names, sizes, times, first and last 64 KiB of a few large files.

    A parquet file's last bytes are its footer, which changes with any column chunk's place or statistics.
    """
    digest = hashlib.sha256()
    for path in paths:
        status = path.stat()
        digest.update(repr((path.name, status.st_size, status.st_mtime_ns)).encode("utf-8", "backslashreplace"))
        with path.open("rb") as stream:
            digest.update(stream.read(_EDGE))
            stream.seek(max(0, status.st_size - _EDGE))
            digest.update(stream.read(_EDGE))
    return digest.hexdigest()
