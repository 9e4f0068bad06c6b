"""Which parameters learn by which rule, and how fast at which moment. The optimisers themselves are torch's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from vitreous import parts, ranks
from vitreous.device import bf16_built_in
from vitreous.stems import ConvNorm


@dataclass(frozen=True)
class OptimConfig:
    """AdamW for vectors, tables, tokens and the head; Muon (Jordan et al. 2024) or AdamW for the matrices between."""

    name: str = "muon"
    lr: float = 4e-3
    """Peak rate of AdamW."""
    muon_lr: float = 0.005
    """Peak rate of Muon, for an update scaled to AdamW's usual size (``match_rms_adamw``, Liu et al. 2025)."""
    filter_lr: float = 0.0
    """Peak rate of the filters whose outputs are normalised, with Muon: how far a step turns them, as a share of their
    norm, which is held (Jordan 2024). 0: they are matrices like the others. The plain stem has none."""
    weight_decay: float = 0.05
    """Decoupled, on matrices only."""
    warmup: float = 0.05
    """Share of the whole run over which the rate rises from zero."""
    layer_decay: float = 1.0
    """The rate of each layer as a share of the one after it, for weights that have learned before; the head has the
    whole rate, and 1 gives it to all."""
    freeze: bool = False
    """Whether the head alone learns."""

    def __post_init__(self) -> None:
        if self.name not in ("muon", "adamw"):
            raise ValueError(f"unknown optimiser {self.name!r}: it is one of muon, adamw")
        for field in ("lr", "muon_lr"):
            if not getattr(self, field) > 0 or not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field} is {getattr(self, field)}: a learning rate must be a number above 0")
        if not 0 <= self.filter_lr < 1:
            raise ValueError(f"filter_lr is {self.filter_lr}: it is a share of the filters' norm, from 0 to below 1")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"layer_decay is {self.layer_decay}: it is a share, from above 0 to 1")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}: it is a share of the run, from 0 to below 1")


def lr_at(progress: float, config: OptimConfig) -> float:
    """The factor on every peak rate at a ``progress`` from 0 to 1: a linear rise, then a linear fall to 0."""
    if progress < config.warmup:
        return progress / config.warmup
    return max(0.0, (1.0 - progress) / (1.0 - config.warmup))


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Four groups: ``filters`` (3 x 3, before a normalisation), ``matrices`` (the others inside blocks and stem),
    ``decayed`` (head, patch convolution) and ``plain`` (the rest).

    Vectors, the position table and special tokens are never decayed.
    """
    groups: dict[str, list[nn.Parameter]] = {"filters": [], "matrices": [], "decayed": [], "plain": []}
    filters = {layer.weight for layer in model.modules() if isinstance(layer, ConvNorm)}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter in filters:
            groups["filters"].append(parameter)
        elif parameter.ndim == 2 and not name.startswith("head."):
            groups["matrices"].append(parameter)
        elif parameter.ndim in (2, 4):
            groups["decayed"].append(parameter)
        else:
            groups["plain"].append(parameter)
    return groups


def freeze(model: nn.Module) -> None:
    """Leaves nothing to learn but the head."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("head."))


