"""Threads: the fastest number is found on the run's own steps, and found again when the machine changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vitreous import train as training
from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.pace import CURIOSITY, HOPELESS, PATIENCE, Pace, candidates
from vitreous.train import train


class Machine:
    """A made-up machine on which a step takes as long as ``cost`` says for the threads in use."""

    def __init__(self, counts: tuple[int, ...], cost: Callable[[int], float]) -> None:
        self.cost, self.now, self.in_use = cost, 0.0, counts[0]
        self.used: list[int] = []
        self.pace = Pace(counts, use=self._use)

    def _use(self, count: int) -> None:
        self.in_use = count

    def run(self, seconds: float, side: int = 32) -> list[str]:
        said, end = [], self.now + seconds
        while self.now < end:
            took = self.cost(self.in_use)
            self.used.append(self.in_use)
            self.now += took
            if sentence := self.pace.step(side, took, self.now):
                said.append(sentence)
        return said


def test_candidates_are_all_half_a_quarter_and_one() -> None:
    assert candidates(16) == (16, 8, 4, 1)
    assert candidates(2) == (2, 1)
    assert candidates(1) == (1,)


def test_alone_on_a_machine_all_threads_are_kept_and_nothing_is_said() -> None:
    machine = Machine((2, 1), lambda threads: 0.2 / threads)
    assert machine.run(30) == []
    assert machine.in_use == 2
    assert machine.used.count(1) <= 4


def test_beside_a_busy_neighbour_one_thread_is_found_within_ten_steps() -> None:
    machine = Machine((2, 1), lambda threads: {2: 0.43, 1: 0.26}[threads])
    (said,) = machine.run(10)
    assert "1 thread from now on" in said
    assert machine.used[12:] == [1] * len(machine.used[12:])


def test_a_neighbour_that_comes_and_goes_is_noticed_both_times() -> None:
    busy = False
    machine = Machine((2, 1), lambda threads: ({2: 0.43, 1: 0.26} if busy else {2: 0.14, 1: 0.25})[threads])
    machine.run(PATIENCE + 5)
    assert machine.in_use == 2
    busy = True
    machine.run(15)
    assert machine.in_use == 1
    busy = False
    machine.run(CURIOSITY + 10)
    assert machine.in_use == 2


def test_a_slowdown_that_no_number_of_threads_mends_is_asked_about_once() -> None:
    factor = 1.0
    machine = Machine((2, 1), lambda threads: factor * 0.2 / threads)
    machine.run(PATIENCE + 5)
    factor = 2.0
    before = machine.used.count(1)
    machine.run(60)
    assert 0 < machine.used.count(1) - before <= 4


def test_a_hopeless_candidate_gets_one_step() -> None:
    machine = Machine((16, 8, 4, 1), lambda threads: 1.6 / threads)
    machine.run(3)
    assert HOPELESS * 0.1 < 1.6
    assert machine.used.count(1) == 1
    assert machine.in_use == 16


def test_larger_pictures_are_no_slowdown() -> None:
    machine = Machine((2, 1), lambda threads: 0.1 / threads)
    machine.run(20, side=24)
    machine.cost = lambda threads: 0.2 / threads
    before = machine.used.count(1)
    machine.run(20, side=32)
    assert machine.used.count(1) == before


def test_one_thread_is_never_tried_against_anything() -> None:
    machine = Machine((1,), lambda threads: 0.1)
    assert machine.run(100) == []


@pytest.mark.parametrize("asked", [0, 1])
def test_a_run_leaves_the_number_of_threads_as_it_found_it(
    asked: int, tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    torch.set_num_threads(2)
    train(dataclasses.replace(tiny_run, steps=2, threads=asked), tmp_path / "run", squares)
    assert torch.get_num_threads() == 2


@pytest.mark.parametrize(("limit", "paced"), [({"budget": 4.0}, True), ({"steps": 9}, False)])
def test_only_a_run_with_a_budget_is_paced_and_says_so(
    limit: dict[str, float], paced: bool, tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: Any
) -> None:
    used: list[int] = []
    monkeypatch.setattr(training, "candidates", lambda most: (1, 3))
    monkeypatch.setattr(training, "Pace", lambda counts: Pace(counts, use=used.append))
    config = dataclasses.replace(tiny_run, **{"steps": None, **limit})
    train(config, tmp_path / "run", squares)
    assert (used[:2] == [1, 3]) == paced
