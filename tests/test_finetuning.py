"""Training on from other weights: they are where the run starts, and what is frozen stays as it was."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import call
from test_pretrained import drawn, timm_like
from test_readme import ROOT, commands

from vitreous.augment import AugmentConfig
from vitreous.classifier import Classifier, normalise
from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.device import Plan
from vitreous.finetuning import fit, plan_from
from vitreous.jobs import resume, train_on
from vitreous.models import build_model
from vitreous.pretrained import Pretrained, read
from vitreous.probing import Vectors
from vitreous.recipes import Wish
from vitreous.train import train
from vitreous.vit import ViTConfig

NO_PROBE = {"precision": "fp32", "attention": "explicit", "batch": "16", "evaluations": "1"}


def started(squares: DataSet, **options: Any) -> tuple[RunConfig, Pretrained]:
    """A config that goes on from seeded weights made for other classes and another size."""
    config = ViTConfig(**{"image_size": 16, "width": 16, "depth": 2, "heads": 2, "classes": 7} | options)
    torch.manual_seed(0)
    weights = build_model(config).state_dict()
    names = tuple("abcdefg")
    start = fit(Pretrained("weights", config, weights, names, (0.5,) * 3, (0.25,) * 3), squares)
    settings, _ = plan_from(Wish("squares", steps=60), squares, start)
    unchanged = AugmentConfig(flip=False, shift=0.0)  # a mirror would swap the corners, which are the classes
    return replace(settings, augment=unchanged, precision="fp32", attention="explicit", evaluations=1, batch=16), start


def test_a_run_starts_from_the_weights(squares: DataSet, tmp_path: Path) -> None:
    config, start = started(squares)
    still = replace(config, steps=1, optim=replace(config.optim, lr=1e-12))
    result = train(still, tmp_path / "run", squares, weights=lambda: start.weights)
    kept = result.classifier.model.state_dict()
    for name, tensor in start.weights.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-6)
    assert kept["pos_embed"].shape == (1, 5, 16)  # 4 x 4 patches of 16 pixels became 2 x 2 of 8
    assert (result.classifier.mean, result.classifier.std) == ((0.5,) * 3, (0.25,) * 3)


def test_what_is_frozen_stays_to_the_bit_and_the_head_learns(squares: DataSet, tmp_path: Path) -> None:
    config, start = started(squares, stem="conv")
    frozen = replace(config, optim=replace(config.optim, lr=0.05, freeze=True))
    result = train(frozen, tmp_path / "run", squares, weights=lambda: start.weights)
    kept = result.classifier.model.state_dict()
    for name, tensor in start.weights.items():
        assert torch.equal(kept[name], tensor), name  # the statistics of the stem's normalisation too
    assert result.val_accuracy is not None
    assert result.val_accuracy > 0.5


def test_a_probe_learns_the_head_that_unchanged_pictures_would_and_looks_at_each_once(
    squares: DataSet, tmp_path: Path
) -> None:
    config, start = started(squares, stem="conv")
    frozen = replace(config, optim=replace(config.optim, lr=0.05, freeze=True))
    anew = train(frozen, tmp_path / "anew", squares, weights=lambda: start.weights)
    once = train(replace(frozen, probe=True), tmp_path / "once", squares, weights=lambda: start.weights)
    kept, expected = once.classifier.model.state_dict(), anew.classifier.model.state_dict()
    for name, tensor in expected.items():
        torch.testing.assert_close(kept[name], tensor, rtol=0, atol=1e-5 if name.startswith("head.") else 0)
    assert once.val_accuracy is not None
    assert once.val_accuracy > 0.5


def test_features_of_a_probe_are_computed_when_a_step_first_asks_for_them(squares: DataSet) -> None:
    assert squares.train is not None
    config, _ = started(squares)
    probe = replace(config, optim=replace(config.optim, freeze=True), probe=True)
    model, seen = build_model(probe.model).eval(), []
    reading = model.patch_embed.register_forward_hook(lambda _, given, made: seen.append(len(given[0])))
    vectors = Vectors(squares.train, probe, model, Plan(torch.device("cpu"), "fp32", "explicit", ""))
    for step in range(24):  # three epochs of 128 pictures
        inputs, targets = vectors.at(step, 8, torch.device("cpu"))
    assert seen == [16] * 8
    reading.remove()
    pixels = squares.train.pixels[vectors.chosen(23)]
    torch.testing.assert_close(inputs, model.features(normalise(pixels, vectors.mean, vectors.std)).detach())
    assert torch.equal(targets.argmax(dim=1), squares.train.labels[vectors.chosen(23)])


def test_a_resumed_probe_goes_on_to_the_same_head(squares: DataSet, tmp_path: Path) -> None:
    config, start = started(squares)
    probe = replace(config, steps=12, optim=replace(config.optim, lr=0.05, freeze=True), probe=True)
    whole = train(probe, tmp_path / "whole", squares, weights=lambda: start.weights)
    half = train(probe, tmp_path / "half", squares, weights=lambda: start.weights, watch=Interrupt(9))
    assert half.interrupted
    on = train(probe, tmp_path / "half", squares, resume=True)
    torch.testing.assert_close(on.classifier.model.state_dict(), whole.classifier.model.state_dict(), rtol=0, atol=1e-5)


def test_a_resumed_run_equals_the_uninterrupted_one_without_the_weights(squares: DataSet, tmp_path: Path) -> None:
    config, start = started(squares)
    whole = train(replace(config, steps=6), tmp_path / "whole", squares, weights=lambda: start.weights)
    half = train(
        replace(config, steps=6), tmp_path / "half", squares, weights=lambda: start.weights, watch=Interrupt(3)
    )
    assert half.interrupted
    on = train(replace(config, steps=6), tmp_path / "half", squares, resume=True)
    for name, tensor in whole.classifier.model.state_dict().items():
        assert torch.equal(on.classifier.model.state_dict()[name], tensor), name


class Interrupt:
    """A watch that asks the run to stop after some steps, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Any) -> None:
        import os
        import signal

        if progress.phase == "train" and progress.step == self.step:
            os.kill(os.getpid(), signal.SIGINT)


