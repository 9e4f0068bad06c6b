"""Folders of pictures: layouts, choices, faults."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitreous.data import DataSet, Mapped, load
from vitreous.data.decode import Span
from vitreous.data.folder import Files
from vitreous.data.shards import Members


def picture(path: Path, size: tuple[int, int] = (16, 16), mode: str = "RGB", seed: int = 0) -> Path:
    """A noisy picture (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.RandomState(seed).randint(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(values).convert(mode).save(path)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    for label in ("cat", "dog"):
        for number in range(10):
            picture(tmp_path / "pets" / label / f"{number}.png", seed=number)
    return tmp_path / "pets"


def tree_hash(root: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        status = path.lstat()
        digest.update(repr((str(path), status.st_mode, status.st_mtime_ns)).encode())
        digest.update(path.read_bytes() if path.is_file() else b"")
    return digest.hexdigest()


def counts(data: DataSet) -> dict[str, list[int]]:
    return {name: torch.bincount(part.labels).tolist() for name, part in data.splits().items()}


def test_a_folder_per_class_is_split_and_left_untouched(pets: Path) -> None:
    before = tree_hash(pets)
    data = load(pets, val_fraction=0.2)
    assert counts(data) == {"train": [8, 8], "val": [2, 2]}
    assert data.test is None
    assert data.name == "pets"
    assert data.train is not None
    assert data.train.classes == ("cat", "dog")
    assert data.train.pixels.shape == (16, 3, 16, 16)
    assert any("held out" in note for note in data.notes)
    assert tree_hash(pets) == before


def test_pixels_labels_and_ids_belong_together(pets: Path) -> None:
    data = load(str(pets))
    for part in data.splits().values():
        for index, name in enumerate(part.ids):
            with Image.open(name) as image:
                expected = np.asarray(image)
            np.testing.assert_array_equal(part.pixels[index].permute(1, 2, 0).numpy(), expected)
            assert part.classes[int(part.labels[index])] == Path(name).parent.name


def test_no_picture_is_in_train_and_val(pets: Path) -> None:
    data = load(pets)
    assert data.train is not None
    assert data.val is not None
    assert not set(data.train.ids) & set(data.val.ids)
    assert len(data.train) + len(data.val) == 20


def test_the_hold_out_depends_on_the_seed_and_repeats(pets: Path) -> None:
    first, again, other = load(pets, seed=1), load(pets, seed=1), load(pets, seed=2)
    assert first.val is not None
    assert again.val is not None
    assert other.val is not None
    assert first.val.ids == again.val.ids
    assert first.val.ids != other.val.ids


def with_splits(root: Path, *names: str, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3) -> Path:
    for name in names:
        for label in classes:
            for number in range(each):
                picture(root / name / label / f"{number}.png", seed=number)
    return root


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Validation", "dev"])
@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "Testing")])
def test_split_folders_are_found_by_each_name(tmp_path: Path, train: str, val: str, test: str) -> None:
    data = load(with_splits(tmp_path / "pets", train, val, test))
    assert counts(data) == {"train": [3, 3], "val": [3, 3], "test": [3, 3]}


@pytest.mark.parametrize(
    "names", [("seg_train", "seg_test"), ("TrainSet", "valset", "prediction"), ("a/train_1", "a/test_1")]
)
def test_folders_that_look_like_splits_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, ...]) -> None:
    root = with_splits(tmp_path / "pets", *names)
    refused(root, "look like splits", Path(names[-1]).name, "rename them train, val or test")


def test_a_split_nested_in_a_folder_of_its_name_is_no_class(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "pets", "seg_train/seg_train", "seg_test/seg_test")
    picture(root / "seg_pred" / "seg_pred" / "1.png")
    refused(root, "look like splits", "directly in them")


@pytest.mark.parametrize("names", [("trained", "untrained"), ("pre-test", "post-test"), ("cat", "train_1")])
def test_classes_may_have_names_that_hold_those_of_splits(tmp_path: Path, names: tuple[str, ...]) -> None:
    data = load(with_splits(tmp_path / "a", *names, classes=("left", "right")), val_fraction=0)
    assert data.train is not None
    assert data.train.classes == tuple(sorted(names))


def test_folders_beside_split_folders_are_named_as_not_read(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "pets", "train", "test", "more", "sketches")
    data = load(root)
    assert set(data.splits()) == {"train", "val", "test"}
    assert [note for note in data.notes if "not read" in note and note.endswith("more, sketches")]


def test_test_never_stands_in_for_validation(tmp_path: Path) -> None:
    data = load(with_splits(tmp_path / "pets", "train", "test"), val_fraction=0.34)
    assert counts(data) == {"train": [2, 2], "val": [1, 1], "test": [3, 3]}
    assert data.val is not None
    assert all("/train/" in name for name in data.val.ids)
    assert load(tmp_path / "pets", val_fraction=0).val is None


