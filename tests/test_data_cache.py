"""The cache of decoded pictures: what is in it is what decoding gives, whatever happens to it, within its limits."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from test_data_folder import picture
from test_data_manifest import table
from test_data_parquet import png, write
from test_data_shards import samples, shard

from vitreous.augment import AugmentConfig
from vitreous.config import RunConfig
from vitreous.data import DataSet, Images, Mapped, load
from vitreous.data import cache as store
from vitreous.train import train
from vitreous.vit import ViTConfig


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that even the few pictures of a test are worth."""
    monkeypatch.setattr("vitreous.data.cache._WORTH", 0.0)
    return tmp_path / "cache"


def folder(root: Path) -> Path:
    for label in ("cat", "dog", "hen"):
        for number in range(10):
            picture(root / label / f"{number}.png", seed=number)
    (root / "cat" / "bad.png").write_text("no picture")
    return root


def parquet(root: Path) -> Path:
    cells: list[bytes | None] = [png(row) for row in range(30)]
    cells[4] = b"broken"
    return write(root / "a.parquet", cells=cells)


def manifest(root: Path) -> Path:
    rows = [(str(path), path.parent.name) for path in sorted(folder(root).rglob("*.png"))]
    return table(root / "a.csv", rows)


def shards(root: Path) -> Path:
    return shard(root / "a.tar", [*samples(0, 29), ("bad.png", b"no picture"), ("bad.cls", b"cat")])


SOURCES: dict[str, Callable[[Path], Path]] = {
    "folder": folder,
    "parquet": parquet,
    "manifest": manifest,
    "shards": shards,
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return SOURCES[request.param](tmp_path / "set")


def entries(cache: Path) -> list[Path]:
    """Those of decoded pictures, the one unused for longest first."""
    found = [path for path in (cache / "decoded").iterdir() if path.is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime)


def train_of(data: DataSet) -> Images:
    assert data.train is not None
    return data.train


def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.sysconf
    monkeypatch.setattr(os, "sysconf", lambda name: 100 if name in ("SC_PAGE_SIZE", "SC_PHYS_PAGES") else real(name))


def no_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: object) -> None:
        raise AssertionError("decoded again")

    for name in ("cache._build", "cache.decode_all", "gather.plan"):
        monkeypatch.setattr(f"vitreous.data.{name}", never)


