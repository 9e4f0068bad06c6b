"""Sample pictures for the page: some of the validation set of the run, as its classifier reads them.

They are read in the background: a large data set must not hold up the page.
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from vitreous.evaluate import run_images
from vitreous.pictures import upright

SAMPLES = 24


@dataclass(frozen=True)
class Sample:
    """One picture as a PNG, its true class, and where it came from."""

    png: bytes
    label: str
    source: str


@dataclass(frozen=True)
class Samples:
    """What there is to show, or a sentence that says why there is nothing."""

    pictures: tuple[Sample, ...] = ()
    note: str | None = None


def png(pixels: Tensor) -> bytes:
    """Pixels uint8 (C, H, W) as the bytes of a PNG, losslessly."""
    picture = upright(pixels)
    buffer = BytesIO()
    Image.fromarray(picture[..., 0] if pixels.shape[0] == 1 else picture).save(buffer, "PNG")
    return buffer.getvalue()


def draw(path: Path, data_root: Path | None = None, count: int = SAMPLES, seed: int = 0) -> Samples:
    """``count`` validation pictures of the run's data, the same ones for the same seed. Never raises for the user."""
    try:
        classifier, images, _ = run_images(path, "val", data_root)
    except (ValueError, OSError) as problem:
        return Samples(note=f"No sample pictures: {problem}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    some = images.select(order[:count])
    return Samples(
        tuple(
            Sample(png(pixels), classifier.classes[label], source)
            for pixels, label, source in zip(some.pixels[:], some.labels.tolist(), some.ids, strict=True)
        )
    )
