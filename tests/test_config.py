"""One source of defaults, JSON both ways, and messages that name the nearest setting."""

from __future__ import annotations

import pytest

from vitreous.config import Phase, RunConfig, from_json, override, to_json
from vitreous.vit import ViTConfig


def test_json_round_trip_keeps_every_field() -> None:
    config = RunConfig(budget=90.0, model=ViTConfig(depth=3), phases=(Phase(24, 0.5), Phase(32, 0.5)), ema=0.99)
    assert from_json(to_json(config)) == config


def test_set_reaches_nested_fields_and_converts_types() -> None:
    config = override(RunConfig(steps=5), {"optim.lr": "0.01", "model.depth": "2", "augment.flip": "false"})
    assert (config.optim.lr, config.model.depth, config.augment.flip) == (0.01, 2, False)


def test_set_reaches_phases() -> None:
    config = override(RunConfig(steps=5), {"phases": '[{"size": 16, "share": 0.5}, {"size": 32, "share": 0.5}]'})
    assert config.phases == (Phase(16, 0.5), Phase(32, 0.5))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optim.lrr": "1"}, "did you mean 'lr'"),
        ({"optmi.lr": "1"}, "did you mean 'optim'"),
        ({"batch.size": "1"}, "unknown setting 'batch.size'"),
        ({"batch": "many"}, "batch is 'many': it must be int"),
        ({"model": "3"}, "it has fields of its own"),
        ({"seed": "null"}, "seed must not be null"),
        ({"phases": "3"}, "must be a list"),
        ({"model.patch_size": "5"}, "does not divide"),
    ],
)
def test_impossible_settings_are_named(changes: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        override(RunConfig(steps=5), changes)


def test_exactly_one_length_is_given() -> None:
    with pytest.raises(ValueError, match="exactly one of budget, epochs and steps"):
        RunConfig()
    with pytest.raises(ValueError, match="exactly one"):
        RunConfig(budget=3.0, steps=3)
    with pytest.raises(ValueError, match="must be above 0"):
        RunConfig(steps=0)


def test_a_newer_format_and_unknown_keys_are_refused() -> None:
    text = to_json(RunConfig(steps=1))
    with pytest.raises(ValueError, match="format 99"):
        from_json(text.replace('"format": 1', '"format": 99'))
    with pytest.raises(ValueError, match="did you mean 'steps'"):
        from_json(text.replace('"steps"', '"stepz"'))
    with pytest.raises(ValueError, match="no JSON"):
        from_json("{")


def test_the_size_follows_the_phases_and_ends_at_the_model_s() -> None:
    config = RunConfig(steps=1, phases=(Phase(16, 1.0), Phase(24, 1.0), Phase(32, 2.0)))
    assert [config.size_at(p) for p in (0.0, 0.24, 0.26, 0.5, 1.0)] == [16, 16, 24, 32, 32]
    assert RunConfig(steps=1).size_at(0.0) == 32
    with pytest.raises(ValueError, match="no multiple of the patch"):
        RunConfig(steps=1, phases=(Phase(18, 1.0), Phase(32, 1.0)))
    with pytest.raises(ValueError, match="end at that"):
        RunConfig(steps=1, phases=(Phase(16, 1.0),))