def test_a_second_load_decodes_nothing_and_is_equal(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.setenv("VITREOUS_CACHE_GB", "0")
        plain = load(source, cache=cache)
        assert not cache.exists()
    first = load(source, cache=cache)
    no_decoding(monkeypatch)
    again = load(source, cache=cache)
    assert isinstance(train_of(plain).pixels, torch.Tensor)
    for other in (first, again):
        assert isinstance(train_of(other).pixels, Mapped)
        assert torch.equal(train_of(other).pixels[:], train_of(plain).pixels)  # type: ignore[arg-type]
        assert train_of(other).fingerprint() == train_of(plain).fingerprint()
        assert train_of(other).mean_std() == train_of(plain).mean_std()
        assert (train_of(other).ids, other.rejected, other.original, other.notes) == (
            train_of(plain).ids,
            plain.rejected,
            plain.original,
            plain.notes,
        )
    assert len(plain.rejected) == 1


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "a bit": lambda entry: flip(entry / "pixels.u8"),
    "cut": lambda entry: os.truncate(entry / "pixels.u8", 999),
    "longer": lambda entry: os.truncate(entry / "pixels.u8", 99_999),
    "gone": lambda entry: (entry / "pixels.u8").unlink(),
    "about": lambda entry: flip(entry / "about.json"),
    "empty": lambda entry: (entry / "about.json").write_bytes(b""),
    "pickle": lambda entry: (entry / "about.json").write_bytes(b"\x80\x04cos\nsystem\n."),
    "another": lambda entry: (entry / "about.json").write_text("[]"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_entry_is_built_again(tmp_path: Path, cache: Path, damage: str) -> None:
    path = parquet(tmp_path)
    first = train_of(load(path, cache=cache)).fingerprint()
    (entry,) = entries(cache)
    whole = {each.name: each.read_bytes() for each in entry.iterdir()}
    DAMAGE[damage](entry)
    assert train_of(load(path, cache=cache)).fingerprint() == first
    assert {each.name: each.read_bytes() for each in entry.iterdir()} == whole


CHANGES: dict[str, Callable[[Path], object]] = {
    "content": lambda root: picture(root / "cat" / "3.png", seed=99),
    "a file more": lambda root: picture(root / "cat" / "a.png", seed=99),
    "a file less": lambda root: (root / "cat" / "3.png").unlink(),
    "a name": lambda root: (root / "cat" / "3.png").rename(root / "cat" / "z.png"),
    "a time": lambda root: os.utime(root / "cat" / "3.png", (1, 1)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_folder_is_decoded_anew(tmp_path: Path, cache: Path, change: str) -> None:
    root = folder(tmp_path / "set")
    load(root, cache=cache)
    CHANGES[change](root)
    data = load(root, cache=cache, val_fraction=0)
    assert len(entries(cache)) == 2
    for name, pixels in zip(train_of(data).ids, train_of(data).pixels[:], strict=True):
        np.testing.assert_array_equal(pixels, picture_at(Path(name)))


def picture_at(path: Path) -> np.ndarray:
    from vitreous.data import decode

    return decode(path).transpose(2, 0, 1)


def test_a_moved_folder_is_still_known(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(folder(tmp_path / "set"), cache=cache)
    (tmp_path / "set").rename(tmp_path / "moved")
    no_decoding(monkeypatch)
    assert train_of(load(tmp_path / "moved", cache=cache)).fingerprint() == train_of(first).fingerprint()


def test_another_size_and_a_rewritten_file_are_decoded_anew(tmp_path: Path, cache: Path) -> None:
    path = parquet(tmp_path)
    load(path, cache=cache)
    load(path, cache=cache, size=8)
    assert len(entries(cache)) == 2
    write(path, cells=[png(row + 100) for row in range(30)])
    data = load(path, cache=cache, val_fraction=0)
    assert train_of(data).fingerprint() == train_of(load(path, cache=tmp_path / "new", val_fraction=0)).fingerprint()


def test_a_coloured_picture_beyond_the_sample_is_not_lost(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.data.plan.SAMPLE", 2)
    for number in range(20):
        picture(tmp_path / "set" / f"{number % 2}" / f"{number:02}.png", mode="RGB" if number == 5 else "L")
    for _ in range(2):
        assert train_of(load(tmp_path / "set", cache=cache)).pixels.shape[1] == 3


def test_a_cache_that_cannot_be_written_costs_only_a_note(source: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    data = load(source, cache=cache)
    assert len(train_of(data)) + len(data.val or ()) in (29, 30)
    assert any("not kept" in note for note in data.notes)


def test_a_disk_that_fills_up_while_decoding_costs_only_a_note(
    source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr("vitreous.data.cache.decode_portion", full)
    data = load(source, cache=cache)
    assert len(train_of(data)) + len(data.val or ()) in (29, 30)
    assert any("No space left" in note for note in data.notes)
    assert entries(cache) == []


def test_of_several_at_once_one_decodes(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built, build = [], store._build

    def counted(*arguments: object) -> object:
        built.append(arguments)
        return build(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("vitreous.data.cache._build", counted)
    with ThreadPoolExecutor(4) as executor:
        found = [train_of(data) for data in executor.map(lambda _: load(source, cache=cache), range(4))]
    assert len({part.fingerprint() for part in found}) == 1
    assert len(entries(cache)) == len(built) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_killed_while_it_decodes_leaves_no_lock_and_no_worker(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, seen = folder(tmp_path / "set"), tmp_path / "seen"

    def stuck(*arguments: object) -> None:
        seen.write_text(str(os.getpid()))
        time.sleep(600)

    with monkeypatch.context() as slow:
        slow.setattr("vitreous.data.cache.decode_portion", stuck)
        child = multiprocessing.get_context("fork").Process(target=load, args=(root,), kwargs={"cache": cache})
        child.start()
        until(lambda: seen.is_file() and seen.read_text() != "")
        os.kill(child.pid or 0, signal.SIGKILL)
        child.join()
    until(lambda: not running(int(seen.read_text())))
    assert len(train_of(load(root, cache=cache))) == 27
    assert len([path for path in entries(cache) if path.suffix != ".partial"]) == 1


def until(done: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.02)


def running(process: int) -> bool:
    """A process that has ended and waits to be asked about has an empty command line."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except OSError:
        return False


def test_the_entry_unused_for_longest_goes_first(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{n}.parquet", cells=[png(row + n) for row in range(30)]) for n in range(3)]
    for age, path in enumerate(paths[:2]):
        load(path, cache=cache)
        os.utime(entries(cache)[-1], (age, age))
    first, second = entries(cache)
    mapped = train_of(load(paths[0], cache=cache))  # used again: now the second is the older
    before = mapped.fingerprint()
    monkeypatch.setenv("VITREOUS_CACHE_GB", str(30 * 3 * 12 * 12 * 2.9e-9))
    leftover = cache / "decoded" / "x.partial"
    leftover.mkdir()
    os.utime(leftover, (1, 1))
    load(paths[2], cache=cache)
    assert first.exists()
    assert not second.exists()
    assert not leftover.exists()
    assert len(entries(cache)) == 2
    shutil.rmtree(cache)  # what is mapped stays so
    assert mapped.fingerprint() == before


def test_what_has_no_room_is_told_of_or_refused(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = parquet(tmp_path)
    monkeypatch.setenv("VITREOUS_CACHE_GB", "1e-6")
    assert any("VITREOUS_CACHE_GB allows" in note for note in load(path, cache=cache).notes)
    monkeypatch.setenv("VITREOUS_CACHE_GB", "5")
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=10**9))
    assert any("the disk has 1.0 GB left" in note for note in load(path, cache=cache).notes)
    little_memory(monkeypatch)
    with pytest.raises(ValueError, match=r"no room in memory, nor in .*the disk has 1.0 GB left.*model.image_size="):
        load(path, cache=cache)


@pytest.mark.parametrize("text", ["much", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv("VITREOUS_CACHE_GB", text)
    with pytest.raises(ValueError, match=f"VITREOUS_CACHE_GB is '{text}'"):
        load(parquet(tmp_path), cache=cache)


def test_more_than_memory_trains_from_the_map_and_is_never_copied_whole(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", 300)
    config = RunConfig(
        model=ViTConfig(image_size=12, patch_size=4, classes=3, width=16, depth=1, heads=2),
        augment=AugmentConfig(flip=True),
        steps=4,
        batch=16,
        evaluations=1,
        precision="fp32",
        attention="explicit",
        device="cpu",
    )
    with monkeypatch.context() as without:
        without.setenv("VITREOUS_CACHE_GB", "0")
        expected = train(config, tmp_path / "memory", load(path, val_fraction=0.2))
    little_memory(monkeypatch)
    monkeypatch.setattr("vitreous.data.images._CHUNK", 432 * 20)
    data, read, get = load(path, cache=cache, val_fraction=0.2), [], Mapped.__getitem__

    def counted(mapped: Mapped, index: torch.Tensor) -> torch.Tensor:
        found = get(mapped, index)
        read.append(len(found))
        return found

    monkeypatch.setattr(Mapped, "__getitem__", counted)
    result = train(config, tmp_path / "mapped", data)
    assert (tmp_path / "mapped" / "classifier" / "model.safetensors").read_bytes() == (
        tmp_path / "memory" / "classifier" / "model.safetensors"
    ).read_bytes()
    assert result.val_accuracy == expected.val_accuracy
    assert sum(read) > 240
    assert max(read) <= 60  # all of validation, in one batch of the evaluation
