"""The handout has a place for every study and its commands are ones that the command line takes."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path

import pytest

from vitreous.cli.frame import seconds
from vitreous.cli.seeing import points
from vitreous.studies import USUAL, Study

ROOT = Path(__file__).parent.parent
HANDOUT = (ROOT / "docs" / "handout.md").read_text()


@pytest.mark.parametrize("kind", USUAL)
def test_a_table_takes_the_place_of_the_last_one(kind: str) -> None:
    filled = runpy.run_path(str(ROOT / "bench" / "handout.py"))["filled"]
    once = filled(HANDOUT, kind, "| a | b |")
    assert once.count("| a | b |") == 1 and f"images/study-{kind}.png" in once
    assert filled(once, kind, "| a | b |") == once
    assert filled(once, kind, "| c |").count("| a | b |") == 0
    with pytest.raises(ValueError, match="no marks for a weather study"):
        filled(HANDOUT, "weather", "")


def test_its_commands_are_studies() -> None:
    commands = re.findall(r"^vitreous compare (data|size|budget) cifar10 (.*)$", HANDOUT, re.MULTILINE)
    assert {kind for kind, _ in commands} == set(USUAL)
    for kind, rest in commands:
        words = shlex.split(rest)
        options = dict(zip(words[::2], words[1::2], strict=True))
        Study(
            kind,
            "cifar10",
            at=points(options.get("--at"), times=kind == "budget"),
            series=tuple(options["--series"].split(",")) if "--series" in options else (),
            budget=seconds(options["--budget"]) if "--budget" in options else None,
            steps=int(options["--steps"]) if "--steps" in options else None,
            stem=options.get("--stem"),
            split=options.get("--split", "val"),
        )
