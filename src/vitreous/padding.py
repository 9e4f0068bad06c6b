"""Pictures of different sizes in one tensor: padded at the bottom and right, with the padding known as such.

A picture whose sides are no multiples of the patch is filled up to whole patches with zeros, which after
normalisation are the mean colour; these patches hold some of the picture, so they are tokens like any other. Whole
patches of padding are no tokens: attention, pooling, positions and the conv stem leave them out.

Shapes: B batch, C channels, H W pixels, P patch side, R rows and K columns of patches, S special tokens, N = S + R*K.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreous.positions import Grid, Place

Size = tuple[int, int]
"""Height and width of a picture in pixels."""


def pad(pictures: Sequence[Tensor]) -> tuple[Tensor, list[Size]]:
    """Pictures (C, H_i, W_i) as one batch (B, C, H, W) of the largest sides, and the size of each."""
    if not pictures:
        raise ValueError("0 pictures make no batch: give at least one")
    sizes = [(picture.shape[1], picture.shape[2]) for picture in pictures]
    height, width = (max(side) for side in zip(*sizes, strict=True))
    filled = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p in pictures]
    return torch.stack(filled), sizes


def whole(images: Tensor, patch: int) -> Tensor:
    """(B, C, H, W) with both sides filled up by zeros to multiples of the patch; nothing where they are."""
    down, across = -images.shape[2] % patch, -images.shape[3] % patch
    return F.pad(images, (0, across, 0, down)) if down or across else images


def grid_of(size: Size, patch: int) -> Grid:
    """Rows and columns of patches of a picture. Raises ValueError for one that is smaller than a patch."""
    if min(size) < patch:
        raise ValueError(
            f"a picture of {size[0]} x {size[1]} pixels is smaller than a patch of {patch}: enlarge it to at least that"
        )
    return -(-size[0] // patch), -(-size[1] // patch)


def grids_of(sizes: Sequence[Size], patch: int, batch: int, grid: Grid) -> list[Grid]:
    """The grid of each picture of a padded batch. Raises ValueError where sizes and batch do not fit together."""
    if len(sizes) != batch:
        raise ValueError(f"{len(sizes)} sizes for a batch of {batch} pictures: give one (height, width) a picture")
    grids = [grid_of((int(height), int(width)), patch) for height, width in sizes]
    for own, size in zip(grids, sizes, strict=True):
        if own[0] > grid[0] or own[1] > grid[1]:
            raise ValueError(f"a picture of {tuple(size)} pixels in a batch of {grid[0] * patch} x {grid[1] * patch}")
    return grids


def real_patches(grids: Sequence[Grid], grid: Grid, device: torch.device) -> Tensor:
    """Which patches of a padded batch hold some of the picture: -> bool (B, R, K)."""
    rows, columns = torch.tensor(grids, device=device).T[:, :, None]  # each (B, 1)
    down, across = (torch.arange(count, device=device) for count in grid)
    return (down < rows)[:, :, None] & (across < columns)[:, None]


def tokens_of(own: Grid, grid: Grid, special: int, device: torch.device) -> Tensor:
    """Where the tokens of a picture of ``own`` rows and columns stand in those of the padded ``grid``: (S + r*k,)."""
    patches = special + torch.arange(grid[0] * grid[1], device=device).view(grid)[: own[0], : own[1]].flatten()
    return torch.cat([torch.arange(special, device=device), patches])


def padded_place(places: Sequence[Place | None], spots: Sequence[Tensor], real: Tensor, special: int) -> Place:
    """What attention is told of a padded batch: the place of each picture, spread to where its tokens stand.

    ``spots`` are those of :func:`tokens_of`, ``real`` that of :func:`real_patches`.
    """
    tokens = F.pad(real.flatten(1), (special, 0), value=True)  # (B, N)
    batch, count = tokens.shape
    first = places[0]
    spread: dict[str, Tensor | None] = {"turns": None, "points": None}
    for name in spread:
        if first is None or getattr(first, name) is None:
            continue
        values = getattr(first, name).new_zeros(batch, count, getattr(first, name).shape[-1])
        for row, (place, spot) in enumerate(zip(places, spots, strict=True)):
            values[row, spot] = getattr(place, name)[0]
        spread[name] = values
    return Place(**spread, slopes=None if first is None else first.slopes, real=tokens)
