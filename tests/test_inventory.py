"""``vitreous list`` says what each run's own files say, and tells a run that goes on from one that stopped."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import TINY, call

from vitreous import inventory
from vitreous.runs import claim


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, one of them deeper and better, one killed before its end; and other folders."""
    folder = tmp_path_factory.mktemp("shelf")
    assert call("train", "digits", "--out", folder / "first", *TINY).exit_code == 0
    assert call("eval", folder / "first").exit_code == 0
    better, killed = folder / "deeper" / "second", folder / "third"
    for run in (better, killed):
        run.mkdir(parents=True)
        for name in ("config.json", "metrics.jsonl", "train.log"):
            (run / name).write_bytes((folder / "first" / name).read_bytes())
    (better / "classifier").mkdir()
    facts = json.loads((folder / "first" / "classifier" / "config.json").read_text())
    facts["provenance"] |= {"val_accuracy": 0.99, "seconds": 4000}
    (better / "classifier" / "config.json").write_text(json.dumps(facts))
    looks = [json.loads(line) for line in (killed / "metrics.jsonl").read_text().splitlines()]
    (killed / "metrics.jsonl").write_text(json.dumps(looks[-1] | {"accuracy": 0.25}) + '\n{"seconds": 1, "st')
    (folder / "notes").mkdir()
    (folder / "notes" / "config.json").write_text('{"not": "a run"}')
    return folder


def test_the_best_of_a_data_set_comes_first_with_the_figures_of_its_files(shelf: Path) -> None:
    outcome = call("list", shelf, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = json.loads(outcome.stdout)["runs"]
    assert Path(rows[0]["run"]).name == "second"
    by_name = {Path(row["run"]).name: row for row in rows}
    assert set(by_name) == {"first", "second", "third"}
    assert [by_name[name]["state"] for name in ("first", "second", "third")] == ["done", "done", "interrupted"]
    first = by_name["first"]
    kept = json.loads((shelf / "first" / "classifier" / "config.json").read_text())["provenance"]
    assert (first["data"], first["val_accuracy"], first["parameters"]) == (
        "digits",
        kept["val_accuracy"],
        kept["parameters"],
    )
    assert first["test_accuracy"] == json.loads((shelf / "first" / "eval-test.json").read_text())["accuracy"]
    assert first["bytes"] == sum(path.stat().st_size for path in (shelf / "first").rglob("*") if path.is_file())
    assert by_name["third"]["val_accuracy"] == 0.25
    assert by_name["third"]["test_accuracy"] is None
    assert "1:06:40" in outcome.stderr


def test_a_test_accuracy_of_earlier_weights_or_a_damaged_one_is_not_shown(shelf: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(shelf / "first", run)
    assert inventory.entry(run).test_accuracy is not None
    kept = (run / "eval-test.json").read_text()
    (run / "eval-test.json").write_text(kept[:40])
    assert inventory.entry(run).test_accuracy is None
    (run / "eval-test.json").write_text(kept)
    with (run / "classifier" / "model.safetensors").open("ab") as weights:
        weights.write(b"!")
    assert inventory.entry(run).test_accuracy is None


def test_a_run_that_somebody_trains_is_running_and_the_lock_of_the_dead_is_not(shelf: Path) -> None:
    run = shelf / "third"
    code = (
        "import sys\nfrom pathlib import Path\nfrom vitreous.runs import claim\n"
        "with claim(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()\n"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code, run], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "held\n"
        assert inventory.entry(run).state == "running"
        owner.kill()
    assert (run / ".owner").exists()  # nobody took it away
    assert inventory.entry(run).state == "interrupted"
    with claim(run):  # looking did not keep the lock
        pass


def test_damaged_and_empty_folders_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text("{")
    (tmp_path / "run" / "train.log").write_text("began")
    assert [each.state for each in inventory.runs(tmp_path)] == ["damaged"]
    (tmp_path / "empty").mkdir()
    outcome = call("list", tmp_path / "empty")
    assert outcome.exit_code == 0
    assert "no runs there" in outcome.stderr
    outcome = call("list", tmp_path / "absent")
    assert outcome.exit_code == 2
    assert "no such folder" in outcome.stderr


def test_listing_needs_no_torch(shelf: Path) -> None:
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom vitreous.cli import app\n"
        "assert CliRunner().invoke(app, ['list', sys.argv[1]]).exit_code == 0\n"
        "print(sorted({'torch', 'numpy', 'matplotlib', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code, shelf], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
