"""The training loop: one function from a config and pictures to a run folder with a classifier in it.

Every quantity that changes over a run (learning rate, picture size) is a function of its progress from 0 to 1. With a
budget, progress is the share of wall time that is gone, so the rate reaches zero at the deadline however fast or slow
the machine turns out to be; with epochs or steps, it is the share of the steps, and the run repeats to the bit.

It may be one of several processes that all call it alike: they share every batch, and the first one decides, writes
and tells. Not here: which config suits a budget (recipes.py), what a step does (state.py), the display (console.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from vitreous import checkpoint, distilling, parallel, ranks
from vitreous.classifier import Classifier
from vitreous.clock import TooShort, stop_signals
from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.looks import Stopped, final_seconds, measure, some
from vitreous.models import describe
from vitreous.pace import Pace, candidates
from vitreous.runs import Journal, claim, prepare, starting
from vitreous.saving import newest
from vitreous.state import LOG_STEPS, Run, check


@dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it."""

    phase: str
    """``probe``, ``teach`` (a teacher learns), ``train``, ``evaluate``, ``save`` or ``done``."""
    seconds: float
    budget: float | None = None
    step: int = 0
    steps: int | None = None
    """Planned steps; None in a budget run."""
    epoch: float = 0.0
    images: int = 0
    images_per_second: float = 0.0
    loss: float | None = None
    accuracy: float | None = None
    """Of the latest look at validation pictures."""
    lr: float = 0.0
    progress: float = 0.0
    note: str | None = None
    """An automatic choice and its reason, in a sentence."""


@dataclass(frozen=True)
class Result:
    """What a run left."""

    run: Path
    seconds: float
    images: int
    val_accuracy: float | None
    """On every validation picture; None where the run was interrupted."""
    classifier: Classifier
    interrupted: bool = False
    teaching: bool = False
    """Interrupted while its teacher learned, whose classifier this is."""


Watch = Callable[[Progress], None]

DEAR = 0.2
"""Of a budget: where the last look at validation pictures takes more, that is said."""
NEAR = 3.0
"""Times as long as that takes: so long before the deadline it is foreseen anew, for the machine may have changed."""


def train(
    config: RunConfig,
    out: str | Path,
    data: DataSet,
    *,
    resume: bool = False,
    watch: Watch | None = None,
    started: float | None = None,
    notes: Sequence[str] = (),
    weights: Callable[[], Mapping[str, Tensor]] | None = None,
) -> Result:
    """Trains a model into the run folder ``out``, which belongs to this process alone until it is over.

    ``notes`` are sentences on choices made before, which are told and kept in ``train.log`` with its own. A run that
    begins asks for ``weights`` to start from; what they do not name, or all without them, starts from random numbers.

    ``started`` is the ``time.monotonic()`` from which a budget counts, now if not given. With ``resume`` the newest
    whole checkpoint of ``out`` goes on under the same config; a run that was killed before its first begins anew.
    Raises ValueError (Diverged for a loss that is no number) with the fix, before work starts where that is possible;
    OSError where ``out`` cannot be written.
    """
    started = time.monotonic() if started is None else started
    folder, tell = Path(out), watch if watch and ranks.first() else (lambda progress: None)
    with claim(folder):
        if not resume:
            check(config, data)
        ranks.from_first(lambda: prepare(folder, config, resume))
        if not (folder / "config.json").exists():
            raise ValueError(
                f"process {ranks.rank()} cannot see {folder}: choose an --out on a disk that all machines share"
            )
        with contextlib.nullcontext() if resume else starting(folder):
            if config.first:
                taught = _teach(config.first, config.distill.time, folder, data, tell, started)
                if isinstance(taught, Result):
                    return taught
                notes = [*notes, f"its teacher has {taught:.1%} on validation pictures"]
            return _train(config, folder, data, resume, tell, started, notes, weights)


