"""A data set in memory: uint8 pictures, their labels, the class names and where each picture came from.

Not here: reading any file (folder, parquet, named), or turning pixels into floats (the training batch does that).

Shapes: N pictures, C channels (1 or 3), H W pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

_CHUNK = 2048  # pictures counted at a time in mean_std: np.bincount makes a copy eight times as large


@dataclass(frozen=True, eq=False)
class Images:
    """Pictures of one split.

    pixels: uint8 (N, C, H, W); labels: int64 (N,), each in 0..len(classes)-1; ids: a path, or "train/row 17".
    """

    pixels: torch.Tensor
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
        """The pictures at `indices`, in that order; the class names stay, even of classes that become empty."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        ids = tuple(self.ids[i] for i in index.tolist())
        return Images(self.pixels[index], self.labels[index], self.classes, ids)

    def fingerprint(self) -> str:
        """ "sha256:" and 16 hexadecimal digits over shape, class names, labels and pixels (ids do not count)."""
        digest = hashlib.sha256(repr((tuple(self.pixels.shape), self.classes)).encode("utf-8", "backslashreplace"))
        digest.update(self.labels.contiguous().numpy().data)
        digest.update(self.pixels.contiguous().numpy().data)
        return f"sha256:{digest.hexdigest()[:16]}"

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel, in units where white is 1.

        Values are counted, not summed, so the result does not depend on the number of threads. The deviation is at
        least 1/255: dividing by the deviation of a constant channel must not give infinities.
        """
        if not len(self):
            raise ValueError("mean and standard deviation of 0 pictures: at least 1 is needed")
        channels = self.pixels.shape[1]
        counts = np.zeros((channels, 256), dtype=np.int64)
        for chunk in self.pixels.split(_CHUNK):
            for channel in range(channels):
                counts[channel] += np.bincount(chunk[:, channel].numpy().ravel(), minlength=256)
        values = np.arange(256) / 255
        share = counts / counts.sum(axis=1, keepdims=True)
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
