"""A data set: uint8 pictures (in memory, or mapped from a file), their labels, the class names, where each came from.

Not here: reading any file (folder, parquet, named), or turning pixels into floats (the training batch does that).

Shapes: N pictures, C channels (1 or 3), H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

_CHUNK = 1 << 24  # bytes of pixels looked at together where all of them are

Index = int | slice | torch.Tensor


class Stream(Protocol):
    """Pictures that are decoded whenever they are asked for, uint8 (M, C, H, W)."""

    device: torch.device
    dtype: torch.dtype
    ndim: int

    @property
    def shape(self) -> torch.Size: ...

    def __getitem__(self, places: torch.Tensor) -> torch.Tensor: ...

    def ahead(self, places: torch.Tensor) -> None:
        """Begins to decode what will be asked for next, and returns."""
        ...

    def remembered(self, what: str, build: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `build` finds out by looking at pictures, as plain JSON values, kept for next time where it can be."""
        ...


@dataclass(frozen=True, eq=False)
class Mapped:
    """Pictures on disk, uint8 (N, C, H, W): `mapped[index]` reads those asked for.

    store: all pictures of a file that is mapped into memory, or a stream of them (M, C, H, W); places: which of them
    these are (N,). `mapped[:]` reads them all into a tensor, for whoever needs one and knows that they are few.
    """

    store: torch.Tensor | Stream
    places: torch.Tensor

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Index) -> torch.Tensor:
        return self.store[self.places[index]]

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self.places), *self.store.shape[1:]))

    @property
    def ndim(self) -> int:
        return self.store.ndim

    @property
    def dtype(self) -> torch.dtype:
        return self.store.dtype

    @property
    def device(self) -> torch.device:
        return self.store.device

    @property
    def nbytes(self) -> int:
        return self.shape.numel()

    @property
    def stream(self) -> Stream | None:
        """What decodes them, where they are decoded whenever they are read."""
        return None if isinstance(self.store, torch.Tensor) else self.store

    def ahead(self, index: slice | torch.Tensor) -> None:
        """Says what will be read next, which a stream begins to decode."""
        if self.stream is not None:
            self.stream.ahead(self.places[index])

    def part(self, index: torch.Tensor) -> Mapped:
        """The pictures at `index`, still on disk."""
        return Mapped(self.store, self.places[index])

    def split(self, size: int) -> Iterator[torch.Tensor]:
        """All pictures in order, `size` at a time."""
        for start in range(0, len(self), size):
            read = self[start : start + size]
            if start + size < len(self):
                self.ahead(slice(start + size, start + 2 * size))
            yield read

    def to(self, device: torch.device) -> torch.Tensor | Mapped:
        """As a tensor on another device; as they are on the processor's."""
        return self if device == self.device else self[:].to(device)


