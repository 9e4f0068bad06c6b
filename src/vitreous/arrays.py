"""Images as arrays: cut them into patches, put them back, take channels apart, shrink, tile.

Every function takes one image (H, W, C), or a batch (B, H, W, C), as a NumPy array or a torch tensor, and returns the
same kind. There is nothing here but slicing and reshaping: no interpolation, no files, no colour management.

Shapes: B batch, H W pixels, C channels, P patch side, R rows and K columns of patches (H = R*P, W = K*P).
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch

Array = TypeVar("Array", np.ndarray, torch.Tensor)


def patchify(image: Array, patch: int) -> Array:
    """Cut an image into a grid of patches: (..., H, W, C) -> (..., R, K, P, P, C).

    ``patchify(image, 4)[r, k]`` is ``image[4*r:4*r+4, 4*k:4*k+4]``, for every row r and column k.
    Raises ValueError where the sides are no multiples of the patch.
    """
    *batch, height, width, channels = image.shape
    if patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"an image of {height} x {width} cannot be cut into patches of {patch} x {patch}: "
            f"choose a patch side that divides both"
        )
    cut = image.reshape(*batch, height // patch, patch, width // patch, patch, channels)  # (..., R, P, K, P, C)
    return cut.swapaxes(-4, -3)  # (..., R, K, P, P, C)


def unpatchify(patches: Array) -> Array:
    """Put a grid of patches back together: (..., R, K, P, P, C) -> (..., H, W, C). The inverse of :func:`patchify`."""
    *batch, rows, columns, patch, _, channels = patches.shape
    joined = patches.swapaxes(-4, -3)  # (..., R, P, K, P, C)
    return joined.reshape(*batch, rows * patch, columns * patch, channels)


def flatten_patches(image: Array, patch: int) -> Array:
    """One row of numbers a patch, row-major over the grid: (..., H, W, C) -> (..., R*K, P*P*C).

    A (32, 32, 3) image with patch 4 gives 64 rows of 48 numbers.
    """
    patches = patchify(image, patch)
    *batch, rows, columns, _, _, channels = patches.shape
    return patches.reshape(*batch, rows * columns, patch * patch * channels)


def channels(image: Array) -> list[Array]:
    """The channels apart, each as an image of its own: (..., H, W, C) -> C images of (..., H, W, 1)."""
    return [image[..., c : c + 1] for c in range(image.shape[-1])]


def downsample(image: Array, factor: int) -> Array:
    """Keep every ``factor``-th pixel of every ``factor``-th row: (..., H, W, C) -> (..., ceil(H/f), ceil(W/f), C).

    Quick, and it aliases: a stripe pattern of period ``factor`` turns into one flat colour.
    """
    if factor < 1:
        raise ValueError(f"a stride of {factor} is not possible: use 1 or more")
    return image[..., ::factor, ::factor, :]


def block_mean(image: Array, factor: int) -> Array:
    """Average every block of ``factor`` x ``factor`` pixels: (..., H, W, C) -> float (..., H/f, W/f, C)."""
    return patchify(image if isinstance(image, np.ndarray) else image.to(torch.float32), factor).mean((-3, -2))


def mosaic(images: Array, columns: int, gap: int = 0, fill: int = 255) -> Array:
    """Tile a batch into one image, row by row: (B, H, W, C) -> (R*(H+gap)-gap, K*(W+gap)-gap, C).

    ``columns`` is K; the last row is filled up with ``fill``, and so are the ``gap`` pixels between pictures.
    """
    if columns < 1 or len(images) == 0:
        raise ValueError(f"a mosaic of {len(images)} images in {columns} columns is empty: give at least one of each")
    batch, height, width, depth = images.shape
    rows = -(-batch // columns)
    shape = (rows * (height + gap) - gap, columns * (width + gap) - gap, depth)
    if isinstance(images, np.ndarray):
        canvas = np.full(shape, fill, dtype=images.dtype)
    else:
        canvas = torch.full(shape, fill, dtype=images.dtype, device=images.device)
    for i in range(batch):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = images[i]
    return canvas
