"""`load`: any source of labelled pictures to a `DataSet`, with validation held out of train."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import torch

from vitreous.data.folder import folders_in, holds_picture, open_folder, printable
from vitreous.data.gather import gather
from vitreous.data.images import DataSet, Parts
from vitreous.data.manifest import SUFFIXES as TABLES
from vitreous.data.manifest import names_files, open_manifest
from vitreous.data.named import EMBEDDED, NAMED, find, known, name_of, read_digits, read_named
from vitreous.data.opened import Opened
from vitreous.data.parquet import open_parquet, open_saved, saved_files, split_files
from vitreous.data.plan import check_channels, check_size
from vitreous.data.shapes import read_generated
from vitreous.data.shards import is_pattern, matching, open_shards, shard_files
from vitreous.data.splits import check_fraction, requested, split
from vitreous.data.tables import ParquetTable

_UNEVEN = 3  # times as many pictures in a class as in another: then it is worth a note


def load(
    source: str | Path,
    *,
    data_root: Path | None = None,
    size: int | None = None,
    channels: int | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    splits: Collection[str] | None = None,
    images: Path | None = None,
    cache: Path | None = None,
) -> DataSet:
    """Read labelled pictures, all of one size.

    source: digits, shapes, digits-clutter, cifar10, cifar100, mnist or fashion-mnist; a folder per class, with or
    without split folders; a table of paths and labels (CSV, TSV, parquet); parquet files or a folder that `datasets`
    saved; tar shards, as a folder or with braces or a wildcard; or hf:owner/name. A name wins over a folder of that
    name: write ./digits then.
    data_root: where named sets are looked for first (else $VITREOUS_DATA). size: the side in pixels; None keeps small
    pictures of one size and otherwise chooses. channels: 1 for gray or 3, as a classifier reads them; None chooses by
    what the training pictures are; a named set in its published form keeps its own. val_fraction: of each class, held
    out of train by `seed` where the source brings no validation; 0 for none. The test split never stands in. splits:
    those to read; None for all.
    images: the folder that the paths of a table are seen from, in place of its own.
    cache: for fetched files and decoded pictures (else $XDG_CACHE_HOME/vitreous, else ~/.cache/vitreous).

    Raises ValueError, in one or two lines that say what to do, for a source that is not there or holds too little.
    """
    wanted = requested(splits)
    check_size(size)
    check_channels(channels)
    if val_fraction != 0:
        check_fraction(val_fraction)
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed={seed}: take a whole number from 0 to {2**32 - 1}")
    found = find_source(source, data_root, wanted, size, images, cache)
    parts = gather(found, size, cache, channels) if isinstance(found, Opened) else found
    return _held_out(parts, wanted, val_fraction, seed)


def find_source(
    source: str | Path,
    data_root: Path | None,
    wanted: set[str],
    size: int | None,
    images: Path | None,
    cache: Path | None,
) -> Opened | Parts:
    """The pictures of a source, listed; those of a named set in its published form are read at once."""
    if images is not None and Path(source).suffix.lower() not in (*TABLES, ".parquet"):
        raise ValueError(f"{source}: --images is for a table of paths and labels (.csv, .tsv, .parquet); leave it out")
    name = name_of(source) if isinstance(source, str) else None
    if name == "digits":
        return read_digits(wanted, size)
    if name in EMBEDDED:
        return read_generated(name, wanted, size)
    if name is not None:
        found = find(name, data_root, cache)
        return read_named(name, found, wanted, size) if isinstance(found, list) else _open_path(found, wanted, cache)
    text = str(source)
    if not text:
        raise ValueError("no data set named; give a folder, a parquet file, or one of digits, cifar10, ...")
    if text.startswith("hf:"):
        return _open_hub(text, wanted)
    path = Path(os.path.expanduser(source))
    if is_pattern(text) and not os.path.lexists(path):
        shards = matching(str(path))
        return open_shards(Path(os.path.commonpath([each.parent for each in shards])), shards, wanted, cache)
    return _open_path(path, wanted, cache, images)


def _open_hub(source: str, wanted: set[str]) -> Opened:
    from vitreous.data.hub import snapshot

    named = known(source.split("/")[-1].split("@")[0])
    if named:
        return open_parquet(snapshot(source), wanted, named.title, named.classes)
    return dataclasses.replace(open_parquet(snapshot(source), wanted), name=source)


def _open_path(path: Path, wanted: set[str], cache: Path | None, images: Path | None = None) -> Opened:
    """A file by its suffix; a folder by what it holds: parquet, saved by `datasets`, tar shards, else class folders."""
    try:
        there = path.exists()
    except (OSError, ValueError) as error:  # too long for the file system, or with a zero byte
        raise ValueError(f"{str(path)[:60]!r}: not a path ({getattr(error, 'strerror', None) or error})") from None
    if not there:
        near = difflib.get_close_matches(str(path).lower(), [*EMBEDDED, *NAMED], 1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; named sets are {', '.join(['digits', *NAMED])}"
        raise ValueError(f"{path}: no such folder or file, nor a named set{hint}")
    if path.is_file():
        return _open_file(path, wanted, cache, images)
    with _class_folders_beside(path, ".parquet"):
        if split_files(path):
            named = known(path.resolve().name)
            return open_parquet(path, wanted, named.title if named else "", named.classes if named else ())
    if saved_files(path):
        return open_saved(path, wanted)
    with _class_folders_beside(path, ".tar"):
        if shards := shard_files(path):
            return open_shards(path, shards, wanted, cache)
    return open_folder(path, wanted)


@contextlib.contextmanager
def _class_folders_beside(root: Path, suffix: str) -> Iterator[None]:
    """Adds to why a folder cannot be read as tables or shards that its class folders could be, where it has some."""
    try:
        yield
    except ValueError as error:
        if sum(map(holds_picture, folders_in(root))) < 2:
            raise
        raise ValueError(
            f"{error}; if the pictures are in class folders, move the {suffix} files out of {printable(root)}"
        ) from None


def _open_file(path: Path, wanted: set[str], cache: Path | None, images: Path | None) -> Opened:
    kind = path.suffix.lower()
    if kind in TABLES or (kind == ".parquet" and names_files(ParquetTable(path).schema)):
        return open_manifest(path, wanted, images)
    if kind == ".parquet":
        if images is not None:
            raise ValueError(f"{path}: holds the pictures themselves, so that --images is not needed: leave it out")
        return open_parquet(path, wanted)
    if kind == ".tar":
        return open_shards(path.parent, [path], wanted, cache)
    raise ValueError(
        f"{path}: neither a table (.csv, .tsv, .parquet) nor a tar file; pass the folder that holds the class folders, "
        "and unpack archives first"
    )


def _held_out(parts: Parts, wanted: set[str], val_fraction: float, seed: int) -> DataSet:
    """The data set, validation taken out of train unless the source brings its own."""
    train, val, test = (parts.splits.get(name) for name in ("train", "val", "test"))
    notes = list(parts.notes)
    if "train" in wanted and train is None:
        raise ValueError(
            f"{parts.name}: no train split there (found {', '.join(parts.splits) or 'none that is asked for'})"
        )
    if not parts.splits:
        raise ValueError(f"{parts.name}: no {' or '.join(sorted(wanted))} split with labels there")
    if train is not None:
        notes += check_counts(parts.name, train.classes, train.labels, two=not parts.has_val and val_fraction > 0)
    if parts.has_val:
        notes.append("validation: the source's own split")
    elif train is not None and val_fraction > 0:
        kept, held = split(train.labels, val_fraction, seed)
        notes.append(
            f"validation: {len(held)} of {len(train)} training pictures held out "
            f"({val_fraction:.0%} of each class, seed {seed})"
        )
        # Only what is asked for: CIFAR-10's train is 150 MB, and a copy where it is not mapped.
        val = train.part(held) if "val" in wanted else None
        train = train.part(kept) if "train" in wanted else None
    if parts.rejected:
        first = parts.rejected[0]
        notes.append(f"{len(parts.rejected)} left out; the first: {first.path}: {first.reason}")
    return DataSet(
        parts.name,
        train if "train" in wanted else None,
        val if "val" in wanted else None,
        test if "test" in wanted else None,
        tuple(parts.rejected),
        tuple(notes),
        parts.original,
    )


def check_counts(name: str, classes: tuple[str, ...], labels: torch.Tensor, two: bool) -> list[str]:
    """What is to be told of train's classes: very uneven ones, and any without a picture.

    ValueError where `two` are needed of each, since one is to be held out, and a class has one.
    """
    notes, counts = [], torch.bincount(labels, minlength=len(classes)).tolist()
    lone = [label for label, count in zip(classes, counts, strict=True) if count == 1]
    if lone and two:
        raise ValueError(
            f"{name}: class {lone[0]!r} has 1 usable picture in train, and 2 are the least (one trains, one "
            "validates): add pictures or remove the class"
        )
    most, least = max(counts), min((count for count in counts if count), default=0)
    if most >= _UNEVEN * least > 0:
        notes.append(
            f"classes are uneven: {classes[counts.index(most)]!r} has {most} pictures in train and "
            f"{classes[counts.index(least)]!r} {least}, {most / least:.3g} to 1; --set data.balance=1 draws all "
            "classes alike, 0.5 half-way"
        )
    absent = [label for label, count in zip(classes, counts, strict=True) if count == 0]
    if absent:
        notes.append(f"{len(absent)} classes have no picture in train: {', '.join(absent[:5])}")
    return notes
