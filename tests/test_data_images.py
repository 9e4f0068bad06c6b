"""Images in memory, the hold-out, and the description of a data set."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from vitreous.data import DataSet, Images, contact_sheet, describe, load, split


def images(count: int = 30, channels: int = 3, classes: int = 3, seed: int = 0) -> Images:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, channels, 8, 8), dtype=torch.uint8, generator=generator)
    names = tuple(f"class {label}" for label in range(classes))
    return Images(pixels, torch.arange(count) % classes, names, tuple(f"train/row {row}" for row in range(count)))


def test_mean_and_deviation_equal_those_of_floats() -> None:
    data = images(5000)
    mean, std = data.mean_std()
    floats = data.pixels.double() / 255
    np.testing.assert_allclose(mean, floats.mean(dim=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(std, floats.std(dim=(0, 2, 3), correction=0), rtol=1e-9)


def test_a_constant_channel_can_be_divided_by_its_deviation() -> None:
    flat = Images(torch.full((4, 1, 8, 8), 7, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"), tuple("wxyz"))
    mean, std = flat.mean_std()
    assert mean == pytest.approx((7 / 255,))
    assert std == pytest.approx((1 / 255,))
    with pytest.raises(ValueError, match="0 pictures"):
        flat.select([]).mean_std()


def test_the_fingerprint_follows_content_and_not_ids() -> None:
    data = images()
    same = Images(data.pixels.clone(), data.labels, data.classes, tuple("x" * 30))
    assert data.fingerprint() == same.fingerprint()
    assert data.fingerprint().startswith("sha256:")
    assert len(data.fingerprint()) == len("sha256:") + 16
    changed = data.pixels.clone()
    changed[7, 0, 0, 0] ^= 1
    others = [
        Images(changed, data.labels, data.classes, data.ids),
        Images(data.pixels, data.labels.flip(0), data.classes, data.ids),
        Images(data.pixels, data.labels, ("a", "b", "c"), data.ids),
        Images(data.pixels.view(30, 3, 4, 16), data.labels, data.classes, data.ids),
    ]
    assert len({data.fingerprint(), *(other.fingerprint() for other in others)}) == 5


def test_select_keeps_pixels_labels_and_ids_together() -> None:
    data = images()
    chosen = data.select(torch.tensor([4, 0]))
    assert chosen.ids == ("train/row 4", "train/row 0")
    assert chosen.labels.tolist() == [1, 0]
    assert torch.equal(chosen.pixels[0], data.pixels[4])
    assert len(data.select(np.array([], dtype=np.int64))) == 0


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.3, 0.5])
def test_the_hold_out_is_stratified_and_complete(fraction: float) -> None:
    labels = torch.tensor([0] * 50 + [1] * 20 + [2] * 2)[torch.randperm(72, generator=torch.Generator().manual_seed(0))]
    train, val = split(labels, fraction, seed=3)
    assert torch.equal(torch.cat([train, val]).sort().values, torch.arange(72))
    held = torch.bincount(labels[val], minlength=3).tolist()
    assert held == [max(1, round(fraction * count)) for count in (50, 20, 2)]
    assert torch.bincount(labels[train], minlength=3).min() >= 1


def test_the_hold_out_of_a_seed_never_changes() -> None:
    # Written down once: were it another split in a later version, a resumed model would have seen its validation.
    assert split(torch.arange(40) % 4, 0.2, seed=7)[1].tolist() == SEED_7


SEED_7 = [5, 10, 13, 18, 20, 23, 32, 39]


def test_a_lone_picture_cannot_be_held_out() -> None:
    with pytest.raises(ValueError, match="class 1 has 1 picture"):
        split(torch.tensor([0, 0, 1]), 0.1, seed=0)
    with pytest.raises(ValueError, match="val_fraction=0"):
        split(torch.tensor([0, 0]), 0, seed=0)


def test_digits_are_there_without_a_network() -> None:
    data = load("digits")
    assert {name: len(part) for name, part in data.splits().items()} == {"train": 1295, "val": 143, "test": 359}
    assert data.train is not None
    assert data.train.pixels.shape[1:] == (1, 8, 8)
    assert data.train.pixels.max() == 255
    assert data.train.classes == tuple("0123456789")
    ids = [{tuple(p.flatten().tolist()) for p in part.pixels} for part in data.splits().values()]
    assert sum(len(each) for each in ids) == len(set.union(*ids))


def test_the_test_digits_do_not_depend_on_the_seed() -> None:
    first, other = load("digits", seed=0), load("digits", seed=5)
    assert first.test is not None
    assert other.test is not None
    assert first.val is not None
    assert other.val is not None
    assert first.test.fingerprint() == other.test.fingerprint()
    assert first.val.fingerprint() != other.val.fingerprint()


def test_digits_take_a_size() -> None:
    data = load("digits", size=16, splits=["test"])
    assert data.test is not None
    assert data.test.pixels.shape == (359, 1, 16, 16)
    assert data.train is None


def test_describe_is_json_and_counts_every_class() -> None:
    data = load("digits")
    found = json.loads(json.dumps(describe(data)))
    assert list(found["splits"]) == ["train", "val", "test"]
    for part in found["splits"].values():
        assert sum(part["per_class"].values()) == part["n"]
        assert part["fingerprint"].startswith("sha256:")
    assert found["size"] == {"channels": 1, "height": 8, "width": 8}
    assert found["original"] == {"height": [8, 8], "width": [8, 8]}
    assert found["fingerprint"] == found["splits"]["train"]["fingerprint"]
    assert 0 < found["mean"][0] < 1
    with pytest.raises(ValueError, match="no split"):
        describe(DataSet("none", None, None, None))


@pytest.mark.parametrize("channels", [1, 3])
def test_a_contact_sheet_shows_every_class_unblurred(tmp_path: Path, channels: int) -> None:
    data = images(60, channels)
    with Image.open(contact_sheet(data, tmp_path / "new" / "sheet.png", rows=2, columns=3)) as image:
        sheet = np.asarray(image)
    assert sheet.shape[2] == 3
    for index in range(6):  # classes in turn: the first six pictures, whose labels go 0 1 2 0 1 2
        tile = data.pixels[index].permute(1, 2, 0).numpy().repeat(3 // channels, axis=2)
        tile = tile.repeat(8, axis=0).repeat(8, axis=1)
        top, left = 4 + index // 3 * 82, 4 + index % 3 * 68
        np.testing.assert_array_equal(sheet[top : top + 64, left : left + 64], tile)


def test_a_contact_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="0 x 3"):
        contact_sheet(images(), tmp_path / "a.png", rows=0, columns=3)
    with pytest.raises(ValueError, match="0 pictures"):
        contact_sheet(images().select([]), tmp_path / "a.png")


def test_a_contact_sheet_takes_any_class_name(tmp_path: Path) -> None:
    data = Images(images(4).pixels, torch.tensor([0, 1, 0, 1]), ("\U0001f431", "a" * 300), tuple("abcd"))
    assert contact_sheet(data, tmp_path / "a.png", 1, 9).is_file()


def test_the_python_of_the_page_on_data_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    page = (Path(__file__).parent.parent / "docs" / "data.md").read_text()
    monkeypatch.chdir(tmp_path)
    exec(page.split("```python\n")[1].split("```")[0], {})
    assert "per_class" in capsys.readouterr().out
    assert (tmp_path / "digits.png").is_file()
