"""Images as arrays: what goes into patches comes back out, for NumPy and torch alike."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from vitreous.arrays import block_mean, channels, downsample, flatten_patches, mosaic, patchify, unpatchify

KINDS = [pytest.param(lambda array: array, id="numpy"), pytest.param(torch.from_numpy, id="torch")]
either = pytest.mark.parametrize("kind", KINDS)
Kind = Callable[[np.ndarray], Any]


def pictures(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def same(result: Any, expected: np.ndarray) -> bool:
    return np.array_equal(np.asarray(result), expected)


@either
@pytest.mark.parametrize("shape", [(32, 32, 3), (8, 20, 1), (5, 12, 8, 3), (2, 3, 4, 4, 4)])
@pytest.mark.parametrize("patch", [1, 2, 4])
def test_patches_put_back_together_are_the_image(kind: Kind, shape: tuple[int, ...], patch: int) -> None:
    image = pictures(*shape)
    back = unpatchify(patchify(kind(image), patch))
    assert type(back) is type(kind(image))
    assert same(back, image)


@either
def test_a_patch_is_the_window_at_its_row_and_column(kind: Kind) -> None:
    image = pictures(12, 20, 3)
    patches = patchify(kind(image), 4)
    assert patches.shape == (3, 5, 4, 4, 3)
    for row in range(3):
        for column in range(5):
            assert same(patches[row, column], image[4 * row : 4 * row + 4, 4 * column : 4 * column + 4])


@either
def test_an_image_of_32_pixels_gives_64_rows_of_48_numbers(kind: Kind) -> None:
    image = pictures(32, 32, 3)
    rows = flatten_patches(kind(image), 4)
    assert rows.shape == (64, 48)
    assert same(rows[8 * 2 + 5], image[8:12, 20:24].reshape(-1))


@either
def test_a_batch_is_cut_image_by_image(kind: Kind) -> None:
    images = pictures(3, 8, 12, 1)
    together = flatten_patches(kind(images), 4)
    assert together.shape == (3, 6, 16)
    for i, image in enumerate(images):
        assert same(together[i], flatten_patches(image, 4))


@pytest.mark.parametrize(("shape", "patch"), [((32, 32, 3), 5), ((8, 12, 3), 8), ((8, 8, 3), 0), ((8, 8, 3), -2)])
def test_a_patch_that_does_not_fit_is_refused_with_both_sizes(shape: tuple[int, ...], patch: int) -> None:
    with pytest.raises(ValueError, match=rf"{shape[0]} x {shape[1]}.*{patch}.*choose"):
        patchify(pictures(*shape), patch)


@either
def test_channels_put_side_by_side_are_the_image(kind: Kind) -> None:
    image = pictures(2, 6, 5, 3)
    apart = channels(kind(image))
    assert [tuple(c.shape) for c in apart] == [(2, 6, 5, 1)] * 3
    assert same(np.concatenate([np.asarray(c) for c in apart], axis=-1), image)


@either
def test_downsampling_keeps_every_nth_pixel(kind: Kind) -> None:
    image = pictures(7, 9, 3)
    assert same(downsample(kind(image), 3), image[::3, ::3])
    assert downsample(kind(image), 2).shape == (4, 5, 3)
    assert same(downsample(kind(image), 1), image)
    with pytest.raises(ValueError, match="stride of 0"):
        downsample(kind(image), 0)


def test_downsampling_aliases_stripes_and_the_block_mean_does_not() -> None:
    stripes = np.tile(np.array([0, 200], dtype=np.uint8), (8, 4))[..., None]
    assert downsample(stripes, 2).max() == 0
    assert np.all(block_mean(stripes, 2) == 100)


@either
def test_the_block_mean_is_the_mean_of_each_block(kind: Kind) -> None:
    image = pictures(2, 8, 12, 3)
    expected = image.reshape(2, 2, 4, 3, 4, 3).mean(axis=(2, 4))
    result = block_mean(kind(image), 4)
    assert result.shape == (2, 2, 3, 3)
    np.testing.assert_allclose(np.asarray(result), expected, rtol=1e-6)


@either
def test_a_mosaic_holds_every_picture_in_reading_order(kind: Kind) -> None:
    images = pictures(5, 4, 6, 3)
    tiled = mosaic(kind(images), columns=3, gap=2, fill=7)
    assert tiled.shape == (2 * 6 - 2, 3 * 8 - 2, 3)
    canvas = np.asarray(tiled)
    for i in range(5):
        top, left = 6 * (i // 3), 8 * (i % 3)
        assert same(canvas[top : top + 4, left : left + 6], images[i])
    assert np.all(canvas[6:, 16:] == 7)
    assert np.all(canvas[4:6] == 7)


def test_a_mosaic_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="0 images"):
        mosaic(pictures(0, 4, 4, 3), columns=2)
    with pytest.raises(ValueError, match="0 columns"):
        mosaic(pictures(2, 4, 4, 3), columns=0)
