"""Parquet in Hugging Face's layout: columns, splits, damage, the cache, the hub."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from vitreous.data import check, load

NAMES = ["cat", "dog", "hen"]


def png(seed: int, size: int = 12, mode: str = "RGB", kind: str = "PNG") -> bytes:
    values = np.random.RandomState(seed).randint(0, 256, (size, size, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(values).convert(mode).save(stream, kind)
    return stream.getvalue()


def write(
    path: Path,
    count: int = 30,
    picture: str = "image",
    label: str = "label",
    names: Sequence[str] | None = NAMES,
    labels: Sequence[object] | None = None,
    cells: Sequence[bytes | None] | None = None,
    plain: bool = False,
) -> Path:
    """A parquet file of `count` pictures, labels 0 1 2 0 1 2 ..., in three row groups."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = [png(row) for row in range(count)] if cells is None else list(cells)
    struct = [None if cell is None else {"bytes": cell, "path": None} for cell in data]
    kind = pa.binary() if plain else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    column = pa.array(data if plain else struct, kind)
    table = pa.table(
        {picture: column, label: pa.array([row % 3 for row in range(len(data))] if labels is None else labels)}
    )
    if names is not None:
        features = {"info": {"features": {label: {"_type": "ClassLabel", "names": list(names)}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=max(1, len(data) // 3))
    return path


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.parametrize("picture", ["img", "image"])
@pytest.mark.parametrize("label", ["label", "labels", "fine_label"])
@pytest.mark.parametrize("plain", [True, False])
def test_each_accepted_column_is_found(tmp_path: Path, picture: str, label: str, plain: bool) -> None:
    data = load(write(tmp_path / "a.parquet", picture=picture, label=label, plain=plain))
    assert data.train is not None
    assert data.val is not None
    assert data.train.classes == tuple(NAMES)
    assert len(data.train) + len(data.val) == 30
    for index, name in enumerate(data.train.ids):
        row = int(name.removeprefix("train/row "))
        expected = np.asarray(Image.open(io.BytesIO(png(row))))
        np.testing.assert_array_equal(data.train.pixels[index].permute(1, 2, 0).numpy(), expected)
        assert data.train.labels[index] == row % 3


def test_shards_and_splits_are_told_by_file_names(tmp_path: Path) -> None:
    write(tmp_path / "set" / "data" / "train-00000-of-00002.parquet", 9)
    write(tmp_path / "set" / "data" / "train-00001-of-00002.parquet", 6)
    write(tmp_path / "set" / "data" / "validation-00000-of-00001.parquet", 6)
    write(tmp_path / "set" / "data" / "test-00000-of-00001.parquet", 3)
    data = load(tmp_path / "set")
    assert {name: len(part) for name, part in data.splits().items()} == {"train": 15, "val": 6, "test": 3}
    assert data.train is not None
    assert data.train.ids[14] == "train/row 14"
    assert data.name == "set"


def test_splits_are_told_by_folders_too(tmp_path: Path) -> None:
    write(tmp_path / "set" / "default" / "train" / "0000.parquet")
    write(tmp_path / "set" / "default" / "test" / "0000.parquet", 3)
    assert set(load(tmp_path / "set").splits()) == {"train", "val", "test"}


def test_test_never_stands_in_for_validation(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet")
    write(tmp_path / "set" / "test.parquet", 3)
    data = load(tmp_path / "set", splits=["val"])
    assert data.val is not None
    assert all(name.startswith("train/") for name in data.val.ids)
    assert data.test is None


def test_a_folder_and_a_parquet_file_give_identical_tensors(tmp_path: Path) -> None:
    sizes = [12, 40, 25, 40, 33, 40]
    cells = [png(row, size, kind="JPEG") for row, size in enumerate(sizes)]
    for row, cell in enumerate(cells):
        path = tmp_path / "folder" / NAMES[row % 3] / f"{row}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cell)
    folder = load(tmp_path / "folder", val_fraction=0).train
    rows = load(write(tmp_path / "a.parquet", cells=cells), val_fraction=0).train
    assert folder is not None
    assert rows is not None
    assert torch.equal(folder.pixels, rows.pixels[[0, 3, 1, 4, 2, 5]])
    assert torch.equal(folder.labels, rows.labels[[0, 3, 1, 4, 2, 5]])


def test_numbers_without_names_are_their_own_names(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.parquet", names=None, labels=[5, 7, 30] * 10))
    assert data.train is not None
    assert data.train.classes == ("5", "7", "30")


def test_names_may_stand_in_the_label_column(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.parquet", names=None, labels=["hen", "cat", "dog"] * 10))
    assert data.train is not None
    assert data.train.classes == ("cat", "dog", "hen")
    assert data.train.labels[0] == 2


def test_bad_rows_are_named_and_left_out(tmp_path: Path) -> None:
    cells: list[bytes | None] = [png(row) for row in range(30)]
    cells[3], cells[14] = None, b"no picture"
    labels: list[int | None] = [row % 3 for row in range(30)]
    labels[20], labels[25] = None, 9
    data = load(write(tmp_path / "a.parquet", cells=cells, labels=labels))
    found = {each.path: each.reason for each in data.rejected}
    assert list(found) == ["train/row 3", "train/row 14", "train/row 20", "train/row 25"]
    assert "no picture in this row" in found["train/row 3"]
    assert "no label" in found["train/row 20"]
    assert "label 9" in found["train/row 25"]
    assert sum(len(part) for part in data.splits().values()) == 26


def test_a_test_split_without_labels_is_left_out_aloud(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet")
    write(tmp_path / "set" / "test.parquet", 6, labels=[-1] * 6)
    data = load(tmp_path / "set")
    assert data.test is None
    assert any("test has no labels" in note for note in data.notes)
    with pytest.raises(ValueError, match="no test split"):
        load(tmp_path / "set", splits=["test"])


def test_a_class_without_pictures_is_told_of(tmp_path: Path) -> None:
    data = load(write(tmp_path / "a.parquet", labels=[0, 1] * 15))
    assert any("hen" in note for note in data.notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": [0.5] * 30}, ["double", "integers or names"]),
        ({"labels": [0] * 30, "names": None}, ["one class only"]),
        ({"cells": [b"x"] * 30}, ["no readable picture"]),
        ({"labels": [0] * 29 + [1], "names": None}, ["'1' has 1 usable picture"]),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, options: dict[str, object], words: list[str]) -> None:
    path = write(tmp_path / "a.parquet", **options)  # type: ignore[arg-type]
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        load(path)
    assert all(word in str(caught.value) for word in words), caught.value
    assert len(str(caught.value).splitlines()) <= 2


def test_a_picture_column_that_holds_no_bytes_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [[1, 2]], "label": [0]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="not bytes"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"picture": "Image", "label": "LABEL"}, "'Image', labels from 'LABEL'"),
        ({"picture": "scan"}, "'scan', labels from 'label'"),
        ({"picture": "x", "plain": True}, "'x', labels from 'label'"),
        ({"label": "lable"}, "'image', labels from 'lable'"),
        ({"label": "breed", "names": None}, "'image', labels from 'breed'"),
    ],
)
def test_columns_of_other_names_are_found_where_only_one_can_be_meant(
    tmp_path: Path, options: dict[str, object], note: str
) -> None:
    data = load(write(tmp_path / "a.parquet", **options))  # type: ignore[arg-type]
    assert sum(len(part) for part in data.splits().values()) == 30
    assert any(note in each for each in data.notes)


def test_columns_that_could_all_be_meant_are_refused_with_the_nearest(tmp_path: Path) -> None:
    table = pq.read_table(write(tmp_path / "a.parquet", names=None)).rename_columns(["photograph", "lable"])
    pq.write_table(table.append_column("number", table["lable"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no label column .*did you mean 'lable'\? Rename it to 'label'"):
        load(tmp_path / "a.parquet")
    pq.write_table(table.append_column("mask", table["photograph"]), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"no picture column .*found photograph, lable, mask"):
        load(tmp_path / "a.parquet")


@pytest.mark.parametrize("percent", [0, 1, 50, 99])
def test_a_file_cut_short_is_named(tmp_path: Path, percent: int) -> None:
    path = write(tmp_path / "a.parquet")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * percent // 100])
    with pytest.raises(ValueError, match=r"a\.parquet: not a readable parquet file"):
        load(path)


def test_configurations_are_for_the_user_to_choose_from(tmp_path: Path) -> None:
    for name in ("plain", "noisy"):
        write(tmp_path / "set" / name / "train-00000-of-00001.parquet")
    with pytest.raises(ValueError, match="noisy, plain"):
        load(tmp_path / "set")
    assert load(tmp_path / "set" / "plain").train is not None


def test_a_file_that_names_no_split_among_others_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "set" / "train.parquet")
    write(tmp_path / "set" / "more.parquet")
    with pytest.raises(ValueError, match=r"more\.parquet"):
        load(tmp_path / "set")


def test_one_coloured_picture_beyond_the_sample_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.data.plan.SAMPLE", 3)
    cells = [png(row, mode="RGB" if row == 1 else "L") for row in range(30)]
    data = load(write(tmp_path / "a.parquet", cells=cells))
    assert data.train is not None
    assert data.train.pixels.shape[1] == 3


# The hub


def test_the_hub_is_read_through_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "snapshot" / "data" / "train-00000-of-00001.parquet")
    asked = []

    def snapshot_download(repository: str, **options: object) -> str:
        asked.append((repository, options["repo_type"], options["allow_patterns"], options["revision"]))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    data = load("hf:owner/pets@main")
    assert data.name == "hf:owner/pets@main"
    assert data.train is not None
    assert asked == [("owner/pets", "dataset", ["*.parquet"], "main")]


def test_the_hub_out_of_reach_is_one_clear_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(repository: str, **options: object) -> str:
        raise OSError("no\nnetwork\nhere")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="no network here") as caught:
        load("hf:owner/pets")
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("source", ["hf:", "hf:pets", "hf:a/b/c", "hf:../x"])
def test_a_malformed_hub_name_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"hf:owner/name|could not be fetched"):
        load(source)


# Real sets, where they are


def root_with(name: str) -> Path:
    root = Path(os.environ.get("VITREOUS_DATA", "/nowhere"))
    if not (root / name).is_dir():
        pytest.skip(f"VITREOUS_DATA holds no {name}")
    return root


@pytest.mark.alone
def test_the_jpeg_copy_of_cifar10_is_called_one(cache: Path) -> None:
    root = root_with("cifar10-jpeg")
    data = load("cifar10", data_root=root, splits=["test"], cache=cache)
    assert data.name == "CIFAR-10 (JPEG copy)"
    assert data.test is not None
    assert data.test.pixels.shape == (10_000, 3, 32, 32)
    assert torch.bincount(data.test.labels).tolist() == [1000] * 10
    assert data.test.classes[:2] == ("airplane", "automobile")
    start = time.perf_counter()
    again = load("cifar10", data_root=root, splits=["test"], cache=cache).test
    assert again is not None
    assert again.fingerprint() == data.test.fingerprint()
    assert time.perf_counter() - start < 5  # the cache is read; decoding is slower, but machines differ


def test_fashion_mnist_keeps_one_channel(cache: Path) -> None:
    root = root_with("fashion-mnist")
    data = load("fashion-mnist", data_root=root, splits=["test"], cache=cache)
    assert data.name == "Fashion-MNIST"
    assert data.test is not None
    assert data.test.pixels.shape == (10_000, 1, 28, 28)


@pytest.mark.parametrize("withheld", [-1, None])
def test_a_source_without_a_label_is_refused_by_load_and_check(tmp_path: Path, withheld: int | None) -> None:
    write(tmp_path / "train.parquet", labels=pa.array([withheld] * 30, pa.int64()))
    for look in (load, check):
        with pytest.raises(ValueError, match=r"train has no labels .*use a copy that has them"):
            look(tmp_path)


def test_a_split_without_rows_is_told_of(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", count=0, labels=np.zeros(0, dtype=np.int64))
    write(tmp_path / "train.parquet")
    findings = check(tmp_path)
    assert findings.found == 30
    assert findings.stops == (f"{tmp_path}: no usable picture in test",)
    (tmp_path / "train.parquet").unlink()
    findings = check(tmp_path)
    assert (findings.found, findings.groups, findings.odd, findings.sizes) == (0, (), (), {})
    assert findings.stops == (f"{tmp_path}: no usable picture in test",)
    with pytest.raises(ValueError, match="no readable picture"):
        load(tmp_path, splits={"test"})
