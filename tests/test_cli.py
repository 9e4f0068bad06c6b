"""The command line: what it prints where, its exit codes, and what it says to a careless user."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner

from vitreous.classifier import Classifier
from vitreous.cli import app, frame, training
from vitreous.console import TrainingDisplay, duration
from vitreous.data.named import EMBEDDED, NAMED
from vitreous.train import Progress, Result

Outcome = Any  # what typer's runner returns; typer does not export its type

NO_PROBE = ["--set", "precision=fp32", "--set", "attention=explicit"]
SMALL = ["--set", "model.width=16", "--set", "model.heads=2", "--set", "model.depth=1", "--set", "batch=16"]
TINY = ["--steps", "2", "--set", "evaluations=1", *NO_PROBE, *SMALL]


def call(*arguments: object) -> Outcome:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Outcome]:
    run = tmp_path_factory.mktemp("cli") / "run"
    return run, call("train", "digits", "--out", run, "--json", *TINY)


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    random = np.random.default_rng(0)
    paths = [tmp_path / "a [bold].png", tmp_path / "b.jpg"]
    for path in paths:
        Image.fromarray(random.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(path)
    return paths


def test_train_prints_one_object_on_standard_output_and_the_choices_on_standard_error(
    trained: tuple[Path, Outcome],
) -> None:
    run, outcome = trained
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert set(result) >= {"run", "seconds", "images", "val_accuracy"}
    assert (result["run"], result["images"], result["interrupted"]) == (str(run), 32, False)
    assert 0 <= result["val_accuracy"] <= 1
    for choice in ("held out", "explicit attention, as asked", "as asked: model.width=16"):
        assert choice in outcome.stderr
    assert (run / "classifier" / "model.safetensors").is_file()


@pytest.mark.parametrize("change", ["optim.name=adamw", "model.stem=patch"])
def test_a_plan_whose_filters_cannot_turn_says_so(change: str) -> None:
    command = ["train", "digits", "--epochs", "1", "--plan"]
    assert "so no filters are turned" not in " ".join(call(*command).output.split())
    changed = " ".join(call(*command, "--set", change).output.split())
    assert changed.index(f"as asked: {change}") < changed.index("so no filters are turned")


def test_eval_reads_the_test_split_once(trained: tuple[Path, Outcome]) -> None:
    run, _ = trained
    first = call("eval", run, "--json")
    assert first.exit_code == 0, first.stderr
    result = json.loads(first.stdout)
    assert set(result) >= {"accuracy", "loss", "n", "split", "dataset", "fingerprint"}
    assert (result["split"], result["n"], result["stored"]) == ("test", 359, False)
    assert Path(result["picture"]).is_file()
    assert "calibration error" in first.stderr
    second = json.loads(call("eval", run, "--json").stdout)
    assert second["stored"] is True
    assert second["accuracy"] == result["accuracy"]


def test_predict_gives_an_object_a_picture(trained: tuple[Path, Outcome], pictures: list[Path]) -> None:
    outcome = call("predict", trained[0], *pictures, "--top", 3, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert [row["image"] for row in rows] == [str(path) for path in pictures]
    for row in rows:
        assert len(row["top"]) == 3
        assert row["top"][0] == {"label": row["label"], "probability": row["probability"]}


def test_predict_answers_for_the_good_pictures_and_names_the_bad_one(
    trained: tuple[Path, Outcome], pictures: list[Path], tmp_path: Path
) -> None:
    bad = tmp_path / "words.png"
    bad.write_text("not a picture")
    outcome = call("predict", trained[0], pictures[0], bad, tmp_path / "absent.png", tmp_path, pictures[1], "--json")
    assert outcome.exit_code == 2
    rows = [json.loads(line) for line in outcome.stdout.splitlines()]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "words.png" in outcome.stderr
    assert "Traceback" not in outcome.stderr


def test_people_read_everything_on_standard_error(trained: tuple[Path, Outcome], pictures: list[Path]) -> None:
    outcome = call("predict", trained[0], pictures[0])
    assert outcome.stdout == ""
    assert "[bold].png" in outcome.stderr  # a file name is not markup


def test_heatmap_writes_picture_and_maps(trained: tuple[Path, Outcome], tmp_path: Path) -> None:
    outcome = call("heatmap", trained[0], "-n", 3, "--out", tmp_path / "seen", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    with Image.open(result["picture"]) as picture:
        assert picture.width > 100
    assert np.load(result["maps"]).shape[0] == 3
    assert result["sentences"][0] in outcome.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["digits"], "leave DATA out"),
        (["--class", "3"], "leave --class out"),
        (["--layer", "1", "--head", "2"], "leave --layer and --head out"),
        (["--out", "elsewhere"], "leave --out out"),
    ],
)
def test_a_check_of_heatmaps_refuses_what_it_would_not_heed(
    words: list[str], said: str, trained: tuple[Path, Outcome]
) -> None:
    outcome = call("heatmap", trained[0], *words, "--check")
    assert outcome.exit_code == 2
    assert said in outcome.stderr.replace("\n", " ")
    assert not (trained[0] / "faithfulness.json").exists()


def test_data_describes_and_draws(tmp_path: Path) -> None:
    outcome = call("data", "digits", "--out", tmp_path / "sheet.png", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    facts = json.loads(outcome.stdout)
    assert sum(split["n"] for split in facts["splits"].values()) == 1797
    assert Path(facts["sheet"]).is_file()
    assert facts["fingerprint"] in outcome.stderr


def test_resume_goes_on_with_the_same_config_alone(trained: tuple[Path, Outcome]) -> None:
    run, outcome = trained
    again = call("train", "digits", "--out", run, "--resume", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["val_accuracy"] == json.loads(outcome.stdout)["val_accuracy"]
    for extra in (["--seed", "1"], ["--set", "batch=8"]):
        changed = call("train", "digits", "--out", run, "--resume", *extra)
        assert changed.exit_code == 2
        assert "--resume" in changed.stderr
    other = call("train", "cifar10", "--out", run, "--resume")
    assert other.exit_code == 2
    assert "'digits'" in other.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "no-such-folder"], "no-such-folder"),
        (["train", "digits", "--size", "nanno"], "did you mean 'nano'"),
        (["train", "digits", "--set", "optim.lrr=1"], "did you mean"),
        (["train", "digits", "--set", "batch"], "--set optim.lr=0.01"),
        (["train", "digits", "--set", "batch=many"], "batch"),
        (["train", "digits", "--budget", "5"], "90s, 5m or 1h"),
        (["train", "digits", "--budget", "0s"], "above 0"),
        (["train", "digits", "--budget", "1s", *NO_PROBE], "least that works"),
        (["train", "digits", "--budget", "5m", "--steps", "3"], "exactly one"),
        (["train", "digits", "--device", "quantum"], "one of auto, cpu"),
        (["train", "digits", "--resume", "--out", "nowhere"], "nowhere"),
        (["eval", "nowhere"], "nowhere"),
        (["predict", "nowhere", "x.png"], "nowhere"),
        (["heatmap", "nowhere"], "nowhere"),
        (["data", "no-such-folder"], "no-such-folder"),
    ],
)
def test_what_the_user_can_mend_is_two_lines_and_exit_code_2(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call(*arguments)
    assert outcome.exit_code == 2, outcome.stderr
    assert outcome.stdout == ""
    error = outcome.stderr[outcome.stderr.index("error:") :]
    assert said in error
    assert len(error.strip().splitlines()) <= 2


@pytest.mark.parametrize(("typed", "meant"), [(["trian", "digits"], "train"), (["data", "digits", "--jsn"], "--json")])
def test_a_misspelt_command_or_option_is_answered_with_the_nearest(typed: list[str], meant: str) -> None:
    outcome = call(*typed)
    assert outcome.exit_code == 2
    assert meant in outcome.stderr


@pytest.mark.parametrize(
    "problem",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "runs/x/classifier"),
        OSError("could not write runs/x/classifier: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_names_the_file_and_the_cure(problem: OSError) -> None:
    said = frame.explain(problem)
    assert "runs/x/classifier" in said
    assert "make room" in said


def test_a_file_in_the_way_of_the_run_folder(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    outcome = call("train", "digits", "--out", tmp_path / "taken", *TINY)
    assert outcome.exit_code == 2
    assert "taken (a file is in the way" in outcome.stderr
    assert (tmp_path / "taken").read_text() == "mine"


def test_an_interrupted_run_says_how_to_go_on(trained: tuple[Path, Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = Result(trained[0], 12.0, 640, None, Classifier.load(trained[0]), interrupted=True)
    monkeypatch.setattr("vitreous.jobs.train_on", lambda *arguments, **options: stopped)
    outcome = call("train", "digits", "--json")
    assert outcome.exit_code == 130
    assert json.loads(outcome.stdout)["interrupted"] is True
    assert f"vitreous train digits --out {trained[0]} --resume" in outcome.stderr.replace("\n", "")


@pytest.mark.parametrize(
    ("problem", "code"), [(ValueError("mend me"), 2), (KeyboardInterrupt(), 130), (RuntimeError("a bug"), 1)]
)
def test_exit_codes(problem: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr("vitreous.data.load", fail)
    outcome = call("data", "digits")
    assert outcome.exit_code == code
    assert (outcome.exception is problem) == (code == 1)  # a bug keeps its traceback


def test_help_and_version_load_nothing_heavy() -> None:
    script = (
        "import sys; from typer.testing import CliRunner; from vitreous.cli import app; "
        "r = CliRunner().invoke(app, ['--help']); assert r.exit_code == 0 and 'heatmap' in r.output; "
        "r = CliRunner().invoke(app, ['--version']); assert r.output.startswith('vitreous '); "
        "print(sorted({'torch', 'numpy', 'matplotlib', 'sklearn', 'pyarrow', 'PIL'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("vitreous pre", ["predict"]),
        ("vitreous train ci", ["cifar10", "cifar100"]),
        ("vitreous predict r", ["runs/digits", "runs/digits-2"]),
        ("vitreous eval runs/digits-", ["runs/digits-2"]),
        ("vitreous train digits --resu", ["--resume"]),
        ("vitreous train my-own-pic", []),  # the shell completes files itself
    ],
)
def test_the_shell_is_offered_commands_runs_and_data_sets(
    typed: str, offered: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for run in ("digits", "digits-2", "no-run"):
        (tmp_path / "runs" / run).mkdir(parents=True)
        (tmp_path / "runs" / run / ("notes" if run == "no-run" else "config.json")).write_text("{}")
    words = {"COMP_WORDS": typed, "COMP_CWORD": str(len(typed.split()) - 1), "_VITREOUS_COMPLETE": "complete_bash"}
    assert CliRunner().invoke(app, [], prog_name="vitreous", env=words).stdout.split() == offered


def test_the_named_data_sets_that_are_offered_are_those_there_are() -> None:
    assert set(frame.NAMED) == {*EMBEDDED, *NAMED}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("1h30m", 5400), ("1.5m", 90), ("2M", 120)]
)
def test_budgets(text: str, seconds: float) -> None:
    assert frame.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "-5m", "5 minutes", "1..5s", "5m1h"])
def test_budgets_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="90s, 5m or 1h"):
        frame.seconds(text)


@pytest.mark.alone
def test_a_budget_holds_from_the_start_of_the_interpreter_to_its_end(tmp_path: Path) -> None:
    options = ["--budget", "15s", "--out", str(tmp_path / "run"), *SMALL, *NO_PROBE]
    begun = time.monotonic()
    subprocess.run([sys.executable, "-m", "vitreous", "train", "digits", *options], check=True, capture_output=True)
    assert 12.0 < time.monotonic() - begun < 15.3


def test_run_folders_are_named_after_the_data_and_never_reused(tmp_path: Path) -> None:
    names = [frame.slug(source) for source in ("digits", "hf:owner/name", "/data/my pictures/", "..", "C:\\cats")]
    assert names == ["digits", "name", "my-pictures", "run", "cats"]
    with pytest.raises(ValueError, match="--out"):
        training.latest(tmp_path, "digits")
    for expected in ("digits", "digits-2", "digits-3"):
        path = training.fresh(tmp_path, "digits")
        assert path.name == expected
        path.mkdir()
        assert training.latest(tmp_path, "digits") == path


def display(terminal: bool) -> tuple[TrainingDisplay, Callable[[], str]]:
    sink = StringIO()
    console = Console(file=sink, force_terminal=terminal, width=100, color_system=None)
    return TrainingDisplay(console), sink.getvalue


def told(step: int, **values: object) -> Progress:
    facts: dict[str, object] = {"phase": "train", "seconds": step * 0.5, "budget": 60.0, "step": step, "loss": 1.0}
    return Progress(**{**facts, **values})  # type: ignore[arg-type]


def test_a_log_gets_every_choice_and_a_line_now_and_then() -> None:
    watch, text = display(terminal=False)
    with watch:
        watch(Progress("probe", 1.0, 60.0, note="bf16 with explicit attention [measured]"))
        for step in range(1, 101):
            watch(told(step, accuracy=0.5 if step > 50 else None))
    lines = text().splitlines()
    assert lines[0].strip() == "bf16 with explicit attention [measured]"
    assert any("validation 50.0%" in line for line in lines)
    assert 5 <= len(lines) <= 9


def test_a_terminal_gets_a_live_bar() -> None:
    watch, text = display(terminal=True)
    with watch:
        watch(told(40, accuracy=0.561, images_per_second=593.0, lr=0.001))
        watch._live.refresh()  # type: ignore[union-attr]
    shown = text()
    for part in ("training", "/ 1:00", "left", "593 images/s", "loss 1.000", "validation 56.1%", "rate 1.00e-03"):
        assert part in shown


def test_durations() -> None:
    assert [duration(s) for s in (0, 42.9, 725, 3723, -1)] == ["0:00", "0:42", "12:05", "1:02:03", "0:00"]
