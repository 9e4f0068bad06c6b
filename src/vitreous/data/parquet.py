"""Data sets in Hugging Face's layouts: parquet files, or a folder that `datasets` saved to disk.

    train-00000-of-00001.parquet, train/0000.parquet      the split is the start of a file's name, or its folder
    dataset_dict.json, train/data-00000-of-00001.arrow    save_to_disk of several splits
    state.json, data-00000-of-00001.arrow                 or of one, which is train

Files that name no split are train.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vitreous.data.labels import labelled, number
from vitreous.data.listing import below
from vitreous.data.opened import Listing, Opened
from vitreous.data.splits import by_split, canonical, needed
from vitreous.data.tables import ArrowTable, ParquetTable, Rows, Table

_SEVERAL, _ONE = "dataset_dict.json", "state.json"  # what save_to_disk leaves at the top


def split_files(root: Path) -> dict[str, list[Path]]:
    """{split: its files, in order} of a parquet file or of a folder, two levels deep; empty when there are none.

    ValueError when one split is spread over several folders, which are configurations to choose from.
    """
    if root.is_file():
        return by_split([root], root.parent)
    found = by_split(below(root, ".parquet", 2), root)
    for name, files in found.items():
        folders = sorted({str(path.parent.relative_to(root)) for path in files})
        if len(folders) > 1:
            raise ValueError(
                f"{root}: {name} is in several folders ({', '.join(folders[:6])}); name the one you mean, "
                f"such as {root / folders[0]}"
            )
    return found


def saved_files(root: Path) -> dict[str, list[Path]]:
    """{split: its files, in order} of a folder that `datasets` saved to disk; empty for any other."""
    if (root / _SEVERAL).is_file():
        names = _json(root / _SEVERAL).get("splits") or []
        found = {}
        for name in names if isinstance(names, list) else []:
            split = canonical(str(name))
            if split is None or split in found:
                raise ValueError(
                    f"{root}: split {name!r} is none of train, val and test, or there twice; pass the folder "
                    f"{root / str(name)} alone"
                )
            found[split] = _arrow_files(root / str(name))
        return found
    return {"train": _arrow_files(root)} if (root / _ONE).is_file() else {}


def _arrow_files(folder: Path) -> list[Path]:
    listed = _json(folder / _ONE).get("_data_files")
    names = [each.get("filename") for each in listed] if isinstance(listed, list) else []
    if not names or not all(isinstance(name, str) and Path(name).name == name for name in names):
        raise ValueError(f"{folder / _ONE}: names no data files; save the data set again")
    return [folder / name for name in names]


def _json(path: Path) -> dict[str, object]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error}); save the data set again") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path}: no JSON object; save the data set again")
    return values


def open_parquet(root: Path, wanted: set[str], title: str = "", known: tuple[str, ...] = ()) -> Opened:
    """List the splits in `wanted` (and train, where validation has to come out of it) of parquet files.

    title and known: the name and the classes of a well-known set. ValueError naming the file for damage, a missing
    column (and the nearest one), or labels that cannot be used. Rows are counted from 0.
    """
    found = split_files(root)
    if not found:
        raise ValueError(f"{root}: no parquet file there")
    tables = {name: [ParquetTable(path) for path in files] for name, files in found.items()}
    return _opened(root, tables, wanted, title, known)


def open_saved(root: Path, wanted: set[str]) -> Opened:
    """As :func:`open_parquet`, of a folder that `datasets` saved to disk."""
    tables = {name: [ArrowTable(path) for path in files] for name, files in saved_files(root).items()}
    return _opened(root, tables, wanted)


def _opened(
    root: Path,
    tables: Mapping[str, Sequence[Table]],
    wanted: set[str],
    title: str = "",
    known: tuple[str, ...] = (),
) -> Opened:
    sources = {name: Rows.of(some) for name, some in tables.items()}
    needs = needed(sources, wanted)
    reference = "train" if "train" in sources else next(iter(sources))
    try:
        values = {name: sources[name].labels() for name in dict.fromkeys([reference, *needs])}
        named = next((names for rows in sources.values() if (names := rows.class_names())), ())
        classes, numbers = number(values, named, known)
    except ValueError as error:
        raise ValueError(f"{root}: {error}") from None
    if len(classes) < 2:
        raise ValueError(f"{root}: one class only ({', '.join(classes) or 'no labels'}); a classifier needs at least 2")
    notes = list(dict.fromkeys(each.note for rows in sources.values() for each in rows.columns if each.note))
    splits: dict[str, Listing] = {}
    for name, some in values.items():
        ids = [f"{name}/row {row}" for row in range(len(some))]
        listing = labelled(sources[name], some, numbers, ids)
        if listing is not None:
            splits[name] = listing
        elif name in needs:
            needs.remove(name)
            notes.append(f"{name} has no labels and is left out")
    if not splits:
        raise ValueError(f"{root}: {' and '.join(values)} has no labels (all are null or -1); use a copy that has them")
    name = title or root.resolve().name
    return Opened(name, str(root), classes, splits, needs, "val" in sources, [], notes, published=bool(title))
