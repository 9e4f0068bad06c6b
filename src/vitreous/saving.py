"""Checkpoints beside training: tensors are copied in a moment, written by another thread, and never queue up.

How often is decided by what it costs: after a save that took training a tenth of a second (the copy, and the processor
time of the writer) the next one waits twenty. So small models are saved every few seconds and large ones every few
minutes, and a killed run loses no more than that.

:func:`newest` finds what to go on from. Not here: what a checkpoint is (checkpoint.py), what belongs to the state of a
run (train.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from vitreous import checkpoint, origin
from vitreous.classifier import classifier_folder
from vitreous.data import DataSet

SHARE = 0.005
"""Of the time of training, spent on saving."""
SECONDS = 10.0
"""Between two saves at least, unless there is a reason of its own."""
HEEDING = 0.1
"""Seconds that a wait may last before signals are heeded."""


class Saver:
    """Writes the checkpoints of one run. As a context it waits at its end for the one that is being written.

    What goes wrong while writing (a full disk) is raised where a save is next asked for or waited for. After Ctrl-C
    nobody waits: the checkpoint before is whole.
    """

    def __init__(self, run: Path) -> None:
        self.run = run
        self.seconds = 0.0
        """From the start of the latest whole save until it was on the disk."""
        self._cost = 0.0
        self._begun = float("-inf")
        self._writing: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def __enter__(self) -> Saver:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        leaves = kind is not None and issubclass(kind, KeyboardInterrupt)
        if self._writing and not leaves:
            _until(self._writing)
        self._writer.shutdown(wait=not leaves, cancel_futures=leaves)
        if kind is None:
            self.wait()

    def due(self, occasion: bool = False) -> bool:
        """Whether the last save is long enough ago to make its cost small, and without an ``occasion`` SECONDS ago."""
        if self._writing and not self._writing.done():
            return False
        self.wait()
        return time.monotonic() - self._begun > self.interval(occasion)

    def interval(self, occasion: bool = False) -> float:
        """Seconds from the last save to the next, by what the last one cost."""
        return max(0.0 if occasion else SECONDS, self._cost / SHARE)

    def begin(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Copies and returns; the writing goes on. Waits for the save before, if that is not over.

        Raises checkpoint.NotFinite where a tensor holds no numbers, OSError where the save before failed.
        """
        self.wait()
        self._begun = time.monotonic()
        copied = checkpoint.snapshot(tensors)
        self._cost = time.monotonic() - self._begun
        self._writing = self._writer.submit(self._write, step, copied, dict(state))

    def together(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Saves what is in parts on all processes, called by all of them; returns when it is on the disk.

        Raises checkpoint.NotFinite and OSError on all of them.
        """
        self._begun = time.monotonic()
        checkpoint.save_parts(self.run, step, tensors, state)
        self._cost = self.seconds = time.monotonic() - self._begun

    def wait(self) -> None:
        """Until the disk has the latest save. Raises OSError where that failed."""
        writing, self._writing = self._writing, None
        if writing:
            _until(writing)
            writing.result()

    def _write(self, step: int, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        begun = time.thread_time()
        checkpoint.save(self.run, step, tensors, state)
        self._cost += time.thread_time() - begun
        self.seconds = time.monotonic() - self._begun


def _until(writing: Future[None]) -> None:
    """Waits in short spells: the system may hand a signal to another thread, and this one heeds it only awake."""
    while not futures.wait([writing], timeout=HEEDING).done:
        pass


def newest(run: Path, data: DataSet, say: Callable[[str], None]) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """The newest whole checkpoint of a run, None where the run was killed before its first.

    ``say`` is told what is damaged, and which versions or hardware are not as they were. Raises ValueError, with what
    differs, where the pictures are others; and where there was something to go on from but no checkpoint is whole.
    """
    found = checkpoint.latest(run, say)
    if found is None:
        if checkpoint.found(run) or classifier_folder(run) != run:
            raise ValueError(f"{run} has no whole checkpoint to go on from: train it anew under another --out")
        say("the run was stopped before its first checkpoint: it begins anew")
        return None
    facts = found[1]
    if data.train and (changed := origin.differing(facts["data"], origin.pictures(data.train))):
        raise ValueError(f"the training pictures are not those that {run} was started with: {'; '.join(changed)}")
    if changed := origin.differing(facts["machine"], origin.machine()):
        say(f"not as before: {'; '.join(changed)}; what follows may differ in its last bits")
    return found
