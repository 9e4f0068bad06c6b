"""What a step costs, counted: the operations are those that torch counts, and cost grows as it must."""

from __future__ import annotations

import pytest

from vitreous.cnn import CNNConfig
from vitreous.cost import TRAINING, Cost, Machine, step_cost
from vitreous.models import build_model, count_flops, count_parameters
from vitreous.vit import ViTConfig

STEMS = [("patch", 0, False), ("conv", 0, False), ("conv", 1, False), ("conv", 2, False), ("conv", 1, True)]


@pytest.mark.parametrize(("stem", "early", "whiten"), STEMS)
@pytest.mark.parametrize("side", [16, 32, 64])
def test_operations_are_those_that_torch_counts(stem: str, early: int, whiten: bool, side: int) -> None:
    config = ViTConfig(depth=3, stem=stem, stem_early=early, stem_whiten=whiten)
    batch = 10_000  # so that the update, once a step, does not count
    counted = TRAINING * batch * count_flops(config, side)
    assert step_cost(config, batch, side).flops == pytest.approx(counted, rel=0.03)


@pytest.mark.parametrize(("stem", "early", "whiten"), STEMS)
def test_parameters_are_those_of_the_model_but_for_positions_and_head(stem: str, early: int, whiten: bool) -> None:
    config = ViTConfig(stem=stem, stem_early=early, stem_whiten=whiten)
    assert step_cost(config, 1).parameters == pytest.approx(count_parameters(build_model(config)), rel=0.02)


def test_twice_the_pictures_cost_twice_the_operations_and_attention_grows_with_the_square_of_tokens() -> None:
    config = ViTConfig()
    one, two = step_cost(config, 256), step_cost(config, 512)
    assert two.flops / one.flops == pytest.approx(2, rel=0.02)
    assert two.started == one.started
    few, many = (step_cost(config, 1, side).kept for side in (512, 1024))
    assert 12 < many / few < 16


def test_a_machine_adds_the_time_of_all_three() -> None:
    assert Machine(10.0, 5.0, 2.0).seconds(Cost(20.0, 10.0, 4.0, 0.0, 0.0)) == 6.0


def test_a_cnn_is_referred_to_counting() -> None:
    with pytest.raises(ValueError, match="the cost of a resnet is not modelled"):
        step_cost(CNNConfig("resnet", 32, 3, 10, (16, 32), 1), 1)
