"""Predictions of many files: every picture one row, whatever happens to it or to the command."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from filelock import FileLock
from PIL import Image
from test_cli import call

from vitreous import predict
from vitreous.classifier import Classifier
from vitreous.data.spread import processors
from vitreous.models import build_model
from vitreous.predict import predict_files
from vitreous.vit import ViTConfig

COUNT = 300
BAD = {7: "words.jpg", 100: "cut.jpg", 299: "empty.jpg"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier with random weights, saved."""
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, classes=4, width=16, depth=2, heads=2)
    names = ("north", "east", "south", "west")
    classifier = Classifier(build_model(config).eval(), config, names, (0.5,) * 3, (0.25,) * 3)
    return classifier.save(tmp_path_factory.mktemp("predict") / "classifier")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 files in a folder, three of which are no pictures."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for number in range(COUNT):
        path = folder / f"{number:03d} {BAD.get(number, 'good.jpg')}"
        Image.fromarray(random.integers(0, 256, (9, 11, 3), dtype=np.uint8)).save(path)
        if number in BAD:
            path.write_bytes({7: b"words", 100: path.read_bytes()[:200], 299: b""}[number])
    return folder


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "BATCH", 16)
    monkeypatch.setattr(predict, "PART_ROWS", 32)


def test_every_file_is_a_row_in_order_and_says_what_the_classifier_says(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    classifier = Classifier.load(run)
    done = predict_files(classifier, [str(photos)], tmp_path / "p.parquet", top=2)
    rows = pq.read_table(done.out).to_pylist()
    paths = sorted(photos.iterdir())
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert (done.n, done.unreadable, done.resumed) == (COUNT, 3, 0)
    assert sum(done.labels.values()) == COUNT - 3
    for number, row in enumerate(rows):
        if number in BAD:
            assert row["error"]
            assert row["label"] is row["probability"] is row["top"] is None
        else:
            alone = classifier.predict([paths[number]], top=2)[0]
            assert row["error"] is None
            assert row["label"] == row["top"][0]["label"] == alone.label
            assert [each["label"] for each in row["top"]] == [label for label, _ in alone.top]
            assert row["probability"] == pytest.approx(alone.probability, abs=1e-5)
    assert list(tmp_path.iterdir()) == [done.out]  # no parts are left


def test_all_formats_hold_the_same_and_lines_are_those_of_predict_json(run: Path, photos: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(run)
    outs = [tmp_path / f"p{suffix}" for suffix in (".parquet", ".csv", ".jsonl")]
    for out in outs:
        predict_files(classifier, [str(photos)], out, top=3)
    rows = pq.read_table(outs[0]).to_pylist()
    lines = [json.loads(line) for line in outs[2].read_text().splitlines()]
    assert lines == [{name: value for name, value in row.items() if value is not None} for row in rows]
    with outs[1].open(newline="") as file:
        cells = list(csv.DictReader(file))
    assert [cell["label"] or None for cell in cells] == [row["label"] for row in rows]
    assert [cell["label_3"] or None for cell in cells] == [row["top"] and row["top"][2]["label"] for row in rows]
    assert [cell["error"] or None for cell in cells] == [row["error"] for row in rows]
    said = json.loads(call("predict", run, lines[0]["image"], "--top", 3, "--json").stdout)
    assert said.keys() == lines[0].keys()
    assert said["label"] == lines[0]["label"]


def test_features_are_what_the_head_reads(run: Path, photos: Path, tmp_path: Path) -> None:
    classifier = Classifier.load(run)
    out = predict_files(classifier, [str(photos)], tmp_path / "p.parquet", embed=True).out
    table = pq.read_table(out)
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 16)
    vectors = table["embedding"].to_pylist()
    assert [number for number, vector in enumerate(vectors) if vector is None] == list(BAD)
    scores = classifier.model.head(torch.tensor([vectors[0], vectors[299 - 1]]))  # type: ignore[operator]
    pixels = torch.stack([classifier.read(path) for path in np.array(sorted(photos.iterdir()))[[0, 298]]])
    torch.testing.assert_close(scores.detach(), classifier.logits(pixels), atol=1e-5, rtol=0)


class Stop(Exception):
    pass


def test_stopped_at_any_moment_the_next_call_goes_on_without_losing_or_repeating(
    run: Path, photos: Path, tmp_path: Path, small_parts: None
) -> None:
    classifier = Classifier.load(run)
    whole = predict_files(classifier, [str(photos)], tmp_path / "whole.parquet", embed=True).out
    for moment in (0, 16, 64, 160, COUNT):
        out = tmp_path / f"{moment}.parquet"

        def stop(done: int, total: int, moment: int = moment) -> None:
            assert total == COUNT
            if done >= moment:
                raise Stop

        with pytest.raises(Stop):
            predict_files(classifier, [str(photos)], out, embed=True, watch=stop)
        assert not out.exists()
        done = predict_files(classifier, [str(photos)], out, embed=True)
        assert (done.n, done.unreadable) == (COUNT, 3)
        assert moment - 32 <= done.resumed <= moment
        assert pq.read_table(out).equals(pq.read_table(whole))


def test_killed_without_warning_the_next_call_goes_on(run: Path, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "p.jsonl"
    script = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom vitreous import predict\n"
        "from vitreous.classifier import Classifier\npredict.BATCH, predict.PART_ROWS = 16, 32\n"
        "kill = lambda done, total: os.kill(os.getpid(), signal.SIGKILL) if done >= 200 else None\n"
        "predict.predict_files(Classifier.load(sys.argv[1]), [sys.argv[2]], Path(sys.argv[3]), watch=kill)\n"
    )
    killed = subprocess.run([sys.executable, "-c", script, run, photos, out], check=False, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    (photos / "later.jpg").write_bytes(b"came after the first call and is not part of it")
    try:
        done = predict_files(Classifier.load(run), [str(photos)], out)
    finally:
        (photos / "later.jpg").unlink()
    assert 160 <= done.resumed < COUNT
    names = [json.loads(line)["image"] for line in out.read_text().splitlines()]
    assert names == [str(path) for path in sorted(photos.iterdir())]


def test_a_full_disk_leaves_no_half_table_and_the_next_call_finishes(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, tables: Iterator[pa.Table]) -> None:
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    out = tmp_path / "p.csv"
    monkeypatch.setitem(predict.WRITERS, ".csv", full)
    with pytest.raises(OSError, match="No space"):
        predict_files(Classifier.load(run), [str(photos)], out)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == [".p.csv.parts"]
    assert predict_files(Classifier.load(run), [str(photos)], out).resumed == COUNT
    assert [path.name for path in tmp_path.iterdir()] == ["p.csv"]


def test_what_was_begun_otherwise_is_told_and_left_alone(run: Path, photos: Path, tmp_path: Path) -> None:
    classifier, out = Classifier.load(run), tmp_path / "p.csv"

    def stop(done: int, total: int) -> None:
        raise Stop

    with pytest.raises(Stop):
        predict_files(classifier, [str(photos)], out, top=2, watch=stop)
    with pytest.raises(ValueError, match=r"begun otherwise \(top: 2 -> 3\).*remove"):
        predict_files(classifier, [str(photos)], out, top=3)
    with FileLock(tmp_path / ".p.csv.parts" / "lock"), pytest.raises(ValueError, match="another process"):
        predict_files(classifier, [str(photos)], out, top=2)
    predict_files(classifier, [str(photos)], out, top=2)
    with pytest.raises(ValueError, match="is there already"):
        predict_files(classifier, [str(photos)], out, top=2)


def test_no_more_is_read_than_is_about_to_be_used(run: Path, photos: Path) -> None:
    one, taken = str(next(photos.iterdir())), itertools.count()
    endless = (one for _ in taken)
    batches = predict.answers(Classifier.load(run), endless)
    for _ in range(3):
        assert len(next(batches).rows) == predict.BATCH
    batches.close()
    assert next(taken) <= (3 + 2 * processors()) * predict.BATCH


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_memory_does_not_grow_with_the_number_of_pictures(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predict, "PART_ROWS", 1024)
    many = tmp_path / "many.txt"
    many.write_text("\n".join(map(str, photos.iterdir())) + "\n")
    resident: dict[int, int] = {}

    def look(done: int, total: int) -> None:
        resident[done] = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    predict_files(Classifier.load(run), [str(many)] * 30, tmp_path / "p.parquet", embed=True, watch=look)
    early = max(size for done, size in resident.items() if done <= 2500)
    late = max(size for done, size in resident.items() if done > 7500)
    assert late - early < 16 << 20, f"{(late - early) >> 20} MiB more after 9,000 pictures than after 2,500"


def test_the_command_counts_and_ends_well_with_some_unreadable(run: Path, photos: Path, tmp_path: Path) -> None:
    outcome = call("predict", run, photos, "--out", tmp_path / "p.parquet", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    said = json.loads(outcome.stdout)
    assert (said["n"], said["unreadable"], said["resumed"]) == (COUNT, 3, 0)
    assert "300 pictures, 3 unreadable" in outcome.stderr


def test_a_stopped_command_says_how_to_go_on(
    run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(predict, "predict_files", stop)
    outcome = call("predict", run, photos, "--out", tmp_path / "p.parquet")
    assert outcome.exit_code == 130
    assert "the same command goes on" in outcome.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["absent", "--out", "p.csv"], "absent: no such folder"),
        (["words.txt", "--out", "p.csv"], "none of the 1 files"),
        (["photos", "--out", "p.xlsx"], ".parquet, .csv, .jsonl"),
        (["photos", "--out", "p.csv", "--embed"], "Parquet"),
        (["photos", "--embed"], "--out features.parquet"),
        (["photos"], "--out predictions.parquet"),
        (["photos", "--out", "p.csv", "--device", "quantum"], "unknown device"),
    ],
)
def test_what_cannot_be_done_is_one_line(
    arguments: list[str], said: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("no picture.jpg\n")
    (tmp_path / "photos").mkdir()
    outcome = call("predict", run, *arguments)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr[outcome.stderr.index("error:") :].strip().splitlines()) <= 2
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".parts"]


@pytest.mark.usefixtures("locked")
def test_a_folder_that_cannot_be_listed_is_a_row_with_the_reason(run: Path, tmp_path: Path) -> None:
    (tmp_path / "in" / "locked").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "circle.png").symlink_to("circle.png")
    done = predict_files(Classifier.load(run), [str(tmp_path / "in")], tmp_path / "a.parquet")
    assert (done.n, done.unreadable) == (3, 2)
    rows = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert [Path(row["image"]).name for row in rows if row["error"]] == ["circle.png", "locked"]


def test_nothing_is_left_where_the_pictures_cannot_be_listed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def listed(sources: object) -> Iterator[str]:
        yield "a.png"
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(predict, "listed", listed)
    with pytest.raises(OSError, match="Input/output"):
        predict_files(Classifier.load(run), ["a.png"], tmp_path / "a.parquet")
    assert list(tmp_path.iterdir()) == []