def layer_shares(model: nn.Module, decay: float) -> dict[nn.Parameter, float]:
    """Each parameter's share of the rate: 1 for the head and the last norm, ``decay`` of it for each layer before."""
    names = dict(model.named_parameters())
    blocks = {name: int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
    depth = 1 + max(blocks.values(), default=-1)
    before = {name: depth - block for name, block in blocks.items()}  # how many layers lie between it and the head
    last = {name: 0 for name in names if name.startswith(("head.", "norm."))}
    return {parameter: decay ** (before | last).get(name, depth + 1) for name, parameter in names.items()}


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The optimisers of a run. Every group remembers its peak rate as ``peak_lr``, for :func:`set_lr`."""
    groups, shares = parameter_groups(model), layer_shares(model, config.layer_decay)

    def by_rate(group: str, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        rates: dict[float, list[nn.Parameter]] = {}
        for parameter in groups[group]:
            rates.setdefault(lr * shares[parameter], []).append(parameter)
        return [{"params": some, "lr": rate, "weight_decay": weight_decay} for rate, some in rates.items()]

    adamw = by_rate("decayed", config.lr, config.weight_decay) + by_rate("plain", config.lr, 0.0)
    optimizers: list[Optimizer] = []
    if not config.filter_lr or config.name != "muon":
        groups["matrices"] += groups.pop("filters")
    if config.name == "adamw":
        adamw += by_rate("matrices", config.lr, config.weight_decay)
    elif learning := groups["matrices"] + groups.get("filters", []):
        # the same on all processes, or their weights would drift apart
        (bf16,) = ranks.told([bf16_built_in(learning[0].device)])

        def muon(kind: type[torch.optim.Muon], params: list[dict[str, Any]], momentum: float, steps: int) -> Optimizer:
            settings: Any = {"momentum": momentum, "ns_steps": steps, "adjust_lr_fn": "match_rms_adamw"}
            whole = parts.sharded(learning[0])
            return WholeMuon(kind, params, **settings) if whole else kind(params, **settings)

        if groups["matrices"]:
            matrices = by_rate("matrices", config.muon_lr, config.weight_decay)
            optimizers.append(muon(torch.optim.Muon if bf16 else FullMuon, matrices, 0.95, 5))
        if groups.get("filters"):
            filters = by_rate("filters", config.filter_lr, 0.0)
            optimizers.append(muon(TurningMuon if bf16 else FullTurningMuon, filters, 0.6, 3))
    optimizers.insert(0, torch.optim.AdamW(adamw, lr=config.lr, betas=(0.9, 0.95), fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


class FullMuon(torch.optim.Muon):
    """Muon in the number type of the weights, as it is used here, with torch's state. Torch's own computes in bf16.

    A processor that has to emulate bf16 can take longer over that than over the rest of a step (docs/log.md).
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step (Jordan et al. 2024) with Nesterov momentum, its update scaled as in Liu et al. 2025."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(weight.grad)
                momentum = state["momentum_buffer"]
                momentum.lerp_(weight.grad, 1 - group["momentum"])
                update = orthogonal(
                    weight.grad.lerp(momentum, group["momentum"]), group["ns_coefficients"], group["ns_steps"]
                )
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(update, alpha=-group["lr"] * 0.2 * math.sqrt(max(weight.shape)))


def orthogonal(matrix: Tensor, coefficients: tuple[float, float, float], steps: int) -> Tensor:
    """A matrix of the same shape, (rows, columns), whose singular values lie near 1, by Newton-Schulz iterations.

    Each applies s -> a s + b s^3 + c s^5 to the singular values, with (a, b, c) the ``coefficients``.
    """
    a, b, c = coefficients
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.mT if tall else matrix
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


class HeldNorms:
    """Muon for filters whose outputs are normalised, to be mixed into one: a step turns them and no more.

    Their size has no effect on what the model computes, but the larger they are, the less a step turns them; so before
    each step they are brought back to a root mean square of 0.2, which an update has at a rate of 1 (Jordan 2024).
    """

    param_groups: list[dict[str, Any]]

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, of filters that had whatever norm."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    weight.mul_(0.2 * math.sqrt(weight.numel()) / weight.norm().clamp(min=1e-7))
        return super().step(closure)  # type: ignore[misc]


class TurningMuon(HeldNorms, torch.optim.Muon):
    """Torch's Muon on filters of held norms."""


class FullTurningMuon(HeldNorms, FullMuon):
    """Likewise, in the number type of the weights."""


class WholeMuon(torch.optim.Muon):
    """Muon for matrices of which every process holds some rows.

    To orthogonalise takes a whole matrix, so each in turn is put together for its step, which every process makes, and
    keeps its own rows of. ``kind`` is the Muon that makes it.
    """

    def __init__(self, kind: type[torch.optim.Muon], params: Any, **settings: Any) -> None:
        super().__init__(params, **settings)
        self.kind = kind

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """One step, to the bit that of Muon on the whole matrices."""
        for group in self.param_groups:
            settings = {name: group[name] for name in self.defaults}
            for rows in group["params"]:
                if rows.grad is None:
                    continue
                momentum = self.state[rows].setdefault("momentum_buffer", torch.zeros_like(rows))
                whole = nn.Parameter(parts.whole(rows))
                whole.grad = parts.whole(rows.grad)
                alone = self.kind([whole], **settings)
                alone.state[whole]["momentum_buffer"] = parts.whole(momentum)
                alone.step()
                rows.copy_(parts.part(whole.detach(), rows))
                momentum.copy_(parts.part(alone.state[whole]["momentum_buffer"], momentum))


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Sets every group to its peak rate times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
