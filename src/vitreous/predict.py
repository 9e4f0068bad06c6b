"""Predictions, and on request features, of any number of picture files, in one table.

Names, pixels and rows stream: what is in memory at a time does not grow with their number. Rows are kept in whole parts
in a hidden folder beside the table, so that a killed command goes on after the last of them; at the end the parts
become the table. A picture that cannot be read is a row with the reason, and no other takes its place.

Not here: which files are meant (data/listing.py), which pictures are alike (search.py).

Shapes: B pictures, C channels, S picture side, D width of the vector that the head reads.
"""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from vitreous import sealed
from vitreous.classifier import Classifier, Prediction
from vitreous.data import listed
from vitreous.data.decode import quiet
from vitreous.data.folder import printable
from vitreous.data.spread import in_order

BATCH = 64
"""Pictures that one thread decodes, and that go through the model together."""
PART_ROWS = 8192
PART_SECONDS = 20.0
"""A part is written after so many rows or seconds, whichever comes first: a kill loses no more."""
FACTS = b"vitreous"
"""Key of the table's metadata under which a Parquet file says what made it."""

Watch = Callable[[int, int], None]
"""Told how many pictures are done, and of how many."""


@dataclass(frozen=True)
class Predicted:
    """What :func:`predict_files` did."""

    out: Path
    n: int
    """Rows, one a picture."""
    unreadable: int
    labels: dict[str, int]
    """Pictures by predicted class, the most frequent first."""
    resumed: int
    """Rows that an earlier, interrupted command had done."""
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**vars(self), "out": str(self.out), "seconds": round(self.seconds, 3)}


@dataclass(frozen=True, eq=False)
class Answers:
    """What is said of one batch: a row a picture, and, where they were asked for, its features."""

    rows: list[dict[str, Any]]
    features: np.ndarray | None
    """float32 (B, D); zeros where the picture could not be read."""


def predict_files(
    classifier: Classifier,
    sources: Sequence[str],
    out: Path,
    *,
    top: int = 5,
    embed: bool = False,
    watch: Watch | None = None,
) -> Predicted:
    """Predicts every picture that ``sources`` mean into the table ``out``: .parquet, .csv or .jsonl.

    ``sources`` are folders, patterns, list files and pictures; ``embed`` adds the vector that the head reads, in
    Parquet alone. Called again after it was stopped or killed, it goes on. Raises ValueError where ``out`` is there
    already, was begun otherwise, or is being written by another process.
    """
    started = time.monotonic()
    if out.suffix not in WRITERS:
        raise ValueError(f"{out}: predictions are written as {', '.join(WRITERS)}: name the file so")
    if embed and out.suffix != ".parquet":
        raise ValueError(f"{out}: features are written as Parquet: name a .parquet file")
    parts = out.with_name(f".{out.name}.parts")
    if out.exists() and not parts.exists():
        raise ValueError(f"{out} is there already: choose another --out, or remove it")
    parts.mkdir(parents=True, exist_ok=True)
    job = {
        "weights": classifier.fingerprint(),
        "top": min(top, len(classifier.classes)),
        "embed": embed,
        "sources": list(sources),
        "current folder": os.getcwd(),
    }
    with held(parts, out):
        total = begin(parts, out, job)
        resumed = sum(pq.read_metadata(part).num_rows for part in written(parts))
        fill(parts, resumed, total, classifier, job, watch or (lambda done, total: None))
        labels = finish(parts, out)
    shutil.rmtree(parts, ignore_errors=True)
    named = {label: count for label, count in labels.most_common() if label is not None}
    return Predicted(out, total, labels[None], named, resumed, time.monotonic() - started)


def answers(
    classifier: Classifier, pictures: Iterable[str], *, top: int = 5, embed: bool = False
) -> Generator[Answers, None, None]:
    """Reads and predicts pictures in their order, a batch at a time."""
    for names, read in decoded(classifier, pictures):
        rows: list[dict[str, Any]] = [{"image": printable(name)} for name in names]
        features = np.zeros((len(names), classifier.width), dtype=np.float32) if embed else None
        good = [(place, one) for place, one in enumerate(read) if isinstance(one, Tensor)]
        for place, one in enumerate(read):
            if isinstance(one, str):
                rows[place]["error"] = one
        if good:
            places, pixels = [place for place, _ in good], torch.stack([one for _, one in good])
            if features is None:
                scores = classifier.logits(pixels)
            else:
                vectors, scores = classifier.features_and_logits(pixels)
                features[places] = vectors.numpy()
            for place, prediction in zip(places, classifier.ranked(scores, top), strict=True):
                rows[place] = row(rows[place]["image"], prediction)
        yield Answers(rows, features)


def row(picture: str, prediction: Prediction) -> dict[str, Any]:
    """What is said of one picture, for programs."""
    ranked = [{"label": label, "probability": probability} for label, probability in prediction.top]
    return {"image": picture, "label": prediction.label, "probability": prediction.probability, "top": ranked}


def decoded(classifier: Classifier, pictures: Iterable[str]) -> Iterator[tuple[list[str], list[Tensor | str]]]:
    """Batches of pictures, each as the pixels uint8 (C, S, S) that the model reads, or as what is wrong with it.

    Threads decode a few batches ahead: Pillow's codecs and the model both let go of Python's lock.
    """

    def read(*some: str) -> tuple[list[str], list[Tensor | str]]:
        return list(some), [_read(classifier, name) for name in some]

    names = iter(pictures)
    batches = iter(lambda: tuple(itertools.islice(names, BATCH)), ())
    with quiet():
        yield from in_order(read, batches, "threads")


def _read(classifier: Classifier, name: str) -> Tensor | str:
    try:
        return classifier.read(name)
    except (ValueError, OSError) as problem:
        return getattr(problem, "strerror", None) or str(problem)