def test_a_folder_that_holds_one_folder_is_looked_into(tmp_path: Path) -> None:
    with_splits(tmp_path / "download" / "pets", "train", "test")
    data = load(tmp_path / "download")
    assert set(data.splits()) == {"train", "val", "test"}
    assert any("pictures are read from" in note for note in data.notes)


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = load(with_splits(tmp_path, "vehicles", classes=("bus", "car", "train")))
    assert data.train is not None
    assert data.train.classes == ("bus", "car", "train")


def test_pictures_in_folders_below_a_class_count_for_it(tmp_path: Path) -> None:
    for kind, leaf in [("mammal", "small"), ("mammal", "large"), ("bird", "small")]:
        for number in range(2):
            picture(tmp_path / "a" / kind / leaf / f"{number}.png")
    data = load(tmp_path / "a", val_fraction=0)
    assert data.train is not None
    assert data.train.classes == ("bird", "mammal")
    assert counts(data) == {"train": [2, 4]}


def test_only_what_is_asked_for_is_given(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "pets", "train", "test")
    picture(root / "test" / "cat" / "broken.png").write_bytes(b"no")
    assert set(load(root, splits=["train"]).splits()) == {"train"}
    assert load(root, splits={"train"}).rejected == ()
    assert set(load(root, splits=["validation"]).splits()) == {"val"}
    assert set(load(root, splits=["test"]).splits()) == {"test"}
    with pytest.raises(ValueError, match=r"take one or more of train .*, val .*, test"):
        load(root, splits=["tset"])


def test_mixed_sizes_become_one_that_is_told(tmp_path: Path) -> None:
    for label, size in [("cat", (30, 70)), ("dog", (41, 39)), ("hen", (50, 44))]:
        for number in range(3):
            picture(tmp_path / "a" / label / f"{number}.png", size)
    data = load(tmp_path / "a")
    assert data.train is not None
    assert data.train.pixels.shape[1:] == (3, 40, 40)
    assert any("40 x 40" in note and "model.image_size" in note for note in data.notes)
    assert data.original is not None
    assert (data.original.height, data.original.width) == ((30, 50), (39, 70))


@pytest.mark.parametrize(("size", "expected"), [((200, 300), 96), ((5, 9), 5), ((96, 40), 96)])
def test_the_chosen_size_has_bounds(tmp_path: Path, size: tuple[int, int], expected: int) -> None:
    for label in ("cat", "dog"):
        for number in range(2):
            picture(tmp_path / "a" / label / f"{number}.png", size)
    data = load(tmp_path / "a")
    assert data.train is not None
    assert data.train.pixels.shape[2] == expected


def test_size_is_as_asked_for_or_refused(pets: Path) -> None:
    data = load(pets, size=24)
    assert data.train is not None
    assert data.train.pixels.shape[1:] == (3, 24, 24)
    for wrong in (0, 7, 5000):
        with pytest.raises(ValueError, match=f"size={wrong}"):
            load(pets, size=wrong)


