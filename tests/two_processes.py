"""What each of two processes does in test_parallel.py: ``torchrun --nproc-per-node 2 two_processes.py TASK FOLDER``.

It runs the tasks there by name and leaves what it saw in FOLDER, for the tests to look at.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import weakref
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from coloured import coloured_squares

from vitreous import jobs, looks, ranks, saving
from vitreous import train as training
from vitreous.augment import AugmentConfig
from vitreous.batches import Batches
from vitreous.classifier import Classifier
from vitreous.config import DistillConfig, RunConfig
from vitreous.data import DataSet
from vitreous.optim import OptimConfig
from vitreous.recipes import Wish
from vitreous.vit import ViTConfig

EVERYTHING = AugmentConfig(flip=True, shift=0.25, randaugment=1, mixup=0.3, cutmix=0.3, erase=0.3)
MODEL = ViTConfig(image_size=8, patch_size=4, classes=4, width=16, depth=2, heads=2)
PATCH = RunConfig(
    model=MODEL,
    augment=EVERYTHING,
    optim=OptimConfig("adamw", lr=1e-3),
    steps=50,
    batch=16,
    ema=0.9,
    precision="fp32",
    attention="explicit",
    device="cpu",
)
CONV = dataclasses.replace(PATCH, model=dataclasses.replace(MODEL, stem="conv", stem_whiten=True))
PARTS = dataclasses.replace(CONV, shard=True)
PROBE = dataclasses.replace(
    CONV, augment=AugmentConfig(flip=False, shift=0.0), optim=OptimConfig("adamw", lr=1e-2, freeze=True), probe=True
)
TAUGHT = dataclasses.replace(PATCH, distill=DistillConfig("fastcnn", widths=(8, 16)))
MUON = dataclasses.replace(PATCH, optim=OptimConfig("muon"), steps=8)
"""Few steps: it may orthogonalise in bf16, so that a difference in the last bit grows a hundredfold in ten steps."""
MUON_PARTS = dataclasses.replace(MUON, shard=True)
RESHAPED = dataclasses.replace(PATCH, steps=60)
"""Goes on after step 20 on two processes, where the second is asked to stop at step 40."""
RESHAPED_PARTS = dataclasses.replace(CONV, model=dataclasses.replace(MODEL, stem="conv"), steps=60, shard=True)
"""Learns its first filters: fixed ones that whiten make more of a difference in the last bit."""
KILLED = Wish("digits", steps=12, device="cpu")
SMALL = {"model.width": "16", "model.heads": "2", "model.depth": "1", "batch": "16"}
SMALL |= {"precision": "fp32", "attention": "explicit", "evaluations": "2"}


def squares() -> DataSet:
    """Validation pictures are an odd number, so that the processes' shares differ."""
    return DataSet("squares", coloured_squares(128), coloured_squares(33, seed=1), None)


def compare(folder: Path) -> None:
    """Whole runs, to be compared with those of one process. The second process always comes late to the files."""
    exists = Path.exists

    def late(self: Path) -> bool:
        time.sleep(0.3 if self.name == "config.json" and ranks.rank() == 1 else 0.0)
        return exists(self)

    Path.exists = late  # type: ignore[method-assign, assignment]
    for name in ("patch", "conv", "parts", "probe", "taught", "muon", "muon_parts"):
        training.train(globals()[name.upper()], folder / name, squares())
    jobs.train_on(KILLED, folder / "not-killed", changes=SMALL)
    Path.exists = exists  # type: ignore[method-assign]


def reshape(folder: Path) -> None:
    """Goes on with runs that one process began; a signal to the second process stops both."""
    shown: dict[int, list[int]] = {}
    chosen = Batches.chosen

    def watched(self: Batches, step: int) -> torch.Tensor:
        places = chosen(self, step)
        shown[step] = places[ranks.share(len(places))].tolist()
        if step == 39 and ranks.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return places

    Batches.chosen = watched  # type: ignore[method-assign]
    for name in ("reshaped", "reshaped_parts"):
        result = training.train(globals()[name.upper()], folder / name, squares(), resume=True)
        torch.save((result.interrupted, shown), folder / f"{name}-{ranks.rank()}.pt")
        shown.clear()
    Batches.chosen = chosen  # type: ignore[method-assign]


def differ(folder: Path) -> None:
    """The second process has a picture less."""
    data = squares()
    if ranks.rank() == 1:
        data = dataclasses.replace(data, train=coloured_squares(127))
    try:
        training.train(PATCH, folder / "differing", data)
    except ValueError as problem:
        (folder / f"differed-{ranks.rank()}").write_text(str(problem))


def fail(folder: Path) -> None:
    """The second process alone finds something wrong."""
    if ranks.rank() == 1:
        raise ValueError("the second process found something wrong")
    ranks.total([0.0])


def leave(folder: Path) -> None:
    """Parts two hundred times; how often a thread still held the last word when it had parted."""
    words: list[weakref.ref[torch.Tensor]] = []
    all_reduce = dist.all_reduce

    def heard(tensor: torch.Tensor) -> None:
        words.append(weakref.ref(tensor))
        all_reduce(tensor)

    dist.all_reduce = heard
    held = 0
    for _ in range(200):
        ranks.part()
        held += words[-1]() is not None
    dist.all_reduce = all_reduce
    (folder / f"held-{ranks.rank()}").write_text(f"{held} of {len(words)}")


def foresee(folder: Path) -> None:
    """The second process is slower than the first at what the last evaluation will do."""
    run = training.Run(PATCH, folder, squares(), 0.0)
    classifier, logits = run.classifier("squares"), Classifier.logits

    def slow(self: Classifier, *arguments: Any) -> torch.Tensor:
        time.sleep(0.2 * ranks.rank())
        return logits(self, *arguments)

    Classifier.logits = slow  # type: ignore[method-assign]
    (folder / f"foreseen-{ranks.rank()}").write_text(repr(looks.final_seconds(classifier, run.validation)))
    Classifier.logits = logits  # type: ignore[method-assign]


def kill(folder: Path) -> None:
    """The second process dies in the middle; started again, the same call goes on."""
    advance = training.Run.advance

    def deadly(self: training.Run, *arguments: float) -> float:
        if self.step == 7 and ranks.rank() == 1 and not folder.joinpath("struck").exists():
            folder.joinpath("struck").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return advance(self, *arguments)

    training.Run.advance = deadly  # type: ignore[method-assign]
    saving.Saver.due = lambda *_, **__: True  # type: ignore[method-assign, assignment]
    (folder / f"process-{os.getpid()}").touch()
    jobs.train_on(KILLED, folder / "killed", changes=SMALL)


if __name__ == "__main__":
    torch.set_num_threads(1)
    training.LOG_STEPS = 1
    with ranks.joined():
        for task in sys.argv[1].split(","):
            globals()[task](Path(sys.argv[2]))