def test_train_from_a_file_adapts_size_channels_and_classes(tmp_path: Path) -> None:
    folder = timm_like(tmp_path / "weights")
    (folder / "config.json").write_text(json.dumps({"model_type": "deit", "num_attention_heads": 2}))
    result = train_on(Wish("digits", steps=2, weights=str(folder)), tmp_path / "run", changes=NO_PROBE)
    made = Classifier.load(tmp_path / "run")
    assert made.config == replace(read(folder).config, channels=1, classes=10)
    assert len(made.mean) == 1
    told = (tmp_path / "run" / "train.log").read_text()
    for words in ("a half each were assumed", "read gray pictures", "the head is new: it tells 10", "0.75 of the rate"):
        assert words in told
    shutil.rmtree(folder)  # a run that has a checkpoint has its weights
    assert resume(tmp_path / "run").val_accuracy == result.val_accuracy


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_from_the_weights_again(tmp_path: Path) -> None:
    folder = timm_like(tmp_path / "weights")
    changes = {**NO_PROBE, "optim.lr": "1e-12"}
    train_on(Wish("digits", steps=1, weights=str(folder)), tmp_path / "run", changes=changes)
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    shutil.rmtree(tmp_path / "run" / "classifier")
    again = resume(tmp_path / "run").classifier.model.state_dict()
    for name, tensor in read(folder).weights.items():
        if not name.startswith(("head.", "patch_embed.")):
            torch.testing.assert_close(again[name], tensor, rtol=0, atol=1e-6)


