"""Child processes of the real command line, and what is compared of the runs that they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import load_file

import vitreous

FAULTY = Path(__file__).with_name("faulty.py")
MODEL = ["--set", "model.width=16", "--set", "model.heads=2", "--set", "model.depth=1"]
FIXED = ["precision=fp32", "attention=explicit", "evaluations=3", "batch=16"]
EVERYTHING = [
    *(f"augment.{name}" for name in ("flip=true", "shift=0.25", "randaugment=1", "mixup=0.3", "cutmix=0.3")),
    "augment.erase=0.3",
    "ema=0.9",
    'phases=[{"size": 8, "share": 0.5}, {"size": 16, "share": 0.5}]',
]
VARIANTS = {
    "plain": ["--stem", "patch", *MODEL],
    "everything": [*MODEL, *(word for each in EVERYTHING for word in ("--set", each))],
    "any size": ["--any-size", *MODEL],
    "adamw": ["--set", "optim.name=adamw", "--set", "ema=0.9", *MODEL],
    "cnn": ["--model", "resnet", "--set", "model.widths=[8, 8]"],
}
"""Runs that carry different state and see different pictures."""


class Child:
    """``vitreous`` in a process of its own, with faults, whose announcements are read as they come."""

    begun: ClassVar[list[Child]] = []

    def __init__(self, folder: Path, *arguments: object, **faults: float) -> None:
        self.began = time.monotonic()
        self.heard: list[str] = []
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(vitreous.__file__).parents[1])}
        self.errors = folder / f"stderr-{time.monotonic_ns()}"
        with self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, FAULTY, json.dumps(faults), *map(str, arguments)],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
            )
        self.begun.append(self)

    def until(self, word: str, count: int = 1) -> bool:
        """Waits for the ``count``-th announcement that begins with ``word``; False where the process ended before."""
        assert self.process.stdout is not None
        while count:
            line = self.process.stdout.readline()
            if not line:
                return False
            self.heard.append(line.strip())
            count -= line.startswith(word)
        return True

    def strike(self, number: signal.Signals = signal.SIGKILL) -> None:
        self.process.send_signal(number)

    def end(self, seconds: float = 900) -> int:
        """The exit code, once the process has ended; within ``seconds``, or it is killed and TimeoutExpired raised."""
        try:
            rest, _ = self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()  # closes its pipe
            raise
        self.heard += rest.split("\n")[:-1]
        return self.process.returncode

    @property
    def waited(self) -> float:
        """Seconds in which the process could have run but other processes did; told as it ends, where Linux knows."""
        return max((float(line.split()[1]) for line in self.heard if line.startswith("waited")), default=0.0)

    @property
    def said(self) -> str:
        """What people would have read."""
        return self.errors.read_text()


def train(pictures: Path, run: Path, *more: str, steps: int = 40, folder: Path | None = None, **faults: float) -> Child:
    """Starts a run, from ``folder`` if not from where the run is; a tiny model whose every step is logged."""
    fixed = [word for each in FIXED for word in ("--set", each)]
    words = ["train", pictures, "--out", run, "--steps", steps, *fixed, *more]
    return Child(folder or run.parent, *words, **faults)


def resume(pictures: Path, run: Path, **faults: float) -> Child:
    return Child(run.parent, "train", pictures, "--out", run, "--resume", **faults)


def outcome(run: Path) -> dict[str, Any]:
    """All that two runs must share to be the same run: each loss and accuracy by step, and every bit of the weights."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    figures = [(line["step"], line["split"], line["loss"], line["accuracy"], line["lr"]) for line in lines]
    assert len(figures) == len(set(figures)), "a line is there twice"
    return {"figures": figures, "weights": load_file(run / "classifier" / "model.safetensors")}


def same(one: Mapping[str, Any], other: Mapping[str, Any], but_looks: bool = False) -> bool:
    """Whether two outcomes are the same to the bit.

    ``but_looks`` forgives that a look at validation pictures came a step later, as where a signal cut it short.
    """
    weights, others = one["weights"], other["weights"]
    equal = weights.keys() == others.keys() and all(torch.equal(weights[name], others[name]) for name in weights)
    figures, theirs = one["figures"], other["figures"]
    if but_looks:
        assert [line[1] for line in figures].count("val") == [line[1] for line in theirs].count("val")
        figures, theirs = ([line for line in lines if line[1] == "train"] for lines in (figures, theirs))
    return equal and figures == theirs


def left_over(run: Path) -> list[str]:
    """What a run that is over should not have left."""
    return [path.name for path in run.rglob("*") if path.suffix in (".partial", ".previous", ".owner")]
