"""The runs below a folder with their figures, read from their files alone: no torch, no data, so it answers at once.

Not here: what a run folder holds (runs.py), measuring anything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from vitreous import sealed

RUNNING, DONE, INTERRUPTED, DAMAGED = "running", "done", "interrupted", "damaged"


@dataclass(frozen=True)
class Entry:
    """One run. A figure that is not there (yet) is None."""

    run: str
    state: str
    """``running``, ``done``, ``interrupted`` (stopped or killed: ``--resume`` goes on) or ``damaged``."""
    data: str | None
    recipe: str | None
    begun: str
    """Local time, to the second."""
    seconds: float | None
    val_accuracy: float | None
    """Of the finished classifier on all validation pictures, or else of the latest look at some of them."""
    test_accuracy: float | None
    """Where ``vitreous eval`` has read the test split, with the weights that the run has now."""
    parameters: int | None
    bytes: int
    """On disk, with all checkpoints."""


def runs(folder: Path) -> list[Entry]:
    """Every run in or below ``folder``, by data set and then by validation accuracy, the best first.

    Raises ValueError where there is no such folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder of runs")
    entries = [entry(run) for run in _found(folder)]
    return sorted(entries, key=lambda each: (each.data or "", -(each.val_accuracy or 0.0), each.run))


def entry(run: Path) -> Entry:
    """The figures of one run folder."""
    config, kept = _json(run / "config.json"), _json(run / "classifier" / "config.json").get("provenance", {})
    lines = _journal(run / "metrics.jsonl")
    looks = [line["accuracy"] for line in lines if line.get("split") == "val"]
    final = kept.get("val_accuracy")
    if not config:
        state = DAMAGED
    elif _is_held(run):
        state = RUNNING
    else:
        state = DONE if final is not None else INTERRUPTED
    return Entry(
        run=str(run),
        state=state,
        data=config.get("data", {}).get("source"),
        recipe=config.get("recipe"),
        begun=datetime.fromtimestamp((run / "config.json").stat().st_mtime).isoformat(" ", "seconds"),
        seconds=kept.get("seconds") or (lines[-1]["seconds"] if lines else None),
        val_accuracy=final if final is not None else (looks[-1] if looks else None),
        test_accuracy=_tested(run),
        parameters=kept.get("parameters"),
        bytes=sum(path.lstat().st_size for path in run.rglob("*") if path.is_file()),
    )


def _found(folder: Path) -> Iterator[Path]:
    """Folders that hold a run's config; what is in a run is no run."""
    for place, inside, files in os.walk(folder):
        inside.sort()
        path = Path(place)
        if "config.json" in files and ("train.log" in files or _json(path / "config.json").get("data")):
            inside.clear()
            yield path


def _tested(run: Path) -> float | None:
    kept = _json(run / "eval-test.json")
    weights = sealed.standing(run / "classifier") / "model.safetensors"
    return kept.get("accuracy") if kept and kept.get("weights") == sealed.named(weights) else None


def _is_held(run: Path) -> bool:
    """Whether a living process trains in it: the name of a dead owner may have stayed, but not its lock."""
    if not (run / ".owner").exists():
        return False
    try:
        with FileLock(run / ".lock", blocking=False):
            return False
    except Timeout:
        return True


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is none to read."""
    try:
        values = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}


def _journal(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a journal."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            lines.append(json.loads(line))
        except ValueError:  # cut short by a kill
            continue
    return lines
