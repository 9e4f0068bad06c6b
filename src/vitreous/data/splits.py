"""Which pictures are for training, for validation, for the final test: names of splits, and the seeded hold-out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np
import torch

SPLITS = ("train", "val", "test")
_SPELLINGS = {"train": ("training",), "val": ("valid", "validation", "dev"), "test": ("testing",)}
_ALIASES = {word: name for name, words in _SPELLINGS.items() for word in (name, *words)}
_LIKE = re.compile(
    r"(?:^|[^a-z])(train(?:ing)?|val(?:id(?:ation)?)?|dev|test(?:ing)?|pred(?:ict(?:ions?)?)?)"
    r"(?:set|data|images?)?(?:[^a-z]|$)"
)


def canonical(name: str) -> str | None:
    """train, val or test for any accepted spelling ("Valid", "validation", ...); None for another word."""
    return _ALIASES.get(name.lower())


def looks_like(name: str) -> str | None:
    """The word for a split, or for pictures to predict, that a name such as seg_train or TestSet contains."""
    found = _LIKE.search(name.lower())
    return found.group(1) if found else None


def by_split(paths: Iterable[Path], root: Path) -> dict[str, list[Path]]:
    """{split: its files}, told by the start of a file's name, else by its folder below `root`; train where none is.

    ValueError for a file that names no split among others that do.
    """
    found: dict[str | None, list[Path]] = {}
    for path in paths:
        start = re.match(r"[a-z]+", path.stem.lower())
        own = canonical(start.group()) if start else None
        found.setdefault(own or (canonical(path.parent.name) if path.parent != root else None), []).append(path)
    unnamed = found.pop(None, [])
    if unnamed and found:
        raise ValueError(
            f"{unnamed[0]}: the file's name tells no split, others here do; rename it to begin with train, "
            "val or test, or move it away"
        )
    return {name: files for name, files in found.items() if name} or ({"train": unnamed} if unnamed else {})


def requested(names: Collection[str] | None) -> set[str]:
    """The splits a caller asks for; all three for None. ValueError for a name that is no split."""
    if names is None:
        return set(SPLITS)
    if isinstance(names, str):
        names = [names]
    known = {name: canonical(name) for name in names}
    wrong = [name for name, split_name in known.items() if split_name is None]
    if wrong or not known:
        spelled = ", ".join(f"{name} ({', '.join(words)})" for name, words in _SPELLINGS.items())
        raise ValueError(f"splits={sorted(names)!r}: take one or more of {spelled}")
    return {split_name for split_name in known.values() if split_name}


def needed(available: Collection[str], wanted: set[str]) -> list[str]:
    """The splits to decode, in order: validation comes out of train where the source brings none of its own."""
    needs = set(wanted)
    if "val" in needs and "val" not in available:
        needs.add("train")
    return [name for name in SPLITS if name in needs and name in available]


def split(labels: torch.Tensor, val_fraction: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices (train, val), both ascending, from labels (N,): `val_fraction` of each class, chosen by `seed`.

    The result depends on these three alone. At least one picture of a class is held out and at least one stays, so
    every class present needs two. NumPy's RandomState is used because its stream is frozen for good: a seed must mean
    the same split in next year's versions too.
    """
    check_fraction(val_fraction)
    order = np.random.RandomState(seed)
    held: list[np.ndarray] = []
    array = labels.numpy()
    for label in np.unique(array):
        members = np.flatnonzero(array == label)
        if len(members) < 2:
            raise ValueError(f"class {label} has {len(members)} picture, 2 are the least to hold one out: add pictures")
        count = min(max(1, round(val_fraction * len(members))), len(members) - 1)
        held.append(order.permutation(members)[:count])
    mask = np.zeros(len(array), dtype=bool)
    if held:
        mask[np.concatenate(held)] = True
    return torch.from_numpy(np.flatnonzero(~mask)), torch.from_numpy(np.flatnonzero(mask))


def check_fraction(val_fraction: float) -> None:
    """ValueError unless 0 < val_fraction <= 0.5 (0 itself, meaning no validation, is for the caller to handle)."""
    if not 0 < val_fraction <= 0.5:
        raise ValueError(f"val_fraction={val_fraction}: take a number above 0 and at most 0.5, for example 0.1")
