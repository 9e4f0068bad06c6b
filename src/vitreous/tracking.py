"""The figures of a run in TensorBoard and MLflow as well, while it goes on: what its journal gets, they get.

A tracker stands outside the loop: it watches the run's progress and reads the new lines of ``metrics.jsonl``. It can
slow nothing down and stop nothing: MLflow is spoken to by a thread of its own, and a server that goes away is told of
once.

Not here: the journal (runs.py), the loop (train.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

from vitreous import sealed
from vitreous.config import nearest
from vitreous.runs import flat
from vitreous.train import Progress, Watch

Line = Mapping[str, Any]
"""One line of the journal."""


class Tracker(Protocol):
    """Where figures go. It is made before the run folder is: ValueError then where it cannot be had or reached."""

    def begin(self, config: Mapping[str, Any], past: Sequence[Line]) -> None:
        """Takes the settings by path, and the lines that a resumed run's journal holds already."""

    def log(self, lines: Sequence[Line]) -> None:
        """Takes new lines of the journal."""

    def close(self, finished: bool) -> None:
        """The run is over, whether ``finished`` or not."""


@contextlib.contextmanager
def tracking(names: Sequence[str], run: Path, say: Callable[[str], None]) -> Iterator[Watch]:
    """A ``watch`` for :func:`vitreous.train.train` that keeps the trackers called ``names`` told of the run in ``run``.

    ``say`` takes a sentence for people. Raises ValueError for a name that is none, for a tracker that is not installed
    and for a server that cannot be reached, before the run begins.
    """
    trackers = [make_tracker(name, run, say) for name in dict.fromkeys(names)]
    tail, seen = Tail(run / "metrics.jsonl"), list[Progress]()

    def watch(progress: Progress) -> None:
        if progress.phase in ("scan", "probe"):  # a resumed run has not dropped yet what it will do again
            return
        lines = tail.new()
        if not seen:
            config = flat(json.loads((run / "config.json").read_bytes()))
            for tracker in trackers:
                tracker.begin(config, lines)
        elif lines:
            for tracker in trackers:
                tracker.log(lines)
        seen[:] = [progress]

    try:
        yield watch
    finally:
        finished = bool(seen) and seen[0].phase == "done" and seen[0].accuracy is not None
        for tracker in trackers:
            tracker.close(finished)


def make_tracker(name: str, run: Path, say: Callable[[str], None]) -> Tracker:
    """The tracker of that name for a run folder. Raises ValueError where it cannot be had."""
    if name not in TRACKERS:
        raise ValueError(f"unknown tracker {name!r}{nearest(name, TRACKERS)}")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"{name} is not installed: run pip install 'vitreous[track]'")
    return TRACKERS[name](run, say)


class Tail:
    """The lines of a growing journal, each once."""

    def __init__(self, path: Path) -> None:
        self.path, self.read = path, 0

    def new(self) -> list[Line]:
        """The lines since the last call."""
        if not self.path.exists() or self.path.stat().st_size == self.read:
            return []
        with self.path.open("rb") as file:
            file.seek(self.read)
            text = file.read()
        self.read += len(text)
        return [json.loads(line) for line in text.splitlines()]


def scalars(line: Line) -> dict[str, float]:
    """The figures of a line by name: ``loss/train``, ``accuracy/val``; ``lr`` and such of training lines alone."""
    split = line["split"]
    names = {"loss": f"loss/{split}", "accuracy": f"accuracy/{split}"}
    if split == "train":
        names |= {name: name for name in ("lr", "epoch", "seconds")}
    return {name: float(line[key]) for key, name in names.items() if line.get(key) is not None}


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder. A resumed run writes them anew from its journal."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.folder, self.make, self.say = run / "tensorboard", SummaryWriter, say
        self.writer: Any = None

    def begin(self, config: Mapping[str, Any], past: Sequence[Line]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.writer = self.make(str(self.folder), flush_secs=10)
        rows = "\n".join(f"| {name} | {value} |" for name, value in config.items())
        self.writer.add_text("config", f"| setting | value |\n|---|---|\n{rows}")
        self.log(past)

    def log(self, lines: Sequence[Line]) -> None:
        for line in lines:
            for name, value in scalars(line).items():
                self.writer.add_scalar(name, value, line["step"], new_style=True)

    def close(self, finished: bool) -> None:
        if self.writer is not None:
            self.writer.close()
            self.say(f"tracked     tensorboard --logdir {self.folder.parent.parent}")


MLFLOW = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # by default it tries for minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # which belongs to --json
}
"""Its environment where the user has not set it."""


