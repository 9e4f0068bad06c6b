"""Two processes under torchrun do what one would: the same losses, each picture once, one folder, one end.

Torchrun is started twice for all tests: once for runs that go well, once for a process that is killed.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch
import two_processes
from test_train import Stop, losses
from torch import nn

from vitreous import parallel
from vitreous import train as training
from vitreous.batches import Batches
from vitreous.config import RunConfig
from vitreous.train import Progress, train

pytestmark = pytest.mark.skipif(
    not torch.distributed.is_available() or os.name == "nt", reason="torch was built without gloo"
)


def torchrun(*arguments: object, restarts: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", f"--max-restarts={restarts}"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
    command += [two_processes.__file__, *map(str, arguments)]
    surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=900, env=surroundings)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what two processes left, and the first twenty steps of two runs in it made by one."""
    folder = tmp_path_factory.mktemp("together")
    patched = pytest.MonkeyPatch()
    patched.setattr(training, "LOG_STEPS", 1)
    patched.setattr("vitreous.saving.Saver.due", lambda *_, **__: True)

    def kill(progress: Progress) -> None:
        if progress.step == 21 and progress.phase == "train":
            raise Stop

    for name in ("reshaped", "reshaped_parts"):
        with pytest.raises(Stop):
            train(getattr(two_processes, name.upper()), folder / name, two_processes.squares(), watch=kill)
    patched.undo()
    done = torchrun("compare,reshape,leave,foresee,differ,fail", folder)
    (folder / "said").write_text(done.stderr)
    assert "the second process found something wrong" in done.stderr, done.stderr
    return folder


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is written down."""
    monkeypatch.setattr(training, "LOG_STEPS", 1)


@pytest.mark.parametrize("name", ["patch", "conv", "parts", "probe", "taught", "muon", "muon_parts"])
@pytest.mark.usefixtures("every_step")
def test_two_processes_have_the_losses_of_one(together: Path, tmp_path: Path, name: str) -> None:
    config: RunConfig = getattr(two_processes, name.upper())
    alone = train(config, tmp_path / "alone", two_processes.squares())
    expected, found = losses(tmp_path / "alone"), losses(together / name)
    assert list(found) == list(range(1, 1 + (config.steps or 0)))
    assert max(abs(found[step] / expected[step] - 1) for step in expected) <= 1e-5
    ends = [json.loads((run / "metrics.jsonl").read_text().splitlines()[-1]) for run in (together / name, alone.run)]
    assert ends[0]["accuracy"] == ends[1]["accuracy"] == alone.val_accuracy
    assert ends[0]["loss"] == pytest.approx(ends[1]["loss"], rel=1e-4)
    assert ends[0]["n"] == 33


@pytest.mark.parametrize("name", ["reshaped", "reshaped_parts"])
@pytest.mark.usefixtures("every_step")
def test_a_run_goes_from_one_process_to_two_and_back_and_sees_each_picture_once_an_epoch(
    together: Path, tmp_path: Path, name: str
) -> None:
    stopped, shown = zip(*(torch.load(together / f"{name}-{rank}.pt") for rank in (0, 1)), strict=True)
    assert stopped == (True, True)
    assert list(shown[0]) == list(shown[1]) == list(range(20, 40))  # a signal to one stops both after the same step
    data, config = two_processes.squares(), getattr(two_processes, name.upper())
    assert data.train is not None
    order = [Batches(data.train, config).chosen(step).tolist() for step in range(20)]
    order += [[*one, *other] for one, other in zip(shown[0].values(), shown[1].values(), strict=True)]
    for epoch in range(5):
        assert sorted(itertools.chain(*order[8 * epoch : 8 * epoch + 8])) == list(range(128))
    train(config, together / name, data, resume=True)
    train(config, tmp_path / "alone", data)
    expected, found = losses(tmp_path / "alone"), losses(together / name)
    assert list(found) == list(range(1, 61))
    assert max(abs(found[step] / expected[step] - 1) for step in expected) <= 1e-5


def test_processes_of_different_speed_expect_the_same_of_the_last_evaluation(together: Path) -> None:
    """What is looked at on the way follows from it, and must be the same pictures on all of them."""
    first, second = (float((together / f"foreseen-{rank}").read_text()) for rank in (0, 1))
    assert first == second < 0.7


def test_all_processes_stop_where_one_has_other_pictures_and_leave_no_folder(together: Path) -> None:
    first, second = ((together / f"differed-{rank}").read_text() for rank in (0, 1))
    assert first == second
    assert first.startswith("process 1 has read other pictures than the first: pictures 128 -> 127")
    assert not (together / "differing").exists()


def test_one_process_says_what_went_wrong(together: Path) -> None:
    said = (together / "said").read_text()
    assert said.count("ValueError: the second process found something wrong") == 1
    assert said.count("Traceback") == 2  # its own, and torchrun's


def test_who_has_parted_is_held_by_no_thread_that_could_end_python_from_below(together: Path) -> None:
    assert [(together / f"held-{rank}").read_text() for rank in (0, 1)] == ["0 of 200"] * 2


def test_who_survives_a_kill_says_so_and_how_to_go_on(tmp_path: Path) -> None:
    """Without torchrun, which may end the survivor before it has spoken."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, two_processes.__file__, "kill", str(tmp_path)]
    survivor, killed = (
        subprocess.Popen(command, env={**os.environ, **where, "RANK": rank}, stderr=subprocess.PIPE, text=True)
        for rank in ("0", "1")
    )
    killed.communicate(timeout=300)
    _, said = survivor.communicate(timeout=300)
    assert killed.returncode == -signal.SIGKILL
    assert survivor.returncode not in (0, -signal.SIGKILL, -signal.SIGTERM)
    assert "another process of this run is gone" in said
    assert "--resume" in said


def test_after_a_kill_torchrun_starts_again_and_the_run_goes_on_by_itself_to_the_bit(
    together: Path, tmp_path: Path
) -> None:
    done = torchrun("kill", tmp_path, restarts=1)
    assert done.returncode == 0, done.stderr
    processes = [int(path.name.removeprefix("process-")) for path in tmp_path.glob("process-*")]
    assert len(processes) == 4
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)
    assert losses(tmp_path / "killed") == losses(together / "not-killed")
    assert (tmp_path / "killed/train.log").read_text().count("patches of") == 1


def test_a_model_is_cut_where_a_copy_would_fill_more_than_half_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Linear(999, 1000)  # a million weights: 16 MB with gradients and two moments
    assert not parallel.too_large(model, torch.device("cpu"))
    for megabytes, cut in ((33, False), (31, True)):
        gpu = types.SimpleNamespace(total_memory=megabytes * 10**6)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, gpu=gpu: gpu)
        assert parallel.too_large(model, torch.device("cuda")) == cut
