"""Named sets from their published files: lookup, checksums, downloads, damage."""

from __future__ import annotations

import gzip
import hashlib
import io
import logging
import struct
import tarfile
import urllib.error
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vitreous.data import load
from vitreous.data.named import NAMED, Named


def idx(values: np.ndarray) -> bytes:
    head = struct.pack(">HBB", 0, 8, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    return gzip.compress(head + values.tobytes(), mtime=0)


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.RandomState(seed).randint(0, 256, shape, dtype=np.uint8)


def archive(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return stream.getvalue()


def cifar10() -> dict[str, bytes]:
    members = {}
    for batch in range(1, 7):
        records = noise(20, 3073, seed=batch)
        records[:, 0] = np.arange(20) % 10
        members["test_batch.bin" if batch == 6 else f"data_batch_{batch}.bin"] = records.tobytes()
    return {"cifar-10-binary.tar.gz": archive({f"cifar-10-batches-bin/{name}": data for name, data in members.items()})}


def cifar100() -> dict[str, bytes]:
    members = {"fine_label_names.txt": "\n".join(f"kind_{label}" for label in range(100)).encode()}
    for name, seed in (("train.bin", 1), ("test.bin", 2)):
        records = noise(200, 3074, seed=seed)
        records[:, 0], records[:, 1] = 99, np.arange(200) % 100
        members[name] = records.tobytes()
    return {"cifar-100-binary.tar.gz": archive({f"cifar-100-binary/{name}": data for name, data in members.items()})}


def mnist() -> dict[str, bytes]:
    labels = np.arange(40, dtype=np.uint8) % 10
    return {
        "train-images-idx3-ubyte.gz": idx(noise(40, 28, 28)),
        "train-labels-idx1-ubyte.gz": idx(labels),
        "t10k-images-idx3-ubyte.gz": idx(noise(20, 28, 28, seed=1)),
        "t10k-labels-idx1-ubyte.gz": idx(labels[:20]),
    }


MAKE = {"cifar10": cifar10, "cifar100": cifar100, "mnist": mnist, "fashion-mnist": mnist}


def publish(monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes]) -> Named:
    """Let `files` be what the set `name` was published as."""
    old = NAMED[name]
    remotes = tuple(
        replace(remote, sha256=hashlib.sha256(files[remote.name]).hexdigest(), length=len(files[remote.name]))
        for remote in old.files
    )
    monkeypatch.setitem(NAMED, name, replace(old, files=remotes))
    return NAMED[name]


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No network, no data root, no cache but this test's."""

    def refuse(*_: object, **__: object) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.delenv("VITREOUS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))


@pytest.mark.parametrize("name", MAKE)
def test_published_files_are_read_from_the_data_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = MAKE[name]()
    title = publish(monkeypatch, name, files).title
    put(tmp_path / "data" / name, files)
    data = load(name, data_root=tmp_path / "data")
    assert data.name == title
    assert set(data.splits()) == {"train", "val", "test"}
    assert data.test is not None
    assert data.test.labels[:5].tolist() == [0, 1, 2, 3, 4]
    if name == "cifar10":
        assert data.test.classes[3] == "cat"
        first = noise(20, 3073, seed=6)[0, 1:].reshape(3, 32, 32)
        np.testing.assert_array_equal(data.test.pixels[0].numpy(), first)
    elif name == "cifar100":
        assert data.test.classes[99] == "kind_99"
        np.testing.assert_array_equal(data.test.pixels[7].numpy().ravel(), noise(200, 3074, seed=2)[7, 2:])
    else:
        np.testing.assert_array_equal(data.test.pixels[:, 0].numpy(), noise(20, 28, 28, seed=1))


@pytest.mark.parametrize("spelling", ["cifar10", "CIFAR-10", "cifar_10"])
def test_a_set_answers_to_its_spellings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spelling: str) -> None:
    files = cifar10()
    publish(monkeypatch, "cifar10", files)
    monkeypatch.setenv("VITREOUS_DATA", str(put(tmp_path / "data", files)))
    assert load(spelling, splits=["test"]).name == "CIFAR-10"


@pytest.mark.parametrize("name", MAKE)
def test_absent_and_offline_is_one_message_that_says_what_to_put_where(tmp_path: Path, name: str) -> None:
    for root in (None, tmp_path):
        with pytest.raises(ValueError, match="no network") as caught:
            load(name, data_root=root)
        text = str(caught.value)
        assert len(text.splitlines()) == 2
        assert all(remote.name in text for remote in NAMED[name].files)
        assert (str(tmp_path / name) if root else "--data-root") in text
    assert not list((tmp_path / "xdg").rglob("*.gz*"))


class Answer(io.BytesIO):
    """What urlopen returns."""


def serve(monkeypatch: pytest.MonkeyPatch, files: dict[str, bytes]) -> list[str]:
    asked: list[str] = []

    def urlopen(url: str, timeout: float) -> Answer:
        asked.append(url)
        return Answer(files[url.rsplit("/", 1)[1]])

    monkeypatch.setattr("urllib.request.urlopen", urlopen)
    return asked


def test_a_set_is_fetched_once_over_https(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = mnist()
    publish(monkeypatch, "mnist", files)
    asked = serve(monkeypatch, files)
    with caplog.at_level(logging.WARNING):
        first = load("mnist", cache=tmp_path / "cache")
    assert len(asked) == 4
    assert all(url.startswith("https://") for url in asked)
    assert "fetching" in caplog.text
    again = load("mnist", cache=tmp_path / "cache")
    assert len(asked) == 4
    assert first.train is not None
    assert again.train is not None
    assert first.train.fingerprint() == again.train.fingerprint()


@pytest.mark.parametrize("change", ["cut", "flipped", "longer"])
def test_a_download_that_differs_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str) -> None:
    files = cifar10()
    publish(monkeypatch, "cifar10", files)
    data = files["cifar-10-binary.tar.gz"]
    wrong = {"cut": data[:-100], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "longer": data + bytes(1 << 21)}[change]
    serve(monkeypatch, {"cifar-10-binary.tar.gz": wrong})
    with pytest.raises(ValueError, match="not the published file"):
        load("cifar10", cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_users_own_file_that_differs_is_named_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar10()
    publish(monkeypatch, "cifar10", files)
    put(tmp_path, {"cifar-10-binary.tar.gz": b"something else"})
    with pytest.raises(ValueError, match=r"cifar-10-binary\.tar\.gz: not the published file"):
        load("cifar10", data_root=tmp_path)
    assert (tmp_path / "cifar-10-binary.tar.gz").read_bytes() == b"something else"


@pytest.mark.parametrize(
    "data",
    [b"", b"text", gzip.compress(b"text", mtime=0), archive({"cifar-10-batches-bin/data_batch_1.bin": b"short"})],
)
def test_an_archive_of_another_kind_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    files = {"cifar-10-binary.tar.gz": data}
    publish(monkeypatch, "cifar10", files)
    with pytest.raises(ValueError, match="not a CIFAR binary archive"):
        load("cifar10", data_root=put(tmp_path / "data", files))


def test_a_hostile_archive_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cifar-10-binary.tar.gz": archive({"../../escaped.bin": b"x", "/escaped.bin": b"x"})}
    publish(monkeypatch, "cifar10", files)
    before = put(tmp_path / "data", files)
    with pytest.raises(ValueError, match="not a CIFAR binary archive"):
        load("cifar10", data_root=before)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["cifar-10-binary.tar.gz"]


@pytest.mark.parametrize(
    "data", [b"text", gzip.compress(b"\0\0\x08", mtime=0), idx(noise(40, 28)), idx(noise(39, 28, 28))]
)
def test_an_idx_file_of_another_shape_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    files = mnist() | {"train-images-idx3-ubyte.gz": data}
    publish(monkeypatch, "mnist", files)
    put(tmp_path / "data" / "mnist", files)
    with pytest.raises(ValueError, match=r"train-images-idx3-ubyte\.gz: (not an IDX file|39 pictures, but 40)"):
        load("mnist", data_root=tmp_path / "data")


def test_a_data_root_that_is_not_there_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"--data-root is .*none"):
        load("cifar10", data_root=tmp_path / "none")
    monkeypatch.setenv("VITREOUS_DATA", str(tmp_path / "other"))
    with pytest.raises(ValueError, match=r"VITREOUS_DATA is .*other"):
        load("cifar10")


def test_a_set_takes_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = cifar10()
    publish(monkeypatch, "cifar10", files)
    data = load("cifar10", data_root=put(tmp_path / "data", files), size=16, splits=["test"])
    assert data.test is not None
    assert data.test.pixels.shape == (20, 3, 16, 16)
