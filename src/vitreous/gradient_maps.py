"""Maps that ask for a class: which patches speak for it, by gradients or by covering them.

Of every function here the classes are ``target`` (B,), and the model is left as it was: weights, gradients, mode.
Maps of input_gradient, gradient_attention, relevance are 0 or more; those of integrated_gradients and occlusion have a
sign: patches below 0 speak against the class.

Shapes: B batch, C channels, H W pixels, R rows and K columns of patches, N tokens, D width, A heads, E = D/A width of
a head, L depth, Q queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous.attention_maps import attentive, entering, looking, some_rows, source
from vitreous.positions import Place
from vitreous.vit import ViT, attention_weights

INTEGRATION_STEPS = 32
"""Points between the mean colour and the picture at which integrated_gradients looks."""
OCCLUDED_AT_ONCE = 512
"""Pictures with one covered patch that occlusion gives the model at a time."""
FIRST = slice(0, 1)
"""The query of the class token."""
CELL = 4
"""Side in pixels of the squares that a model without patches is asked about."""


def _cell(model: nn.Module) -> int:
    """Side in pixels of the squares whose relevance a map gives: the patch, where the model has one."""
    return int(getattr(getattr(model, "config", None), "patch_size", CELL))


def by_patch(values: Tensor, cell: int) -> Tensor:
    """Sum of pixels' values over each patch: (B, H, W) -> (B, R, K); begun patches at the end count as patches."""
    down, across = -values.shape[1] % cell, -values.shape[2] % cell
    return F.avg_pool2d(F.pad(values, (0, across, 0, down))[:, None], cell)[:, 0] * cell**2


