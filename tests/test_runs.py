"""The run folder: one owner at a time, a config that is whole, a journal that forgets what will be done again."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from vitreous.config import RunConfig, override
from vitreous.runs import Journal, changes, claim, prepare, read_config

HOLD = """
import pathlib, sys
from vitreous.runs import claim
with claim(pathlib.Path(sys.argv[1])):
    print(1, flush=True)
    input()
"""


def test_a_second_process_is_refused_and_a_dead_owner_s_run_is_free(tmp_path: Path) -> None:
    run = tmp_path / "run"
    owner = subprocess.Popen([sys.executable, "-c", HOLD, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert owner.stdout is not None
    owner.stdout.readline()
    with pytest.raises(ValueError, match=rf"being trained by process {owner.pid} on .* since 20.*: wait"), claim(run):
        pass
    owner.kill()
    owner.communicate()
    with claim(run):
        assert f"process {owner.pid} " not in (run / ".owner").read_text()


def test_within_itself_a_claim_has_no_effect_and_another_thread_is_refused(tmp_path: Path) -> None:
    refused = []

    def other() -> None:
        with pytest.raises(ValueError, match="being trained"), claim(tmp_path):
            pass
        refused.append(True)

    with claim(tmp_path):
        with claim(tmp_path):
            pass
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        (tmp_path / "something").touch()
    assert refused == [True]
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "something"}


def test_a_claim_on_what_stays_empty_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), claim(tmp_path / "runs" / "nothing"):
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_the_config_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vitreous.sealed.sync", full)
    with pytest.raises(OSError, match="No space"):
        prepare(tmp_path, RunConfig(steps=1), resume=False)
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_folder_is_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no run folder: it has no config\.json"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match=r"config\.json: the configuration is no JSON"):
        read_config(tmp_path)
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(FileNotFoundError, match="is a classifier and no run folder"):
        read_config(tmp_path)


def test_settings_that_differ_are_listed() -> None:
    config = RunConfig(steps=1)
    assert changes(config, override(config, {"batch": "64", "model.depth": "9"})) == [
        f"model.depth: {config.model.depth} -> 9",
        f"batch: {config.batch} -> 64",
    ]


def test_the_journal_forgets_what_comes_again_and_what_was_cut_short(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for step, final in ((20, False), (40, False), (60, False), (40, True)):
        journal.write(step=step, loss=1.0, **{"final": True} if final else {})
    with journal.metrics.open("a") as file:
        file.write('{"step": 40, "lo')
    journal.forget_after(40)
    assert [json.loads(line)["step"] for line in journal.metrics.read_text().splitlines()] == [20, 40]
