"""What a run will come to: told before it starts, and true."""

from __future__ import annotations

import dataclasses
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path

import pytest
from test_cli import TINY, call

from vitreous.config import Phase, RunConfig
from vitreous.data import DataSet
from vitreous.forecast import MEASURED, expected_accuracy, forecast
from vitreous.jobs import plan_on
from vitreous.models import count_flops
from vitreous.optim import OptimConfig
from vitreous.recipes import Wish
from vitreous.train import train

ROWS = Path(__file__).parent.parent / "bench" / "time_to_accuracy.jsonl"


@pytest.mark.alone
def test_a_budget_run_sees_about_as_many_pictures_as_was_foretold(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    config = dataclasses.replace(tiny_run, steps=None, budget=6.0, evaluations=0)
    expected = forecast(config, squares, time.monotonic())
    result = train(config, tmp_path / "run", squares)
    assert expected.seconds == 6.0
    assert 0.4 < expected.images / result.images < 2.5
    assert expected.epochs == expected.images / 128


def test_a_budget_that_training_would_refuse_is_refused(squares: DataSet, tiny_run: RunConfig) -> None:
    with pytest.raises(ValueError, match=r"too short.*\n.*--budget"):
        forecast(dataclasses.replace(tiny_run, steps=None, budget=0.3), squares, time.monotonic())


def test_a_run_of_steps_is_foretold_exactly_and_costs_three_times_the_way_forwards(
    squares: DataSet, tiny_run: RunConfig
) -> None:
    expected = forecast(tiny_run, squares, time.monotonic())
    assert expected.images == 30 * 16
    assert expected.flops == 3 * 480 * count_flops(tiny_run.model)


def test_a_probe_takes_each_picture_through_the_model_once(squares: DataSet, tiny_run: RunConfig) -> None:
    config = dataclasses.replace(tiny_run, probe=True, optim=OptimConfig(freeze=True))
    expected = forecast(config, squares, time.monotonic())
    assert expected.images == 480
    assert expected.flops == 128 * count_flops(tiny_run.model)


def test_every_picture_size_counts_with_its_share(squares: DataSet, tiny_run: RunConfig) -> None:
    small, large = (count_flops(tiny_run.model, size) for size in (4, 8))
    config = dataclasses.replace(tiny_run, phases=(Phase(4, 0.5), Phase(8, 0.5)))
    expected = forecast(config, squares, time.monotonic())
    assert expected.flops == pytest.approx(3 * 240 * (small + large))


def test_the_measured_curves_are_the_means_of_the_rows() -> None:
    found: dict[tuple[str, str, str, int], list[tuple[int, float]]] = defaultdict(list)
    for line in ROWS.read_text().splitlines():
        row = json.loads(line)
        name = row["data"].removesuffix(" (JPEG copy)")
        found[name, row["recipe"], row["budget"], row["hardware"]["threads"]].append(
            (row["images"], row["test_accuracy"])
        )
    points: dict[tuple[str, str], set[tuple[int, float]]] = defaultdict(set)
    for (name, recipe, *_), rows in found.items():
        images, accuracies = zip(*rows, strict=True)
        points[name, recipe].add((round(statistics.mean(images)), round(statistics.mean(accuracies), 3)))
    for key, curve in MEASURED.items():
        assert set(curve) == points[key], key


def test_between_two_measured_points_the_accuracy_lies_between_theirs() -> None:
    (few, low), (more, high), *_ = MEASURED["CIFAR-10", "nano-conv"]
    middle = expected_accuracy("CIFAR-10 (JPEG copy)", "nano-conv", round((few * more) ** 0.5))
    assert middle is not None
    assert low < middle < high
    assert expected_accuracy("CIFAR-10", "nano-conv", round(few)) == pytest.approx(low)
    assert expected_accuracy("CIFAR-10", "nano-conv", 10**9) == MEASURED["CIFAR-10", "nano-conv"][-1][1]


@pytest.mark.parametrize(
    ("changes", "recipe", "known"),
    [
        ({}, "nano-conv", True),
        ({"threads": "1", "data.val_fraction": "0.2"}, "nano-conv", True),
        ({"model.depth": "2", "recipe": "nano-conv"}, "nano-conv", True),  # as planned, too
        ({"model.image_size": "16"}, "nano-conv", False),
        ({"data.balance": "1"}, "nano-conv-changed", False),
        ({"model.width": "64"}, "nano-conv-changed", False),
        ({"optim.lr": "0.01", "recipe": "nano-conv"}, "nano-conv-changed", False),
        ({"optim.lr": "0.01", "recipe": "mine"}, "mine", False),
    ],
)
def test_what_was_changed_by_hand_is_not_told_the_accuracy_of_what_was_measured(
    changes: dict[str, str], recipe: str, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(MEASURED, ("digits", "nano-conv"), ((2, 0.5), (1000, 0.9)))
    monkeypatch.setattr("vitreous.forecast.SIDE", 8)
    config, _, told = plan_on(Wish("digits", steps=2), changes=changes)
    assert config.recipe == recipe
    assert (told.accuracy is not None) is known
    assert any("nobody knows" in sentence for sentence in told.sentences()) is not known


def test_nothing_is_told_of_data_that_nobody_measured() -> None:
    assert expected_accuracy("pets", "nano-conv", 100_000) is None
    assert expected_accuracy("CIFAR-10", "nano-conv", 100) is None


def test_plan_prints_and_trains_nothing(tmp_path: Path) -> None:
    outcome = call("train", "digits", "--out", tmp_path / "run", "--plan", "--json", *TINY)
    assert outcome.exit_code == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    assert told["forecast"]["images"] == 32
    assert told["config"]["steps"] == 2
    assert "TFLOP" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_plan_of_a_run_that_is_there_is_refused(tmp_path: Path) -> None:
    outcome = call("train", "digits", "--out", tmp_path, "--plan", "--resume")
    assert outcome.exit_code == 2
    assert "--plan goes with neither --resume nor --like" in outcome.stderr
