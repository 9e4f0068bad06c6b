"""What the journal gets, the trackers get: read back from TensorBoard's files and from a real MLflow server."""

from __future__ import annotations

import importlib.util
import json
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_cli import TINY, call

from vitreous.config import RunConfig
from vitreous.runs import Journal, flat, prepare
from vitreous.tracking import scalars, tracking
from vitreous.train import Progress

tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed (extra track)"
)
mlflow = pytest.mark.skipif(importlib.util.find_spec("mlflow") is None, reason="mlflow is not installed (extra track)")


def line(step: int, split: str = "train") -> dict[str, Any]:
    accuracy = step / 100 if split == "val" else None
    return {"seconds": step / 2, "step": step, "epoch": 0.1, "split": split, "loss": 2.0 / step, "accuracy": accuracy}


def train(run: Path, names: list[str], steps: range, last: Progress) -> list[str]:
    """Stands for the loop: a journal line every ten steps, an evaluation every twenty, the watch called each step."""
    said: list[str] = []
    journal = Journal(run)
    with tracking(names, run, said.append) as watch:
        if not (run / "config.json").exists():
            prepare(run, RunConfig(steps=40), resume=False)
        watch(Progress("scan", 0.0))
        journal.forget_after(steps.start)
        for step in steps:
            if step % 10 == 0 and step > steps.start:
                journal.write(**line(step))
            if step % 20 == 0 and step > steps.start:
                journal.write(**line(step, "val"))
            watch(Progress("train", step / 2, step=step))
        watch(last)
    return said


STOPPED, DONE = Progress("done", 15.0), Progress("done", 20.0, accuracy=0.4)


