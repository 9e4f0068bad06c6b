"""Files of every released version are read for ever, and gone on with; those of a later version are refused by name."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from make import last_loss, pictures

from vitreous import checkpoint, jobs, sealed
from vitreous.classifier import Classifier
from vitreous.runs import read_config

HERE = Path(__file__).parent
VERSIONS = sorted(path.parent for path in HERE.glob("*/expected.json"))


@pytest.fixture(params=VERSIONS, ids=lambda path: path.name)
def kept(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the run that a version left."""
    return shutil.copytree(request.param, tmp_path / "run")


def test_every_version_in_the_changelog_has_left_a_run() -> None:
    headings = re.findall(r"^## (\d+\.\d+)\.", (HERE.parents[1] / "CHANGELOG.md").read_text(), flags=re.MULTILINE)
    assert sorted(set(headings)) == [path.name for path in VERSIONS]
    assert all(sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) < 60_000 for path in VERSIONS)


def test_its_classifier_gives_the_same_scores(kept: Path) -> None:
    expected = json.loads((kept / "expected.json").read_text())
    assert torch.allclose(Classifier.load(kept).logits(pictures()), torch.tensor(expected["logits"]), atol=1e-5)


def test_its_run_goes_on_to_the_same_end(kept: Path) -> None:
    expected = json.loads((kept / "expected.json").read_text())
    found = checkpoint.latest(kept)
    assert found is not None
    assert found[1]["step"] == expected["step"]
    result = jobs.resume(kept)
    assert result.images == read_config(kept).steps * 16  # type: ignore[operator]
    assert last_loss(kept) == pytest.approx(expected["last_loss"], rel=1e-3)


def into_the_future(folder: Path) -> None:
    """Makes a folder what it would be if a later version had written it."""
    manifest = json.loads((folder / sealed.MANIFEST).read_text())
    later = {"format": 99, "vitreous": "9.8.7", "files": {"in-another-form.bin": {"blake3": "?"}}}
    values = {**manifest, **later}
    values.pop("seal")
    (folder / sealed.MANIFEST).write_text(json.dumps({**values, "seal": sealed._digest(values)}))


def test_a_later_version_is_refused_by_name_with_what_to_do(kept: Path) -> None:
    said = r"has format 99, written by vitreous 9\.8\.7; this is vitreous .*, which reads up to format \d+: upgrade"
    into_the_future(kept / "classifier")
    with pytest.raises(ValueError, match=said):
        Classifier.load(kept)
    into_the_future(checkpoint.found(kept)[-1])
    with pytest.raises(ValueError, match=said):
        jobs.resume(kept)
    config = json.loads((kept / "config.json").read_text())
    (kept / "config.json").write_text(json.dumps({**config, "format": 99, "something": "new"}))
    with pytest.raises(ValueError, match=r"has format 99; this version reads up to .*: upgrade"):
        jobs.resume(kept)
