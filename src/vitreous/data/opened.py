"""Pictures that were found and not yet decoded: what a source (folder, parquet, manifest, shards) hands over.

Not here: how each source is read (a module each), decoding (pixels.py), or which size all become (plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np

from vitreous.data.decode import Source
from vitreous.data.images import Rejected

NO_CLASS = -1


class Pictures(Protocol):
    """The undecoded pictures of one split, in a fixed order."""

    def __len__(self) -> int: ...

    @property
    def weight(self) -> int:
        """About how many bytes they take, encoded."""
        ...

    def identity(self) -> str:
        """A text that changes when any of the pictures does, from names, sizes and times of files."""
        ...

    def sample(self, count: int) -> list[Source]:
        """Up to about `count` pictures, evenly spaced over all of them."""
        ...

    def batches(self) -> Iterator[Sequence[Source | None]]:
        """All pictures in order, some hundreds at a time; None where there is none to decode."""
        ...


def spacing(length: int, count: int) -> int:
    """From one to the next of at most `count` places that are spread over all of `length`."""
    return max(1, -(-length // max(1, count)))


@runtime_checkable
class Apart(Protocol):
    """`Pictures` of which each can be read without those around it."""

    def at(self, place: int) -> Source: ...


@dataclass(frozen=True, eq=False)
class Listing:
    """One split. labels: class numbers (N,), NO_CLASS where there is none; ids: a name a picture; unusable: {place:
    reason} of those that are left out however well they decode."""

    pictures: Pictures
    labels: np.ndarray
    ids: Sequence[str]
    unusable: dict[int, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Opened:
    """A source whose pictures are listed.

    name: what results call it; where: its path, for errors; splits: those that are needed, and train in any case, from
    which the size is chosen; needs: those to decode; has_val: whether it brings a validation split, asked for or not;
    published: a well-known set, whose pictures were published without loss.
    """

    name: str
    where: str
    classes: tuple[str, ...]
    splits: dict[str, Listing]
    needs: list[str]
    has_val: bool
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    published: bool = False

    @property
    def reference(self) -> Listing:
        """The split that size and channels are chosen from, whichever are needed: a picture is read alike in every
        run."""
        return self.splits["train"] if "train" in self.splits else next(iter(self.splits.values()))
