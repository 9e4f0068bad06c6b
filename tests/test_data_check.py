"""What a check finds: duplicates, leaks, labels that disagree, odd pictures; and what would stop training."""

from __future__ import annotations

import io
import json
from pathlib import Path

import corpus
import numpy as np
import pytest
from PIL import Image
from test_data_folder import tree_hash
from typer.testing import CliRunner

from vitreous.cli import app
from vitreous.data import Findings, check, scan
from vitreous.data.scan import alike
from vitreous.data_page import write_page


def put(root: Path, name: str, seed: int = 0, data: bytes | None = None) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(corpus.encoded(seed) if data is None else data)
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """Six different pictures of two classes in train, two each in val and test."""
    root = tmp_path / "pets"
    for number in range(6):
        put(root, f"train/{('cat', 'dog')[number % 2]}/{number}.png", number)
    for number in range(2):
        put(root, f"test/{('cat', 'dog')[number]}/{number}.png", 10 + number)
        put(root, f"val/{('cat', 'dog')[number]}/{number}.png", 20 + number)
    return root


def told(findings: Findings) -> set[tuple[str, frozenset[str], bool, bool]]:
    return {
        (group.kind, frozenset(Path(each.path).name for each in group.pictures), group.leaks, group.disagrees)
        for group in findings.groups
    }


def test_different_pictures_are_no_duplicates(pets: Path) -> None:
    findings = check(pets)
    assert findings.groups == ()
    assert findings.counts() == {"exact": 0, "near": 0, "leaks": 0, "disagrees": 0}
    assert findings.splits == {"train": {"cat": 3, "dog": 3}, "val": {"cat": 1, "dog": 1}, "test": {"cat": 1, "dog": 1}}


def test_exact_duplicates_are_told_by_their_pixels(pets: Path) -> None:
    put(pets, "train/dog/labelled.png", 0)  # 0 is a cat
    put(pets, "test/cat/leaked.bmp", data=corpus.encoded(2, "BMP"))  # in another format
    put(pets, "train/cat/copy.png", 4)
    assert told(check(pets)) == {
        ("exact", frozenset({"2.png", "leaked.bmp"}), True, False),
        ("exact", frozenset({"0.png", "labelled.png"}), False, True),
        ("exact", frozenset({"4.png", "copy.png"}), False, False),
    }


def changed(seed: int, how: str) -> bytes:
    image = Image.fromarray(corpus.pixels(seed))
    if how == "larger":
        image = image.resize((60, 60), Image.Resampling.BICUBIC)
    if how == "darker":
        image = Image.fromarray((np.asarray(image) * 0.8).astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=75)
    return stream.getvalue()


@pytest.mark.parametrize("how", ["recompressed", "larger", "darker"])
def test_near_duplicates_are_found_across_splits(pets: Path, how: str) -> None:
    put(pets, "test/dog/near.jpg", data=changed(3, how))
    assert told(check(pets)) == {("near", frozenset({"3.png", "near.jpg"}), True, False)}


def test_a_copy_that_the_hold_out_would_put_on_both_sides_is_a_leak(tmp_path: Path) -> None:
    for number in range(10):
        put(tmp_path, f"cat/{number}.png", 1)
        put(tmp_path, f"dog/{number}.png", 10 + number)
    (group,) = check(tmp_path).groups
    assert group.leaks
    assert sum(each.split == "val" for each in group.pictures) == 1
    put(tmp_path, "cat/alone.png", data=b"")
    (group,) = check(tmp_path).groups
    assert len(group.pictures) == 10


def test_pictures_alike_to_a_third_are_one_group_and_plain_ones_are_alike_to_none() -> None:
    base = corpus.pixels(1, (16, 16)).astype(int)
    noise = np.random.RandomState(0).randint(-6, 7, (3, 16, 16, 3))
    plain = np.stack([np.full((16, 16, 3), value) for value in (10, 10, 200)])
    pairs, more = alike(np.concatenate([(base + noise).clip(0, 255), plain]).astype(np.uint8))
    assert sorted(map(tuple, pairs.tolist())) == [(0, 1), (0, 2), (1, 2)]
    assert not more


def test_frames_that_are_all_alike_are_compared_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    base = corpus.pixels(1, (16, 16)).astype(int)
    noise = np.random.RandomState(0).randint(-14, 15, (60, 16, 16, 3))
    thumbnails = (base + noise).clip(0, 255).astype(np.uint8)
    whole, _ = alike(thumbnails)
    assert 0 < len(whole) < 60 * 59 / 2
    at_once = []

    def expanded(some: np.ndarray, pairs: np.ndarray) -> np.ndarray:
        at_once.append(len(pairs))
        return in_colour(some, pairs)

    in_colour = scan._alike_in_colour
    monkeypatch.setattr(scan, "_alike_in_colour", expanded)
    for name, value in (("_BLOCK", 25), ("_ROWS", 7), ("_EXPANDED", 16)):
        monkeypatch.setattr(scan, name, value)
    pairs, more = alike(thumbnails)
    np.testing.assert_array_equal(pairs, whole)
    assert not more and max(at_once) == 16
    at_once.clear()
    monkeypatch.setattr(scan, "_MOST_PAIRS", 20)
    pairs, more = alike(thumbnails)
    np.testing.assert_array_equal(pairs, whole[:20])
    assert more and sum(at_once) < 100  # the others were not looked at


