"""A 3 x 3 convolution that learns faster than torch's own on processors with matrix units (AMX). Torch only.

There torch's gradient of the filters, on small grids of many channels, runs at about a tenth of a matrix product's
rate, and takes a third of a step of the wide models with convolutional stem (docs/log.md).

Shapes: B batch, C channels in, O channels out, H W sides of the grid.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

CHUNK = 8 << 20
"""Bytes of neighbourhoods laid out at a time, so that they stay in a core's cache."""


def conv3x3(x: Tensor, filters: Tensor) -> Tensor:
    """(B, C, H, W), (O, C, 3, 3) -> (B, O, H, W): stride 1, zeros around the border, as autocast would compute it.

    Forwards this is ``F.conv2d``; the gradient of the filters is made by matrix products where those are faster.
    """
    if not (torch.is_grad_enabled() and filters.requires_grad and products_win(x, len(filters))):
        return F.conv2d(x, filters, padding=1)
    result: Tensor = _ByProducts.apply(x.bfloat16(), filters)
    return result


def products_win(x: Tensor, out: int) -> bool:
    """Whether matrix products give the gradient of ``out`` filters over x (B, C, H, W) sooner than torch does.

    Measured on one machine with AMX for 96 to 384 channels on grids of 4 to 16: even at a grid of out / 4 places, up to
    four times as fast on smaller ones, slower on larger (docs/log.md).
    """
    return (
        x.device.type == "cpu"
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and 4 * x.shape[2] * x.shape[3] <= out
        and not torch.compiler.is_compiling()
        and has_matrix_units()
    )


@functools.cache
def has_matrix_units() -> bool:
    """Whether torch finds AMX with bf16 in this processor."""
    return hasattr(torch.cpu, "get_capabilities") and torch.cpu.get_capabilities().get("amx_bf16", False) is True


class _ByProducts(torch.autograd.Function):
    """The convolution in the number type of x, with :func:`filter_gradient` for the gradient of its filters."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, filters: Tensor) -> Tensor:
        low = filters.to(x.dtype)
        ctx.save_for_backward(x, low)
        return F.conv2d(x, low, padding=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, up: Tensor) -> tuple[Tensor | None, Tensor]:
        x, filters = ctx.saved_tensors
        down = None
        if ctx.needs_input_grad[0]:
            down, _, _ = torch.ops.aten.convolution_backward(
                up, x, filters, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
            )
        return down, filter_gradient(x, up)


def filter_gradient(x: Tensor, up: Tensor) -> Tensor:
    """(B, C, H, W) and the gradient of the result, (B, O, H, W) -> that of the filters, (O, C, 3, 3), in fp32 at least.

    The 3 x 3 neighbourhood of every place is laid out as a row, some pictures at a time, and multiplied by what came
    down to that place.
    """
    _, channels, height, width = x.shape
    padded = F.pad(x.permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    pictures = max(1, CHUNK // (height * width * 9 * channels * x.element_size()))
    total = torch.zeros(up.shape[1], 9 * channels, device=x.device, dtype=torch.promote_types(x.dtype, torch.float32))
    for some, above in zip(padded.split(pictures), up.permute(0, 2, 3, 1).split(pictures), strict=True):
        shifted = [some[:, row : row + height, column : column + width] for row in range(3) for column in range(3)]
        total += above.flatten(0, 2).mT @ torch.cat(shifted, dim=-1).flatten(0, 2)
    return total.unflatten(1, (3, 3, channels)).permute(0, 3, 1, 2)