def test_the_command_goes_on_from_a_run_and_from_a_file(tmp_path: Path) -> None:
    common = ["--steps", 2, "--json", *(word for pair in NO_PROBE.items() for word in ("--set", "=".join(pair)))]
    small = ["--set", "model.width=16", "--set", "model.heads=2", "--set", "model.depth=1"]
    first = call("train", "digits", "--out", tmp_path / "first", *common, *small)
    assert first.exit_code == 0, first.stderr
    second = call("train", "digits", "--from", tmp_path / "first", "--freeze", "--out", tmp_path / "second", *common)
    assert second.exit_code == 0, second.stderr
    assert "the head alone learns" in second.stderr
    one, two = (Classifier.load(tmp_path / name).model.state_dict() for name in ("first", "second"))
    assert all(torch.equal(one[name], two[name]) for name in one if not name.startswith("head."))
    assert not torch.equal(one["head.weight"], two["head.weight"])
    probed = call("train", "digits", "--from", tmp_path / "first", "--probe", "--out", tmp_path / "probed", *common)
    assert probed.exit_code == 0, probed.stderr
    assert "what the head reads of each is computed once" in probed.stderr
    assert Classifier.load(tmp_path / "probed").provenance["recipe"] == "probe-changed"
    again = call("train", "digits", "--config", tmp_path / "probed" / "config.json", "--out", tmp_path / "again")
    assert again.exit_code == 0, again.stderr
    one, two = (Classifier.load(tmp_path / name).model.state_dict() for name in ("probed", "again"))
    assert all(torch.equal(one[name], two[name]) for name in one)
    larger = ["--set", "model.image_size=16"]
    third = call("train", "digits", "--from", timm_like(tmp_path / "w"), "--out", tmp_path / "third", *common, *larger)
    assert third.exit_code == 0, third.stderr
    assert "resampled from 6 x 6 to 4 x 4" in third.stderr
    assert Classifier.load(tmp_path / "third").size == 16


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--size", "tiny"], "--size cannot be given with --from"),
        (["--stem", "conv"], "--stem cannot be given with --from"),
        (["--model", "resnet"], "--model cannot be given with --from"),
        (["--any-size"], "--any-size cannot be given with --from"),
        (["--set", "model.width=32"], "leave --set model... out"),
        (["--set", "model.image_size=30"], "30 pixels are no multiple of the patch"),
        (["--set", "optim.layer_decay=2"], "layer_decay is 2.0: it is a share"),
        (["--probe", "--set", "augment.shift=0.1"], "leave augment, sizes and phases out, or take --freeze"),
        (["--set", "probe=true"], "nothing before the head may learn"),
    ],
)
def test_wishes_that_weights_do_not_grant_are_refused(words: list[str], said: str, tmp_path: Path) -> None:
    folder = timm_like(tmp_path / "weights")
    outcome = call("train", "digits", "--from", folder, "--out", tmp_path / "run", "--steps", 1, *words)
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert not (tmp_path / "run").exists()


def test_weights_that_cannot_be_used_stop_the_command_before_the_data_are_read(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02}")
    outcome = call("train", "nowhere", "--from", tmp_path, "--steps", 1)
    assert outcome.exit_code == 2
    assert "is a pickle, which can run any program" in outcome.stderr
    assert "nowhere" not in outcome.stderr
    for option in ("--freeze", "--probe"):
        frozen = call("train", "digits", option, "--steps", 1)
        assert f"{option} keeps weights as they are: say which with --from" in frozen.stderr


def test_a_head_for_the_same_classes_is_kept(squares: DataSet) -> None:
    assert squares.train is not None
    config = ViTConfig(image_size=8, width=16, depth=1, heads=2, classes=4)
    weights = drawn(build_model(config)).state_dict()
    start = Pretrained("a run", config, weights, squares.train.classes, (0.5,) * 3, (0.5,) * 3)
    assert torch.equal(fit(start, squares).weights["head.weight"], weights["head.weight"])


def test_every_command_of_the_page_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = timm_like(workplace / "vit-tiny")
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repository, **options: str(folder))
    found = commands(ROOT / "docs" / "fine-tuning.md", "vitreous")
    assert [words[1] for words in found] == ["train"] * 6 + ["import", "predict", "heatmap"]
    for _, *words in found:
        if words[0] == "train":
            limit = next(words.index(name) for name in ("--budget", "--epochs", "--steps") if name in words)
            words[limit : limit + 2] = ["--steps", "2"]
            words += [word for pair in NO_PROBE.items() for word in ("--set", "=".join(pair))]
        outcome = call(*words)
        assert outcome.exit_code == 0, f"{' '.join(words)}\n{outcome.stderr}"
    assert Classifier.load("runs/pets-96").size == 96
