"""Labels as rows hold them, numbers or names, to class numbers.

Classes are those of train, in order; a row without a label, or with one that train does not have, is left out by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vitreous.data.opened import NO_CLASS, Listing, Pictures

Label = int | str | None
_WITHHELD = (None, -1)  # as test splits have it whose labels are kept secret


def number(
    values: Mapping[str, Sequence[Label]], named: tuple[str, ...] = (), known: tuple[str, ...] = ()
) -> tuple[tuple[str, ...], dict[Label, int]]:
    """{split: its labels} to (class names, {label as stored: class number}).

    named: the names that the source gives to numbers; known: those of a well-known set, for when it gives none. Else
    the labels are their own names, whole numbers in their order. ValueError where some are numbers and some names.
    """
    kinds = {type(value) for part in values.values() for value in part if value is not None}
    if len(kinds) > 1:
        raise ValueError("some labels are numbers and some are names; use one kind")
    reference = "train" if "train" in values else next(iter(values))
    present = {value for value in values[reference] if value not in _WITHHELD}
    numbers = kinds <= {int}
    if numbers and not named and known and present <= set(range(len(known))):
        named = known
    if numbers and named:
        return named, {label: label for label in range(len(named))}
    ordered = sorted(present, key=_order)
    return tuple(str(value) for value in ordered), {value: label for label, value in enumerate(ordered)}


def _order(value: Label) -> tuple[bool, int, str]:
    """Whole numbers by value, written as such or as text, before any other text."""
    text = str(value)
    plain = text.isdecimal() and text.isascii()
    return (not plain, int(text) if plain else 0, text)


def labelled(
    pictures: Pictures, values: Sequence[Label], numbers: Mapping[Label, int], ids: Sequence[str]
) -> Listing | None:
    """A split with its class numbers; None when every label is withheld."""
    if values and all(value in _WITHHELD for value in values):
        return None
    labels = np.array([numbers.get(value, NO_CLASS) for value in values], dtype=np.int64)
    unusable = {
        place: "no label" if values[place] is None else f"label {values[place]!r} is none of the classes"
        for place in np.flatnonzero(labels == NO_CLASS).tolist()
    }
    return Listing(pictures, labels, ids, unusable)