Pixels = torch.Tensor | Mapped


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures of one split.

    pixels: uint8 (N, C, H, W), in memory or mapped; labels: int64 (N,), each in 0..len(classes)-1; ids: a path, or
    "train/row 17".
    """

    pixels: Pixels
    labels: torch.Tensor
    classes: tuple[str, ...]
    ids: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.labels)
        assert (self.pixels.dtype, self.pixels.ndim) == (torch.uint8, 4), (self.pixels.dtype, self.pixels.shape)
        assert (self.labels.dtype, self.labels.ndim) == (torch.int64, 1), (self.labels.dtype, self.labels.shape)
        assert len(self.pixels) == count == len(self.ids), (len(self.pixels), count, len(self.ids))
        assert count == 0 or 0 <= int(self.labels.min()) <= int(self.labels.max()) < len(self.classes)

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, indices: torch.Tensor | np.ndarray | Sequence[int]) -> Images:
        """The pictures at `indices`, in that order, in memory; the class names stay, even of classes left empty."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        return self._with(self.pixels[index], index)

    def part(self, indices: torch.Tensor) -> Images:
        """As `select`, but mapped pictures stay on disk."""
        pixels = self.pixels
        return self._with(pixels.part(indices) if isinstance(pixels, Mapped) else pixels[indices], indices)

    def _with(self, pixels: Pixels, index: torch.Tensor) -> Images:
        return Images(pixels, self.labels[index], self.classes, tuple(self.ids[i] for i in index.tolist()))

    def _chunks(self) -> Iterator[torch.Tensor]:
        """All pixels in order, some at a time: more than memory holds may be mapped."""
        yield from self.pixels.split(max(1, _CHUNK // max(1, self.pixels.shape[1:].numel())))

    def fingerprint(self) -> str:
        """ "sha256:" and 16 hexadecimal digits over shape, class names, labels and pixels (ids do not count)."""
        known = self._known()
        if known is not None:
            return str(known["fingerprint"])
        digest = self._digest()
        for chunk in self._chunks():
            digest.update(chunk.contiguous().numpy().data)
        return _named(digest)

    def _digest(self) -> Any:
        """Of all but the pixels."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode("utf-8", "backslashreplace"))
        digest.update(self.labels.contiguous().numpy().data)
        return digest

    def _known(self) -> dict[str, Any] | None:
        """Fingerprint, mean and deviation of streamed pictures: one look at all of them, remembered."""
        pixels = self.pixels
        if not isinstance(pixels, Mapped) or pixels.stream is None or not len(self):
            return None

        def look() -> dict[str, Any]:
            digest, levels = self._digest(), _Levels(pixels.shape[1])
            for chunk in self._chunks():
                digest.update(chunk.contiguous().numpy().data)
                levels.add(chunk)
            return {"fingerprint": _named(digest), "mean_std": levels.mean_std()}

        which = self._digest()
        which.update(pixels.places.contiguous().numpy().data)
        return pixels.stream.remembered(which.hexdigest(), look)

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in units where white is 1.

        Values are counted, not summed, so the result does not depend on the number of threads. The deviation is at
        least 1/255: dividing by the deviation of a constant channel must not give infinities.
        """
        if not len(self):
            raise ValueError("mean and standard deviation of 0 pictures: at least 1 is needed")
        known = self._known()
        if known is not None:
            mean, std = known["mean_std"]
            return tuple(mean), tuple(std)
        levels = _Levels(self.pixels.shape[1])
        for chunk in self._chunks():
            levels.add(chunk)
        return levels.mean_std()


def _named(digest: Any) -> str:
    return f"sha256:{digest.hexdigest()[:16]}"


class _Levels:
    """How often each value occurs in each channel."""

    def __init__(self, channels: int) -> None:
        self.counts = np.zeros((channels, 256), dtype=np.int64)

    def add(self, chunk: torch.Tensor) -> None:
        for channel, counts in enumerate(self.counts):
            counts += torch.bincount(chunk[:, channel].flatten(), minlength=256).numpy()

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        values = np.arange(256) / 255
        share = self.counts / self.counts.sum(axis=1, keepdims=True)
        mean = share @ values
        variance = (share * (values - mean[:, None]) ** 2).sum(axis=1)
        std = np.maximum(np.sqrt(variance), 1 / 255)
        return tuple(mean.tolist()), tuple(std.tolist())


@dataclass(frozen=True)
class Rejected:
    """A file or row that was found and left out, and why, in a few words."""

    path: str
    reason: str


@dataclass(frozen=True)
class Sizes:
    """The range of picture sizes before resizing: (smallest, largest) height and width in pixels."""

    height: tuple[int, int]
    width: tuple[int, int]

    def __str__(self) -> str:
        low, high = f"{self.height[0]} x {self.width[0]}", f"{self.height[1]} x {self.width[1]}"
        return low if low == high else f"{low} to {high}"

    def joined(self, other: Sizes) -> Sizes:
        """The range that covers both."""
        return Sizes(
            (min(self.height[0], other.height[0]), max(self.height[1], other.height[1])),
            (min(self.width[0], other.width[0]), max(self.width[1], other.width[1])),
        )


@dataclass(frozen=True, eq=False)
class DataSet:
    """What `load` returns. A split that was not asked for, or that the source lacks, is None.

    notes: a plain sentence for each automatic choice, for `train` to print. original: sizes before resizing.
    """

    name: str
    train: Images | None
    val: Images | None
    test: Images | None
    rejected: tuple[Rejected, ...] = ()
    notes: tuple[str, ...] = ()
    original: Sizes | None = None

    def splits(self) -> dict[str, Images]:
        """The splits that are here, in the order train, val, test."""
        named = {"train": self.train, "val": self.val, "test": self.test}
        return {name: images for name, images in named.items() if images is not None}


@dataclass(frozen=True, eq=False)
class Parts:
    """What a source holds, before validation is held out of train. `has_val`: it brings its own validation split,
    whether or not that one was asked for."""

    name: str
    splits: dict[str, Images]
    has_val: bool
    rejected: list[Rejected] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    original: Sizes | None = None
