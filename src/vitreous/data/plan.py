"""What every picture of a source becomes: one size and one number of channels, chosen from the headers of a sample."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median

from vitreous.data.decode import Channels, Header, peek, quiet
from vitreous.data.images import Sizes
from vitreous.data.opened import Pictures

SAMPLE = 1000  # headers read to choose size and channels
VERSION = 2  # of how the sample is taken: a plan kept by an older one is not this one's
SIZES = (8, 1024)  # what a caller may ask for
_CHOSEN = (16, 96)  # what is chosen for a caller who does not ask


@dataclass(frozen=True)
class Plan:
    """What every picture becomes: (height, width) and channels. format: that of the sampled pictures, "" if mixed."""

    size: tuple[int, int]
    channels: Channels
    note: str
    format: str


def check_size(size: int | None) -> None:
    """ValueError for a side out of bounds."""
    if size is not None and not SIZES[0] <= size <= SIZES[1]:
        raise ValueError(f"size={size}: a picture's side must be {SIZES[0]} to {SIZES[1]} pixels, for example 32")


def check_channels(channels: int | None) -> None:
    """ValueError for another number of channels than 1 or 3."""
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: a picture has 1 (gray) or 3 (coloured)")


def plan(pictures: Pictures, size: int | None) -> Plan:
    """Choose size and channels from the headers of a sample; `size` overrides the first.

    ValueError when nothing in the sample is a picture.
    """
    check_size(size)
    headers: list[Header] = []
    reason = "there is none"
    with quiet():
        for source in pictures.sample(SAMPLE):
            try:
                headers.append(peek(source))
            except ValueError as error:
                reason = str(error)
    if not headers:
        raise ValueError(f"no readable picture (the last one tried: {reason})")
    if size is None:
        chosen, note = _choose_size(headers)
    else:
        chosen, note = (size, size), f"size: {size} x {size}, as asked for"
    formats = {header.format for header in headers}
    channels: Channels = 1 if all(header.gray for header in headers) else 3
    return Plan(chosen, channels, note, formats.pop() if len(formats) == 1 else "")


def _choose_size(headers: list[Header]) -> tuple[tuple[int, int], str]:
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(next(iter(sizes))) <= _CHOSEN[1]:
        rows, columns = next(iter(sizes))
        return (rows, columns), f"size: {rows} x {columns}, as the pictures are"
    short = median(min(header.height, header.width) for header in headers)
    side = min(max(8 * round(short / 8), _CHOSEN[0]), _CHOSEN[1])
    heights, widths = sorted(h for h, _ in sizes), sorted(w for _, w in sizes)
    found = Sizes((heights[0], heights[-1]), (widths[0], widths[-1]))
    return (side, side), (
        f"size: {side} x {side} (pictures are {found}, the median short side is {short:g}, rounded to a multiple of 8 "
        f"and kept within {_CHOSEN[0]} to {_CHOSEN[1]}); short side resized, then the centre cut out; train takes "
        f"another with --set model.image_size=N"
    )
