"""Search finds what a plain comparison of all vectors would find, and says what it cannot search."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from test_cli import call
from test_predict import photos, run  # noqa: F401

from vitreous.classifier import Classifier
from vitreous.predict import predict_files
from vitreous.search import Vectors, nearest, search

# pytest finds fixtures by the names of a module's arguments
# ruff: noqa: F811


def test_the_nearest_are_those_of_a_float64_product_over_all(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    vectors, query = random.standard_normal((500, 16)).astype(np.float32), random.standard_normal(16)
    cosines = vectors.astype(np.float64) @ query / np.linalg.norm(vectors, axis=1) / np.linalg.norm(query)
    batches = [
        Vectors([str(i) for i in part], ["x"] * len(part), vectors[part])
        for part in np.split(np.arange(500), (7, 100, 101, 400))
    ]
    found, compared = nearest(query.astype(np.float32), batches, 20)
    assert compared == 500
    assert [int(each.image) for each in found] == np.argsort(-cosines)[:20].tolist()
    assert [each.similarity for each in found] == pytest.approx(np.sort(cosines)[::-1][:20].tolist(), abs=1e-5)


def test_of_equal_pictures_the_earlier_comes_first_and_none_at_all_is_an_error() -> None:
    same = Vectors(["a", "b", "c"], ["x"] * 3, np.ones((3, 4), dtype=np.float32))
    assert [each.image for each in nearest(np.ones(4), [same, same], 4)[0]] == ["a", "b", "c", "a"]
    with pytest.raises(ValueError, match="none of the pictures"):
        nearest(np.ones(4), [Vectors([], [], np.empty((0, 4), dtype=np.float32))], 4)


def test_a_planted_near_copy_is_found_in_a_folder_and_in_its_table_alike(
    run: Path, photos: Path, tmp_path: Path
) -> None:
    with Image.open(photos / "042 good.jpg") as picture:
        pixels = np.asarray(picture).astype(int)
    query = tmp_path / "query.png"
    Image.fromarray((pixels + 3).clip(0, 255).astype(np.uint8)).save(query)
    table = predict_files(Classifier.load(run), [str(photos)], tmp_path / "e.parquet", embed=True).out
    found = search(run, query, str(photos), n=4, out=tmp_path / "sheet.png")
    again = search(run, query, str(table), n=4, out=tmp_path / "again.png")
    assert found.compared == again.compared == 297
    assert Path(found.neighbours[0].image).name == "042 good.jpg"
    assert found.neighbours[0].similarity > 0.99
    assert [each.image for each in again.neighbours] == [each.image for each in found.neighbours]
    assert (tmp_path / "again.png").read_bytes() == found.picture.read_bytes()
    with Image.open(found.picture) as drawn:
        assert drawn.width > 5 * 200  # five pictures in a row


def test_a_picture_is_not_its_own_neighbour(run: Path, photos: Path, tmp_path: Path) -> None:
    query = photos / "042 good.jpg"
    names = [each.image for each in search(run, query, str(photos), n=99, out=tmp_path / "s.png").neighbours]
    assert len(names) == len(set(names)) == 99
    assert str(query) not in names


def test_pictures_that_went_away_are_still_named(run: Path, tmp_path: Path) -> None:
    path = tmp_path / "gone.png"
    Image.fromarray(np.full((8, 8, 3), 9, dtype=np.uint8)).save(path)
    table = predict_files(Classifier.load(run), [str(path)], tmp_path / "e.parquet", embed=True).out
    path.rename(tmp_path / "query.png")
    found = search(run, tmp_path / "query.png", str(table), out=tmp_path / "sheet.png")
    assert [each.image for each in found.neighbours] == [str(path)]
    assert found.picture.is_file()


@pytest.mark.parametrize(
    ("among", "said"),
    [
        ("absent", "no such folder"),
        ("absent.parquet", "No such file"),
        ("words.parquet", "no Parquet table"),
        ("plain.parquet", "has no features"),
        ("other.parquet", "features of other weights"),
        ("empty.txt", "names no picture"),
        ("words.txt", "none of the pictures"),
    ],
)
def test_what_cannot_be_searched_is_one_line(
    among: str, said: str, run: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.parquet").write_text("words")
    (tmp_path / "words.txt").write_text("words.parquet\n")
    (tmp_path / "empty.txt").write_text("\n")
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / "plain.parquet")
    classifier = Classifier.load(run)
    with torch.no_grad():
        classifier.model.head.weight.add_(1)  # type: ignore[operator, union-attr]
    predict_files(classifier, [str(photos / "001 good.jpg")], tmp_path / "other.parquet", embed=True)
    outcome = call("search", run, photos / "001 good.jpg", "--in", among)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert len(outcome.stderr.strip().splitlines()) <= 2


def test_the_command_prints_one_object(run: Path, photos: Path, tmp_path: Path) -> None:
    outcome = call(
        "search", run, photos / "001 good.jpg", "--in", photos, "-n", 2, "--out", tmp_path / "s.png", "--json"
    )
    assert outcome.exit_code == 0, outcome.stderr
    said = json.loads(outcome.stdout)
    assert len(said["neighbours"]) == 2
    assert set(said["neighbours"][0]) == {"image", "similarity", "label"}
    assert said["compared"] == 297
