"""A folder full of bad files: every one is named with its reason, none stops the others, none is changed."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import corpus
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_folder import tree_hash

from vitreous.data import DataSet, check, decode, fit, load
from vitreous.data import folder as folders

SIZE = 24


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return corpus.write(tmp_path_factory.mktemp("corpus") / "pets")


def files(root: Path) -> list[Path]:
    """Those that can be put into a table, a tar file or parquet."""
    return sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())


def folder(pets: Path, there: Path) -> Path:
    return pets


def manifest(pets: Path, there: Path) -> Path:
    with (there / "a.csv").open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream).writerows([("path", "label"), *((path, path.parent.name) for path in files(pets))])
    return there / "a.csv"


def shards(pets: Path, there: Path) -> Path:
    with tarfile.open(there / "a.tar", "w") as archive:
        for number, path in enumerate(files(pets)):
            for kind, data in (("jpg", path.read_bytes()), ("cls", path.parent.name.encode())):
                member = tarfile.TarInfo(f"{number:04}.{kind}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return there / "a.tar"


def parquet(pets: Path, there: Path) -> Path:
    some = files(pets)
    columns = {"image": [path.read_bytes() for path in some], "label": [path.parent.name for path in some]}
    pq.write_table(pa.table(columns), there / "a.parquet")
    return there / "a.parquet"


FORMS: dict[str, Callable[[Path, Path], Path]] = {
    "folder": folder,
    "manifest": manifest,
    "shards": shards,
    "parquet": parquet,
}


def pictures(data: DataSet) -> dict[str, np.ndarray]:
    parts = [zip(part.ids, part.pixels[:].numpy(), strict=True) for part in data.splits().values()]
    return {name: each for part in parts for name, each in part}


@pytest.mark.parametrize("form", FORMS)
def test_found_is_used_plus_rejected_and_nothing_is_replaced_or_changed(
    pets: Path, tmp_path: Path, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where the pickled canary would leave its mark
    source = FORMS[form](pets, tmp_path)
    before = tree_hash(pets)
    data = load(source, size=SIZE)
    assert tree_hash(pets) == before
    assert not list(tmp_path.glob("unpickled*"))
    good, bad = 16 + len(corpus.GOOD), len(corpus.BAD)
    used = pictures(data)
    assert len(used) == good
    assert len(data.rejected) == bad + (len(corpus.LINKS) if form == "folder" else 0)
    assert all(each.path and each.reason and len(each.reason) < 200 for each in data.rejected)
    if form in ("folder", "manifest"):
        named = {Path(each.path).name for each in data.rejected}
        assert named == {*corpus.BAD, *(corpus.LINKS if form == "folder" else ())}
        for name, found in used.items():
            np.testing.assert_array_equal(found.transpose(1, 2, 0), fit(decode(Path(name)), (SIZE, SIZE)))


def test_every_form_gives_the_same_pictures(pets: Path, tmp_path: Path) -> None:
    tensors = []
    for source in FORMS.values():
        train = load(source(pets, tmp_path), size=SIZE, val_fraction=0).train
        assert train is not None
        tensors.append((train.pixels[:].numpy(), train.labels.numpy()))
    for others in tensors[1:]:
        for one, other in zip(tensors[0], others, strict=True):
            np.testing.assert_array_equal(one, other)


def test_bombs_are_refused_within_a_second_and_100_mb_each(pets: Path) -> None:
    code = (
        "import resource, sys, time\n"
        "from pathlib import Path\n"
        "from vitreous.data.decode import decode\n"
        "for name in sys.argv[1:]:\n"
        "    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()\n"
        "    try: decode(Path(name))\n"
        "    except ValueError: pass\n"
        "    else: raise SystemExit('it was decoded')\n"
        "    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "    print(time.process_time() - start, (after - before) / 1000)\n"
    )
    bombs = [str(pets / "cat" / name) for name in ("large.jpg", "text-bomb.png", "bomb.png")]
    done = subprocess.run([sys.executable, "-c", code, *bombs], capture_output=True, text=True, check=True)
    figures = [tuple(map(float, line.split())) for line in done.stdout.splitlines()]
    assert len(figures) == 3
    assert all(seconds < 1 and megabytes < 100 for seconds, megabytes in figures), figures


def test_the_check_tells_all_of_it_and_training_goes_on(pets: Path) -> None:
    before = tree_hash(pets)
    findings = check(pets)
    assert tree_hash(pets) == before
    data = load(pets)
    assert findings.found == findings.used + len(findings.rejected)
    assert sorted(findings.rejected, key=str) == sorted(data.rejected, key=str)
    assert findings.splits == {"train": {"cat": 8, "dog": 8 + len(corpus.GOOD)}}
    assert findings.stops == ()
    assert [Path(each.path).name for each in findings.odd] == ["moving.gif"]


def test_a_cut_file_is_found_at_every_tenth(tmp_path: Path) -> None:
    for kind in ("JPEG", "PNG"):
        data = corpus.encoded(1, kind)
        for percent in range(10, 100, 10):
            (tmp_path / f"{percent}.bin").write_bytes(data[: len(data) * percent // 100])
            with pytest.raises(ValueError, match=r"\w"):
                decode(tmp_path / f"{percent}.bin")


def test_hidden_files_do_not_count_and_one_name_in_two_folders_is_two_pictures(tmp_path: Path) -> None:
    for place, seed in (("cat/a/1.png", 1), ("cat/b/1.png", 2), ("dog/1.png", 3), ("dog/2.png", 4), ("dog/.x.png", 5)):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(corpus.encoded(seed))
    findings = check(tmp_path)
    assert (findings.found, findings.used) == (4, 4)
    assert folders.hidden(".x.png")
