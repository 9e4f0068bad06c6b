"""How far a run is, and when it must stop: at its deadline, after its steps, or when somebody asks."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType

from vitreous import ranks
from vitreous.config import RunConfig

ASKED_EVERY_STEP = 8
"""Processes, at most, that ask each other after every step; twice as many after every second one, and so on."""


@dataclass(frozen=True)
class Moment:
    """Where a run is between two steps: the same on each of its processes, by the first one's clock."""

    progress: float
    seconds: float
    stop: bool
    """Somebody asked one of the processes to stop."""


class TooShort(ValueError):
    """A budget leaves no time to train; with ``least`` seconds it would."""

    def __init__(self, told: str, least: int) -> None:
        super().__init__(told)
        self.least = least


class Clock:
    """Tells the progress of a run. ``elapsed`` counts from the command's start, and goes on where a killed run was."""

    def __init__(self, config: RunConfig, started: float, per_epoch: int) -> None:
        self.started, self.budget = started, config.budget
        self.begun = 0.0
        """Elapsed seconds when the first step began."""
        self.reserve = 0.0
        """Seconds kept for the final evaluation and for saving."""
        self.steps = config.steps if config.epochs is None else max(1, round(config.epochs * per_epoch))

    def elapsed(self) -> float:
        """Seconds since the command began, those before a kill included."""
        return time.monotonic() - self.started

    def progress(self, step: int) -> float:
        """From 0 at the first step to 1 when training is to stop."""
        if self.budget is None:
            assert self.steps is not None
            return step / self.steps
        span = self.budget - self.reserve - self.begun
        return min(1.0, (self.elapsed() - self.begun) / span) if span > 0 else 1.0

    def moment(self, step: int, stop: bool) -> Moment:
        """What the first process reads off this clock, told to all; ``stop`` from any of them is for all.

        Among many processes they ask each other about that only now and then, as often as costs little.
        """
        progress, seconds = ranks.told([self.progress(step), self.elapsed()])
        stops = step % math.ceil(ranks.world() / ASKED_EVERY_STEP) == 0 and ranks.anyone(stop)
        return Moment(progress, seconds, stops)

    def check(self) -> None:
        """Refuses a budget that leaves no time to train, and says which would."""
        if self.budget is None:
            return
        needed = self.begun + self.reserve
        if self.budget - needed < 0.2 * self.budget:
            least = math.ceil(1.25 * needed + 1)
            raise TooShort(
                f"a budget of {self.budget:g} s is too short: start and last evaluation take {needed:.0f} s here.\n"
                f"The least that works is --budget {least}s",
                least,
            )


@contextlib.contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that the first Ctrl-C or SIGTERM sets; the second acts as usual. Only the main thread can listen."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()
        for each, handler in before.items():
            signal.signal(each, handler)

    for number in before:
        signal.signal(number, stop)
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
