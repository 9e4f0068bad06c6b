"""Checkpoints come back as they were, damage is found, and nothing of them is ever run."""

from __future__ import annotations

import json
import os
import pickle
import random
from pathlib import Path

import pytest
import torch

from vitreous import checkpoint, sealed
from vitreous.models import build_model
from vitreous.optim import OptimConfig, build_optimizers
from vitreous.vit import ViTConfig

SMALL = ViTConfig(image_size=8, width=16, depth=1, heads=2, classes=3)


def trained(config: ViTConfig = SMALL, steps: int = 2):  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    model = build_model(config)
    optimizers = build_optimizers(model, OptimConfig())
    for _ in range(steps):
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model, optimizers


def save(run: Path, step: int) -> Path:
    tensors, plain = checkpoint.pack(*trained())
    return checkpoint.save(run, step, tensors, {"optimizers": plain})


def test_weights_and_optimiser_state_come_back_exactly(tmp_path: Path) -> None:
    model, optimizers = trained()
    tensors, plain = checkpoint.pack(model, optimizers)
    checkpoint.save(tmp_path, 7, tensors, {"optimizers": plain})
    loaded = checkpoint.latest(tmp_path)
    assert loaded is not None
    fresh, others = trained(steps=0)
    checkpoint.unpack(loaded[0], loaded[1]["optimizers"], fresh, others)
    assert loaded[1]["step"] == 7
    back, back_plain = checkpoint.pack(fresh, others)
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensors[name]) for name in tensors)
    assert back_plain == json.loads(json.dumps(plain))


def test_only_the_newest_are_kept_and_none_is_overwritten(tmp_path: Path) -> None:
    for step in (1, 2, 3, 10):
        save(tmp_path, step)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000003", "step-00000010"]
    before = (tmp_path / "checkpoints/step-00000010/manifest.json").stat().st_mtime_ns
    save(tmp_path, 10)
    assert (tmp_path / "checkpoints/step-00000010/manifest.json").stat().st_mtime_ns == before


def test_the_best_on_validation_pictures_stays(tmp_path: Path) -> None:
    tensors, plain = checkpoint.pack(*trained())
    for step, accuracy in ((1, 0.5), (2, 0.9), (3, 0.7), (4, None), (5, 0.8), (6, None)):
        checkpoint.save(tmp_path, step, tensors, {"optimizers": plain, "accuracy": accuracy})
    assert [path.name[-1] for path in checkpoint.found(tmp_path)] == ["2", "5", "6"]


def test_a_damaged_checkpoint_of_the_same_step_is_written_anew(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    (folder / "state.json").write_text("{}")
    save(tmp_path, 1)
    assert checkpoint.latest(tmp_path)[1]["step"] == 1  # type: ignore[index]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_damaged_checkpoints_after_a_step_are_set_aside(tmp_path: Path) -> None:
    for step in (1, 2):
        save(tmp_path, step)
    checkpoint.set_aside(tmp_path, 1)
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000001"]
    assert (tmp_path / "checkpoints/step-00000002.damaged/state.json").is_file()


def test_any_flipped_bit_or_cut_is_found_and_the_one_before_is_used(tmp_path: Path) -> None:
    save(tmp_path, 1)
    newest = save(tmp_path, 2)
    draw = random.Random(0)
    for name in ("tensors.safetensors", "state.json", "manifest.json"):
        path = newest / name
        whole = path.read_bytes()
        for attempt in range(20):
            damaged = bytearray(whole)
            if attempt % 2:
                damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
            else:
                del damaged[draw.randrange(len(damaged)) :]
            path.write_bytes(damaged)
            with pytest.warns(UserWarning, match="step-00000002 is damaged"):
                loaded = checkpoint.latest(tmp_path)
            assert loaded is not None
            assert loaded[1]["step"] == 1
        path.write_bytes(whole)
    assert checkpoint.latest(tmp_path)[1]["step"] == 2  # type: ignore[index]


def test_a_failed_save_leaves_nothing_and_hurts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = save(tmp_path, 1)
    before = {path.name: path.read_bytes() for path in first.iterdir()}

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sealed, "sync", full)
    with pytest.raises(OSError, match="No space left"):
        save(tmp_path, 2)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert {path.name: path.read_bytes() for path in first.iterdir()} == before


def test_a_half_written_folder_is_no_checkpoint(tmp_path: Path) -> None:
    folder = save(tmp_path, 1)
    folder.rename(folder.with_name("step-00000002.partial"))
    assert checkpoint.latest(tmp_path) is None


def test_a_newer_format_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, plain = checkpoint.pack(*trained())
    monkeypatch.setattr(checkpoint, "FORMAT", 99)
    checkpoint.save(tmp_path, 1, tensors, {"optimizers": plain})
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"format 99, written by vitreous .*up to format 1: upgrade"):
        checkpoint.latest(tmp_path)


def test_a_pickle_in_place_of_weights_is_never_executed(tmp_path: Path) -> None:
    canary = tmp_path / "canary"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (canary,))  # type: ignore[return-value]

    folder = save(tmp_path, 1)
    (folder / "tensors.safetensors").write_bytes(pickle.dumps(Trap()))
    sealed._seal(folder, checkpoint.FORMAT)
    with pytest.warns(UserWarning, match="damaged"):
        assert checkpoint.latest(tmp_path) is None
    assert not canary.exists()


def test_weights_of_another_architecture_are_refused_with_names() -> None:
    model, _ = trained()
    other = build_model(ViTConfig(image_size=8, width=32, depth=2, heads=2, classes=3))
    with pytest.raises(ValueError, match=r"another architecture: missing blocks\.1"):
        checkpoint.load_weights(other, model.state_dict())


def test_a_checkpoint_is_saved_where_only_files_open_for_writing_can_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    class Windows:
        name = "nt"

        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        @staticmethod
        def fsync(descriptor: int) -> None:
            assert os.write(descriptor, b"") == 0  # OSError unless it is open for writing
            synced.append(descriptor)

    monkeypatch.setattr(sealed, "os", Windows())
    folder = save(tmp_path, 1)
    sealed.write(tmp_path / "a.txt", "words")
    assert len(synced) == len(list(folder.iterdir())) + 1
    monkeypatch.undo()
    assert checkpoint.latest(tmp_path) is not None
