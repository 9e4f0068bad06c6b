"""Tar shards: names and labels, splits, damage, and that nothing leaves them."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from test_data_folder import counts, tree_hash
from test_data_parquet import png

from vitreous.data import load

LABELS = ["cat", "dog", "hen"]
Member = tuple[str, bytes]


def shard(path: Path, members: list[Member]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def samples(first: int, count: int, kind: str = "cls") -> list[Member]:
    members = []
    for number in range(first, first + count):
        label = LABELS[number % 3]
        text = f'{{"label": "{label}", "size": 3}}' if kind == "json" else f"{label}\n"
        members += [(f"{number:04}.png", png(number)), (f"{number:04}.{kind}", text.encode())]
    return members


@pytest.mark.parametrize("kind", ["cls", "txt", "json"])
def test_a_label_lies_beside_its_picture(tmp_path: Path, kind: str) -> None:
    data = load(shard(tmp_path / "a.tar", samples(0, 30, kind)), val_fraction=0)
    assert counts(data) == {"train": [10, 10, 10]}
    assert data.train is not None
    assert data.train.classes == ("cat", "dog", "hen")
    assert data.train.ids[1] == f"{tmp_path}/a.tar/0001.png"


def test_shards_are_named_by_folder_braces_or_wildcard(tmp_path: Path) -> None:
    for number in range(3):
        shard(tmp_path / "set" / f"train-{number:03}.tar", samples(10 * number, 10))
    shard(tmp_path / "set" / "val-000.tar", samples(30, 6))
    whole = load(tmp_path / "set")
    assert counts(whole) == {"train": [10, 10, 10], "val": [2, 2, 2]}
    assert whole.train is not None
    for pattern in ("train-{000..002}.tar", "train-*.tar", "train-{000,001,002}.tar", "train-00[0-2].tar"):
        part = load(f"{tmp_path}/set/{pattern}", val_fraction=0).train
        assert part is not None
        assert part.fingerprint() == whole.train.fingerprint()
    assert counts(load(f"{tmp_path}/set/{{train,val}}-*.tar")) == counts(whole)


def test_folders_name_splits_and_whole_numbers_are_in_order(tmp_path: Path) -> None:
    for split in ("train", "test"):
        members: list[Member] = []
        for number in range(24):
            members += [(f"{number}.png", png(number)), (f"{number}.cls", str(number % 12).encode())]
        shard(tmp_path / split / "0.tar", members)
    data = load(tmp_path, val_fraction=0)
    assert counts(data) == {"train": [2] * 12, "test": [2] * 12}
    assert data.train is not None
    assert data.train.classes == tuple(str(number) for number in range(12))


def test_pictures_without_a_readable_label_and_odd_members_are_named(tmp_path: Path) -> None:
    members = samples(0, 6)
    members += [("bare.png", png(90)), ("list.png", png(91)), ("list.json", b"[1]"), ("cut.png", png(92)[:60])]
    members += [("cut.cls", b"cat"), ("odd.png", png(93)), ("odd.cls", b"\xff"), ("0000.jpg", png(94))]
    members += [("deep.png", png(97)), ("deep.json", b"[" * 99_999)]
    members += [("pickled.png", png(95)), ("pickled.cls", b"\x80\x04cos\nsystem\n."), ("0000.seg.png", png(96))]
    path = shard(tmp_path / "a.tar", members)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    data = load(path, val_fraction=0)
    assert counts(data) == {"train": [2, 2, 2]}
    reasons = {each.path.rpartition("/")[2]: each.reason for each in data.rejected}
    assert reasons.pop("cut.png").startswith("cannot be decoded")
    assert reasons == {
        "bare.png": "no label",
        "list.png": "no label",
        "odd.png": "no label",
        "deep.png": "no label",
        "pickled.png": "no label",
        "0000.jpg": "the shard has 0000.png already",
        "link.png": "not a regular file",
    }


def test_hostile_names_are_only_names(tmp_path: Path) -> None:
    root, canary = tmp_path / "set", tmp_path / "escaped.png"
    members = samples(0, 6)
    for name in ("../escaped", str(tmp_path / "escaped"), "a/../../escaped"):
        members += [(f"{name}.png", png(50)), (f"{name}.cls", b"cat")]
    shard(root / "a.tar", members)
    before = tree_hash(root)
    data = load(root, val_fraction=0)
    assert counts(data) == {"train": [5, 2, 2]}
    assert not canary.exists()
    assert tree_hash(root) == before


@pytest.mark.parametrize("percent", [0, 1, 40, 80])
def test_a_shard_cut_short_is_named(tmp_path: Path, percent: int) -> None:
    path = shard(tmp_path / "a.tar", samples(0, 30))
    os.truncate(path, path.stat().st_size * percent // 100 // 512 * 512 + 100)
    with pytest.raises(ValueError, match=r"a\.tar: not a readable tar file .*again"):
        load(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("train-{000..003}.tar", ["train-001.tar: no such file", "{000..003}"]),
        ("other-*.tar", ["names no tar file"]),
        ("*.txt", ["read.txt", "no tar file"]),
        ("train-{0..999999999}.tar", ["more than 100000"]),
        ("bare.tar", ["no picture with a .cls"]),
        ("empty.tar", ["holds no picture"]),
        ("packed.tar.gz", ["unpack"]),
    ],
)
def test_shards_that_are_not_there_or_hold_nothing_are_refused(tmp_path: Path, source: str, words: list[str]) -> None:
    shard(tmp_path / "train-000.tar", samples(0, 6))
    shard(tmp_path / "bare.tar", [("a.png", png(1))])
    shard(tmp_path / "empty.tar", [("a.txt", b"cat")])
    (tmp_path / "read.txt").write_text("no shard")
    (tmp_path / "packed.tar.gz").write_bytes(b"\x1f\x8b")
    with pytest.raises(ValueError, match=r"\w") as refusal:
        load(f"{tmp_path}/{source}")
    for word in words:
        assert word in str(refusal.value)


def test_headers_of_large_shards_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vitreous.data.shards._REMEMBERED", 1)
    path = shard(tmp_path / "a.tar", samples(0, 30))
    first = load(path, cache=tmp_path / "cache")
    with monkeypatch.context() as without:
        without.setattr("vitreous.data.shards.tarfile", None)
        again = load(path, cache=tmp_path / "cache")
    assert first.train is not None
    assert again.train is not None
    assert (first.train.ids, first.train.fingerprint()) == (again.train.ids, again.train.fingerprint())
    shard(path, samples(3, 30))
    other = load(path, cache=tmp_path / "cache").train
    assert other is not None
    assert other.fingerprint() != first.train.fingerprint()