@contextlib.contextmanager
def held(parts: Path, out: Path) -> Iterator[None]:
    """Keeps other processes from the parts; the system lets go of them where this one is killed."""
    try:
        with FileLock(parts / "lock", timeout=0):
            yield
    except Timeout:
        raise ValueError(f"{out} is being written by another process: wait for it, or choose another --out") from None


def begin(parts: Path, out: Path, job: dict[str, Any]) -> int:
    """Writes down what is to be done and which pictures are meant, unless it stands there; returns how many they are.

    Raises ValueError where something else was begun.
    """
    path = parts / "job.json"
    if path.exists():
        begun = json.loads(path.read_text(encoding="utf-8"))
        differing = [f"{name}: {begun[name]} -> {value}" for name, value in job.items() if begun[name] != value]
        if differing:
            raise ValueError(
                f"{out} was begun otherwise ({'; '.join(differing)}): choose another --out, or remove {parts}"
            )
        return begun["pictures"]
    count = 0
    try:
        with (parts / "pictures").open("w", encoding="utf-8") as file:
            for name in listed(job["sources"]):
                file.write(json.dumps(name) + "\n")
                count += 1
    except (ValueError, OSError):
        shutil.rmtree(parts, ignore_errors=True)
        raise
    sealed.sync(parts / "pictures")
    sealed.write(path, json.dumps({**job, "pictures": count}))
    return count


def fill(parts: Path, done: int, total: int, classifier: Classifier, job: dict[str, Any], tell: Watch) -> None:
    """Writes the parts that are missing after the first ``done`` rows."""
    schema, pending, since, seen = schema_of(classifier, job), list[Answers](), time.monotonic(), done
    tell(seen, total)
    with (parts / "pictures").open(encoding="utf-8") as file:
        names = (json.loads(line) for line in itertools.islice(file, done, None))
        with contextlib.closing(answers(classifier, names, top=job["top"], embed=job["embed"])) as batches:
            for each in batches:
                pending.append(each)
                seen += len(each.rows)
                tell(seen, total)
                if seen == total or seen - done >= PART_ROWS or time.monotonic() - since >= PART_SECONDS:
                    sealed.put(parts / f"{done:012d}.parquet", partial(pq.write_table, table_of(pending, schema)))
                    pending, since, done = [], time.monotonic(), seen


def written(parts: Path) -> list[Path]:
    """The parts that are whole, in order."""
    return sorted(parts.glob("*.parquet"))


def finish(parts: Path, out: Path) -> Counter[str | None]:
    """Makes the table of all parts; returns how many pictures have each label, None of those that have none."""
    tables = (pq.read_table(part) for part in written(parts))
    sealed.put(out, lambda path: WRITERS[out.suffix](path, tables))
    labels = Counter[str | None]()
    for part in written(parts):
        labels.update(pq.read_table(part, columns=["label"])["label"].to_pylist())
    return labels


def schema_of(classifier: Classifier, job: dict[str, Any]) -> pa.Schema:
    """The columns; the metadata say which weights filled them."""
    ranked = pa.struct([("label", pa.string()), ("probability", pa.float32())])
    columns = [
        ("image", pa.string()),
        ("label", pa.string()),
        ("probability", pa.float32()),
        ("top", pa.list_(ranked)),
        ("error", pa.string()),
    ]
    if job["embed"]:
        columns.append(("embedding", pa.list_(pa.float32(), classifier.width)))
    return pa.schema(columns, {FACTS: json.dumps({name: job[name] for name in ("weights", "top", "embed")})})


def made_by(schema: pa.Schema) -> dict[str, Any]:
    """What a table says of the command that made it; nothing where another program did."""
    return json.loads((schema.metadata or {}).get(FACTS, "{}"))


def table_of(batches: Sequence[Answers], schema: pa.Schema) -> pa.Table:
    """One table of batches (a table of each would take Arrow far more memory); features of the unreadable are null."""
    rows = [one for each in batches for one in each.rows]
    features = [each.features for each in batches if each.features is not None]
    if not features:
        return pa.Table.from_pylist(rows, schema)
    plain = pa.Table.from_pylist(rows, pa.schema(list(schema)[:-1]))
    missing, column = pa.array(["error" in one for one in rows]), schema.field(-1)
    values = pa.array(np.concatenate(features).ravel())
    vectors = pa.FixedSizeListArray.from_arrays(values, type=column.type, mask=missing)
    return plain.append_column(column, vectors).replace_schema_metadata(schema.metadata)


def _parquet(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with pq.ParquetWriter(path, first.schema) as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)


def _jsonl(path: Path, tables: Iterator[pa.Table]) -> None:
    with path.open("w", encoding="utf-8") as file:
        for table in tables:
            for one in table.to_pylist():
                kept = {name: value for name, value in one.items() if value is not None}
                file.write(json.dumps(kept, ensure_ascii=False) + "\n")


def _csv(path: Path, tables: Iterator[pa.Table]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        for number, table in enumerate(tables):
            top = made_by(table.schema)["top"]
            if number == 0:
                more = [f"{name}_{rank}" for rank in range(2, top + 1) for name in ("label", "probability")]
                writer.writerow(["image", "label", "probability", *more, "error"])
            for one in table.to_pylist():
                ranked = [value for each in one["top"] or [] for value in (each["label"], each["probability"])]
                writer.writerow([one["image"], *(ranked or [""] * 2 * top), one["error"]])


WRITERS: dict[str, Callable[[Path, Iterator[pa.Table]], None]] = {".parquet": _parquet, ".csv": _csv, ".jsonl": _jsonl}
"""How a table is written, by suffix."""
