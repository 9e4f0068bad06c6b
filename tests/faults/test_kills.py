"""A run that is killed, stopped or suspended at any moment comes to what the uninterrupted run comes to."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import MODEL, VARIANTS, Child, left_over, outcome, resume, same, train
from safetensors.torch import load_file

from vitreous import checkpoint
from vitreous.classifier import Classifier

Whole = Callable[[str], dict[str, Any]]


@pytest.mark.parametrize("variant", ["everything", *(pytest.param(v, marks=pytest.mark.full) for v in VARIANTS)])
def test_killed_at_random_moments_and_resumed_it_equals_the_uninterrupted_run(
    variant: str, pictures: Path, tmp_path: Path, uninterrupted: Whole, tally: Counter[str], full: bool
) -> None:
    whole, run = uninterrupted(variant), tmp_path / "run"
    lives = 7 if full else 3
    draw = random.Random(variant)
    kills, mid_save = 0, 0
    child = train(pictures, run, *VARIANTS[variant], save_always=True, slow_save=0.03)
    for kill in range(lives - 1):
        word = ("save", "")[kill % 2]  # every other time something that happens in a save
        count = sum(line.startswith(word) for line in whole["heard"])
        if not child.until(word, draw.randrange(1, 2 * count // lives)):
            break  # it went on from so late that it ended before
        time.sleep(draw.uniform(0, 0.1))
        child.strike()
        assert child.end() == -signal.SIGKILL
        kills += 1
        mid_save += any(run.glob("checkpoints/*.partial")) or (run / "classifier.partial").exists()
        child = resume(pictures, run, save_always=True, slow_save=0.03)
    assert child.end() == 0, child.said
    assert same(outcome(run), whole)
    assert left_over(run) == []
    tally["kills survived, to the bit"] += kills
    tally["of them in the middle of a save"] += mid_save


@pytest.mark.full
def test_a_kill_in_the_middle_of_a_save_costs_what_came_after_the_save_before(
    pictures: Path, tmp_path: Path, uninterrupted: Whole
) -> None:
    run = tmp_path / "run"
    child = train(pictures, run, *VARIANTS["everything"], save_always=True, slow_save=0.3)
    assert child.until("step 9")
    assert child.until("save", 2)
    child.strike()
    child.end()
    assert any(run.glob("checkpoints/*.partial"))
    last = checkpoint.latest(run)
    assert last is not None
    assert 8 <= last[1]["step"] <= 9
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert same(outcome(run), uninterrupted("everything"))


PHASES = {"scan": ("scan", 1), "start": ("start", 1), "step": ("step", 17), "look": ("look", 1), "save": ("save", 4)}


@pytest.mark.parametrize(
    "phase", [pytest.param(p, marks=[] if p == "look" else pytest.mark.full) for p in [*PHASES, "last look"]]
)
def test_sigterm_ends_it_with_its_code_at_most_one_step_lost(
    phase: str, pictures: Path, tmp_path: Path, uninterrupted: Whole, tally: Counter[str]
) -> None:
    run = tmp_path / "run"
    child = train(pictures, run, *VARIANTS["everything"], slow_step=0.02, slow_save=0.05, slow_look=0.5)
    word, count = PHASES.get(phase, ("classifier", 1))
    assert child.until(word, count)
    if phase == "last look":
        assert child.until("look")
    reached = max((int(line.split()[1]) for line in child.heard if line.startswith("step")), default=0)
    began = time.monotonic()
    child.strike(signal.SIGTERM)
    assert child.end() == 130, child.said
    took = time.monotonic() - began - child.waited
    assert took < 30
    tally["SIGTERMs obeyed"] += 1
    if phase == "scan":
        assert not run.exists()
        child = train(pictures, run, *VARIANTS["everything"])
    else:
        last = checkpoint.latest(run)
        assert (last[1]["step"] if last else 0) >= reached
        child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert same(outcome(run), uninterrupted("everything"), but_looks=phase not in ("scan", "start"))
    assert left_over(run) == []


@pytest.mark.full
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_ends_it_at_once_and_the_checkpoint_before_loads(
    number: signal.Signals, pictures: Path, tmp_path: Path, uninterrupted: Whole
) -> None:
    run = tmp_path / "run"
    child = train(pictures, run, *VARIANTS["everything"], slow_step=0.1)
    assert child.until("save", 4)
    assert child.until("step", 2)
    child.strike(signal.SIGKILL)
    child.end()
    before = checkpoint.latest(run)
    assert before is not None
    child = resume(pictures, run, slow_save=4.0, slow_step=0.1)  # the save of the first signal takes a while
    assert child.until("step", 3)
    child.strike(number)
    time.sleep(1)
    assert child.process.poll() is None
    began = time.monotonic()
    child.strike(number)
    assert child.end() == 130
    assert time.monotonic() - began - child.waited < 2
    after = checkpoint.latest(run)
    assert after is not None
    assert after[1]["step"] == before[1]["step"]
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert same(outcome(run), uninterrupted("everything"))


@pytest.mark.full
def test_a_loss_that_is_no_number_ends_it_and_every_checkpoint_holds_numbers(pictures: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    rates = [word for name in ("lr", "muon_lr") for word in ("--set", f"optim.{name}=1e18")]
    child = train(pictures, run, *rates, "--set", "optim.warmup=0.5", save_always=True)
    assert child.end() == 2
    assert "Try lower rates" in child.said
    assert checkpoint.found(run)
    for folder in checkpoint.found(run):
        assert all(tensor.isfinite().all() for tensor in load_file(folder / checkpoint.TENSORS).values())


@pytest.mark.full
def test_a_wall_clock_that_jumps_changes_nothing(pictures: Path, tmp_path: Path, uninterrupted: Whole) -> None:
    run = tmp_path / "run"
    child = train(pictures, run, *VARIANTS["everything"], clock_jumps=True)
    assert child.end() == 0, child.said
    assert same(outcome(run), uninterrupted("everything"))


BUDGET = 20.0


def budget_run(pictures: Path, run: Path, **faults: float) -> Child:
    return Child(run.parent, "train", pictures, "--out", run, "--budget", f"{BUDGET:g}s", *MODEL, **faults)


@pytest.mark.full
def test_a_budget_is_kept_though_the_clock_jumps_and_the_process_is_suspended(
    pictures: Path, tmp_path: Path, tally: Counter[str]
) -> None:
    child = budget_run(pictures, tmp_path / "run", clock_jumps=True)
    assert child.until("step", 30)
    os.kill(child.process.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(child.process.pid, signal.SIGCONT)
    assert child.end() == 0, child.said
    took = time.monotonic() - child.began
    tally["seconds over the budget, suspended for 4 of them"] += round(took - child.waited - BUDGET, 1)
    assert took < 1.05 * BUDGET + 1 + child.waited


@pytest.mark.full
def test_a_killed_budget_run_goes_on_with_what_is_left_of_it(
    pictures: Path, tmp_path: Path, tally: Counter[str]
) -> None:
    run = tmp_path / "run"
    child = budget_run(pictures, run, save_always=True)
    assert child.until("step", 40)
    child.strike()
    child.end()
    last = checkpoint.latest(run)
    assert last is not None
    tally["steps lost by a kill in a budget run, of 40"] += 40 - last[1]["step"]
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    spent = last[1]["elapsed"] + time.monotonic() - child.began
    assert spent < 1.05 * BUDGET + 1 + child.waited
    assert Classifier.load(run).provenance["seconds"] == pytest.approx(spent, abs=1.5 + child.waited)
