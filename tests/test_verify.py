"""A run is checked against what it says of itself, and repeated from its folder alone."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from test_cli import TINY, call

from vitreous import verify
from vitreous.classifier import Classifier
from vitreous.evaluate import weights_name
from vitreous.verify import verify_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("verify") / "run"
    assert call("train", "digits", "--out", run, *TINY).exit_code == 0
    assert call("eval", run).exit_code == 0
    return run


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    import shutil

    return shutil.copytree(finished, tmp_path / "run")


def contradicted(run: Path) -> dict[str, str]:
    return {finding.what: finding.words for finding in verify_run(run).findings if finding.holds is False}


def test_a_finished_run_holds_and_nothing_is_written(finished: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("*")}
    outcome = call("verify", finished, "--json")
    assert outcome.exit_code == 0, outcome.stderr
    found = json.loads(outcome.stdout)
    assert found["holds"] is True
    looked_at = [finding["what"] for finding in found["findings"]]
    assert looked_at[-4:] == ["classifier", "training pictures", "validation accuracy", "test accuracy"]
    assert all(name.startswith("step-") for name in looked_at[:-4])
    assert all(finding["holds"] for finding in found["findings"])
    assert "is what it was" in outcome.stderr
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("*")} == before


def test_a_run_on_a_table_whose_pictures_are_elsewhere_holds(workplace: Path) -> None:
    (workplace / "tables").mkdir()
    (workplace / "pets.csv").rename(workplace / "tables" / "pets.csv")
    trained = call("train", "tables/pets.csv", "--images", ".", "--out", "run", *TINY)
    assert trained.exit_code == 0, trained.stderr
    outcome = call("verify", "run")
    assert outcome.exit_code == 0, outcome.stderr


def test_a_flipped_bit_anywhere_is_exit_code_2(run: Path) -> None:
    for name in ("checkpoints/step-00000002/tensors.safetensors", "classifier/model.safetensors"):
        path = run / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        outcome = call("verify", run, "--json")
        assert outcome.exit_code == 2
        assert json.loads(outcome.stdout)["holds"] is False
        assert "does not match its SHA-256" in outcome.stderr
        path.write_bytes(whole)
    assert contradicted(run) == {}


def test_figures_that_others_have_changed_are_found(run: Path) -> None:
    classifier = Classifier.load(run)
    classifier.provenance.update(val_accuracy=0.99, fingerprint="sha256:0")
    classifier.save(run / "classifier")
    tested = json.loads((run / "eval-test.json").read_text())
    (run / "eval-test.json").write_text(json.dumps({**tested, "accuracy": 1.0}))
    found = contradicted(run)
    assert list(found) == ["training pictures", "validation accuracy", "test accuracy"]
    assert "99.0000% is stated" in found["validation accuracy"]
    assert "where the run had sha256:0" in found["training pictures"]
    (run / "eval-test.json").write_text("{")
    assert "cannot be read" in contradicted(run)["test accuracy"]
    (run / "eval-test.json").write_text(json.dumps({**tested, "weights": "sha256:0"}))
    assert "other weights" in contradicted(run)["test accuracy"]
    (run / "eval-test.json").write_text(json.dumps({**tested, "fingerprint": "sha256:0"}))
    assert "test pictures are others" in contradicted(run)["test accuracy"]


def test_elsewhere_a_picture_in_a_thousand_may_tip(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = Classifier.load(run)
    n = 143
    classifier.provenance.update(val_accuracy=classifier.provenance["val_accuracy"] + 1 / n)
    classifier.save(run / "classifier")
    (run / "eval-test.json").unlink()
    assert list(contradicted(run)) == ["validation accuracy"]
    classifier.provenance.update(cpu="another")
    classifier.save(run / "classifier")
    assert contradicted(run) == {}
    assert verify_run(run).elsewhere[0].startswith("cpu another -> ")


@pytest.mark.parametrize(
    ("trained_on", "allowed"),
    [
        ({}, False),
        ({"device": "mps"}, True),
        ({"device": "cpu", "gpu": "A"}, False),
        ({"device": None, "gpu": "A"}, True),
    ],
)
def test_what_a_gpu_stated_may_tip_a_picture_on_the_processor(
    trained_on: dict[str, str | None], allowed: bool, run: Path
) -> None:
    if torch.cuda.is_available():
        pytest.skip("names a GPU that is not there")
    classifier = Classifier.load(run)
    assert classifier.provenance["device"] == "cpu"
    said = {**classifier.provenance, "val_accuracy": classifier.provenance["val_accuracy"] + 1 / 143, **trained_on}
    classifier.provenance.clear()
    classifier.provenance.update({name: value for name, value in said.items() if value is not None})  # None: as of old
    classifier.save(run / "classifier")
    (run / "eval-test.json").unlink()
    assert (contradicted(run) == {}) == allowed


def test_a_run_that_was_stopped_states_nothing(run: Path) -> None:
    classifier = Classifier.load(run)
    classifier.provenance.update(val_accuracy=None)
    classifier.save(run / "classifier")
    (stated,) = (finding for finding in verify_run(run).findings if finding.what == "validation accuracy")
    assert stated.holds is None
    (run / "classifier").rename(run / "elsewhere")
    assert contradicted(run) == {"classifier": "there is none: the run was stopped before it had one; --resume goes on"}


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    outcome = call("verify", tmp_path)
    assert outcome.exit_code == 2
    assert "no run folder" in outcome.stderr


def test_a_run_is_repeated_to_the_bit_from_its_folder(finished: Path, tmp_path: Path) -> None:
    outcome = call("train", "--like", finished, "--out", tmp_path / "again", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["like"] == {
        "run": str(finished),
        "elsewhere": [],
        "val_accuracy": result["val_accuracy"],
        "same_weights": True,
    }
    assert "the weights are those of" in outcome.stderr
    assert weights_name(tmp_path / "again") == weights_name(finished)


def test_what_is_not_as_then_is_told_before_training(run: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(run)
    classifier.provenance.update(torch="1.0", cpu="another")
    classifier.save(run / "classifier")
    outcome = call("train", "--like", run, "--out", tmp_path / "again", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    assert "torch 1.0 -> " in outcome.stderr
    assert len(json.loads(outcome.stdout)["like"]["elsewhere"]) == 2


def test_other_pictures_are_no_repetition(run: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(run)
    classifier.provenance.update(fingerprint="sha256:0")
    classifier.save(run / "classifier")
    outcome = call("train", "--like", run, "--out", tmp_path / "again")
    assert outcome.exit_code == 2
    assert "the training pictures are not those of" in outcome.stderr
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "give one of: DATA; --like RUN; --resume --out RUN"),
        (["digits", "--like", "RUN"], "give one of"),
        (["--resume"], "give one of"),
        (["--like", "RUN", "--resume"], "give one of"),
        (["--like", "RUN", "--seed", "1"], "--seed cannot be given with --like"),
        (["--like", "RUN", "--set", "batch=3"], "--set batch cannot be given with --like"),
        (["--like", "RUN", "--plan"], "--plan goes with neither"),
        (["--like", "nowhere"], "nowhere is no run folder"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], said: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = call("train", *(str(finished) if word == "RUN" else word for word in arguments))
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_run_goes_on_without_naming_its_data(run: Path) -> None:
    assert call("train", "--resume", "--out", run).exit_code == 0


def test_verified_is_plain_values() -> None:
    found = verify.Verified((verify.Finding("classifier", None, "?"),), ("torch 1 -> 2",))
    assert found.holds
    assert json.loads(json.dumps(found.to_json()))["findings"][0] == dataclasses.asdict(found.findings[0])
