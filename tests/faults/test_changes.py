"""A run goes on only as what it was: one owner, the same classes, pictures, size and model."""

from __future__ import annotations

import shutil
import signal
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from children import VARIANTS, Child, outcome, resume, same, train

Whole = Callable[[str], dict[str, Any]]


@pytest.mark.full
def test_a_second_process_is_refused_by_name_and_a_dead_one_is_no_owner(
    pictures: Path, tmp_path: Path, uninterrupted: Whole, tally: Counter[str]
) -> None:
    run = tmp_path / "run"
    owner = train(pictures, run, *VARIANTS["everything"], save_always=True, slow_step=0.5)
    assert owner.until("step 5")
    owner.strike(signal.SIGSTOP)  # or on a busy machine it could be done before the others ask
    for second in (resume(pictures, run), train(pictures, run)):
        assert second.end() == 2
        assert "scan" not in second.heard
        assert "Traceback" not in second.said
        tally["second processes refused"] += 1
    assert f"is being trained by process {owner.process.pid} on " in resume_said(pictures, run)
    owner.strike(signal.SIGKILL)
    owner.end()
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert same(outcome(run), uninterrupted("everything"))


def resume_said(pictures: Path, run: Path) -> str:
    child = resume(pictures, run)
    child.end()
    return child.said


@pytest.mark.full
def test_changed_pictures_classes_size_or_model_are_refused_with_what_differs(pictures: Path, tmp_path: Path) -> None:
    run, changed = tmp_path / "run", tmp_path / "changed"
    shutil.copytree(pictures, changed)
    child = train(changed, run, *VARIANTS["plain"], slow_step=0.1)
    assert child.until("save", 4)
    child.strike(signal.SIGTERM)
    assert child.end() == 130

    shutil.copytree(changed / "colour-3", changed / "mauve")
    said = resume_said(changed, run)
    assert "not those that" in said
    assert "classes with 'mauve'" in said
    assert "pictures 108 -> 135" in said
    shutil.rmtree(changed / "mauve")
    (changed / "colour-3").rename(changed / "mauve")
    said = resume_said(changed, run)
    assert "classes without 'colour-3', with 'mauve'" in said
    (changed / "mauve").rename(changed / "colour-3")
    (changed / "colour-3" / "0.png").unlink()
    assert "fingerprint" in resume_said(changed, run)
    shutil.copy(pictures / "colour-3" / "0.png", changed / "colour-3")

    for more in (["--size", "small"], ["--model", "resnet"], ["--set", "batch=8"]):
        child = Child(tmp_path, "train", changed, "--out", run, "--resume", *more)
        assert child.end() == 2
        assert more[0] in child.said
    child = resume(changed, run)
    assert child.end() == 0, child.said
