"""The training loop: one function from a config and pictures to a run folder with a classifier in it.

Every quantity that changes over a run (learning rate, picture size) is a function of its progress from 0 to 1. With a
budget, progress is the share of wall time that is gone, so the rate reaches zero at the deadline however fast or slow
the machine turns out to be; with epochs or steps, it is the share of the steps, and the run repeats to the bit.

It may be one of several processes that all call it alike: they share every batch, and the first one decides, writes
and tells. Not here: which config suits a budget (recipes.py), the batches (batches.py), how gradients are averaged
(parallel.py), the display (console.py).
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreous
from vitreous import checkpoint, origin, parallel, parts, ranks
from vitreous.batches import Batches
from vitreous.classifier import Classifier
from vitreous.clock import Clock, stop_signals
from vitreous.config import RunConfig
from vitreous.data import DataSet, Images
from vitreous.device import choose, hardware, keep_memory, pick_device
from vitreous.looks import Stopped, final_seconds, measure, some
from vitreous.models import build_model, count_parameters
from vitreous.optim import build_optimizers, freeze, lr_at, set_lr
from vitreous.pace import Pace, candidates
from vitreous.runs import Journal, claim, discard, prepare
from vitreous.saving import Saver, newest

LOG_STEPS = 20


class Diverged(ValueError):
    """The loss, or a weight, is no longer a number. The last checkpoint is sound."""


@dataclass(frozen=True)
class Progress:
    """What a run tells whoever watches it."""

    phase: str
    """``probe``, ``train``, ``evaluate``, ``save`` or ``done``."""
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


Watch = Callable[[Progress], None]


class Run:
    """What a run consists of while it is going on: model, optimisers, clock. Its state is what a checkpoint holds."""

    def __init__(
        self, config: RunConfig, folder: Path, data: DataSet, started: float, past: Mapping[str, Any] | None = None
    ) -> None:
        """``past`` is the state in the checkpoint that the run will go on from."""
        keep_memory()
        self.config = config
        self.saver = Saver(folder)
        self.images, self.validation = check(config, data)
        self.batches = Batches(self.images, config)
        self.clock = Clock(config, started, self.batches.per_epoch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.model = build_model(config.model)
        if config.optim.freeze:
            freeze(self.model)
        self.model.to(pick_device(config.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        way = config.precision, config.attention
        if past and origin.same_processor(past["machine"]):  # to go on to the bit
            way = past["plan"]["precision"], past["plan"]["attention"]
        size, channels = config.model.image_size, config.model.channels
        self.plan = choose(self.model, size, channels, *way)
        self.batches.to(self.plan.device)
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False) if config.ema else None
        if self.averaged is not None:
            parallel.spread(self.averaged, config.shard)
        spread = parallel.spread(self.model, config.shard)
        self.forward = torch.compile(spread, dynamic=False) if config.compile else spread
        self.optimizers = build_optimizers(self.model, config.optim)
        self.pictures = origin.pictures(self.images)
        if differing := origin.differing(ranks.from_first(lambda: self.pictures), self.pictures):
            raise ValueError(f"process {ranks.rank()} has read other pictures than the first: {'; '.join(differing)}")
        self.step = 0
        self.accuracy: float | None = None
        """Of the present weights on validation pictures, where that was measured."""
        self.looks = 0
        """At validation pictures, so far."""
        self.side = config.model.image_size
        """Of the pictures of the latest step, in pixels."""
        self.loss = math.nan

    def start_from(self, weights: Mapping[str, Tensor]) -> None:
        """Takes these weights in place of the random ones of their names. Raises ValueError where they do not fit."""
        checkpoint.load_weights(self.model, {**self.model.state_dict(), **weights})
        if self.averaged is not None:
            self.averaged.load_state_dict(self.model.state_dict())

    def learn(self) -> None:
        """Goes into training mode; a frozen model, whose normalisation must not learn either, into eval mode."""
        self.model.train(not self.config.optim.freeze)

    def classifier(self, data_name: str) -> Classifier:
        """The model that is kept, averaged where the config asks for it, sharing the weights that are being trained."""
        provenance = {
            "data": data_name,
            "fingerprint": self.pictures["fingerprint"],
            "recipe": self.config.recipe,
            "parameters": count_parameters(self.model),
            "precision": self.plan.precision,
            "attention": self.plan.attention,
            "vitreous": vitreous.__version__,
            **hardware(),
        }
        kept = self.averaged or self.model
        return Classifier(kept, self.config.model, self.images.classes, self.batches.mean, self.batches.std, provenance)

    def save(self) -> None:
        """Begins to save the state. Raises Diverged where it holds anything but numbers."""
        tensors, plain = checkpoint.pack(self.model, self.optimizers)
        if self.averaged is not None:
            tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.state_dict().items()}
        epoch, position = divmod(self.step, self.batches.per_epoch)
        plan = {"precision": self.plan.precision, "attention": self.plan.attention, "threads": torch.get_num_threads()}
        facts = {
            "optimizers": plain,
            "elapsed": self.clock.elapsed(),
            "begun": self.clock.begun,
            "accuracy": self.accuracy,
            "looks": self.looks,
            "data": self.pictures,
            "draws": {"seed": self.config.seed, "epoch": epoch, "batch": position},
            "plan": plan,
            "machine": origin.machine(),
        }
        try:
            if any(parts.sharded(tensor) for tensor in tensors.values()):
                self.saver.together(self.step, tensors, facts)
            elif ranks.first():
                self.saver.begin(self.step, tensors, facts)
        except checkpoint.NotFinite as problem:
            raise Diverged(f"after step {self.step} {problem}.\n{self._cure()}") from None

    def restore(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Goes back to what a checkpoint holds. Raises ValueError where it is of another architecture."""
        tensors = tensors or checkpoint.read_parts(self.saver.run, facts["step"], self.own())
        checkpoint.unpack(tensors, facts["optimizers"], self.model, self.optimizers)
        if self.averaged is not None:
            averaged = {n.removeprefix("averaged."): t for n, t in tensors.items() if n.startswith("averaged.")}
            checkpoint.load_weights(self.averaged, averaged)
        self.step, self.looks, self.accuracy = facts["step"], facts["looks"], facts["accuracy"]
        self.clock.begun = facts["begun"]
        self.clock.started -= facts["elapsed"]

    def own(self) -> dict[str, Tensor]:
        """What this process holds, by the names in a checkpoint; for the state of the optimisers, their parameters."""
        models = {"model": self.model} | ({"averaged": self.averaged} if self.averaged is not None else {})
        own = {f"{kind}.{name}": t for kind, model in models.items() for name, t in model.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            own |= {f"optimizer.{number}.{index}": parameter for index, parameter in enumerate(parameters)}
        return own

    def advance(self, progress: float, side: int | None = None) -> float:
        """One step of training; returns its loss, on a GPU that of the last step whose loss was looked at.

        Raises Diverged before the update where that is no number. ``side`` in pixels is that of the run's progress if
        not given.
        """
        self.side = side or self.batches.side(self.step, progress)
        inputs, targets = self.batches.at(self.step, self.side, self.plan.device)
        factor = lr_at(progress, self.config.optim)
        set_lr(self.optimizers, factor)
        with self.plan.autocast():
            scores = self.forward(inputs)
        loss = F.cross_entropy(scores.float(), targets, label_smoothing=self.config.label_smoothing)
        loss = loss * (len(inputs) * ranks.world() / self.batches.batch)  # the mean over processes is that of the batch
        if self.plan.device.type == "cpu" or self.step % LOG_STEPS == 0:  # a GPU would have to be waited for
            self.loss = ranks.total([loss.item()])[0] / ranks.world()
            if not math.isfinite(self.loss):
                raise self._diverged(self.loss, factor)
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.accuracy = None
        if self.averaged is not None:
            _average(self.averaged, self.model, min(self.config.ema, (1 + self.step) / (10 + self.step)))
        self.step += 1
        return self.loss

    def _diverged(self, value: float, factor: float) -> Diverged:
        ids = [self.images.ids[i] for i in self.batches.chosen(self.step)[:3].tolist()]
        optim = self.config.optim
        return Diverged(
            f"the loss became {value} at step {self.step}, with rates {optim.lr * factor:.2g} and "
            f"{optim.muon_lr * factor:.2g} and pictures {', '.join(ids)}, ...; nothing of it was saved.\n{self._cure()}"
        )

    def _cure(self) -> str:
        optim = self.config.optim
        return f"Try lower rates: --set optim.lr={optim.lr / 3:.1g} --set optim.muon_lr={optim.muon_lr / 3:.1g}"


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
    with claim(Path(out)):
        tell = watch if watch and ranks.first() else (lambda progress: None)
        return _train(config, Path(out), data, resume, tell, started, notes, weights)


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
    if not resume:
        check(config, data)
    ranks.from_first(lambda: prepare(folder, config, resume))
    if not (folder / "config.json").exists():
        raise ValueError(
            f"process {ranks.rank()} cannot see {folder}: choose an --out on a disk that all machines share"
        )
    journal = Journal(folder)

    def note(phase: str, sentence: str) -> None:
        tell(Progress(phase, time.monotonic() - started, config.budget, note=sentence))
        journal.say(sentence)

    for sentence in notes:
        note("scan", sentence)
    past = ranks.from_first(lambda: newest(folder, data, lambda said: note("scan", said))) if resume else None
    run = Run(config, folder, data, started, past[1] if past else None)
    clock, batches = run.clock, run.batches
    note("probe", run.plan.note)
    if past:
        run.restore(*past)
    elif weights:
        run.start_from(weights())
    if resume:
        journal.forget_after(run.step)
        ranks.from_first(lambda: checkpoint.set_aside(folder, run.step))
    classifier = run.classifier(data.name)
    clock.reserve = reserve = final_seconds(classifier, run.validation)
    glance = run.validation.select(some(len(run.validation), clock, config.evaluations))
    if not past:
        clock.begun = clock.elapsed()
        try:
            ranks.from_first(clock.check)
        except ValueError:
            if ranks.first():
                discard(folder)
            raise

    before = past[1]["plan"]["threads"] if past and config.budget is None else 0
    """Threads: sums in another order have other last bits. With a budget the fastest number is found anew."""
    now = clock.moment(run.step, stop=False)
    first_step, first_second = run.step, now.seconds
    loss, accuracy = Smooth(), run.accuracy
    looked: list[float] = []
    """Seconds of each look at validation pictures."""
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
                images_per_second=(run.step - first_step) * batches.batch / (now.seconds - first_second),
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
            (saves_now,) = ranks.told([run.saver.due(occasion=looks_now)])
            if saves_now:
                run.save()
            if looks_now or saves_now:  # both take time
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
            try:
                final_loss, final = measure(classifier, run.validation, stopped=stopped)
            except Stopped:
                interrupted = True
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


def check(config: RunConfig, data: DataSet) -> tuple[Images, Images]:
    """Training and validation pictures that fit the config, or a ValueError that says what to do."""
    images, validation = data.train, data.val
    if images is None or len(images) == 0:
        raise ValueError(f"{data.name} has no training pictures")
    if validation is None or len(validation) == 0:
        raise ValueError(f"{data.name} has no validation pictures: give more pictures a class, or a val folder")
    channels, height, width = images.pixels.shape[1:]
    model = config.model
    if (channels, height, width) != (model.channels, model.image_size, model.image_size):
        raise ValueError(
            f"the pictures are {height} x {width} with {channels} channels and the model is for "
            f"{model.image_size} x {model.image_size} with {model.channels}"
        )
    if len(images.classes) != model.classes:
        raise ValueError(f"{data.name} has {len(images.classes)} classes and the model {model.classes}")
    if min(config.batch, len(images)) < ranks.world():
        raise ValueError(
            f"a batch of {min(config.batch, len(images))} pictures is too small for {ranks.world()} processes: "
            f"start fewer, or take --set batch={ranks.world()} or more"
        )
    return images, validation


@torch.no_grad()
def _average(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    """averaged <- decay * averaged + (1 - decay) * model; counters are copied."""
    for old, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
        if old.is_floating_point():
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)
