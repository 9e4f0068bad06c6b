"""What is wrong, or odd, with a data set, before anybody trains on it: every picture decoded in full, none changed.

Not here: the page that shows it (data_page.py), the looking itself (scan.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitreous.data.decode import decode, fit
from vitreous.data.gather import check_usable
from vitreous.data.images import Parts, Rejected
from vitreous.data.load import check_counts, find_source
from vitreous.data.opened import Opened, Pictures
from vitreous.data.scan import Seen, T, Tell, alike, scan, scan_images
from vitreous.data.splits import SPLITS, split

MOST_COMPARED = 200_000
"""Pictures up to which each is compared with each for near duplicates: ten minutes of one core."""
_SMALL = 8  # pixels of a side below which a picture shows next to nothing
_LONG = 4  # times its height a picture is wide, or the other way round: most of it is cut away
_SHARES = (0, 5, 25, 50, 75, 95, 100)
_FACE = 96  # pixels of a side of the pictures shown
MOST_SHOWN = 40
"""Groups, and odd pictures, of which small copies are kept to be shown."""
FEW = 6
"""Of a group."""


@dataclass(frozen=True)
class Picture:
    """One picture as findings name it. split: "val" for one that would be held out of train for validation."""

    path: str
    split: str
    label: str


@dataclass(frozen=True)
class Group:
    """Pictures that are the same, pixel for pixel ("exact"), or nearly ("near")."""

    kind: str
    pictures: tuple[Picture, ...]

    @property
    def leaks(self) -> bool:
        """Whether it is in more than one split."""
        return len({each.split for each in self.pictures}) > 1

    @property
    def disagrees(self) -> bool:
        """Whether it has more than one label."""
        return len({each.label for each in self.pictures}) > 1


@dataclass(frozen=True)
class Findings:
    """What `check` found.

    splits: {name: {class: pictures}} of what is usable. odd: usable, and worth a look. groups: the same picture several
    times, those in several splits first, then those with several labels. sizes: percentiles of the short side, of the
    long side and of one over the other. stops: why nobody can train on it. faces: small copies (H, W, 3) of some
    pictures, by path.
    """

    name: str
    found: int
    used: int
    splits: dict[str, dict[str, int]]
    rejected: tuple[Rejected, ...]
    odd: tuple[Rejected, ...]
    groups: tuple[Group, ...]
    sizes: dict[str, dict[str, float]]
    stops: tuple[str, ...]
    notes: tuple[str, ...]
    faces: Mapping[str, np.ndarray] = field(repr=False, compare=False)

    def counts(self) -> dict[str, int]:
        """How many groups are exact, are near, leak from split to split, disagree in their labels."""
        return {
            "exact": sum(each.kind == "exact" for each in self.groups),
            "near": sum(each.kind == "near" for each in self.groups),
            "leaks": sum(each.leaks for each in self.groups),
            "disagrees": sum(each.disagrees for each in self.groups),
        }

    def to_json(self) -> dict[str, Any]:
        """As plain values, without the faces."""
        values = {name: value for name, value in vars(self).items() if name != "faces"}
        values |= {"rejected": [asdict(each) for each in self.rejected], "odd": [asdict(each) for each in self.odd]}
        values["groups"] = [{**asdict(each), "leaks": each.leaks, "disagrees": each.disagrees} for each in self.groups]
        return {**values, "counts": self.counts()}


@dataclass(frozen=True, eq=False)
class _Split:
    """A split looked at. bad: {place: reason} of what is left out; used: places of the others, ascending."""

    ids: Sequence[str]
    labels: np.ndarray
    bad: dict[int, str]
    seen: Seen
    pictures: Pictures | None
    """None of pictures that are decoded already."""

    @property
    def used(self) -> np.ndarray:
        return np.delete(np.arange(len(self.ids)), sorted(self.bad))


def _looked_at(found: Opened | Parts, tell: Tell) -> dict[str, _Split]:
    splits = {}
    if isinstance(found, Opened):
        for name in found.needs:
            listing = found.splits[name]
            seen = scan(listing.pictures, tell)
            splits[name] = _Split(listing.ids, listing.labels, seen.failed | listing.unusable, seen, listing.pictures)
    else:
        for name, part in found.splits.items():
            splits[name] = _Split(part.ids, part.labels.numpy(), {}, scan_images(part), None)
    return splits


def check(
    source: str | Path,
    *,
    data_root: Path | None = None,
    images: Path | None = None,
    val_fraction: float = 0.1,
    seed: int = 0,
    tell: Tell = lambda done, total: None,
) -> Findings:
    """Look at every picture of a source and say what is wrong with it. `load` says what a source can be.

    Duplicates are told with the validation that `load` would hold out by the same `val_fraction` and `seed`. Raises
    ValueError only for a source that cannot be listed; what else would stop training is in `stops`.
    """
    found = find_source(source, data_root, set(SPLITS), None, images, None)
    splits = _looked_at(found, tell)
    classes = found.classes if isinstance(found, Opened) else next(iter(found.splits.values())).classes
    rejected = [*found.rejected]
    rejected += [Rejected(each.ids[place], each.bad[place]) for each in splits.values() for place in sorted(each.bad)]
    notes, stops = list(found.notes), []
    for name, each in splits.items():
        usable = each.labels[each.used]
        try:
            notes += check_usable(found, name, usable, each.bad) if isinstance(found, Opened) else []
            if name == "train":
                notes += check_counts(found.name, classes, torch.from_numpy(usable), two=not found.has_val)
        except ValueError as error:
            stops.append(str(error))
    shown = [
        Picture(each.ids[place], name, classes[each.labels[place]])
        for name, each in splits.items()
        for place in each.used.tolist()
    ]
    if "train" in splits and not found.has_val and not stops:
        train = splits["train"]
        held = split(torch.from_numpy(train.labels[train.used]), val_fraction, seed)[1].tolist()
        first = sum(len(each.used) for each in list(splits.values())[: list(splits).index("train")])
        for place in held:
            shown[first + place] = replace(shown[first + place], split="val")
    seen = Seen.joined([each.seen.taken(each.used) for each in splits.values()])
    groups, more = _groups(seen, shown)
    odd = _odd(seen, shown)
    return Findings(
        name=found.name,
        found=len(shown) + len(rejected),
        used=len(shown),
        splits={
            name: dict(zip(classes, np.bincount(each.labels[each.used], minlength=len(classes)).tolist(), strict=True))
            for name, each in splits.items()
        },
        rejected=tuple(rejected),
        odd=odd,
        groups=groups,
        sizes=_sizes(seen),
        stops=tuple(stops),
        notes=(*notes, *more),
        faces=_faces(splits, found, _worth_showing(groups, odd)),
    )


def _groups(seen: Seen, shown: Sequence[Picture]) -> tuple[tuple[Group, ...], list[str]]:
    """The same picture several times; and sentences on what was not compared."""
    same: dict[str, list[int]] = {}
    for place, content in enumerate(seen.content.tolist()):
        same.setdefault(content, []).append(place)
    groups = [Group("exact", tuple(shown[place] for place in own)) for own in same.values() if len(own) > 1]
    firsts = np.array([own[0] for own in same.values()], dtype=np.int64)
    notes = []
    if len(firsts) > MOST_COMPARED:
        notes.append(f"near duplicates were not looked for: more than {MOST_COMPARED:,} different pictures")
    else:
        pairs, more = alike(seen.thumbnails[firsts])
        notes += ["there are more near duplicates than those listed"] * more
        groups += [
            Group("near", tuple(shown[place] for first in own for place in same[str(seen.content[firsts[first]])]))
            for own in _joined(pairs)
        ]
    return tuple(sorted(groups, key=lambda each: (not each.leaks, not each.disagrees, -len(each.pictures)))), notes


def _joined(pairs: np.ndarray) -> list[list[int]]:
    """Pairs (K, 2) that share a place, as one group: places in order."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    places, numbers = np.unique(pairs, return_inverse=True)
    rows, columns = numbers.reshape(-1, 2).T
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(len(places), len(places)))
    count, labels = connected_components(graph, directed=False)
    return [places[labels == label].tolist() for label in range(count)]


