"""Every parameter learns by exactly one rule, and rates follow the run's progress."""

from __future__ import annotations

import pytest
import torch

from vitreous.models import build_model
from vitreous.optim import OptimConfig, build_optimizers, lr_at, parameter_groups, set_lr
from vitreous.vit import ViTConfig


def test_every_parameter_is_in_exactly_one_group() -> None:
    for stem in ("patch", "conv"):
        model = build_model(ViTConfig(depth=1, registers=2, stem=stem))
        groups = parameter_groups(model)
        ids = [id(p) for group in groups.values() for p in group]
        assert sorted(ids) == sorted(id(p) for p in model.parameters())
        named = {id(p): name for name, p in model.named_parameters()}
        plain = {named[id(p)] for p in groups["plain"]}
        assert {"cls_token", "reg_token", "pos_embed", "norm.weight", "head.bias"} <= plain
        assert all(p.ndim == 2 for p in groups["matrices"])


def test_the_rate_rises_and_falls_to_zero() -> None:
    config = OptimConfig(warmup=0.1)
    assert [lr_at(p, config) for p in (0.0, 0.05, 0.1, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 0.0])
    falling = [lr_at(0.1 + 0.09 * i, config) for i in range(11)]
    assert falling == sorted(falling, reverse=True)
    assert lr_at(0.0, OptimConfig(warmup=0.0)) == 1.0


@pytest.mark.parametrize("name", ["muon", "adamw"])
def test_a_step_moves_every_parameter_and_a_zero_rate_none(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(ViTConfig(image_size=8, width=16, depth=1, heads=2))
    optimizers = build_optimizers(model, OptimConfig(name=name))

    def step(factor: float) -> list[str]:
        before = {n: p.detach().clone() for n, p in model.named_parameters()}
        set_lr(optimizers, factor)
        model(torch.randn(4, 3, 8, 8)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        return [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]

    assert step(0.0) == []
    assert step(1.0) == [n for n, _ in model.named_parameters()]


@pytest.mark.parametrize(
    "values", [{"name": "sgd"}, {"lr": 0.0}, {"muon_lr": float("nan")}, {"weight_decay": -1.0}, {"warmup": 1.0}]
)
def test_impossible_rules_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)) if "name" not in values else "unknown optimiser"):
        OptimConfig(**values)  # type: ignore[arg-type]
