"""Tables of paths and labels: their forms, their columns, rows that cannot be used."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from test_data_folder import counts, picture, tree_hash

from vitreous.data import load


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A folder of six pictures that no folder sorts into classes."""
    for number in range(6):
        picture(tmp_path / "photos" / f"{number}.png", seed=number)
    return tmp_path / "photos"


ROWS = [(f"photos/{number}.png", ("cat", "dog")[number % 2]) for number in range(6)]


def table(path: Path, rows: list[tuple[str, ...]], header: str = "path,label", separator: str = ",") -> Path:
    lines = [header] * bool(header) + [separator.join(row) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


FORMS = {
    "csv": ("a.csv", "path,label", ","),
    "other names": ("a.csv", "File_Name,Category", ","),
    "semicolons": ("a.csv", "path;label", ";"),
    "tabs": ("a.tsv", "path\tlabel", "\t"),
    "marked": ("a.csv", "\ufeffpath,label", ","),
    "no header": ("a.csv", "", ","),
    "told by content": ("a.csv", "which,animal", ","),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_table_gives_the_same_pictures(photos: Path, form: str) -> None:
    name, header, separator = FORMS[form]
    before = tree_hash(photos)
    data = load(table(photos.parent / name, ROWS, header, separator), val_fraction=0)
    expected = load(table(photos.parent / "plain.csv", ROWS), val_fraction=0)
    assert data.train is not None
    assert expected.train is not None
    assert data.train.fingerprint() == expected.train.fingerprint()
    assert data.train.classes == ("cat", "dog")
    assert [Path(each).name for each in data.train.ids] == [f"{number}.png" for number in range(6)]
    assert tree_hash(photos) == before


def test_a_suffix_may_be_missing_if_it_is_the_same_for_all(photos: Path) -> None:
    rows = [(name.removesuffix(".png"), label) for name, label in ROWS]
    data = load(table(photos.parent / "a.csv", rows, "id,breed"), val_fraction=0)
    assert counts(data) == {"train": [3, 3]}


def test_pictures_that_are_all_elsewhere_are_asked_for(photos: Path, tmp_path: Path) -> None:
    path = table(photos.parent / "a.csv", [(f"elsewhere/{name}", label) for name, label in ROWS])
    with pytest.raises(
        ValueError, match=r"none of the 6 pictures it names is there .*elsewhere/photos/0\.png\).*--images"
    ):
        load(path)


def test_a_folder_of_pictures_without_classes_names_the_table_in_it(photos: Path) -> None:
    table(photos / "a.csv", ROWS)
    with pytest.raises(ValueError, match=r"no class folders; .*or pass the table of paths and labels, .*/a\.csv"):
        load(photos)


def test_columns_that_had_to_be_guessed_are_told(photos: Path) -> None:
    notes = load(table(photos.parent / "a.csv", ROWS, "which,animal")).notes
    assert "columns: paths from 'which', labels from 'animal'" in notes


def test_parquet_of_paths_with_splits_and_numbers(photos: Path) -> None:
    columns = {
        "file": [f"{number}.png" for number in range(6)],
        "label": [7, 12, 7, 12, 7, 12],
        "split": ["train"] * 4 + ["validation"] * 2,
    }
    pq.write_table(pa.table(columns), photos.parent / "a.parquet")
    data = load(photos.parent / "a.parquet", images=photos)
    assert counts(data) == {"train": [2, 2], "val": [1, 1]}
    assert data.train is not None
    assert data.train.classes == ("7", "12")


def test_paths_are_seen_from_the_table_from_images_or_from_the_root(photos: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "tables"
    elsewhere.mkdir()
    absolute = [(str(photos.parent / path), label) for path, label in ROWS]
    assert counts(load(table(elsewhere / "a.csv", absolute), val_fraction=0)) == {"train": [3, 3]}
    bare = [(Path(path).name, label) for path, label in ROWS]
    assert counts(load(table(elsewhere / "b.csv", bare), val_fraction=0, images=photos)) == {"train": [3, 3]}
    with pytest.raises(ValueError, match=r"c\.csv: none of the 6 pictures"):
        load(table(elsewhere / "c.csv", bare), size=16, val_fraction=0)


def test_rows_that_cannot_be_used_are_named(photos: Path) -> None:
    (photos / "bad.png").write_text("no picture")
    rows: list[tuple[str, ...]] = [*((*row, "train") for row in ROWS), ("photos/gone.png", "cat", "train")]
    rows += [("photos/bad.png", "dog", "train"), ("", "dog", "train"), ("photos/1.png", "", "train")]
    rows += [("photos/2.png", "cat", ""), ("photos/0.png", "cow", "test"), ("photos/0.png",)]
    rows += [("photos/5.png", "cat", "test")]
    path = table(photos.parent / "a.csv", rows, "path,label,split")
    data = load(path, val_fraction=0)
    assert data.train is not None
    used = len(data.train) + len(data.test or ())
    assert used + len(data.rejected) == len(rows)
    assert {(each.path.removeprefix(f"{photos.parent}/"), each.reason) for each in data.rejected} == {
        ("photos/gone.png", "no such file"),
        ("photos/bad.png", "not a JPEG, PNG, WebP, GIF, BMP, TIFF or PPM picture"),
        ("a.csv: row 9", "no path in this row"),
        ("photos/1.png", "no label"),
        ("a.csv: row 11", "no split in this row"),
        ("a.csv: row 13", "no split in this row"),
        ("photos/0.png", "label 'cow' is none of the classes"),
    }


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.csv", b"", ["is empty", "cat/1.jpg,cat"]),
        ("a.csv", b"path,label\n", ["no row names a picture"]),
        ("a.csv", b"path,label\n,cat\n", ["no row names a picture", "no path in this row"]),
        ("a.csv", b"pth,label\n1,cat\n2,dog\n", ["no path column", "did you mean 'pth'"]),
        ("a.csv", b"path,kind,sort\na.png,cat,x\nb.png,dog,y\n", ["no label column", "found kind, sort"]),
        ("a.csv", b"path\na.png\n", ["no label column"]),
        ("a.csv", b"path,label,split\na.png,cat,train\nb.png,dog,extra\n", ["row 2", "'extra'", "validation"]),
        ("a.csv", b"path,label\na.png,cat\nb.png,cat\n", ["one class only (cat)"]),
        ("a.csv", b"path,label\na.png,\xe9t\xe9\n", ["not UTF-8", "save it as CSV"]),
        ("a.zip", b"PK", ["neither a table", "unpack archives"]),
    ],
)
def test_a_table_that_cannot_be_used_is_refused(tmp_path: Path, name: str, text: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(text)
    with pytest.raises(ValueError, match=name) as refusal:
        load(tmp_path / name)
    for word in words:
        assert word in str(refusal.value)
    assert str(refusal.value).count("\n") <= 1


def test_images_is_refused_where_it_means_nothing(photos: Path) -> None:
    with pytest.raises(ValueError, match="--images is for a table"):
        load(photos, images=photos)
    with pytest.raises(ValueError, match="no such folder to look for the pictures"):
        load(table(photos.parent / "a.csv", ROWS), images=photos / "gone")
