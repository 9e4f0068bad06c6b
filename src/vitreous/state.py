"""A run while it goes on: its model, optimisers and clock, one step of it, and all that as a checkpoint.

Not here: when to step, look, save and stop (train.py), the batches (batches.py), how gradients are averaged
(parallel.py).
"""

from __future__ import annotations

import copy
import dataclasses
import math
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vitreous
from vitreous import checkpoint, origin, parallel, parts, ranks
from vitreous.batches import Batches
from vitreous.classifier import Classifier
from vitreous.clock import Clock
from vitreous.config import RunConfig
from vitreous.data import DataSet, Images
from vitreous.device import choose, hardware, keep_memory, pick_device
from vitreous.distilling import Teacher
from vitreous.models import build_model, count_parameters
from vitreous.optim import FullMuon, build_optimizers, freeze, lr_at, set_lr
from vitreous.probing import Vectors
from vitreous.saving import Saver
from vitreous.stems import Whitening

LOG_STEPS = 20
"""After so many a line is logged."""


class Diverged(ValueError):
    """The loss, or a weight, is no longer a number. Checkpoints hold numbers alone."""


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
        for layer in self.model.modules():
            if isinstance(layer, Whitening):
                layer.fit(self.batches.some())
                layer.weight.copy_(ranks.from_first(layer.weight.clone))  # another machine's may differ
        if config.optim.freeze:
            freeze(self.model)
        self.model.to(pick_device(config.device), memory_format=torch.channels_last)  # type: ignore[call-overload]
        way = config.precision, config.attention
        if past and origin.same_processor(past["machine"]):  # to go on to the bit
            way = past["plan"]["precision"], past["plan"]["attention"]
        size, channels = config.model.image_size, config.model.channels
        self.plan = choose(self.model, size, channels, *way, by_clock=config.budget is not None)
        learning, shard = self.model, config.shard
        if config.probe:  # the rest is only read with: every process has it whole
            self.batches = Vectors(self.images, config, self.model, self.plan)
            learning, shard = self.model.get_submodule("head"), False
        self.batches.to(self.plan.device)
        self.teacher = Teacher(config, folder, self.batches, self.plan) if config.distill.teacher else None
        self.averaged = copy.deepcopy(self.model).eval().requires_grad_(False) if config.ema else None
        if self.averaged is not None:
            parallel.spread(self.averaged, shard)
        spread = parallel.spread(learning, shard)
        self.forward = compiled(spread, self.plan.device) if config.compile else spread
        self.optimizers = build_optimizers(self.model, config.optim)
        if any(isinstance(optimizer, FullMuon) for optimizer in self.optimizers):
            self.plan = dataclasses.replace(self.plan, note=f"{self.plan.note}; Muon in fp32, as bf16 is not built in")
        self.pictures = origin.pictures(self.images)
        unlike = origin.differing(ranks.from_first(lambda: self.pictures), self.pictures)
        for number, differing in enumerate(ranks.each(unlike)):
            if differing:
                raise ValueError(f"process {number} has read other pictures than the first: {'; '.join(differing)}")
        self.saved = past is not None
        """Whether there is a checkpoint of this run."""
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
            "device": self.plan.device.type,
            "vitreous": vitreous.__version__,
            **hardware(),
        }
        if self.teacher:
            provenance["teacher"] = self.teacher.classifier.fingerprint()
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
            raise Diverged(f"after step {self.step} {problem}; {self._cure()}") from None
        self.saved = True

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
        inputs, targets = self.batches.at(self.step, self.side, self.plan.device, progress)
        factor = lr_at(progress, self.config.optim)
        set_lr(self.optimizers, factor)
        with self.plan.autocast():
            scores = self.forward(inputs)
        loss = F.cross_entropy(scores.float(), targets, label_smoothing=self.config.label_smoothing)
        loss = self.teacher.loss(scores, inputs, loss) if self.teacher else loss
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
            f"{optim.muon_lr * factor:.2g} and pictures {', '.join(ids)}, ...; {self._cure()}"
        )

    def _cure(self) -> str:
        optim = self.config.optim
        kept, where = ("what was saved before stays", " and another --out") if self.saved else ("nothing was saved", "")
        rates = f"--set optim.lr={optim.lr / 3:.1g} --set optim.muon_lr={optim.muon_lr / 3:.1g}"
        return f"{kept}.\nTry lower rates{where}: {rates}"


def compiled(model: nn.Module, device: torch.device) -> Callable[..., Any]:
    """The model with its passes compiled, once for each picture size.

    On a GPU they are recorded as CUDA graphs and started as a whole, unless several processes share the batch, which
    exchange gradients in the middle of the backward pass, or this is not the main thread, where older torch cannot.
    """
    alone = ranks.world() == 1 and threading.current_thread() is threading.main_thread()
    graphs = device.type == "cuda" and alone
    return torch.compile(model, dynamic=False, mode="reduce-overhead" if graphs else None)


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
