"""Attention maps: whose tokens the head's token looks at, layer by layer or rolled out over all of them.

Everything is recomputed from the weights, some queries at a time, in memory that grows with the number of tokens and
never with its square. Nothing is hooked or kept during training. Not here: anything that needs a gradient.

Shapes: B batch, C channels, H W pixels, R rows and K columns of patches, S special tokens (class token and
registers), N = S + R*K tokens, D width, A heads, E = D/A width of a head, L depth, Q queries.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from vitreous.positions import Place
from vitreous.vit import Block, ViT

BATCH = 64
"""Pictures whose maps are made at a time."""
WEIGHTS_AT_ONCE = 2**18
"""Attention weights (B * A * Q * N) made at a time, 1 MiB: what a core's cache holds."""
KEYS_AT_ONCE = 2048
"""Keys that a block of queries meets at a time, for the same reason."""


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """No gradients, and eval mode for as long as it lasts: a normalisation must not learn from being looked at."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def attentive(model: nn.Module) -> ViT:
    """The model as a Vision Transformer, compiled ones included. Raises ValueError where it has no attention."""
    if not hasattr(model, "walk"):
        raise ValueError(f"a {type(model).__name__} has no attention to show: heatmaps need a Vision Transformer")
    return cast(ViT, model)


def some_rows(q: Tensor, k: Tensor, place: Place | None, first: int = 0) -> Iterator[tuple[slice, Tensor]]:
    """The attention weights of the queries from ``first`` on, a block of queries at a time, in fp32.

    Queries and keys (B, A, N, E) -> which queries, and their rows (B, A, Q, N), each of which sums to 1. The rows are
    overwritten by the next. A block has WEIGHTS_AT_ONCE weights, or in long sequences E queries: it takes no more
    memory than the tokens themselves, and enough queries share a read of the keys to make that worth it.
    """
    batch, heads, count, width = k.shape
    step = min(count, max(width, WEIGHTS_AT_ONCE // max(1, batch * heads * count)))
    queries = (q.float() / math.sqrt(width)).flatten(0, 1)  # (B*A, N, E)
    keys = k.float().flatten(0, 1).transpose(1, 2)  # (B*A, E, N)
    memory = keys.new_empty(len(keys), step, count)
    for start in range(first, count, step):
        part = slice(start, min(start + step, count))
        rows = memory[:, : part.stop - start]
        for at in range(0, count, KEYS_AT_ONCE):
            some = slice(at, at + KEYS_AT_ONCE)
            torch.bmm(queries[:, part], keys[:, :, some], out=rows[:, :, some])
        rows = rows.unflatten(0, (batch, heads))
        bias = place.bias(part) if place else None
        if bias is not None:
            rows += bias
        yield part, torch.softmax(rows, dim=-1, out=rows)


Row = Callable[[Block, Tensor, Place | None, int], Tensor]


def _class_row(block: Block, x: Tensor, place: Place | None, special: int) -> Tensor:
    """How much the class token looks at every token: (B, N, D) -> (B, A, N)."""
    return block.attn.weights(block.norm1(x), slice(0, 1), place)[:, :, 0]


def _mean_row(block: Block, x: Tensor, place: Place | None, special: int) -> Tensor:
    """How much the average patch token looks at every token: (B, N, D) -> (B, A, N)."""
    q, k, _ = block.attn.project(block.norm1(x), place)
    rows = [some.sum(dim=2) for _, some in some_rows(q, k, place, first=special)]
    return torch.stack(rows).sum(dim=0) / (q.shape[2] - special)


ROWS: dict[str, Row] = {"class": _class_row, "mean": _mean_row}
"""Whose attention a map shows, by what the head reads: the class token's, or the mean over the patch tokens."""


def entering(vit: ViT, images: Tensor) -> Iterator[tuple[Block, Tensor]]:
    """Each block with the tokens that enter it; the last block is not run, as nobody asks what leaves it."""
    return itertools.islice(vit.walk(images), len(vit.blocks))


def _layers(vit: ViT, images: Tensor, row: Row | None = None) -> Iterator[Tensor]:
    """The map of every layer, first to last: (B, C, H, W) -> L x float32 (B, A, R, K).

    ``row`` says whose attention it is; None for the one of ROWS that the model's head goes by.
    """
    row, special, place = row or ROWS[vit.config.pool], vit.config.special, vit.place(images)
    for block, x in entering(vit, images):
        yield row(block, x, place, special)[..., special:].float().unflatten(-1, vit.grid(images))


