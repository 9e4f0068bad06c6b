"""The pictures the lessons look at: embedded in scikit-learn, or the reader's own."""

from __future__ import annotations

import functools

import numpy as np

from vitreous.data import DataSet, decode, fit, load

SAMPLES = ("flower", "temple", "digit")
_PHOTOGRAPHS = {"flower": "flower.jpg", "temple": "china.jpg"}


def sample(name: str, side: int, own: bytes | None = None) -> np.ndarray:
    """A picture cut to a square: one of SAMPLES, or the reader's ``own`` file, as uint8 (side, side, C).

    Raises ValueError for a name that is not there and for bytes that are no picture.
    """
    if own is not None:
        return fit(decode(own, channels=3), (side, side))
    if name == "digit":
        return fit(np.ascontiguousarray(digits(8).train.pixels[7].permute(1, 2, 0).numpy()), (side, side))  # type: ignore[union-attr]
    if name not in _PHOTOGRAPHS:
        raise ValueError(f"there is no sample picture {name!r}: choose one of {', '.join(SAMPLES)}")
    return fit(_photograph(_PHOTOGRAPHS[name]), (side, side))


@functools.cache
def _photograph(file: str) -> np.ndarray:
    from sklearn.datasets import load_sample_image

    return np.ascontiguousarray(load_sample_image(file))


@functools.cache
def digits(side: int) -> DataSet:
    """The embedded digits, training and validation, ``side`` pixels wide; read once."""
    return load("digits", size=side, splits={"train", "val"})
