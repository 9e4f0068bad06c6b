"""Position encodings: how a token knows where its patch lies.

An encoding answers for every grid of patches, so a model has no maximum number of tokens. Some kinds are added to the
tokens once (``add``), others act in every attention layer (``place``). A patch's place is that of its middle within
the picture, measured in patches of the training size: a picture shown at twice the size keeps its places, and no
place is ever out of range. A new kind is a subclass of :class:`Position` and a row of :data:`KINDS`.

Shapes: B batch, S special tokens (class, registers) before the patches, R rows and K columns of patches,
N = S + R*K tokens, D width, A heads, E = D/A width of a head, Q queries.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int]

SLOWEST = 1 / 32
"""Radians a training patch of the slowest sine; the fastest has 1. Text models go on to 1/10,000, which over the 8 to
16 patches of a small picture is no turn at all."""


def resample(table: Tensor, old: Grid, new: Grid) -> Tensor:
    """Stretch or shrink a grid of vectors: (1, R*K, D) -> (1, R'*K', D), bicubic, antialiased when shrinking.

    Dosovitskiy et al. 2020, section 3.2 (2-D interpolation of learned positions).
    """
    if old == new:
        return table
    if table.device.type == "mps":  # torch has no way back through this there
        return resample(table.cpu(), old, new).to(table.device)
    picture = table.float().transpose(1, 2).unflatten(2, old)  # (1, D, R, K)
    shrinking = new[0] < old[0] or new[1] < old[1]
    picture = F.interpolate(picture, size=new, mode="bicubic", antialias=shrinking, align_corners=False)
    return picture.flatten(2).transpose(1, 2).to(table.dtype)  # (1, R'*K', D)


def middles(trained: Grid, grid: Grid, device: torch.device | None = None) -> Tensor:
    """Row and column of every patch's middle, in patches of the ``trained`` grid: -> (R*K, 2), row-major."""
    rows, columns = (
        (torch.arange(count, device=device) + 0.5) * (before / count)
        for count, before in zip(grid, trained, strict=True)
    )
    return torch.cartesian_prod(rows, columns).view(-1, 2)


def angles(points: Tensor, count: int) -> Tensor:
    """(N, 2) -> (N, 2 * count): each coordinate times ``count`` frequencies from 1 down to SLOWEST, rows first."""
    speeds = SLOWEST ** torch.linspace(0, 1, count, device=points.device)
    return (points[:, :, None] * speeds).flatten(1)


@dataclass(frozen=True)
class Place:
    """What attention is told of where tokens lie. Each part may be absent; the first axis may be a batch or 1."""

    turns: Tensor | None = None
    """By which angles queries and keys are rotated, (B or 1, N, E/2); zero for special tokens."""
    points: Tensor | None = None
    """Where tokens lie, (B or 1, N, 2), in patches; NaN for special tokens, which are near to all."""
    slopes: Tensor | None = None
    """What a head loses in score for a patch of distance, (A,)."""
    real: Tensor | None = None
    """Which tokens exist, bool (B, N); the others are padding and nobody looks at them."""

    def turn(self, x: Tensor) -> Tensor:
        """Rotates pairs of a query's or key's numbers by its place: (B, A, N, E) -> the same shape."""
        if self.turns is None:
            return x
        cos, sin = (f(self.turns)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))  # (B or 1, 1, N, E/2)
        a, b = x.chunk(2, dim=-1)
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    @property
    def free(self) -> bool:
        """Whether scores stay as they are: there is no bias."""
        return self.points is None and self.real is None

    def bias(self, queries: slice = slice(None)) -> Tensor | None:
        """What is added to the scores of some queries: (B or 1, A or 1, Q or 1, N), or None for nothing."""
        return self._whole if queries == slice(None) else self._bias(queries)

    @functools.cached_property
    def _whole(self) -> Tensor | None:
        return self._bias(slice(None))  # the same for every layer, so worth keeping for as long as the pass lasts

    def _bias(self, queries: slice) -> Tensor | None:
        parts = []
        if self.points is not None:
            assert self.slopes is not None
            apart = self.points[:, queries, None] - self.points[:, None]  # (B or 1, Q, N, 2)
            parts.append(-self.slopes.view(1, -1, 1, 1) * apart.norm(dim=-1).nan_to_num(0.0)[:, None])
        if self.real is not None:
            parts.append(
                torch.zeros_like(self.real, dtype=torch.float).masked_fill(~self.real, -torch.inf)[:, None, None]
            )
        return sum(parts[1:], parts[0]) if parts else None