def test_gray_sets_have_one_channel_and_one_coloured_picture_makes_it_three(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(3):
            picture(tmp_path / "a" / label / f"{number}.png", mode="L")
    data = load(tmp_path / "a")
    assert data.train is not None
    assert data.train.pixels.shape[1] == 1
    picture(tmp_path / "a" / "cat" / "x.png")
    data = load(tmp_path / "a")
    assert data.train is not None
    assert data.train.pixels.shape[1] == 3


def test_a_coloured_picture_beyond_the_sample_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.data.plan.SAMPLE", 2)
    for label in ("cat", "dog"):
        for number in range(5):
            picture(tmp_path / "a" / label / f"{number}.png", mode="RGB" if number == 1 else "L")
    data = load(tmp_path / "a")
    assert data.train is not None
    assert data.train.pixels.shape[1] == 3


@pytest.mark.parametrize(("length", "count"), [(1999, 1000), (1001, 1000), (1000, 1000), (7, 1000), (5003, 1000)])
def test_a_sample_is_spread_over_all_pictures(length: int, count: int) -> None:
    files, spans = Files(""), [Span(Path("a.tar"), place, 1) for place in range(length)]
    for place in range(length):
        files.add(str(place), 1, 0)
    places = [int(str(path)) for path in files.sample(count)]
    assert places == [span.start for span in Members([], spans).sample(count) if isinstance(span, Span)]
    assert min(length, count // 2) <= len(places) <= count
    assert len({after - before for before, after in pairwise(places)}) == 1
    assert places[0] == 0 and length - places[-1] <= places[1]


def test_channels_are_as_asked_for_or_refused(pets: Path) -> None:
    for channels in (1, 3):
        train = load(pets, channels=channels).train
        assert train is not None
        assert train.pixels.shape[1] == channels
    refused(pets, "channels=4", channels=4)


def test_large_pictures_decode_the_same_on_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for label in ("cat", "dog"):
        for number in range(4):
            picture(tmp_path / "a" / label / f"{number}.png", (90, 90), seed=number)
    threaded = load(tmp_path / "a").train
    monkeypatch.setattr("vitreous.data.pixels._THREADED", 10**9)
    alone = load(tmp_path / "a").train
    assert threaded is not None
    assert alone is not None
    assert threaded.fingerprint() == alone.fingerprint()
    assert threaded.ids == alone.ids


BAD: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("hello"),
    "empty": lambda path: path.write_bytes(b""),
    "cut": lambda path: path.write_bytes(picture(path.with_suffix(".png")).read_bytes()[:300]),
    "postscript": lambda path: path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0"),
    "broken link": lambda path: path.symlink_to("nowhere"),
    "circle": lambda path: path.symlink_to(path.name),
    "loop": lambda path: path.symlink_to(path.parent),
    "pipe": lambda path: os.mkfifo(path),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_file_is_named_and_left_out(pets: Path, kind: str) -> None:
    bad = pets / "cat" / "bad.jpg"
    BAD[kind](bad)
    if kind == "cut":
        bad.with_suffix(".png").unlink()
    data = load(pets)
    assert [each.path for each in data.rejected] == [str(bad)]
    assert data.rejected[0].reason
    assert sum(len(part) for part in data.splits().values()) == 20
    assert any("1 left out" in note for note in data.notes)


def test_found_is_used_plus_rejected(pets: Path) -> None:
    for number, make in enumerate(BAD[kind] for kind in ("text", "empty", "postscript", "broken link", "pipe")):
        make(pets / "dog" / f"bad{number}.jpg")
    (pets / "dog" / "odd\nname \U0001f431.png").write_bytes((pets / "dog" / "0.png").read_bytes())
    (pets / ".DS_Store").write_bytes(b"x")
    (pets / "dog" / ".hidden.png").write_bytes(b"x")
    picture(pets / "stray.png")
    data = load(pets)
    assert sum(len(part) for part in data.splits().values()) == 21
    assert len(data.rejected) == 6
    assert "outside any class folder" in {each.reason for each in data.rejected}


def test_pictures_in_split_folders_beside_the_classes_are_named(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "pets", "train", "test")
    loose = [picture(root / name) for name in ("loose.png", "test/loose.JPG", "train/loose.png")]
    (root / "train" / "README.md").write_text("no picture")
    data = load(root)
    assert [(each.path, each.reason) for each in data.rejected] == [
        (str(path), "outside any class folder") for path in (loose[0], loose[2], loose[1])
    ]
    assert counts(data) == {"train": [2, 2], "val": [1, 1], "test": [3, 3]}
    assert [each.path for each in load(root, splits={"test"}).rejected] == [str(loose[0]), str(loose[1])]


def test_links_out_of_the_folder_are_followed_and_told(pets: Path, tmp_path: Path) -> None:
    for number in range(3):
        picture(tmp_path / "elsewhere" / f"{number}.png")
    (pets / "hen").symlink_to(tmp_path / "elsewhere")
    data = load(pets)
    assert data.train is not None
    assert data.train.classes == ("cat", "dog", "hen")
    (pets / "cat" / "linked.png").symlink_to(tmp_path / "elsewhere" / "0.png")
    assert any("lead out of" in note for note in load(pets).notes)


def test_names_that_are_not_utf8_can_be_stored(pets: Path) -> None:
    name = os.fsencode(pets / "cat") + b"/\xff.png"
    with open(name, "wb") as stream:
        stream.write((pets / "cat" / "0.png").read_bytes())
    data = load(pets, val_fraction=0)
    assert data.train is not None
    assert [each for each in data.train.ids if each.endswith("\\xff.png")]
    "".join(data.train.ids).encode()


def test_animated_files_are_told_of(pets: Path) -> None:
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(pets / "cat" / "moving.gif", save_all=True, append_images=frames[1:])
    data = load(pets)
    assert sum("first frame" in note for note in data.notes) == 1


def refused(root: Path | str, *words: str, **options: object) -> None:
    """load refuses, in one or two lines that hold `words`."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the words are checked below
        load(root, **options)  # type: ignore[arg-type]
    text = str(caught.value)
    assert len(text.splitlines()) <= 2
    for word in words:
        assert word in text


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "none", "no such folder", "cifar10")
    refused("cifr10", "cifr10", "did you mean 'cifar10'")


@pytest.mark.parametrize("source", ["", "x" * 5000, "a\0b"])
def test_what_is_no_path_is_refused(source: str) -> None:
    with pytest.raises(ValueError, match=r"not a path|no such folder|no data set named"):
        load(source)


def test_folders_without_classes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    refused(tmp_path / "a", "empty")
    picture(tmp_path / "a" / "1.png")
    refused(tmp_path / "a", "no class folders", "cat/1.jpg")
    refused(tmp_path / "a" / "1.png", "neither a table")


def test_one_class_is_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "cat" / "1.png")
    refused(tmp_path / "a", "one class only", "cat")


def test_an_empty_class_is_refused(pets: Path) -> None:
    (pets / "hen").mkdir()
    refused(pets, "hen", "empty")
    (pets / "hen").rmdir()
    (pets / "hen").symlink_to(pets)  # a loop: the whole set as one class of itself
    refused(pets, "hen", "already read as")


def test_a_class_of_one_picture_is_refused_unless_validation_is_there(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "a", "train", each=2)
    (root / "train" / "dog" / "1.png").unlink()
    refused(root, "'dog'", "1 usable picture", "add pictures")
    assert counts(load(with_splits(root, "val"), val_fraction=0.5))["val"] == [3, 3]


def test_a_class_without_a_usable_picture_is_refused(pets: Path) -> None:
    (pets / "hen").mkdir()
    (pets / "hen" / "a.jpg").write_text("no picture")
    refused(pets, "'hen'", "a.jpg", "not a JPEG")


def test_classes_that_differ_between_splits_are_refused(tmp_path: Path) -> None:
    root = with_splits(tmp_path / "a", "train", "test")
    for number in range(2):
        picture(root / "test" / "hen" / f"{number}.png")
    refused(root, "'hen' is in test but not in train")
    os.rename(root / "test" / "hen", root / "train" / "hen")
    refused(root, "'hen' is in train but not in test", splits=["train"])


@pytest.mark.parametrize("other", ["Cat", "ｃａｔ"])
def test_classes_that_look_alike_are_refused(pets: Path, other: str) -> None:
    picture(pets / other / "1.png")
    refused(pets, "look the same", "cat")


def test_one_split_under_two_names_is_refused(tmp_path: Path) -> None:
    refused(with_splits(tmp_path / "a", "train", "val", "valid"), "val", "valid", "same split")


@pytest.mark.parametrize("options", [{"val_fraction": 0.9}, {"val_fraction": -0.1}, {"seed": -1}])
def test_values_out_of_bounds_are_refused(pets: Path, options: dict[str, float]) -> None:
    name, value = next(iter(options.items()))
    refused(pets, f"{name}={value}", **options)


def test_more_than_memory_is_decoded_batch_by_batch(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load(pets)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    data = load(pets)
    for name, images in data.splits().items():
        assert isinstance(images.pixels, Mapped) and images.pixels.stream is not None
        assert images.fingerprint() == whole.splits()[name].fingerprint()
    assert any("decoded batch by batch" in note and "more than half" in note for note in data.notes)


def test_uneven_classes_are_told_with_numbers(tmp_path: Path) -> None:
    for label, count in (("cat", 30), ("dog", 10), ("hen", 11)):
        for number in range(count):
            picture(tmp_path / label / f"{number}.png", seed=number)
    notes = [note for note in load(tmp_path).notes if "uneven" in note]
    assert len(notes) == 1
    assert "'cat' has 30 pictures in train and 'dog' 10, 3 to 1" in notes[0]
    (tmp_path / "cat" / "0.png").unlink()
    assert not any("uneven" in note for note in load(tmp_path).notes)


def test_hidden_tables_and_shards_do_not_hide_class_folders(pets: Path) -> None:
    (pets / ".p.parquet.parts").mkdir()
    (pets / ".p.parquet.parts" / "000000000000.parquet").write_bytes(b"half")
    (pets / "cat" / "._train-000.tar").write_bytes(b"what a Mac leaves")
    (pets / "dog" / "more.tar").mkdir()
    picture(pets / "dog" / "more.tar" / "1.png")
    assert counts(load(pets, val_fraction=0)) == {"train": [10, 11]}


@pytest.mark.parametrize("name", ["features.parquet", "cat/features.parquet", "all.tar"])
def test_a_table_or_shard_among_class_folders_is_told_to_be_in_the_way(pets: Path, name: str) -> None:
    (pets / name).write_bytes(b"nothing of use")
    refused(pets, Path(name).name, "not a readable", f"move the {Path(name).suffix} files out of {pets}")


def test_a_damaged_table_alone_is_not_told_to_be_in_the_way(tmp_path: Path) -> None:
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        (tmp_path / split / "0.parquet").write_bytes(b"nothing of use")
    with pytest.raises(ValueError, match="not a readable parquet file") as refusal:
        load(tmp_path)
    assert "class folders" not in str(refusal.value)