def written(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What the journal holds, by name."""
    found: dict[str, list[tuple[int, float]]] = {}
    for text in (run / "metrics.jsonl").read_text().splitlines():
        values = json.loads(text)
        for name, value in scalars(values).items():
            found.setdefault(name, []).append((values["step"], value))
    return found


def events(run: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads from the run's event files, by name."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(run / "tensorboard"), size_guidance={"scalars": 0, "tensors": 0})
    read.Reload()
    found = {}
    for name in read.Tags()["tensors"]:
        values = read.Tensors(name)
        if values[0].tensor_proto.float_val:
            found[name] = [(each.step, each.tensor_proto.float_val[0]) for each in values]
    return found


def same(found: dict[str, list[tuple[int, float]]], expected: dict[str, list[tuple[int, float]]]) -> bool:
    return found.keys() == expected.keys() and all(
        np.allclose(found[name], expected[name], rtol=1e-6, atol=0) for name in expected
    )


@tensorboard
def test_tensorboard_reads_what_the_journal_holds_also_after_a_run_went_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(run, ["tensorboard"], range(35), STOPPED)
    assert same(events(run), written(run))
    train(run, ["tensorboard"], range(20, 41), DONE)  # from the checkpoint of step 20: step 30 is done again
    assert same(events(run), written(run))
    assert [step for step, _ in written(run)["loss/train"]] == [10, 20, 30, 40]


@tensorboard
def test_a_real_run_writes_events_while_it_goes_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    outcome = call("train", "digits", "--out", run, *TINY, "--steps", 40, "--track", "tensorboard")
    assert outcome.exit_code == 0, outcome.stderr
    found = events(run)
    assert same(found, written(run))
    assert [step for step, _ in found["loss/train"]] == [20, 40]
    assert found["accuracy/val"][-1][0] == 40
    assert f"tensorboard --logdir {tmp_path}" in outcome.stderr.replace("\n", "")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server on loopback."""
    folder = tmp_path_factory.mktemp("mlflow")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    store = [
        "--backend-store-uri",
        f"sqlite:///{folder}/store.db",
        "--artifacts-destination",
        str(folder / "artifacts"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), *store]
    url = f"http://127.0.0.1:{port}"
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--workers", "1"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 300  # a minute on a busy machine
            while True:
                try:
                    urllib.request.urlopen(f"{url}/health", timeout=2).close()
                    break
                except OSError:
                    assert process.poll() is None, (folder / "log").read_text()
                    assert time.monotonic() < deadline, (folder / "log").read_text()
                    time.sleep(0.3)
            yield url
        finally:
            process.terminate()
            process.wait(300)


@mlflow
@pytest.mark.filterwarnings("default")  # of MLflow and what it stands on
def test_mlflow_holds_settings_figures_and_the_classifier_also_after_a_run_went_on(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    run = tmp_path / "run"
    train(run, ["mlflow"], range(35), STOPPED)
    client = MlflowClient(tracking_uri=server)
    number = json.loads((run / "mlflow.json").read_text())["run"]
    assert client.get_run(number).info.status == "KILLED"
    (run / "classifier").mkdir()
    (run / "classifier" / "config.json").write_text("{}")
    train(run, ["mlflow"], range(30, 41), DONE)
    assert capfd.readouterr().out == ""  # standard output is for --json
    kept = client.get_run(number)
    assert (kept.info.status, kept.info.run_name) == ("FINISHED", "run")
    assert kept.data.params == {
        name: str(value) for name, value in flat(json.loads((run / "config.json").read_text())).items()
    }
    found = {name: [(m.step, m.value) for m in client.get_metric_history(number, name)] for name in kept.data.metrics}
    assert same(found, written(run))
    assert [each.path for each in client.list_artifacts(number, "classifier")] == ["classifier/config.json"]


@mlflow
@pytest.mark.filterwarnings("default")
def test_mlflow_without_a_server_keeps_a_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = tmp_path / "runs" / "run"
    outcome = call("train", "digits", "--out", run, *TINY, "--track", "mlflow")
    assert outcome.exit_code == 0, outcome.stderr
    store = f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert store in outcome.stderr.replace("\n", "")
    client = MlflowClient(tracking_uri=store)
    number = json.loads((run / "mlflow.json").read_text())["run"]
    assert "classifier/model.safetensors" in [each.path for each in client.list_artifacts(number, "classifier")]
    assert client.get_experiment_by_name("digits") is not None


@mlflow
@pytest.mark.filterwarnings("default")
def test_a_server_that_goes_away_is_told_of_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr("mlflow.MlflowClient.create_run", lambda *a, **b: (_ for _ in ()).throw(OSError("gone")))
    said = train(tmp_path / "run", ["mlflow"], range(35), DONE)
    assert len(said) == 1
    assert "is told no more: gone" in said[0]


@mlflow
@pytest.mark.filterwarnings("default")
def test_a_server_that_is_not_there_is_found_before_the_run_begins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    outcome = call("train", "digits", "--out", tmp_path / "run", *TINY, "--track", "mlflow")
    assert outcome.exit_code == 2
    assert "MLflow cannot be reached at http://127.0.0.1:9" in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_a_tracker_that_is_none_or_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = call("train", "digits", "--out", tmp_path / "run", *TINY, "--track", "tensorbord")
    assert outcome.exit_code == 2
    assert "did you mean 'tensorboard'" in outcome.stderr
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    outcome = call("train", "digits", "--out", tmp_path / "run", *TINY, "--track", "tensorboard,mlflow")
    assert outcome.exit_code == 2
    assert "tensorboard is not installed: run pip install 'vitreous[track]'" in outcome.stderr
    assert not (tmp_path / "run").exists()


@tensorboard
@mlflow
@pytest.mark.filterwarnings("default")
def test_the_command_of_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    page = (Path(__file__).parent.parent / "docs" / "habits.md").read_text()
    (line,) = [line for line in page.splitlines() if "--track tensorboard" in line]
    outcome = call(*line.replace("--budget 60s", "").split()[1:], *TINY)
    assert outcome.exit_code == 0, outcome.stderr
    assert (tmp_path / "runs" / "mlflow.db").exists()
    assert (tmp_path / "runs" / "tracked" / "tensorboard").is_dir()
