"""The real command line in a process that will suffer: ``python faulty.py '{"slow_save": 0.1}' train digits ...``.

What happens is told on standard output, a word a line and a number where there is one (``step 12``), so that whoever
watches can strike at a chosen moment. The faults are put in from here; the package knows nothing of them.
"""

from __future__ import annotations

import atexit
import json
import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

FAULTS = json.loads(sys.argv[1])


def tell(words: str) -> None:
    """One line in one piece, whichever thread speaks."""
    os.write(1, f"{words}\n".encode())


def told(word: str, call: Callable[..., Any], sleep: float = 0.0) -> Callable[..., Any]:
    """``call``, announced before it begins, and ``sleep`` seconds later."""

    def telling(*given: Any, **named: Any) -> Any:
        tell(word)
        time.sleep(sleep)
        return call(*given, **named)

    return telling


def jumping(read: Callable[[], float]) -> Callable[[], float]:
    """A wall clock that is set forwards and back by days at every look."""
    draw = random.Random(0)
    return lambda: read() + draw.uniform(-1e6, 1e6)


def arrange() -> None:
    """Puts the faults and the announcements in their places."""
    if FAULTS.get("clock_jumps"):
        time.time = jumping(time.time)
        time.time_ns = lambda: int(1e9 * time.time())
    from vitreous import jobs, saving, sealed, train
    from vitreous.classifier import Classifier

    jobs.load = told("scan", jobs.load)
    train.Run.__init__ = told("start", train.Run.__init__)  # type: ignore[method-assign]
    train.measure = told("look", train.measure, FAULTS.get("slow_look", 0.0))
    Classifier.save = told("classifier", Classifier.save)  # type: ignore[method-assign]
    sealed.sync = told("save", sealed.sync, FAULTS.get("slow_save", 0.0))
    train.LOG_STEPS = 1
    if FAULTS.get("save_always"):
        saving.Saver.due = lambda *given, **named: True  # type: ignore[method-assign]
    advance = train.Run.advance

    def step(run: train.Run, progress: float) -> float:
        tell(f"step {run.step}")
        time.sleep(FAULTS.get("slow_step", 0.0))
        return advance(run, progress)

    train.Run.advance = step  # type: ignore[method-assign]


def tell_waiting() -> None:
    """How long this process could have run but had no processor, as Linux counts it."""
    counts = Path("/proc/self/schedstat")
    if counts.exists():
        tell(f"waited {int(counts.read_text().split()[1]) / 1e9:.2f}")


if __name__ == "__main__":
    atexit.register(tell_waiting)
    leave = os._exit
    os._exit = lambda code: (tell_waiting(), leave(code))  # type: ignore[assignment]
    sys.argv[1:2] = []
    arrange()
    from vitreous.cli import main

    main()
