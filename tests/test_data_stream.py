"""Pictures decoded batch by batch: the same pictures, order and results as from memory, and no more read than asked."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from test_data_cache import SOURCES, cache, folder, little_memory, parquet, shards, train_of
from test_data_folder import picture
from test_data_parquet import write

from vitreous import ranks
from vitreous import train as training
from vitreous.augment import AugmentConfig
from vitreous.batches import Batches
from vitreous.config import RunConfig
from vitreous.data import DataSet, Mapped, load
from vitreous.data import stream as streams
from vitreous.data.stream import Streamed
from vitreous.train import Progress, train
from vitreous.vit import ViTConfig

__all__ = ["cache"]  # the fixture

MEMORY = os.sysconf
SIDE = 64
"""Decoded, a picture takes 12 kB, encoded less than 1."""


@pytest.fixture
def no_room(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that holds the pictures encoded and not decoded, and a memory that holds neither."""
    monkeypatch.setenv("VITREOUS_CACHE_GB", "0.0001")
    little_memory(monkeypatch)
    return cache


def in_memory(path: Path) -> DataSet:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("VITREOUS_CACHE_GB", "0")
        patched.setattr(os, "sysconf", MEMORY)
        return load(path, size=SIDE, val_fraction=0.2)


def batch_by_batch(path: Path, cache: Path) -> DataSet:
    data = load(path, size=SIDE, val_fraction=0.2, cache=cache)
    pixels = train_of(data).pixels
    assert isinstance(pixels, Mapped)
    assert isinstance(pixels.store, Streamed)
    return data


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The places that were decoded to be used, as it goes on."""
    places: list[int] = []
    decode = Streamed._decode

    def noted(stream: Streamed, some: list[int], out: np.ndarray) -> None:
        places.extend(some)
        decode(stream, some, out)

    monkeypatch.setattr(Streamed, "_decode", noted)
    return places


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_the_same_batch_by_batch(
    kind: str, tmp_path: Path, no_room: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int]
) -> None:
    path = SOURCES[kind](tmp_path / "set")
    plain = in_memory(path)
    for again in (False, True):
        if again:  # what a look at all of them told is remembered
            monkeypatch.setattr("vitreous.data.stream.portions", None)
            decoded.clear()
        data = batch_by_batch(path, no_room)
        assert [train_of(data).fingerprint(), train_of(data).mean_std()] == [
            train_of(plain).fingerprint(),
            train_of(plain).mean_std(),
        ]
        assert len(decoded) == (0 if again else len(train_of(plain)))
        for name, images in data.splits().items():
            other = plain.splits()[name]
            assert torch.equal(images.pixels[:], other.pixels[:])
            assert (images.ids, images.classes, images.labels.tolist()) == (
                other.ids,
                other.classes,
                other.labels.tolist(),
            )
        assert (data.rejected, data.original, data.name) == (plain.rejected, plain.original, plain.name)
        assert len(data.rejected) == 1
        assert any("train is decoded batch by batch: " in note and "GB allows" in note for note in data.notes)


class Stop(Exception):
    """Stands for a kill: nothing after it runs."""


@pytest.fixture
def config() -> RunConfig:
    return RunConfig(
        model=ViTConfig(image_size=SIDE, patch_size=16, classes=3, width=16, depth=1, heads=2),
        augment=AugmentConfig(flip=True, cutmix=0.5),
        steps=6,
        batch=8,
        precision="fp32",
        attention="explicit",
        device="cpu",
    )


@pytest.mark.parametrize("kind", ["folder", "parquet", "shards"])
def test_a_run_comes_out_the_same_to_the_bit_also_resumed(
    kind: str, tmp_path: Path, no_room: Path, config: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = SOURCES[kind](tmp_path / "set")
    expected = train(config, tmp_path / "memory", in_memory(path))
    found = train(config, tmp_path / "stream", batch_by_batch(path, no_room))
    assert found.val_accuracy == expected.val_accuracy
    weights = [tmp_path / name / "classifier" / "model.safetensors" for name in ("memory", "stream", "resumed")]
    assert weights[1].read_bytes() == weights[0].read_bytes()

    def stop(progress: Progress) -> None:
        if progress.step == 4 and progress.phase == "train":
            raise Stop

    monkeypatch.setattr("vitreous.saving.Saver.due", lambda *_, **__: True)
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    with pytest.raises(Stop):
        train(config, tmp_path / "resumed", batch_by_batch(path, no_room), watch=stop)
    train(config, tmp_path / "resumed", batch_by_batch(path, no_room), resume=True)
    assert weights[2].read_bytes() == weights[0].read_bytes()


def test_a_step_reads_its_own_pictures_and_those_of_the_next_are_on_their_way(
    tmp_path: Path, no_room: Path, config: RunConfig, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = batch_by_batch(folder(tmp_path / "set"), no_room)
    images = train_of(data)
    plain = dataclasses.replace(config, augment=AugmentConfig(flip=False))
    batches = Batches(images, plain)
    assert isinstance(images.pixels, Mapped)
    stream = images.pixels.store
    assert isinstance(stream, Streamed)
    decoded.clear()
    for step in range(5):  # an epoch has three
        wanted = images.pixels.places[batches.chosen(step)].tolist()
        if step:
            stream._threads.submit(lambda: None).result()
            assert sorted(decoded) == sorted(wanted)  # before it is asked for
        else:
            assert decoded == []
        batches.at(step, SIDE, torch.device("cpu"))
        assert sorted(decoded[: len(wanted)]) == sorted(wanted)
        del decoded[: len(wanted)]
        assert stream._next is not None
        for part in stream._next[1]._parts:
            part.result()


def test_processes_read_each_their_share(
    tmp_path: Path, no_room: Path, config: RunConfig, decoded: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    images = train_of(batch_by_batch(folder(tmp_path / "set"), no_room))
    assert isinstance(images.pixels, Mapped)
    batches = Batches(images, dataclasses.replace(config, augment=AugmentConfig(flip=False)))
    shares = []
    for half in (slice(0, 4), slice(4, 8)):
        monkeypatch.setattr(ranks, "share", lambda count, half=half: half)
        monkeypatch.setattr(Mapped, "ahead", lambda pixels, index: None)
        decoded.clear()
        batches.at(0, SIDE, torch.device("cpu"))
        shares.append(sorted(decoded))
    assert sorted(shares[0] + shares[1]) == sorted(images.pixels.places[batches.chosen(0)].tolist())
    assert len(shares[0]) == len(shares[1]) == 4


def test_what_was_begun_and_is_not_asked_for_does_no_harm(tmp_path: Path, no_room: Path) -> None:
    pixels = train_of(batch_by_batch(folder(tmp_path / "set"), no_room)).pixels
    assert isinstance(pixels, Mapped)
    everything = pixels[:]
    pixels.ahead(torch.tensor([1, 2]))
    assert torch.equal(pixels[torch.tensor([5, 3])], everything[[5, 3]])
    pixels.ahead(torch.tensor([4]))
    pixels.ahead(torch.tensor([1, 2]))
    assert torch.equal(pixels[torch.tensor([2, 1])], everything[[2, 1]])
    assert torch.equal(pixels[torch.tensor([1, 2])], everything[[1, 2]])
    assert torch.equal(pixels[7], everything[7])
    assert torch.equal(torch.cat(list(pixels.split(5))), everything)
    assert pixels[torch.empty(0, dtype=torch.int64)].shape == (0, 3, SIDE, SIDE)


def test_a_picture_that_is_gone_or_damaged_since_the_start_is_named(tmp_path: Path, no_room: Path) -> None:
    root = folder(tmp_path / "set")
    pixels = train_of(batch_by_batch(root, no_room)).pixels
    for path in (root / "dog").iterdir():  # one of them is held out
        path.write_bytes(b"cut")
    with pytest.raises(ValueError, match=r"picture \d+ could be read at the start and no longer can: not a JPEG"):
        pixels[:]


def copies(cache: Path) -> list[Path]:
    return list((cache / "decoded").glob(f"*/{streams._COPY}"))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": lambda path: os.truncate(path, 99),
    "gone": lambda path: path.unlink(),
    "about": lambda path: (path.parent / "about.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_copy_of_a_table_s_pictures_is_made_again(damage: str, tmp_path: Path, no_room: Path) -> None:
    path = parquet(tmp_path)
    pixels = train_of(batch_by_batch(path, no_room)).pixels[:]
    (copy,) = copies(no_room)
    whole = copy.read_bytes()
    DAMAGE[damage](copy)
    assert torch.equal(train_of(batch_by_batch(path, no_room)).pixels[:], pixels)
    assert copy.read_bytes() == whole


def test_a_copy_that_made_room_for_another_is_read_on(tmp_path: Path, no_room: Path) -> None:
    pixels = train_of(batch_by_batch(parquet(tmp_path), no_room)).pixels
    before = pixels[:]
    shutil.rmtree(no_room)
    assert torch.equal(pixels[:], before)


def test_a_flipped_bit_in_the_copy_is_found_when_its_picture_is_read(tmp_path: Path, no_room: Path) -> None:
    data = batch_by_batch(parquet(tmp_path), no_room)
    (copy,) = copies(no_room)
    content = bytearray(copy.read_bytes())
    content[len(content) // 2] ^= 1
    copy.write_bytes(content)
    with pytest.raises(ValueError, match=r"damaged at picture \d+; delete .* and start again"):
        [images.pixels[:] for images in data.splits().values()]


def test_a_table_without_room_even_for_a_copy_is_refused(
    tmp_path: Path, no_room: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VITREOUS_CACHE_GB", "0.000001")
    with pytest.raises(ValueError, match=r"(?s)30 pictures have no room.*GB allows.*write tar shards.*image_size="):
        load(parquet(tmp_path / "table"), size=SIDE, cache=no_room)
    batch_by_batch(shards(tmp_path / "tar"), no_room)  # which need no copy


def test_nothing_kept_is_nothing_written(tmp_path: Path, no_room: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VITREOUS_CACHE_GB", "0")
    data = batch_by_batch(folder(tmp_path / "set"), no_room)
    assert train_of(data).fingerprint() == train_of(data).fingerprint()
    assert not no_room.exists()


def test_pictures_that_all_are_bad_are_named_as_ever(tmp_path: Path, no_room: Path) -> None:
    for label in ("cat", "dog"):
        picture(tmp_path / label / "1.png", seed=1)
        picture(tmp_path / label / "2.png", seed=2)
    (tmp_path / "dog" / "1.png").write_text("no picture")
    (tmp_path / "dog" / "2.png").write_text("no picture")
    with pytest.raises(ValueError, match="class 'dog' has no usable picture in train: all 2 were left out"):
        load(tmp_path, size=SIDE, cache=no_room)


def test_rows_without_a_picture_are_passed_over(tmp_path: Path, no_room: Path) -> None:
    from test_data_parquet import png

    cells: list[bytes | None] = [png(row) for row in range(30)]
    cells[0] = cells[7] = cells[29] = None
    data = batch_by_batch(write(tmp_path / "a.parquet", cells=cells), no_room)
    assert [each.reason for each in data.rejected] == ["no picture in this row"] * 3
    assert len(train_of(data).pixels[:]) == len(train_of(data))
