"""Files are UTF-8 whatever the locale: what is read is what was written, here and on any other machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_cli import TINY

NAMES = ("Käse", "犬")
COMMANDS = """
import json, sys, warnings
warnings.filterwarnings("error", category=EncodingWarning, module="vitreous")
from vitreous.cli import app
for words in json.loads(sys.argv[1]):
    print(json.dumps(app(words, standalone_mode=False)))
"""


def told(folder: Path, *commands: list[str]) -> list[object]:
    """What commands print where the locale knows ASCII alone: JSON, and each exit code or None.

    A command that leaves an encoding to the locale fails.
    """
    python = [sys.executable, "-X", "utf8=0", "-X", "warn_default_encoding", "-c", COMMANDS]
    ascii_alone = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    done = subprocess.run(
        [*python, json.dumps(commands)], cwd=folder, env=kept | ascii_alone, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.decode("ascii").splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With two runs on pictures whose classes no ASCII can name."""
    folder = tmp_path_factory.mktemp("encodings")
    pixels = iter(np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8))
    for name in NAMES:
        (folder / "pets" / name).mkdir(parents=True)
        for number in range(20):
            Image.fromarray(next(pixels)).save(folder / "pets" / name / f"{number}.png")
    train = ["train", "pets", "--device", "cpu"]
    vit = ["--stem", "patch", "--out", "vit", *TINY, "--set", "model.patch_size=2"]
    cnn = ["--model", "fastcnn", "--steps", "1", "--out", "cnn"]
    assert told(folder, [*train, *vit], [*train, *cnn]) == [None, None]
    return folder


def test_the_report_has_the_log_as_it_was_written(folder: Path) -> None:
    with (folder / "vit" / "train.log").open("ab") as log:
        log.write("Käse ≠ 犬\n".encode() + b"cut \xe7")
    check = ["heatmap", "vit", "--check", "--method", "attention", "-n", "4"]
    assert told(folder, check, ["report", "vit"]) == [None, None]
    text = (folder / "vit" / "report.html").read_text(encoding="utf-8")
    assert "<li>Käse ≠ 犬</li><li>cut �</li>" in text


def test_pages_and_tables_are_utf8(folder: Path) -> None:
    study = ["compare", "budget", "pets", "--at", "2", "--steps", "1", "--series", "fastcnn", "--out", "study"]
    assert told(folder, ["compare", "runs", "vit", "cnn", "--out", "duel"], study, study) == [None] * 3
    assert f"<td>{NAMES[1]}</td>" in (folder / "duel" / "compare.html").read_text(encoding="utf-8")
    for path in ("study/table.md", "study/page.html"):
        assert " ± " in (folder / path).read_text(encoding="utf-8")


def test_json_is_whole_where_standard_output_has_not_its_letters(folder: Path) -> None:
    facts, code = told(folder, ["eval", "vit", "--split", "val", "--json"])
    assert isinstance(facts, dict) and code is None
    assert [each["class"] for each in facts["per_class"]] == list(NAMES)


def test_classifiers_come_and_go_and_predictions_go_on(folder: Path) -> None:
    exports = [["export", "vit", "--to", kind, "--out", kind] for kind in ("hf", "timm")]
    predict = ["predict", "vit", "pets", "--out", "said.csv"]
    resume = ["train", "--resume", "--out", "vit"]
    assert told(folder, *exports, ["import", "hf", "--out", "back"], predict, resume, ["list", "."]) == [None] * 6
    for path in ("hf/config.json", "hf/README.md", "timm/README.md", "back/config.json", "said.csv"):
        assert NAMES[0] in (folder / path).read_text(encoding="utf-8"), path