def test_more_near_duplicates_than_can_be_listed_are_told_of(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.data.scan._MOST_PAIRS", 1)
    for number in range(4):
        put(pets, f"train/cat/near-{number}.jpg", data=corpus.encoded(0, "JPEG", quality=60 + number))
    assert "there are more near duplicates than those listed" in check(pets).notes
    monkeypatch.setattr("vitreous.data.checking.MOST_COMPARED", 3)
    assert any("not looked for" in note for note in check(pets).notes)


def test_odd_pictures_and_sizes_are_told(pets: Path) -> None:
    for name, size in (("long", (24, 200)), ("tiny", (4, 4))):
        stream = io.BytesIO()
        Image.fromarray(corpus.pixels(50, size)).save(stream, "PNG")
        put(pets, f"train/cat/{name}.png", data=stream.getvalue())
    put(pets, "train/dog/moving.gif", data=corpus.GOOD["moving.gif"])
    stream = io.BytesIO()
    Image.new("RGB", (24, 24), "red").save(stream, "PNG")
    put(pets, "train/dog/plain.png", data=stream.getvalue())
    findings = check(pets)
    assert {(Path(each.path).name, each.reason) for each in findings.odd} == {
        ("long.png", "24 x 200 pixels: most of it is cut away"),
        ("tiny.png", "4 x 4 pixels: next to nothing can be seen"),
        ("moving.gif", "animated: only the first frame is used"),
        ("plain.png", "of one colour"),
    }
    assert (findings.sizes["short side"]["0 %"], findings.sizes["long side"]["100 %"]) == (4, 200)
    assert findings.sizes["long over short"]["50 %"] == 1


def test_what_would_stop_training_is_told_with_everything_else(pets: Path) -> None:
    for path in (pets / "train" / "cat").iterdir():
        path.write_bytes(b"broken")
    put(pets, "test/cat/leaked.png", 1)
    findings = check(pets)
    assert len(findings.stops) == 1
    assert "class 'cat' has no usable picture in train" in findings.stops[0]
    assert len(findings.rejected) == 3
    assert told(findings) == {("exact", frozenset({"1.png", "leaked.png"}), True, True)}


def test_nothing_but_broken_files_is_told_file_by_file(pets: Path, tmp_path: Path) -> None:
    for path in pets.rglob("*.png"):
        path.write_bytes(b"broken")
    findings = check(pets)
    assert (findings.found, findings.used, len(findings.rejected), findings.sizes) == (10, 0, 10, {})
    assert "no usable picture in train" in findings.stops[0]
    assert write_page(findings, "pets", tmp_path / "page.html").is_file()


def test_named_sets_are_checked_too() -> None:
    findings = check("digits")
    assert (findings.found, findings.used) == (1797, 1797)
    assert findings.counts()["leaks"] > 0  # ones look alike at eight pixels


def command(*arguments: object) -> tuple[int, dict[str, object] | None, str]:
    result = CliRunner().invoke(app, ["data", *map(str, arguments)])
    return result.exit_code, json.loads(result.stdout) if result.stdout else None, result.stderr


def test_the_command_prints_one_object_writes_a_page_and_changes_nothing(pets: Path, tmp_path: Path) -> None:
    put(pets, "train/cat/<script>alert(1)</script>.png", 1)
    put(pets, "train/cat/bad<b>.png", data=b"broken")
    before = tree_hash(pets)
    code, found, said = command(pets, "--check", "--json", "--out", tmp_path / "page.html")
    assert code == 0
    assert tree_hash(pets) == before
    assert found is not None
    assert (found["found"], found["used"], found["page"]) == (12, 11, str(tmp_path / "page.html"))
    assert found["counts"] == {"exact": 1, "near": 0, "leaks": 0, "disagrees": 1}
    assert "11 of 12 pictures can be used" in said
    assert "bad<b>.png: not a JPEG" in said
    text = (tmp_path / "page.html").read_text()
    assert "<script>" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;.png" in text
    assert text.count("data:image/png;base64,") == 2
    assert "http" not in text.replace("http://www.w3.org", "")


def test_the_command_ends_with_2_only_where_training_would_stop(pets: Path, tmp_path: Path) -> None:
    for path in (pets / "train" / "dog").iterdir():
        path.write_bytes(b"broken")
    code, found, said = command(pets, "--check", "--json", "--out", tmp_path / "page.html")
    assert code == 2
    assert found is not None
    assert found["stops"]
    assert "training would stop: class 'dog'" in said
    assert "Training would stop" in (tmp_path / "page.html").read_text()
    code, found, said = command(tmp_path / "gone", "--check")
    assert (code, found, said.count("\n")) == (2, None, 1)


def test_the_page_can_be_written_into_a_folder(pets: Path, tmp_path: Path) -> None:
    (tmp_path / "pages").mkdir()
    assert write_page(check(pets), "pets", tmp_path / "pages") == tmp_path / "pages" / "check.html"
