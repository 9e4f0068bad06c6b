"""Small pictures that a model can learn in seconds, and a config that does so."""

from __future__ import annotations

import pytest
import torch

from vitreous.augment import AugmentConfig
from vitreous.config import RunConfig
from vitreous.data import DataSet, Images
from vitreous.vit import ViTConfig


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests have tiny tensors: more threads cost more than they bring, and results must not depend on them."""
    torch.set_num_threads(1)


def coloured_squares(count: int, seed: int = 0) -> Images:
    """Dark pictures (3, 8, 8) with a bright patch of 4 x 4 in one of four corners: the corner is the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 16, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    for i, label in enumerate(labels.tolist()):
        top, left = 4 * (label // 2), 4 * (label % 2)
        pixels[i, :, top : top + 4, left : left + 4] += 200
    names = ("top left", "top right", "bottom left", "bottom right")
    return Images(pixels, labels, names, tuple(f"made/{i}" for i in range(count)))


@pytest.fixture
def squares() -> DataSet:
    return DataSet("squares", coloured_squares(128), coloured_squares(32, seed=1), coloured_squares(32, seed=2))


@pytest.fixture
def tiny_model() -> ViTConfig:
    return ViTConfig(image_size=8, patch_size=4, classes=4, width=16, depth=2, heads=2)


@pytest.fixture
def tiny_run(tiny_model: ViTConfig) -> RunConfig:
    """Thirty steps in well under a second; no flip, which would swap the classes."""
    return RunConfig(
        model=tiny_model,
        augment=AugmentConfig(flip=False, shift=0.0),
        steps=30,
        batch=16,
        evaluations=2,
        precision="fp32",
        attention="explicit",
        device="cpu",
    )
