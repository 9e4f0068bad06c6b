"""What a disk does to a run: kills inside a save, no room, no writing at all, flipped bits, files cut short."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from children import VARIANTS, left_over, outcome, resume, same, train
from saver import save_checkpoint, save_classifier

from vitreous import checkpoint
from vitreous.classifier import Classifier

Whole = Callable[[str], dict[str, Any]]


def test_killed_at_any_point_of_a_save_one_of_the_two_is_whole(tmp_path: Path, tally: Counter[str], full: bool) -> None:
    command = [sys.executable, Path(__file__).with_name("saver.py"), tmp_path, "40" if full else "4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    points = [json.loads(line) for line in done.stdout.splitlines()]
    assert all(point["left"] in (0, 1) for point in points)
    for save in ("save_checkpoint", "save_classifier"):
        killed = [point for point in points if point["save"] == save and point["killed"]]
        assert {point["left"] for point in killed} == {0, 1}, "kills before and after the rename"
        assert len(killed) >= (50 if full else 20)
        tally[f"points of {save} killed at, none lost"] += len(killed)


def flipped(whole: bytes, draw: random.Random) -> bytes:
    damaged = bytearray(whole)
    damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
    return bytes(damaged)


def cut(whole: bytes, draw: random.Random) -> bytes:
    return whole[: draw.randrange(len(whole))]


@pytest.mark.parametrize(("damage", "many", "few"), [(flipped, 1000, 60), (cut, 100, 20)])
def test_every_flipped_bit_and_every_cut_is_found_and_the_checkpoint_before_is_used(
    damage: Callable[[bytes, random.Random], bytes],
    many: int,
    few: int,
    tmp_path: Path,
    tally: Counter[str],
    full: bool,
) -> None:
    for seed in (0, 1):
        save_checkpoint(tmp_path, seed)
        save_classifier(tmp_path, seed)
    newest, classifier = checkpoint.found(tmp_path)[-1], tmp_path / "classifier"
    files = [path for folder in (newest, classifier) for path in folder.iterdir() if path.name != "README.md"]
    draw = random.Random(0)
    for number in range(many if full else few):
        path = files[number % len(files)]
        whole = path.read_bytes()
        path.write_bytes(damage(whole, draw))
        if path.parent == newest:
            with pytest.warns(UserWarning, match=f"{newest.name} is damaged"):
                found = checkpoint.latest(tmp_path)
            assert found is not None
            assert found[1]["seed"] == 0
        else:
            with pytest.raises(ValueError, match="was changed after it was written"):
                Classifier.load(tmp_path)
        path.write_bytes(whole)
        tally[f"{damage.__name__} files found"] += 1
    assert checkpoint.latest(tmp_path)[1]["seed"] == 1  # type: ignore[index]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """A file system of its own of so many bytes, in memory; asked again, the same one with another size."""
    disk, mounted = tmp_path / "disk", False

    def of(size: int) -> Path:
        nonlocal mounted
        disk.mkdir(exist_ok=True)
        options = f"{'remount,' if mounted else ''}size={size}"
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, check=False)
        if done.returncode:
            pytest.skip("no file system can be mounted here (it takes root)")
        mounted = True
        return disk

    if sys.platform != "linux" or not shutil.which("mount"):
        pytest.skip("small file systems are made with Linux's mount")
    yield of
    if mounted:
        subprocess.run(["umount", "--lazy", disk], check=True)


def hash_of(folder: Path) -> str:
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()


def test_a_disk_that_is_full_at_any_tenth_of_a_save_hurts_nothing(
    small_disk: Callable[[int], Path], tally: Counter[str]
) -> None:
    disk = small_disk(4 << 20)
    save_checkpoint(disk, 0)
    (first,) = checkpoint.found(disk)
    before, size = hash_of(first), sum(path.stat().st_size for path in first.iterdir())
    filler = disk / "filler"
    for tenth in range(10):
        room = os.statvfs(disk)
        filler.write_bytes(bytes(room.f_bavail * room.f_frsize - size * tenth // 10))
        with pytest.raises(OSError, match=r"(?i)no space left"):
            save_checkpoint(disk, 1)
        assert hash_of(first) == before
        assert [path.name for path in first.parent.iterdir()] == [first.name], "something temporary is left"
        filler.unlink()
        tally["saves on a full disk that hurt nothing"] += 1
    save_checkpoint(disk, 1)
    assert len(checkpoint.found(disk)) == 2


def test_a_file_that_may_not_grow_is_an_error_that_names_it_and_hurts_nothing(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, 0)
    before, usual = hash_of(checkpoint.found(tmp_path)[0]), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))  # Python ignores the signal: the write fails
    try:
        with pytest.raises(OSError, match="step-00000002"):
            save_checkpoint(tmp_path, 1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert [hash_of(path) for path in (tmp_path / "checkpoints").iterdir()] == [before]


@pytest.mark.full
def test_a_run_on_a_full_disk_says_so_and_goes_on_once_there_is_room(
    small_disk: Callable[[int], Path], pictures: Path, tmp_path: Path, uninterrupted: Whole
) -> None:
    whole = uninterrupted("everything")
    run = small_disk(300_000) / "run"
    child = train(pictures, run, *VARIANTS["everything"], save_always=True, slow_step=0.05)
    code = child.end()
    assert code == 2, child.said
    assert "make room" in child.said
    assert "Traceback" not in child.said
    small_disk(1 << 23)
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert same(outcome(run), whole)
    assert left_over(run) == []


@pytest.mark.full
def test_a_folder_that_cannot_be_written_is_refused_before_pictures_are_read(
    small_disk: Callable[[int], Path], pictures: Path, tally: Counter[str]
) -> None:
    disk = small_disk(1 << 20)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    began = time.monotonic()
    child = train(pictures, disk / "run", *VARIANTS["plain"], folder=disk.parent)
    assert child.end() == 2
    tally["seconds until a read-only folder is refused"] += round(time.monotonic() - began, 1)
    assert "scan" not in child.heard
    assert "Read-only file system" in child.said
    assert "--out" in child.said


@pytest.mark.full
def test_a_read_only_run_can_be_used(small_disk: Callable[[int], Path], pictures: Path, uninterrupted: Whole) -> None:
    disk = small_disk(1 << 23)
    save_classifier(disk / "run", 0)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    predicted = Classifier.load(disk / "run").predict(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
    assert predicted[0].label in "abc"


@pytest.mark.full
def test_a_damaged_newest_checkpoint_is_told_set_aside_and_costs_one_interval(
    pictures: Path, tmp_path: Path, uninterrupted: Whole
) -> None:
    run = tmp_path / "run"
    child = train(pictures, run, *VARIANTS["everything"], save_always=True)
    assert child.until("step 25")
    child.strike(signal.SIGKILL)
    child.end()
    newest = checkpoint.found(run)[-1] / checkpoint.TENSORS
    newest.write_bytes(flipped(newest.read_bytes(), random.Random(0)))
    child = resume(pictures, run)
    assert child.end() == 0, child.said
    assert f"{newest.parent.name} is damaged" in child.said
    assert "Traceback" not in child.said
    assert same(outcome(run), uninterrupted("everything"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert checkpoint.latest(run) is not None
