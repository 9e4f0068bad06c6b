"""What the README and the quickstart say is true: their commands run, their links lead somewhere, the tree is the tree.

Commands run in this process on small made-up data and for two steps. The two set-up commands are run by the project's
own checks (``.ci/run``), from outside.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli import NO_PROBE, SMALL, call

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
SHORT = ["--steps", "2", *SMALL, *NO_PROBE]


def blocks(page: Path, language: str) -> list[str]:
    """The code blocks of a page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def commands(page: Path, program: str) -> list[list[str]]:
    """The command lines of a page that call ``program``, as words, comments left out."""
    lines = [shlex.split(line, comments=True) for block in blocks(page, "sh") for line in block.splitlines()]
    return [words for words in lines if words and words[0] == program]


def shortened(words: list[str]) -> list[str]:
    """A train command with two steps of a tiny model in place of its budget; other commands as they are."""
    if words[0] != "train" or "--resume" in words:
        return words
    if "--budget" in words:
        place = words.index("--budget")
        words = words[:place] + words[place + 2 :]
    return [*words, *SHORT]


@pytest.mark.parametrize(
    "page", ["README.md", "docs/quickstart.md", "docs/predict.md", "docs/habits.md", "docs/data.md"]
)
def test_every_command_runs(page: str, workplace: Path) -> None:
    found = commands(ROOT / page, "vitreous")
    assert len(found) >= 4
    for text in blocks(ROOT / page, "yaml"):  # its first line is a comment with the name of the file
        (workplace / text.split()[1]).write_text(text)
    for _, *words in found:
        outcome = call(*shortened(words))
        assert outcome.exit_code == 0, f"{' '.join(words)}\n{outcome.stderr}"


def test_the_python_of_the_readme_runs(workplace: Path) -> None:
    (code,) = blocks(ROOT / "README.md", "python")
    assert "budget=30" in code
    exec(code.replace("budget=30", "steps=2"), {})


def test_two_commands_set_everything_up_and_ci_calls_the_second() -> None:
    first = blocks(ROOT / "README.md", "sh")[0]
    lines = [shlex.split(line, comments=True) for line in first.splitlines()]
    assert lines == [["python3", "start.py"], ["python3", "start.py", "test"]]
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec python3 start.py test")


def test_start_refuses_what_it_does_not_know() -> None:
    done = subprocess.run([sys.executable, ROOT / "start.py", "tset"], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "unknown argument 'tset'" in done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_to_a_file_leads_to_one(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    missing = [target for target in targets if "://" not in target and not (page.parent / target).exists()]
    assert missing == []


def test_the_tree_of_the_house_names_every_room() -> None:
    (tree,) = re.findall(r"^src/vitreous/\n((?:  .*\n)+)", (ROOT / "README.md").read_text(), flags=re.MULTILINE)
    named = {line.split()[0].rstrip("/") for line in tree.splitlines()}
    rooms = {path.name for path in (ROOT / "src" / "vitreous").iterdir() if not path.name.startswith("__")}
    assert named == rooms