@dataclass(frozen=True)
class Packed:
    """The place of tokens of several pictures that stand one after another in a single sequence (packing.py).

    Attention stays within each picture, so it is computed picture by picture; all other layers see one sequence.
    """

    blocks: tuple[tuple[int, int, Place | None], ...]
    """How many pictures of how many tokens follow each other, and the place that they share."""

    @property
    def lengths(self) -> list[int]:
        """Tokens of each block: sums to those of the sequence."""
        return [count * length for count, length, _ in self.blocks]


class Position:
    """No position at all: the model sees a bag of patches. The base of every other kind."""

    placed = False
    """Whether attention needs a :class:`Place`."""

    def check(self, width: int, heads: int) -> None:
        """Raises ValueError for a width that the kind cannot work with."""

    def table(self, grid: Grid, width: int, special: int) -> Tensor | None:
        """The initial value of the learned parameter for a model trained on ``grid``, (1, S + R*K, D), or None."""
        return None

    def add(self, tokens: Tensor, table: Tensor | None, trained: Grid, grid: Grid) -> Tensor:
        """Tokens of any ``grid`` with their positions: (B, S + R*K, D) -> the same shape."""
        return tokens

    def place(
        self, trained: Grid, grid: Grid, special: int, heads: int, width: int, device: torch.device | None = None
    ) -> Place | None:
        """What attention is told of the tokens of ``grid``; ``width`` is D. None for kinds that are added."""
        return None


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


class SinCos(Position):
    """Fixed sines and cosines of row and column at several frequencies, after Vaswani et al. 2017, in two dimensions.

    A quarter of the width each for sine and cosine of the row and of the column. Special tokens get zeros.
    """

    def check(self, width: int, heads: int) -> None:
        if width % 4:
            raise ValueError(
                f"sincos positions need a width that is a multiple of 4, not {width}: use {width // 4 * 4 + 4}"
            )

    def add(self, tokens: Tensor, table: Tensor | None, trained: Grid, grid: Grid) -> Tensor:
        turns = angles(middles(trained, grid, tokens.device), tokens.shape[-1] // 4)
        waves = torch.cat([turns.sin(), turns.cos()], dim=1)  # (R*K, D)
        special = tokens.shape[1] - waves.shape[0]
        return tokens + F.pad(waves, (0, 0, special, 0)).to(tokens.dtype)


class Rotary(Position):
    """Queries and keys are turned by angles that grow with row and column, so that scores know the way between them.

    Su et al. 2021 (RoFormer), along two axes: half of a head's pairs turn with the row, half with the column. Special
    tokens are not turned.
    """

    placed = True

    def check(self, width: int, heads: int) -> None:
        if width // heads % 4:
            raise ValueError(
                f"rope positions need heads of a width that is a multiple of 4, not {width // heads} "
                f"(width {width} over {heads} heads): use another width or number of heads"
            )

    def place(
        self, trained: Grid, grid: Grid, special: int, heads: int, width: int, device: torch.device | None = None
    ) -> Place:
        turns = angles(middles(trained, grid, device), width // heads // 4)
        return Place(turns=F.pad(turns, (0, 0, special, 0))[None])


class Alibi(Position):
    """A score falls with the distance between query and key, by a slope of each head: 2^(-8/A), 2^(-16/A), ..., 2^-8.

    Press et al. 2021 (ALiBi), with the Euclidean distance of patch middles. Special tokens are near to everything.
    """

    placed = True

    def place(
        self, trained: Grid, grid: Grid, special: int, heads: int, width: int, device: torch.device | None = None
    ) -> Place:
        slopes = 2.0 ** (-8.0 / heads * torch.arange(1, heads + 1, device=device))
        points = F.pad(middles(trained, grid, device), (0, 0, special, 0), value=torch.nan)
        return Place(points=points[None], slopes=slopes)


KINDS: dict[str, Position] = {
    "learned": Learned(),
    "sincos": SinCos(),
    "rope": Rotary(),
    "alibi": Alibi(),
    "none": Position(),
}
