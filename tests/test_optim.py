"""Every parameter learns by exactly one rule, and rates follow the run's progress."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from vitreous.models import build_model
from vitreous.optim import (
    FullMuon,
    FullTurningMuon,
    OptimConfig,
    TurningMuon,
    WholeMuon,
    build_optimizers,
    freeze,
    layer_shares,
    lr_at,
    orthogonal,
    parameter_groups,
    set_lr,
)
from vitreous.vit import ViTConfig


def test_every_parameter_is_in_exactly_one_group() -> None:
    for stem, early, whiten in (("patch", 0, False), ("conv", 0, False), ("conv", 1, False), ("conv", 1, True)):
        model = build_model(ViTConfig(depth=1, registers=2, stem=stem, stem_early=early, stem_whiten=whiten))
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


class NumberTypes(TorchDispatchMode):
    """Collects the number types of whatever is computed."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen |= {value.dtype for value in (result, *args) if isinstance(value, torch.Tensor)}
        return result


@pytest.mark.parametrize("built_in", [True, False])
def test_muon_computes_in_bf16_only_where_that_is_built_in(built_in: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.optim.bf16_built_in", lambda device: built_in)
    model = build_model(ViTConfig(image_size=8, width=16, depth=1, heads=2))
    optimizers = build_optimizers(model, OptimConfig())
    model(torch.randn(4, 3, 8, 8)).square().sum().backward()
    with NumberTypes() as types:
        for optimizer in optimizers:
            optimizer.step()
    assert (torch.bfloat16 in types.seen) is built_in


@pytest.mark.parametrize(("first_has_it", "kind"), [(True, torch.optim.Muon), (False, FullMuon)])
def test_all_processes_compute_muon_as_the_first_does(
    first_has_it: bool, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.optim.bf16_built_in", lambda device: not first_has_it)  # this is another one
    monkeypatch.setattr("vitreous.ranks.told", lambda values: [float(first_has_it)])
    _, muon = build_optimizers(build_model(ViTConfig(image_size=8, width=16, depth=1, heads=2)), OptimConfig())
    assert type(muon) is kind


@pytest.mark.parametrize("shape", [(24, 24), (8, 96), (96, 8)])
def test_muon_in_full_precision_is_torchs_and_takes_over_its_state(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)  # so that torch's is in full precision, too
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3, *shape)
    settings: Any = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    torchs, full = torch.optim.Muon([weights[0]], **settings), FullMuon([weights[1]], **settings)
    for step, gradient in enumerate(gradients):
        for weight, optimizer in zip(weights, (torchs, full), strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
        torch.testing.assert_close(weights[1], weights[0])
        assert (weights[0] - start).abs().max() > 0.01
        if step == 1:
            full.load_state_dict(copy.deepcopy(torchs.state_dict()))


@pytest.mark.parametrize("kind", [TurningMuon, FullTurningMuon])
@pytest.mark.parametrize("shape", [(24, 24), (8, 96), (96, 8)])
def test_a_step_turns_filters_by_the_rate_whatever_their_size(kind: type, shape: tuple[int, int]) -> None:
    start, gradient = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    turned = []
    for scale in (1.0, 32.0):  # a power of 2, which bf16 divides by to the bit
        weight = torch.nn.Parameter(start * scale)
        optimizer = kind([weight], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
        weight.grad = gradient / scale  # as it is where what they compute is normalised
        optimizer.step()
        turned.append(weight.detach())
    torch.testing.assert_close(*turned)
    held = start / start.square().mean().sqrt() * 0.2
    assert ((turned[0] - held).norm() / held.norm()).item() == pytest.approx(0.1, rel=0.25)


def test_filters_before_a_normalisation_learn_by_their_own_rate_if_one_is_set() -> None:
    model = build_model(ViTConfig(depth=1, stem="conv", stem_early=1))
    named = dict(model.named_parameters())

    def rates(config: OptimConfig) -> dict[str, float]:
        groups = [group for optimizer in build_optimizers(model, config) for group in optimizer.param_groups]
        peaks = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
        assert len(peaks) == len(named)
        return {name: peaks[id(p)] for name, p in named.items()}

    filters = {"patch_embed.first.weight", "patch_embed.stages.1.weight", "patch_embed.residual.0.weight"}
    plain, own = rates(OptimConfig()), rates(OptimConfig(filter_lr=0.125))
    assert {plain[name] for name in filters} == {OptimConfig().muon_lr}
    assert {own[name] for name in filters} == {0.125}
    adamw = rates(OptimConfig(name="adamw", filter_lr=0.125))
    assert set(adamw.values()) == {OptimConfig().lr}  # it turns nothing
    assert own["blocks.0.attn.qkv.weight"] == plain["blocks.0.attn.qkv.weight"]
    assert len([name for name in named if own[name] == 0.125]) == 6  # early=1, two stages, two residual on the grid


@pytest.mark.parametrize("kind", [torch.optim.Muon, FullMuon, TurningMuon])
def test_muon_of_parts_is_muon_of_the_whole(kind: type[torch.optim.Muon]) -> None:
    """One process holds all rows; of two, test_parallel.py."""
    settings: Any = {"lr": 0.02, "weight_decay": 0.3, "momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    weights = [torch.nn.Parameter(torch.ones(8, 24)) for _ in range(2)]
    optimizers = kind([weights[0]], **settings), WholeMuon(kind, [weights[1]], **settings)
    for gradient in torch.randn(3, 8, 24, generator=torch.Generator().manual_seed(0)):
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(*weights)
    assert not torch.equal(weights[0], torch.ones(8, 24))


@pytest.mark.parametrize("shape", [(24, 24), (8, 96), (96, 8)])
def test_an_orthogonal_matrix_has_even_singular_values(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    values = torch.linalg.svdvals(orthogonal(1000 * matrix, (3.4445, -4.7750, 2.0315), 8))
    assert 0.6 < values.min() < values.max() < 1.3
    assert torch.equal(orthogonal(torch.zeros(shape), (3.4445, -4.7750, 2.0315), 5), torch.zeros(shape))


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


def test_each_layer_learns_slower_than_the_one_after_it() -> None:
    model = build_model(ViTConfig(depth=2, image_size=8, width=16, heads=2))
    named = dict(model.named_parameters())
    shares = layer_shares(model, 0.5)
    expected = {"head.weight": 1, "norm.bias": 1, "blocks.1.attn.qkv.weight": 0.5, "blocks.0.norm1.weight": 0.25}
    expected |= {"cls_token": 0.125, "pos_embed": 0.125, "patch_embed.proj.weight": 0.125}
    assert {name: shares[named[name]] for name in expected} == expected
    for name in ("muon", "adamw"):
        config = OptimConfig(name=name, layer_decay=0.5)
        groups = [group for optimizer in build_optimizers(model, config) for group in optimizer.param_groups]
        rates = {id(p): group["peak_lr"] for group in groups for p in group["params"]}
        peak = config.muon_lr if name == "muon" else config.lr
        assert rates[id(named["blocks.0.mlp.fc1.weight"])] == 0.25 * peak
        assert rates[id(named["head.weight"])] == config.lr
        assert len(rates) == len(named)


def test_a_frozen_model_has_its_head_to_learn_alone() -> None:
    model = build_model(ViTConfig(depth=1, image_size=8, width=16, heads=2))
    freeze(model)
    (optimizer,) = build_optimizers(model, OptimConfig())
    learning = {id(p) for group in optimizer.param_groups for p in group["params"]}
    assert learning == {id(p) for p in model.head.parameters()}


@pytest.mark.parametrize(
    "values",
    [
        {"name": "sgd"},
        {"lr": 0.0},
        {"muon_lr": float("nan")},
        {"weight_decay": -1.0},
        {"warmup": 1.0},
        {"layer_decay": 0.0},
        {"filter_lr": 1.0},
    ],
)
def test_impossible_rules_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="unknown optimiser" if next(iter(values)) == "name" else next(iter(values))):
        OptimConfig(**values)  # type: ignore[arg-type]
