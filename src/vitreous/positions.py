"""Position encodings: how a token knows where its patch lies.

An encoding answers for every grid of patches, so a model has no maximum number of tokens. The model owns the
parameter (``pos_embed``, if the kind has one); the kinds below say what it looks like and how it is added. A new kind
is a subclass of :class:`Position` and a row of :data:`KINDS`.

Shapes: B batch, N tokens, D width, R rows and K columns of patches, S special tokens (class, registers) before them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]


def resample(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Stretch or shrink a grid of vectors: (1, R*K, D) -> (1, R'*K', D), bicubic, antialiased when shrinking.

    Dosovitskiy et al. 2020, section 3.2 (2-D interpolation of learned positions).
    """
    if old == new:
        return table
    picture = table.float().transpose(1, 2).unflatten(2, old)  # (1, D, R, K)
    shrinking = new[0] < old[0] or new[1] < old[1]
    picture = F.interpolate(picture, size=new, mode="bicubic", antialias=shrinking, align_corners=False)
    return picture.flatten(2).transpose(1, 2).to(table.dtype)  # (1, R'*K', D)


class Position:
    """No position at all: the model sees a bag of patches. The base of every other kind."""

    def table(self, grid: Grid, width: int, special: int) -> Tensor | None:
        """The initial value of the learned parameter for a model trained on ``grid``, (1, S + R*K, D), or None."""
        return None

    def add(self, tokens: Tensor, table: Tensor | None, trained: Grid, grid: Grid) -> Tensor:
        """Tokens of any ``grid`` with their positions: (B, S + R*K, D) -> the same shape."""
        return tokens


class Learned(Position):
    """One learned vector a token of the training grid, resampled to any other grid.

    The parameter is (1, S + R*K, D): special tokens first, then patches row by row, as timm keeps it.
    """

    def table(self, grid: Grid, width: int, special: int) -> Tensor:
        table = torch.empty(1, special + grid[0] * grid[1], width)
        return torch.nn.init.trunc_normal_(table, std=0.02)

    def add(self, tokens: Tensor, table: Tensor | None, trained: Grid, grid: Grid) -> Tensor:
        assert table is not None
        if grid == trained:
            return tokens + table
        special = table.shape[1] - trained[0] * trained[1]
        patches = resample(table[:, special:], trained, grid)
        return tokens + torch.cat([table[:, :special], patches], dim=1)


KINDS: dict[str, Position] = {"learned": Learned()}