def _scores(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """The logit of each picture's own class: -> (B,)."""
    scores: Tensor = model(images)
    return scores.gather(1, target[:, None])[:, 0]


def _gradient(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Of the logit of ``target`` by the pixels: (B, C, H, W) -> the same shape."""
    with torch.inference_mode(False), torch.enable_grad():
        inputs = images.detach().clone().requires_grad_()
        return torch.autograd.grad(_scores(model, inputs, target).sum(), inputs)[0]


def input_gradient(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """How steeply the logit changes with the pixels (Simonyan et al. 2014): -> (B, R, K).

    The largest magnitude over channels, summed over each patch.
    """
    with looking(model):
        return by_patch(_gradient(model, images, target).abs().amax(dim=1).float(), _cell(model))


def integrated_gradients(model: nn.Module, images: Tensor, target: Tensor, steps: int = INTEGRATION_STEPS) -> Tensor:
    """The logit's rise from the mean colour to the picture, shared out among patches (Sundararajan et al. 2017).

    Gradients at ``steps`` midpoints of the straight way, times the way: the shares of all patches sum to the rise, up
    to the error of the sum. -> (B, R, K), signed.
    """
    with looking(model):
        total = torch.zeros_like(images, dtype=torch.float)
        for i in range(steps):
            total += _gradient(model, images * ((i + 0.5) / steps), target).float()
        return by_patch((total / steps * images.float()).sum(dim=1), _cell(model))


def occlusion(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """How much of the class's log probability is lost with each patch covered by the mean colour: -> (B, R, K), signed.

    Zeiler & Fergus 2014. It asks the model once a patch and knows nothing of what is inside, so it takes any model.
    """
    cell = _cell(model)
    rows, columns = -(-images.shape[2] // cell), -(-images.shape[3] // cell)
    squares = torch.eye(rows * columns, device=images.device).view(-1, rows, columns)
    covers = squares.repeat_interleave(cell, 1).repeat_interleave(cell, 2)  # (R*K, H, W)
    covers = (1 - covers[:, None, : images.shape[2], : images.shape[3]]).to(images.dtype)

    def sure(some: Tensor, classes: Tensor) -> Tensor:
        return model(some).float().log_softmax(dim=1).gather(1, classes[:, None])[:, 0]

    maps = []
    with looking(model):
        for image, label in zip(images, target, strict=True):
            parts = [sure(image * some, label.expand(len(some))) for some in covers.split(OCCLUDED_AT_ONCE)]
            maps.append(sure(image[None], label[None]) - torch.cat(parts))
    return torch.stack(maps).view(-1, rows, columns) if maps else images.new_zeros(0, rows, columns)


@dataclass(frozen=True, eq=False)
class _Layer:
    """One layer's attention and the gradient of the logit by what it mixed."""

    q: Tensor
    k: Tensor
    v: Tensor
    place: Place | None
    mixed: Tensor
    """Gradient by the values as mixed by the weights, (B, A, N, E)."""

    def positive(self, part: slice, rows: Tensor) -> Tensor:
        """Attention times its gradient, what is below 0 left out: rows (B, A, Q, N) -> the same shape."""
        # The gradient by a weight is the gradient by the mixture times the value that the weight let in, so it is
        # known for some rows without the others.
        by_weight = self.mixed[:, :, part] @ self.v.transpose(-2, -1)
        return by_weight.mul_(rows).clamp_(min=0).float()


def _backwards(vit: ViT, images: Tensor, target: Tensor) -> Iterator[_Layer]:
    """The layers, last to first, with gradients of the logit of ``target``. Holds one block's graph at a time."""
    place = vit.place(images)
    entered = list(entering(vit, images))
    last, x = entered[-1]
    with torch.enable_grad():
        leaving = last(x, place).detach().requires_grad_()
        scores = vit.head(vit.read(leaving)).gather(1, target[:, None])
        slope = torch.autograd.grad(scores.sum(), leaving)[0]
    for block, x in reversed(entered):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            h = block.norm1(x)
            attended = block.attn(h, place)
            left = block.think(x + block.ls1(attended))
            slope, by_attended = torch.autograd.grad(left, (x, attended), slope)
        attention = block.attn
        mixed = (by_attended.to(attention.proj.weight.dtype) @ attention.proj.weight).unflatten(
            -1, (attention.heads, -1)
        )
        yield _Layer(*attention.project(h.detach(), place), place, mixed.transpose(1, 2))


@torch.inference_mode(False)
def gradient_attention(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """The attention of the head's source times its gradient, where that is positive: -> (B, L, A, R, K).

    What a layer looks at because it speaks for the class: the relevance of Chefer et al. 2021 in each layer and head,
    not yet carried to the input. Mean-pooled models: the mean over the patch tokens' rows.
    """
    vit = attentive(model)
    special, images, maps = vit.config.special, images.clone(), []
    with looking(model):
        for layer in _backwards(vit, images, target):
            if vit.config.pool == "class":
                bias = layer.place.bias(FIRST) if layer.place else None
                row = layer.positive(FIRST, attention_weights(layer.q[:, :, FIRST], layer.k, bias))[:, :, 0]
            else:
                patches = some_rows(layer.q, layer.k, layer.place, first=special)
                parts = [layer.positive(part, rows).sum(dim=2) for part, rows in patches]
                row = torch.stack(parts).sum(dim=0) / (layer.k.shape[2] - special)
            maps.append(row[..., special:].unflatten(-1, vit.grid(images)))
    return torch.stack(maps[::-1], dim=1)


@torch.inference_mode(False)
def relevance(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    """Class-specific rollout: R <- R + mean over heads of (attention * gradient)+ R (Chefer et al. 2021): -> (B, R, K).

    As in rollout only the row of what the head reads is computed, from the last layer back to the first, in memory
    that grows with the number of tokens. What the head reads itself, before any attention, is left out.
    """
    vit = attentive(model)
    images = images.clone()
    with looking(model):
        flow = start = None
        for layer in _backwards(vit, images, target):
            if flow is None:
                flow = start = source(vit, layer.k.new_zeros(len(images), layer.k.shape[2]))
            pushed = torch.zeros_like(flow)
            for part, rows in some_rows(layer.q, layer.k, layer.place):
                if flow[:, part].any():
                    pushed += (flow[:, None, None, part] @ layer.positive(part, rows))[:, :, 0].mean(dim=1)
            flow = flow + pushed
        assert flow is not None
        assert start is not None
        return (flow - start)[:, vit.config.special :].unflatten(-1, vit.grid(images))


def grad_cam(model: nn.Module, images: Tensor, target: Tensor, layer: nn.Module) -> Tensor:
    """Grad-CAM (Selvaraju et al. 2017) of a ``layer`` that gives (B, D, R', K'): -> (B, R', K'), 0 or more.

    The channels' mean gradients weigh the channels. A hook is set for the one call and removed.
    """
    seen: list[Tensor] = []

    def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
        seen.append(output)

    with looking(model), torch.inference_mode(False), torch.enable_grad():
        handle = layer.register_forward_hook(keep)
        try:
            scores = _scores(model, images.detach().clone().requires_grad_(), target)
        finally:
            handle.remove()
        features = seen[-1]
        slope = torch.autograd.grad(scores.sum(), features)[0]
        return (slope.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).clamp(min=0).detach().float()
