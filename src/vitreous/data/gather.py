"""An opened source to `Parts`: chooses what every picture becomes, decodes, and reports what could not be used."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch

from vitreous.data import cache as store
from vitreous.data.images import Images, Mapped, Parts, Rejected, Sizes
from vitreous.data.opened import NO_CLASS, Opened
from vitreous.data.pixels import Decoded, TooLarge
from vitreous.data.plan import VERSION, Plan, check_channels, check_size, plan
from vitreous.data.stream import streamed


def gather(opened: Opened, size: int | None, cache: Path | None, channels: int | None = None) -> Parts:
    """Decode the splits that are needed, all to one size and number of channels.

    size: side in pixels, None to choose; channels: 1 or 3, None to choose. ValueError for a source of which nothing, or
    nothing of a class, is usable.
    """
    check_size(size)
    check_channels(channels)
    try:
        target, decoded, notes = _decode(opened, size, cache, channels)
    except ValueError as error:
        raise ValueError(str(error) if opened.where in str(error) else f"{opened.where}: {error}") from None
    rejected = list(opened.rejected)
    splits = {name: _images(opened, name, part, rejected, notes) for name, part in decoded.items()}
    original: Sizes | None = None
    for part in decoded.values():
        if part.original is not None:
            original = part.original if original is None else original.joined(part.original)
    notes = [target.note, *_remarks(decoded, target, original), *opened.notes, *notes]
    copy = opened.published and target.format == "JPEG"  # results must tell a copy from the original
    name = f"{opened.name} (JPEG copy)" if copy else opened.name
    return Parts(name, splits, opened.has_val, rejected, notes, original)


def _decode(
    opened: Opened, size: int | None, cache: Path | None, channels: int | None
) -> tuple[Plan, dict[str, Decoded], list[str]]:
    reference = opened.reference.pictures
    values = store.noted(reference, f"plan {VERSION} {size}", cache, lambda: dataclasses.asdict(plan(reference, size)))
    target = Plan(**{**values, "size": tuple(values["size"])})
    if channels is not None:
        target = dataclasses.replace(target, channels=1 if channels == 1 else 3)
    decoded, notes = _all(opened, target, cache)
    train = decoded.get("train")
    if channels is None and target.channels == 1 and train is not None and train.gray < len(train.kept):
        target = dataclasses.replace(target, channels=3)  # a coloured picture turned up beyond the sample
        decoded, notes = _all(opened, target, cache)
    return target, decoded, notes


def _all(opened: Opened, target: Plan, cache: Path | None) -> tuple[dict[str, Decoded], list[str]]:
    decoded, notes = {}, []
    for name in opened.needs:
        pictures = opened.splits[name].pictures
        try:
            decoded[name], note = store.remembered(pictures, target, cache)
        except TooLarge as error:
            decoded[name], note = streamed(pictures, target, cache), f"{name} is decoded batch by batch: {error}"
        notes += [note] * bool(note)
    return decoded, notes


def _images(opened: Opened, name: str, decoded: Decoded, rejected: list[Rejected], notes: list[str]) -> Images:
    """The pictures of a split that decoded and have a class; the others are added to `rejected`."""
    listing = opened.splits[name]
    bad = dict(decoded.failed) | listing.unusable
    rejected += [Rejected(listing.ids[place], bad[place]) for place in sorted(bad)]
    good = ~np.isin(decoded.kept, list(listing.unusable))
    kept, pixels = decoded.kept, decoded.pixels
    if not good.all():
        index = torch.from_numpy(np.flatnonzero(good))
        kept, pixels = kept[good], pixels.part(index) if isinstance(pixels, Mapped) else pixels[index]
    labels = listing.labels[kept]
    notes += check_usable(opened, name, labels, bad)
    return Images(
        pixels, torch.from_numpy(labels), opened.classes, tuple(listing.ids[place] for place in kept.tolist())
    )


def check_usable(opened: Opened, name: str, usable: np.ndarray, bad: dict[int, str]) -> list[str]:
    """What is to be told of a split whose `usable` labels are left, its `bad` pictures by place with reasons.

    ValueError where none is left, or none of a class of train that has pictures.
    """
    listing = opened.splits[name]
    notes: list[str] = []
    if not len(usable):
        first = f" ({listing.ids[min(bad)]}: {bad[min(bad)]})" if bad else ""
        raise ValueError(f"{opened.where}: no usable picture in {name}{first}")
    count = len(opened.classes)
    found = np.bincount(listing.labels[listing.labels != NO_CLASS], minlength=count)
    lost = np.flatnonzero((found > 0) & (np.bincount(usable, minlength=count) == 0))
    for label in lost.tolist():
        earliest = next(place for place in sorted(bad) if listing.labels[place] == label)
        said = (
            f"class {opened.classes[label]!r} has no usable picture in {name}: all {found[label]} were left out "
            f"(the first: {listing.ids[earliest]}: {bad[earliest]})"
        )
        if name == "train":
            raise ValueError(said)
        notes.append(said)
    return notes


def _remarks(decoded: dict[str, Decoded], target: Plan, original: Sizes | None) -> list[str]:
    notes = []
    rows, columns = target.size
    if "as the pictures are" in target.note and original not in (None, Sizes((rows, rows), (columns, columns))):
        notes.append(f"size: a few pictures are not {rows} x {columns}; they were resized and their centre cut out")
    animated = sum(part.animated for part in decoded.values())
    if animated:
        notes.append(f"{animated} animated {'file' if animated == 1 else 'files'}: only the first frame is used")
    return notes
