"""How many threads train fastest, found out on the very steps of the run, and again when the machine changes.

More threads are not always faster: where another program wants a core, the threads of a step wait at every barrier for
the one that has none, and one thread alone can be faster than two. Nobody knows that when the run starts, so candidates
take turns on real steps (no step is wasted) and the fastest goes on. It is asked again when steps become much slower
than they were, and now and then while fewer threads than there could be are in use.

The number of threads changes the order of sums and so the last bits of a result: only runs with a budget, which depend
on the machine's speed anyway, are paced.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch

TRIAL = 4
"""Steps of each candidate in a trial; the first of them warms up and is not counted."""
HOPELESS = 2.0
"""Times as long as the fastest candidate so far: then one step says enough."""
RECENT = 12
"""Steps over which the present speed is judged."""
SLOWER = 1.35
"""Times as long as after the last trial: then the machine is taken to have changed."""
PATIENCE = 10.0
"""Seconds between two trials, at least."""
CURIOSITY = 60.0
"""Seconds until a run that uses fewer threads than it could asks whether more would be faster by now."""


def candidates(most: int) -> tuple[int, ...]:
    """Numbers of threads worth trying: all, half, a quarter, one; the most first."""
    return tuple(sorted({most, max(1, most // 2), max(1, most // 4), 1}, reverse=True))


class Pace:
    """Told the seconds of every step; sets torch's number of threads. ``use`` is what sets it, for tests."""

    def __init__(self, counts: tuple[int, ...], use: Callable[[int], None] = torch.set_num_threads) -> None:
        self.counts, self.use = counts, use
        self.threads = counts[0]
        self._trial: dict[int, list[float]] = {}
        self._queue = list(counts) if len(counts) > 1 else []
        """Candidates whose turn is still to come in the trial that is going on."""
        self._recent: list[float] = []
        self._usual: float | None = None
        self._side, self._since = 0, 0.0

    def step(self, side: int, seconds: float, now: float) -> str | None:
        """One step on pictures of ``side`` pixels took ``seconds`` and ended at ``now``.

        Returns a sentence where a trial ended with another number of threads than the one before.
        """
        if len(self.counts) == 1:
            return None
        if side != self._side:  # another size has another usual speed: what was seen so far says nothing
            self._side, self._usual = side, None
            self._recent.clear()
            self._trial.clear()
            if self._queue:
                self._begin(now)
            return None
        if self._queue:
            return self._try(seconds, now)
        self._recent = [*self._recent[-RECENT + 1 :], seconds]
        if len(self._recent) < RECENT:
            return None
        typical = statistics.median(self._recent)
        if self._usual is None:
            self._usual = typical
        slow = typical > SLOWER * self._usual and now - self._since > PATIENCE
        curious = self.threads < self.counts[0] and now - self._since > CURIOSITY
        if slow or curious:
            self._begin(now)
        return None

    def _begin(self, now: float) -> None:
        self._queue, self._since = list(self.counts), now
        self._trial.clear()
        self.use(self._queue[0])

    def _try(self, seconds: float, now: float) -> str | None:
        trying = self._queue[0]
        times = self._trial.setdefault(trying, [])
        times.append(seconds)
        best_so_far = min(
            (statistics.median(ended[1:]) for ended in self._trial.values() if len(ended) > 1), default=seconds
        )
        if len(times) < TRIAL and seconds < HOPELESS * best_so_far:
            return None
        self._queue.pop(0)
        if self._queue:
            self.use(self._queue[0])
            return None
        speeds = {count: statistics.median(times[1:] or times) for count, times in self._trial.items()}
        best = min(speeds, key=lambda count: speeds[count])
        self.use(best)
        changed, self.threads = best != self.threads, best
        self._recent.clear()
        self._usual, self._since = None, now
        if not changed:
            return None
        told = ", ".join(f"{count} {1000 * took:.0f} ms" for count, took in speeds.items())
        return f"{best} thread{'s' * (best > 1)} from now on, the fastest at this moment (a step takes with {told})"
