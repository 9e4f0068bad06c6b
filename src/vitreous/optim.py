"""Which parameters learn by which rule, and how fast at which moment. The optimisers themselves are torch's own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import Optimizer


@dataclass(frozen=True)
class OptimConfig:
    """AdamW for vectors, tables, tokens and the head; Muon (Jordan et al. 2024) or AdamW for the matrices between."""

    name: str = "muon"
    lr: float = 4e-3
    """Peak rate of AdamW."""
    muon_lr: float = 0.005
    """Peak rate of Muon, for an update scaled to AdamW's usual size (``match_rms_adamw``, Liu et al. 2025)."""
    weight_decay: float = 0.05
    """Decoupled, on matrices only."""
    warmup: float = 0.05
    """Share of the whole run over which the rate rises from zero."""

    def __post_init__(self) -> None:
        if self.name not in ("muon", "adamw"):
            raise ValueError(f"unknown optimiser {self.name!r}: it is one of muon, adamw")
        for field in ("lr", "muon_lr"):
            if not getattr(self, field) > 0 or not math.isfinite(getattr(self, field)):
                raise ValueError(f"{field} is {getattr(self, field)}: a learning rate must be a number above 0")
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}: it must be 0 or more")
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}: it is a share of the run, from 0 to below 1")


def lr_at(progress: float, config: OptimConfig) -> float:
    """The factor on every peak rate at a ``progress`` from 0 to 1: a linear rise, then a linear fall to 0."""
    if progress < config.warmup:
        return progress / config.warmup
    return max(0.0, (1.0 - progress) / (1.0 - config.warmup))


def parameter_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Three groups: ``matrices`` (inside blocks and stem), ``decayed`` (head, patch convolution), ``plain`` (the rest).

    Vectors, the position table and special tokens are never decayed.
    """
    groups: dict[str, list[nn.Parameter]] = {"matrices": [], "decayed": [], "plain": []}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim == 2 and not name.startswith("head."):
            groups["matrices"].append(parameter)
        elif parameter.ndim in (2, 4):
            groups["decayed"].append(parameter)
        else:
            groups["plain"].append(parameter)
    return groups


def build_optimizers(model: nn.Module, config: OptimConfig) -> list[Optimizer]:
    """The optimisers of a run. Every group remembers its peak rate as ``peak_lr``, for :func:`set_lr`."""
    groups = parameter_groups(model)
    adamw = [
        {"params": groups["decayed"], "weight_decay": config.weight_decay},
        {"params": groups["plain"], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = []
    if config.name == "adamw":
        adamw.append({"params": groups["matrices"], "weight_decay": config.weight_decay})
    elif groups["matrices"]:
        muon = torch.optim.Muon(
            groups["matrices"],
            lr=config.muon_lr,
            weight_decay=config.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        optimizers.append(muon)
    adamw = [group for group in adamw if group["params"]]
    optimizers.insert(0, torch.optim.AdamW(adamw, lr=config.lr, betas=(0.9, 0.95), fused=True))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def set_lr(optimizers: list[Optimizer], factor: float) -> None:
    """Sets every group to its peak rate times ``factor``."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * factor