class MLflow:
    """A run on the server of $MLFLOW_TRACKING_URI, else in ``mlflow.db`` beside the run folder."""

    def __init__(self, run: Path, say: Callable[[str], None]) -> None:
        for name, value in MLFLOW.items():
            os.environ.setdefault(name, value)
        for noisy in ("mlflow", "alembic"):
            logging.getLogger(noisy).setLevel(logging.WARNING)
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException

        self.run, self.say = run, say
        given = os.environ.get("MLFLOW_TRACKING_URI")
        self.local, self.uri = not given, given or f"sqlite:///{run.parent.resolve()}/mlflow.db"
        run.parent.mkdir(parents=True, exist_ok=True)
        try:
            self.client = MlflowClient(tracking_uri=self.uri)
            self.client.search_experiments(max_results=1)
        except MlflowException as problem:
            reason = " ".join(str(problem).split())[:200]
            raise ValueError(f"MLflow cannot be reached at {self.uri}: {reason}") from None
        self.id: str | None = None
        self.broken = False
        self.thread = ThreadPoolExecutor(1)

    def begin(self, config: Mapping[str, Any], past: Sequence[Line]) -> None:
        self._later(self._begin, config, past)

    def log(self, lines: Sequence[Line]) -> None:
        self._later(self._log, lines)

    def close(self, finished: bool) -> None:
        self._later(self._close, finished)
        self.thread.shutdown()

    def _later(self, work: Callable[..., None], *arguments: Any) -> None:
        """In the thread, one after the other, until one fails."""

        def safely() -> None:
            if self.broken:
                return
            try:
                work(*arguments)
            except Exception as problem:  # whatever a server or its client may raise: the run goes on
                self.broken = True
                self.say(f"MLflow at {self.uri} is told no more: {' '.join(str(problem).split())[:200]}")

        self.thread.submit(safely)

    def _begin(self, config: Mapping[str, Any], past: Sequence[Line]) -> None:
        from mlflow.entities import Param

        note = self.run / "mlflow.json"
        known = json.loads(note.read_bytes()) if note.exists() else {}
        if known.get("uri") == self.uri:
            self.id = str(known["run"])
            self.client.update_run(self.id, status="RUNNING")
            return
        name = str(config["data.source"])
        experiment = self.client.get_experiment_by_name(name)
        place = (self.run.parent.resolve() / "mlartifacts").as_uri() if self.local else None
        number = experiment.experiment_id if experiment else self.client.create_experiment(name, place)
        made = self.client.create_run(number, run_name=self.run.name)
        self.id = made.info.run_id
        sealed.write(note, json.dumps({"uri": self.uri, "run": self.id}))
        self.client.log_batch(self.id, params=[Param(name, str(value)[:500]) for name, value in config.items()])
        self._log(past)

    def _log(self, lines: Sequence[Line]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        metrics = [Metric(name, value, now, line["step"]) for line in lines for name, value in scalars(line).items()]
        for start in range(0, len(metrics), 1000):  # the most that a server takes at once
            self.client.log_batch(self.id, metrics=metrics[start : start + 1000])

    def _close(self, finished: bool) -> None:
        if self.id is None:
            return
        if (self.run / "classifier").is_dir():
            self.client.log_artifacts(self.id, str(self.run / "classifier"), "classifier")
        self.client.set_terminated(self.id, "FINISHED" if finished else "KILLED")
        self.say(f"tracked     mlflow ui --backend-store-uri {self.uri}" if self.local else f"tracked     {self.uri}")


TRACKERS: dict[str, Callable[[Path, Callable[[str], None]], Tracker]] = {"tensorboard": TensorBoard, "mlflow": MLflow}
"""By the name of the package that each needs."""
