"""One model on several processes: each takes a share of every batch, and gradients are averaged over all of them.

Each has a copy of the model (DistributedDataParallel), or, where that would be too large, a part of every weight, which
are put together a block at a time just before they are used (FSDP2). The result is that of one process with the whole
batch: batch statistics are taken over all shares.

Shapes: B pictures of this process's share, C channels, H W pixels.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vitreous import parts, ranks
from vitreous.models import ModelConfig, build_model, count_parameters
from vitreous.vit import Block

BYTES = 16
"""Of state a weight: itself, its gradient and two moments, in fp32."""
STATE_SHARE = 0.5
"""Of a GPU's memory, that a copy of the state may take; the rest is for what a step makes on its way."""


def spread(model: nn.Module, shard: bool | None) -> nn.Module:
    """What to call in place of ``model``, so that its gradients are those of the whole batch.

    In place it comes to normalise over the whole batch and, with ``shard`` or if None where a copy is :func:`too_large`
    for the device, to hold a part of every weight. For one process nothing is done.
    """
    if ranks.world() == 1:
        return model
    device = next(model.parameters()).device
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    else:
        over_all(model)
    if too_large(model, device) if shard is None else shard:
        in_parts(model)
        return model
    if not any(parameter.requires_grad for parameter in model.parameters()):
        return model
    return DistributedDataParallel(model, gradient_as_bucket_view=True)


def too_large(model: nn.Module, device: torch.device) -> bool:
    """Whether the state of a run of this model would fill more than half of the GPU."""
    if device.type != "cuda":
        return False
    return BYTES * count_parameters(model) > STATE_SHARE * torch.cuda.get_device_properties(device).total_memory


def in_parts(model: nn.Module) -> None:
    """Leaves this process a part of every weight; the blocks, and what is around them, are put together in turn."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]  # the only one that can be cut
    mesh = init_device_mesh(next(model.parameters()).device.type, (ranks.world(),))
    for module in [module for module in model.modules() if isinstance(module, Block)]:
        fully_shard(module, mesh=mesh)
    fully_shard(model, mesh=mesh)


def in_one(model: nn.Module, config: ModelConfig) -> nn.Module:
    """The model as one process would have it: itself, or its parts put together in another one, on the CPU."""
    if not any(parts.sharded(parameter) for parameter in model.parameters()):
        return model
    weights = {name: parts.whole(tensor).cpu() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        together = build_model(config).eval()
    together.load_state_dict(weights)
    return together


def over_all(model: nn.Module) -> None:
    """Puts a :class:`BatchNorm` in the place of every batch normalisation, with its weights and statistics."""
    for parent in list(model.modules()):
        for name, norm in parent.named_children():
            if type(norm) is nn.BatchNorm2d:
                wide = BatchNorm(norm.num_features, norm.eps, norm.momentum)
                for own in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
                    setattr(wide, own, getattr(norm, own))
                setattr(parent, name, wide)


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation over the shares of all processes. Torch's own, SyncBatchNorm, is for GPUs alone."""

    momentum: float
    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return super().forward(x)
        y, mean, var, count = _OverAll.apply(x, self.weight, self.bias, self.eps)
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(var * count / (count - 1), self.momentum)
        return y


class _OverAll(torch.autograd.Function):
    """Normalises by the mean and variance over all processes; each direction adds up two numbers a channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        zero = torch.zeros_like(weight)
        mean, var = torch.batch_norm_update_stats(x, zero, zero, 0.0)  # fp32 beside fp32, whatever x is
        counts = torch.full_like(mean, x.numel() / len(mean))
        own = torch.stack([counts, mean, var])
        parts = [torch.empty_like(own) for _ in range(ranks.world())]
        dist.all_gather(parts, own)
        counts, means, variances = torch.stack(parts).double().unbind(1)  # each (processes, C)
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        mean, var, count = mean.float(), var.float(), count[0].float()
        ctx.save_for_backward(x, weight, mean, var, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var, count)
        return F.batch_norm(x, mean, var, weight, bias, False, 0.0, eps), mean, var, count

    @staticmethod
    def backward(ctx: Any, up: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, var, count = ctx.saved_tensors
        scale = (var + ctx.eps).rsqrt()
        down, for_weight, for_bias = torch.ops.aten.native_batch_norm_backward(
            up, x, weight, mean, var, mean, scale, False, ctx.eps, [True, True, True]
        )  # as if mean and variance were given; what flows through them follows
        sums = torch.stack([for_weight, for_bias])
        dist.all_reduce(sums)
        slope = weight * scale**2 * sums[0] / count
        shift = weight * scale * sums[1] / count - slope * mean
        slope, shift = (part.to(x.dtype).view(1, -1, 1, 1) for part in (slope, shift))
        return down - torch.addcmul(shift, slope, x), for_weight, for_bias, None
