"""Which columns of a table hold the pictures, the labels and the split: by name, else by the only one that can."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence

PICTURE = ("img", "image", "picture", "photo")
PATH = (
    *("path", "file", "filename", "file_name", "filepath", "file_path", "image_path"),
    *("image", "img", "picture", "image_id", "id"),
)
LABEL = ("label", "labels", "fine_label", "class", "class_name", "category", "target")
SPLIT = ("split", "subset", "fold", "partition")


def find(present: Sequence[str], names: tuple[str, ...], what: str, where: object, *able: Callable[[str], bool]) -> str:
    """The column that goes by one of `names`, in any case; else the only one that the first of `able` says can be it,
    else the only one of the next. ValueError with the columns there are, and the nearest, where that leaves none."""
    column = named(present, names)
    if column is not None:
        return column
    for can in able:
        fitting = [each for each in present if can(each)]
        if len(fitting) == 1:
            return fitting[0]
    lowered = {each.lower(): each for each in present}
    near = _nearest(names, lowered)
    hint = f"; did you mean {lowered[near]!r}? Rename it to {names[0]!r}" if near else f"; rename it to {names[0]!r}"
    raise ValueError(f"{where}: no {what} column (looked for {', '.join(names)}; found {', '.join(present)}){hint}")


def named(present: Iterable[str], names: tuple[str, ...]) -> str | None:
    """The column that goes by one of `names`, the earlier names first; None where none does."""
    lowered = {each.strip().lower(): each for each in reversed(list(present))}
    return next((lowered[name] for name in names if name in lowered), None)


def _nearest(names: tuple[str, ...], present: Iterable[str]) -> str | None:
    present = list(present)
    close = (match for name in names for match in difflib.get_close_matches(name, present, 1, 0.5))
    return next(close, None)