def _odd(seen: Seen, shown: Sequence[Picture]) -> tuple[Rejected, ...]:
    short, long = np.minimum(seen.heights, seen.widths), np.maximum(seen.heights, seen.widths)
    flat = seen.thumbnails.reshape(-1, T * T, 3).std(axis=1).max(axis=1) == 0
    found: list[Rejected] = []
    for place in np.flatnonzero(seen.animated | flat | (short < _SMALL) | (long > _LONG * short)).tolist():
        size = f"{seen.heights[place]} x {seen.widths[place]} pixels"
        reasons = [
            "animated: only the first frame is used" * bool(seen.animated[place]),
            "of one colour" * bool(flat[place]),
            f"{size}: next to nothing can be seen" * bool(short[place] < _SMALL),
            f"{size}: most of it is cut away" * bool(long[place] > _LONG * short[place]),
        ]
        found.append(Rejected(shown[place].path, "; ".join(filter(None, reasons))))
    return tuple(found)


def _sizes(seen: Seen) -> dict[str, dict[str, float]]:
    if not len(seen):
        return {}
    short, long = np.minimum(seen.heights, seen.widths), np.maximum(seen.heights, seen.widths)
    figures = {"short side": short, "long side": long, "long over short": np.round(long / short, 2)}
    return {
        name: {f"{share} %": float(np.percentile(values, share, method="nearest")) for share in _SHARES}
        for name, values in figures.items()
    }


def _worth_showing(groups: Iterable[Group], odd: Iterable[Rejected]) -> set[str]:
    some = {each.path for group in list(groups)[:MOST_SHOWN] for each in group.pictures[:FEW]}
    return some | {each.path for each in list(odd)[:MOST_SHOWN]}


def _faces(splits: Mapping[str, _Split], found: Opened | Parts, paths: set[str]) -> dict[str, np.ndarray]:
    """Small copies of some pictures, by path. A second pass, since which they are is known only after the first."""
    faces = {}
    for name, each in splits.items():
        wanted = {place for place, path in enumerate(each.ids) if path in paths}
        if each.pictures is None:
            assert isinstance(found, Parts)
            for place in wanted:
                faces[each.ids[place]] = found.splits[name].pixels[place].permute(1, 2, 0).numpy()
        elif wanted:
            sources = (source for batch in each.pictures.batches() for source in batch)
            for place, source in enumerate(sources):
                if place in wanted and source is not None:
                    picture = decode(source)
                    side = min(_FACE, *picture.shape[:2])
                    faces[each.ids[place]] = fit(picture, (side, side))
    return faces
