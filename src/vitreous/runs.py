"""The run folder on disk: its config, its journal of figures, and who may write to it.

``runs/<name>/`` holds ``config.json``, ``metrics.jsonl`` (a line per logged step and per evaluation), ``train.log``,
``checkpoints/`` and, once there is one, ``classifier/``; ``.lock`` and ``.owner`` say who is at it.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitreous import ranks, sealed
from vitreous.config import RunConfig, from_json, to_json


@contextlib.contextmanager
def claim(run: Path) -> Iterator[None]:
    """Keeps the run folder, made if need be, for this thread alone; within itself it has no effect.

    The system frees the lock when its owner ends, in whatever way, so the run of a dead owner is free at once. A folder
    that is still empty at the end goes. Raises ValueError that names the owner, OSError where nothing can be written.
    The first of several processes keeps it for all.
    """
    if not ranks.first():
        yield
        return
    made = [folder for folder in (run, *run.parents) if not folder.exists()]
    run.mkdir(parents=True, exist_ok=True)
    lock, owner = FileLock(run / ".lock", is_singleton=True), run / ".owner"
    try:
        held = lock.acquire(blocking=False)
    except Timeout:
        named = owner.read_text(encoding="utf-8") if owner.is_file() else "another process"
        raise ValueError(
            f"{run} is being trained by {named}: wait for it or stop it, or choose another --out"
        ) from None
    with held:
        if lock.lock_counter > 1:
            yield
            return
        begun = datetime.now().astimezone().isoformat(" ", "seconds")
        owner.write_text(f"process {os.getpid()} on {platform.node()}, since {begun}", encoding="utf-8")
        try:
            yield
        finally:
            owner.unlink(missing_ok=True)
            if [path.name for path in run.iterdir()] == [".lock"]:
                with contextlib.suppress(OSError):  # a system that keeps open files keeps this one
                    (run / ".lock").unlink()
                    for folder in made:
                        folder.rmdir()


def vacant(run: Path) -> None:
    """Raises ValueError where a run is already there."""
    if (run / "config.json").exists():
        raise ValueError(f"{run} already holds a run: go on with --resume, or choose another --out")


def prepare(run: Path, config: RunConfig, resume: bool) -> None:
    """Makes sure that ``run`` can be written and belongs to this config.

    Raises ValueError where a run is already there (without ``resume``), is missing (with it), or has another config;
    OSError where the folder cannot be written.
    """
    if resume:
        differing = changes(read_config(run), config)
        if differing:
            raise ValueError(f"{run} was started with another configuration: {'; '.join(differing)}")
        return
    vacant(run)
    run.mkdir(parents=True, exist_ok=True)
    sealed.write(run / "config.json", to_json(config))


@contextlib.contextmanager
def starting(run: Path) -> Iterator[None]:
    """Takes back what :func:`prepare` made where the block fails before it saves what was learned.

    Or the same command, mended, would find a run there. With one that was stopped ``--resume`` goes on.
    """
    try:
        yield
    except Exception:
        if ranks.first() and not any((*run.glob("checkpoints"), *run.glob("*/checkpoints"))):  # its own, its teacher's
            for name in ("config.json", "train.log", "metrics.jsonl"):
                (run / name).unlink(missing_ok=True)
        raise


def read_config(run: str | Path) -> RunConfig:
    """The config of a run folder. Raises FileNotFoundError where there is none, ValueError where it cannot be read."""
    path = Path(run) / "config.json"
    if not path.is_file():
        raise FileNotFoundError(f"{run} is no run folder: it has no config.json")
    if path.with_name("model.safetensors").is_file():
        raise FileNotFoundError(f"{run} is a classifier and no run folder: name the folder that train wrote it into")
    try:
        return from_json(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path}: {problem}") from None


def place(run: Path) -> Path:
    """Where commands write about a run: its folder, or the current one where it is a classifier from the hub."""
    return run if run.is_dir() else Path()


def changes(old: RunConfig, new: RunConfig) -> list[str]:
    """The settings that differ, as ``path: old -> new``."""
    before, after = flat(json.loads(to_json(old))), flat(json.loads(to_json(new)))
    return [
        f"{key}: {before.get(key)} -> {after.get(key)}" for key in after | before if before.get(key) != after.get(key)
    ]


def flat(values: Any, path: str = "") -> dict[str, Any]:
    """Nested values by path, as ``{"optim.lr": 0.01}``."""
    if not isinstance(values, dict):
        return {path: values}
    return {
        key: leaf for name, value in values.items() for key, leaf in flat(value, f"{path}.{name}".strip(".")).items()
    }


class Journal:
    """``metrics.jsonl`` for programs and ``train.log`` for people. Lines reach the disk as they are written.

    Of several processes the first one writes.
    """

    def __init__(self, run: Path) -> None:
        self.metrics, self.log = run / "metrics.jsonl", run / "train.log"

    def write(self, **values: Any) -> None:
        """Appends one line of figures: seconds, step, epoch, split, loss, accuracy, lr, and n for an evaluation."""
        _append(self.metrics, json.dumps(values))

    def say(self, sentence: str) -> None:
        """Appends one sentence to the log."""
        _append(self.log, sentence)

    def forget_after(self, step: int) -> None:
        """Drops the figures that a resumed run will find again, and a line that a kill cut short."""
        if not self.metrics.exists() or not ranks.first():
            return
        kept = []
        for line in self.metrics.read_text(encoding="utf-8").splitlines():
            try:
                values = json.loads(line)
                if values["step"] <= step and not values.get("final"):
                    kept.append(line + "\n")
            except (json.JSONDecodeError, KeyError):
                continue
        sealed.write(self.metrics, "".join(kept))


def _append(path: Path, line: str) -> None:
    if ranks.first():
        with path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