def class_attention(model: nn.Module, images: Tensor) -> Tensor:
    """How much the head's source looks at each patch, layer by layer, head by head: (B, C, H, W) -> (B, L, A, R, K).

    The source is the class token; in a mean-pooled model, which has none, it is the average patch token (the mean
    over the patch tokens of their attention rows). The numbers are raw shares of the softmax: a map sums to 1 less
    the share that special tokens (class token and registers) received. Raises ValueError for a model without
    attention.
    """
    with looking(model):
        return torch.stack(list(_layers(attentive(model), images)), dim=1)


def patch_attention(model: nn.Module, images: Tensor, patch: tuple[int, int]) -> Tensor:
    """How much one patch, ``(row, column)``, looks at each patch: (B, C, H, W) -> (B, L, A, R, K), raw shares.

    Raises ValueError for a model without attention, and for a patch that is not on the grid.
    """
    vit = attentive(model)
    rows, columns = vit.grid(images)
    if not (0 <= patch[0] < rows and 0 <= patch[1] < columns):
        raise ValueError(f"patch {patch} is not on the grid: rows are 0 to {rows - 1}, columns 0 to {columns - 1}")

    def patch_row(block: Block, x: Tensor, place: Place | None, special: int) -> Tensor:
        token = special + patch[0] * columns + patch[1]
        return block.attn.weights(block.norm1(x), slice(token, token + 1), place)[:, :, 0]

    with looking(model):
        return torch.stack(list(_layers(vit, images, patch_row)), dim=1)


def class_map(model: nn.Module, images: Tensor, batch: int = BATCH) -> Tensor:
    """The mean of :func:`class_attention` over heads and layers, ``batch`` pictures at a time: -> (B, R, K)."""
    maps = []
    with looking(model):
        for some in images.split(batch):
            layers = [heads.mean(dim=1) for heads in _layers(attentive(model), some)]  # L x (B, R, K)
            maps.append(torch.stack(layers).mean(dim=0))
    return torch.cat(maps)


def source(vit: ViT, like: Tensor) -> Tensor:
    """Which tokens the head reads, as shares that sum to 1: the class token, or all patches alike. -> (B, N)."""
    shares = torch.zeros(like.shape[:2], device=like.device)
    if vit.config.pool == "class":
        shares[:, 0] = 1.0
    else:
        shares[:, vit.config.special :] = 1.0 / (like.shape[1] - vit.config.special)
    return shares


def push(flow: Tensor, q: Tensor, k: Tensor, place: Place | None) -> Tensor:
    """A row vector times the attention matrix, mean over heads, without forming it: (B, N) -> (B, N)."""
    pushed = torch.zeros_like(flow)
    for part, rows in some_rows(q, k, place):
        pushed += (flow[:, None, None, part].to(rows.dtype) @ rows)[:, :, 0].float().mean(dim=1)
    return pushed


def rollout(model: nn.Module, images: Tensor, batch: int = BATCH) -> Tensor:
    """Attention rollout (Abnar & Zuidema 2020): (B, C, H, W) -> (B, R, K), the row of what the head reads.

    The product, over the layers, of (mean over heads of the attention + identity) / 2, whose rows sum to 1: half of a
    token stays where it is, the residual connection. Only one row of the product is asked for, so it is computed as
    a vector times one matrix after the other, from the last layer back to the first, each matrix some rows at a time:
    exact, where keeping the matrices would take L x A x N x N numbers. A map sums to 1 less what special tokens kept.
    """
    maps = []
    with looking(model):
        for some in images.split(batch):
            vit, place = attentive(model), attentive(model).place(some)
            *below, (last, x) = entering(vit, some)
            row = ROWS[vit.config.pool](last, x, place, vit.config.special).float().mean(dim=1)
            flow = (source(vit, x) + row) / 2
            for block, x in reversed(below):
                q, k, _ = block.attn.project(block.norm1(x), place)
                flow = (flow + push(flow, q, k, place)) / 2
            maps.append(flow[:, vit.config.special :].unflatten(-1, vit.grid(some)))
    return torch.cat(maps)
