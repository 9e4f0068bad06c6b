"""Made pictures are the same every time and at every size, and their masks lie on the object."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vitreous.data import load
from vitreous.data.named import EMBEDDED
from vitreous.data.shapes import CLASSES, draw, masks, read_generated, scenes


def some(name: str, side: int, count: int = 60) -> np.ndarray:
    return draw(scenes(name, "test").select(np.arange(count)), name, side, 0)


def ids(count: int = 60) -> list[str]:
    return [f"test/scene {i}" for i in range(count)]


def test_shapes_load_by_name_with_classes_and_splits() -> None:
    data = load("shapes", size=16, splits={"test"})
    assert data.test is not None
    assert (len(data.test), data.test.classes) == (1000, CLASSES["shapes"])
    assert torch.bincount(data.test.labels).min() >= 166
    assert data.test.pixels.shape == (1000, 3, 16, 16)
    assert data.test.fingerprint() == load("Shapes", size=16, splits={"test"}).test.fingerprint()  # type: ignore[union-attr]
    assert set(CLASSES) < set(EMBEDDED)


@pytest.mark.parametrize("name", CLASSES)
def test_the_object_stands_out_where_the_mask_says(name: str) -> None:
    pictures = some(name, 32).astype(float)
    where = masks(name, ids(), 32)
    colours = scenes(name, "test").select(np.arange(60)).colour * 255
    off = np.abs(pictures - colours[:, :, None, None]).max(axis=1)  # distance from the object's colour
    inside = np.array([np.median(off[i][where[i]]) for i in range(60)])
    outside = np.array([np.median(off[i][~where[i]]) for i in range(60)])
    assert (inside < outside).mean() > 0.95
    assert (where.mean(axis=(1, 2)) < 0.3).all()
    assert where.any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", CLASSES)
def test_a_scene_is_the_same_at_every_size(name: str) -> None:
    small = masks(name, ids(), 32)
    large = masks(name, ids(), 128).reshape(60, 32, 4, 32, 4).mean(axis=(2, 4)) > 0.5
    assert (small != large).sum() / small.sum() < 0.15  # pixels of the edge
    coarse = some(name, 128).reshape(60, 3, 32, 4, 32, 4).mean(axis=(3, 5))
    assert np.abs(coarse - some(name, 32)).mean() < 12


def test_splits_have_pictures_of_their_own() -> None:
    first = [scenes("shapes", which).centre[:100] for which in ("train", "test")]
    assert not np.allclose(*first)


def test_what_is_not_of_the_set_is_refused() -> None:
    with pytest.raises(ValueError, match="16 to 256 pixels, not 8"):
        read_generated("shapes", {"test"}, 8)
    with pytest.raises(ValueError, match="'made/1' is no picture of shapes"):
        masks("shapes", ["made/1"], 32)
    with pytest.raises(ValueError, match="not of 'digits'"):
        masks("digits", ["test/row 1"], 8)
