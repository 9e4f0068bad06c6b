"""``vitreous bench`` times the steps of a run, and says what it timed."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import call

from vitreous import speed
from vitreous.classifier import Classifier
from vitreous.models import count_flops
from vitreous.recipes import Wish, model_for
from vitreous.state import Run

RATE = 1e12
"""Operations a second of this machine's matrix products, as far as these tests go."""
WISH = Wish("noise", steps=10, size="nano", stem="patch", device="cpu")


class Clock:
    """In place of the machine's: nothing takes time but what says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(speed, "perf_counter", lambda: self.now)

    def takes(self, seconds: Callable[[], float]) -> Callable[..., float]:
        """A function that does nothing for so long."""

        def called(*arguments: Any, **options: Any) -> float:
            self.now += seconds()
            return 1.0

        return called


def test_rates_are_pictures_over_the_seconds_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(Run, "advance", clock.takes(lambda: 0.05))
    monkeypatch.setattr(Classifier, "logits", clock.takes(lambda: 0.02))
    found = speed.measure(WISH, RATE, side=16, classes=7, seconds=0.2)
    assert found.batch == 128
    assert found.training == {16: pytest.approx(128 / 0.05)}
    assert found.one_picture == pytest.approx(0.02)
    assert found.together == pytest.approx(64 / 0.02)
    model = model_for("vit", "nano", "patch", 16, 3, 7)
    assert found.training_flops == pytest.approx(3 * count_flops(model, 16) * 128 / 0.05)


def test_every_picture_size_of_a_run_is_timed_in_its_order(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, advance = Clock(monkeypatch), Run.advance

    def by_pixels(run: Run, elapsed: float, size: int) -> float:
        clock.now += size**2 / 1e4
        return advance(run, elapsed, size)

    monkeypatch.setattr(Run, "advance", by_pixels)
    monkeypatch.setattr(Classifier, "logits", clock.takes(lambda: 0.01))
    found = speed.measure(Wish("noise", steps=10, size="nano", stem="conv", device="cpu"), RATE, seconds=0)
    assert list(found.training) == [24, 32]
    assert found.training == {size: pytest.approx(found.batch / (size**2 / 1e4)) for size in (24, 32)}
    assert found.recipe == "nano-conv"
    assert found.share_of_products == pytest.approx(found.training_flops / RATE)


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    speed.measure(WISH, RATE, side=8, classes=2, seconds=0)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("step", "fastest"), [(lambda: 0.02 * torch.get_num_threads(), 1), (lambda: 0.02, 2)])
def test_the_number_of_threads_is_the_fastest(
    step: Callable[[], float], fastest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(Run, "advance", clock.takes(step))
    monkeypatch.setattr(Classifier, "logits", clock.takes(lambda: 0.01))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        found = speed.measure(WISH, RATE, side=8, classes=2, seconds=0)
        assert found.threads == fastest
        assert found.training[8] == pytest.approx(128 / 0.02)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_command_prints_a_line_a_model_and_json() -> None:
    options = ("--stem", "patch", "--image-size", "16", "--seconds", "0", "--device", "cpu")
    outcome = call("bench", "--size", "nano", *options, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    told = json.loads(outcome.stdout)
    (row,) = told["models"]
    assert row["recipe"] == "nano-patch"
    assert list(row["training"]) == ["16"]
    assert told["products_flops"] > 0
    assert told["hardware"]["torch"] == torch.__version__
    assert "nano-patch" in outcome.stderr
    assert f"{row['parameters']:,}" in outcome.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--size", "nanno"], "unknown size 'nanno': did you mean 'nano'?"),
        (["--stem", "con"], "con"),
        (["--image-size", "4"], "8 pixels or more"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--seconds", "-1"], "0 to 600 seconds"),
    ],
)
def test_what_cannot_be_measured_is_refused(options: list[str], said: str) -> None:
    outcome = call("bench", *options)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