def _teach(
    config: RunConfig, time_share: float, folder: Path, data: DataSet, tell: Watch, started: float
) -> Result | float:
    """Trains the teacher of the run ``folder``, or goes on with it: its accuracy, or what there is when stopped."""
    place = folder / distilling.FOLDER
    accuracy, begun = ranks.from_first(lambda: (distilling.learned(folder), (place / "config.json").exists()))
    if accuracy is not None:
        return accuracy

    def watch(seen: Progress) -> None:
        if seen.phase in ("scan", "probe"):
            tell(seen)
        elif seen.phase != "done":
            tell(dataclasses.replace(seen, phase="teach"))

    note = f"first a teacher learns: {describe(config.model)}"
    tell(Progress("scan", time.monotonic() - started, config.budget, note=note))
    try:
        result = train(config, place, data, resume=begun, watch=watch, started=started)
    except TooShort as problem:
        raise ValueError(
            f"the teacher's share of the budget, {config.budget:g} s, is too short.\n"
            f"The least that works is --budget {math.ceil(problem.least / time_share)}s"
        ) from None
    if result.val_accuracy is None:
        return dataclasses.replace(result, run=folder, teaching=True)
    return result.val_accuracy


def _train(
    config: RunConfig,
    folder: Path,
    data: DataSet,
    resume: bool,
    tell: Watch,
    started: float,
    notes: Sequence[str],
    weights: Callable[[], Mapping[str, Tensor]] | None,
) -> Result:
    journal = Journal(folder)

    def note(phase: str, sentence: str) -> None:
        tell(Progress(phase, time.monotonic() - started, config.budget, note=sentence))
        journal.say(sentence)

    for sentence in notes:
        note("scan", sentence)
    past = ranks.from_first(lambda: newest(folder, data, lambda said: note("scan", said))) if resume else None
    run = Run(config, folder, data, started, past[1] if past else None)
    if past:
        run.restore(*past)
    elif weights:
        run.start_from(weights())
    clock, batches = run.clock, run.batches
    note("probe", run.plan.note)
    if resume:
        journal.forget_after(run.step)
        ranks.from_first(lambda: checkpoint.set_aside(folder, run.step))
    classifier = run.classifier(data.name)
    clock.reserve = reserve = final_seconds(classifier, run.validation, config.budget)
    glance = run.validation.select(some(len(run.validation), clock, config.evaluations))
    if not past:
        clock.begun = clock.elapsed()
        ranks.from_first(clock.check)
    if config.budget and reserve > DEAR * config.budget:
        note(
            "probe",
            f"saving and looking at all {len(run.validation):,} validation pictures at the end takes about "
            f"{reserve:.0f} of the {config.budget:.0f} s: to train longer, take a smaller size, a longer budget or, "
            f"where they are held out of the training pictures, --set data.val_fraction=0.02",
        )

    before = past[1]["plan"]["threads"] if past and config.budget is None else 0
    """Threads: sums in another order have other last bits. With a budget the fastest number is found anew."""
    now = clock.moment(run.step, stop=False)
    first_step, first_second = run.step, now.seconds
    loss, accuracy = Smooth(), run.accuracy
    looked: list[float] = []
    """Seconds of each look at validation pictures."""
    foreseen_anew = False
    run.learn()
    with stop_signals() as stopped, threads(config.threads or before) as most, run.saver:
        adapts = config.budget is not None and not config.threads and run.plan.device.type == "cpu"
        pace = Pace(candidates(most) if adapts else (most,))
        while now.progress < 1 and not now.stop:
            begun = time.perf_counter()
            value = run.advance(now.progress)
            if changed := pace.step(run.side, time.perf_counter() - begun, clock.elapsed()):
                note("train", changed)
            loss.add(value)
            now = clock.moment(run.step, stopped.is_set())
            seen = Progress(
                phase="train",
                seconds=now.seconds,
                budget=config.budget,
                step=run.step,
                steps=clock.steps,
                epoch=run.step / batches.per_epoch,
                images=run.step * batches.batch,
                images_per_second=(run.step - first_step) * batches.batch / max(1e-6, now.seconds - first_second),
                loss=loss.value,
                accuracy=accuracy,
                lr=run.optimizers[0].param_groups[0]["lr"],
                progress=now.progress,
            )
            tell(seen)
            if run.step % LOG_STEPS == 0:
                journal.write(**_line(seen, "train", value, None))
            looks_now = int(now.progress * config.evaluations) > run.looks and now.progress < 1
            if looks_now:
                begun = time.perf_counter()
                try:
                    look_loss, run.accuracy = measure(classifier, glance, run.plan, stopped)
                except Stopped:
                    now = dataclasses.replace(now, stop=True)
                    break
                run.looks, accuracy = int(now.progress * config.evaluations), run.accuracy
                looked.append(time.perf_counter() - begun)
                slower = statistics.median(looked[-3:]) / statistics.median(looked)
                clock.reserve = reserve * max(1.0, slower)  # the last evaluation will be slower as well
                journal.write(**_line(seen, "val", look_loss, accuracy), n=len(glance))
                tell(dataclasses.replace(seen, phase="evaluate", seconds=clock.elapsed(), accuracy=accuracy))
                run.learn()
            left = math.inf if config.budget is None else config.budget - now.seconds
            nears = left < NEAR * reserve and now.progress < 1 and not foreseen_anew
            if nears:
                foreseen_anew = True
                looked.clear()
                clock.reserve = reserve = final_seconds(classifier, run.validation, config.budget, warm=True)
                run.learn()
            (saves_now,) = ranks.told([run.saver.due(occasion=looks_now)])
            if saves_now:
                run.save()
            if looks_now or nears or saves_now:  # all take time
                now = clock.moment(run.step, stopped.is_set())
        interrupted = now.stop

        tell(Progress("save", clock.elapsed(), config.budget, run.step, clock.steps, accuracy=accuracy))
        run.save()
        run.saver.wait()
        images, final = run.step * batches.batch, None
        classifier.provenance.update(seed=config.seed, images=images, threads=most, val_accuracy=None)
        classifier = dataclasses.replace(classifier, model=parallel.in_one(classifier.model, config.model))
        ranks.from_first(lambda: classifier.save(folder / "classifier"))
        classifier = Classifier.load(folder / "classifier")
        if not interrupted:  # what is measured is what was saved
            classifier.model.to(run.plan.device)
            try:
                final_loss, final = measure(classifier, run.validation, stopped=stopped)
            except Stopped:
                interrupted = True
            classifier.model.to("cpu")
        if final is not None:
            last = Progress("done", clock.elapsed(), config.budget, run.step, epoch=run.step / batches.per_epoch)
            journal.write(**_line(last, "val", final_loss, final), n=len(run.validation), final=True)
            classifier.provenance.update(val_accuracy=final, seconds=round(clock.elapsed(), 1))
            ranks.from_first(lambda: classifier.save(folder / "classifier"))
    tell(Progress("done", clock.elapsed(), config.budget, run.step, clock.steps, images=images, accuracy=final))
    return Result(folder, clock.elapsed(), images, final, classifier, interrupted)


@contextlib.contextmanager
def threads(count: int) -> Iterator[int]:
    """Torch's number of threads, 0 for what it is, which is given out; afterwards it is as it was."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(count or before)
        yield count or before
    finally:
        torch.set_num_threads(before)


class Smooth:
    """A running mean that forgets, without the bias of its start."""

    def __init__(self, memory: float = 0.98) -> None:
        self.memory, self.total, self.weight = memory, 0.0, 0.0

    def add(self, value: float) -> None:
        self.total = self.memory * self.total + (1 - self.memory) * value
        self.weight = self.memory * self.weight + (1 - self.memory)

    @property
    def value(self) -> float:
        return self.total / self.weight


def _line(seen: Progress, split: str, loss: float, accuracy: float | None) -> dict[str, object]:
    return {
        "seconds": round(seen.seconds, 3),
        "step": seen.step,
        "epoch": round(seen.epoch, 4),
        "split": split,
        "loss": loss,
        "accuracy": accuracy,
        "lr": seen.lr,
    }
