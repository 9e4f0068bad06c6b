"""A teacher: what it knows is learned, on the pixels that the model reads, and the run repeats and resumes with it."""

from __future__ import annotations

import dataclasses
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from test_cli import TINY, call

from vitreous.augment import AugmentConfig
from vitreous.classifier import Classifier
from vitreous.cnn import CNN_PRESETS, CNNConfig
from vitreous.config import DistillConfig, Phase, RunConfig
from vitreous.data import DataSet
from vitreous.forecast import forecast
from vitreous.runs import read_config
from vitreous.state import Run
from vitreous.train import Progress, train
from vitreous.vit import ViTConfig


@pytest.fixture
def teacher(squares: DataSet, tiny_run: RunConfig, tmp_path: Path) -> Path:
    """A run that knows the squares."""
    run = tmp_path / "teacher"
    assert (train(dataclasses.replace(tiny_run, steps=100), run, squares).val_accuracy or 0.0) > 0.9
    return run


def taught(config: RunConfig, teacher: Path, share: float) -> RunConfig:
    return dataclasses.replace(config, distill=DistillConfig(str(teacher), share=share))


def same(one: Classifier, two: Classifier) -> bool:
    pairs = zip(one.model.state_dict().values(), two.model.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_what_the_teacher_knows_is_learned_where_labels_are_wrong(
    squares: DataSet, tiny_run: RunConfig, teacher: Path, tmp_path: Path
) -> None:
    assert squares.train is not None
    wrong = dataclasses.replace(squares.train, labels=(squares.train.labels + 1) % 4)
    data = dataclasses.replace(squares, train=wrong)
    config = dataclasses.replace(tiny_run, steps=100)
    runs = [train(taught(config, teacher, share), tmp_path / f"{share}", data) for share in (0, 1)]
    accuracy = [run.val_accuracy or 0.0 for run in runs]
    assert accuracy[0] < 0.1
    assert accuracy[1] > 0.9


def test_a_share_of_nothing_is_no_teacher(squares: DataSet, tiny_run: RunConfig, teacher: Path, tmp_path: Path) -> None:
    alone = train(tiny_run, tmp_path / "alone", squares)
    unheard = train(taught(tiny_run, teacher, 0), tmp_path / "unheard", squares)
    heard = train(taught(tiny_run, teacher, 0.5), tmp_path / "heard", squares)
    assert same(alone.classifier, unheard.classifier)
    assert not same(alone.classifier, heard.classifier)
    assert heard.classifier.provenance["teacher"] == Classifier.load(teacher).fingerprint()


def test_the_teacher_reads_pictures_as_it_learned_to(
    squares: DataSet, tiny_run: RunConfig, teacher: Path, tmp_path: Path
) -> None:
    assert squares.train is not None
    other = dataclasses.replace(tiny_run.data, mean=(0.5, 0.4, 0.3), std=(0.1, 0.2, 0.3))
    config = dataclasses.replace(taught(tiny_run, teacher, 0.5), data=other)
    run = Run(config, tmp_path / "run", squares, 0.0)
    inputs, _ = run.batches.at(0, 8, torch.device("cpu"))
    pixels = squares.train.pixels[run.batches.chosen(0)]
    assert run.teacher is not None
    torch.testing.assert_close(
        run.teacher.probabilities(inputs), Classifier.load(teacher).logits(pixels).softmax(1), rtol=0, atol=1e-5
    )


def test_a_taught_run_that_was_stopped_goes_on_to_the_same_weights(
    squares: DataSet, tiny_run: RunConfig, teacher: Path, tmp_path: Path
) -> None:
    class Stop(Exception):
        pass

    def stop(progress: object) -> None:
        if getattr(progress, "step", 0) == 17:
            raise Stop

    config = taught(tiny_run, teacher, 0.7)
    whole = train(config, tmp_path / "whole", squares)
    with pytest.raises(Stop):
        train(config, tmp_path / "half", squares, watch=stop)
    on = train(config, tmp_path / "half", squares, resume=True)
    assert same(whole.classifier, on.classifier)


def test_a_teacher_of_other_pictures_is_refused(
    squares: DataSet, tiny_run: RunConfig, teacher: Path, tmp_path: Path
) -> None:
    assert squares.train is not None
    renamed = dataclasses.replace(squares.train, classes=("a", "b", "c", "d"))
    with pytest.raises(
        ValueError, match=r"knows pictures of 3 channels and 4 classes \(top left, .*\), and these are of .*\(a, b"
    ):
        train(taught(tiny_run, teacher, 0.5), tmp_path / "run", dataclasses.replace(squares, train=renamed))
    with pytest.raises(FileNotFoundError, match="nowhere is no classifier"):
        train(taught(tiny_run, tmp_path / "nowhere", 0.5), tmp_path / "run", squares)
    assert not (tmp_path / "run" / "config.json").exists()
    for wrong, said in (
        ({"share": 2}, "share is 2"),
        ({"time": 0.6}, "time is 0.6"),
        ({"teacher": "resnet"}, "no widths"),
    ):
        with pytest.raises(ValueError, match=said):
            DistillConfig(**wrong)


LEARNS_FIRST = DistillConfig("fastcnn", widths=(8, 16))


def test_a_teacher_that_learns_first_teaches_the_run(squares: DataSet, tiny_run: RunConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(tiny_run, distill=LEARNS_FIRST)
    result = train(config, tmp_path / "run", squares)
    teacher = Classifier.load(tmp_path / "run" / "teacher")
    assert teacher.config == CNNConfig("fastcnn", image_size=8, classes=4, widths=(8, 16), depth=1)
    assert result.classifier.config == tiny_run.model
    assert result.classifier.provenance["teacher"] == teacher.fingerprint()
    named = dataclasses.replace(tiny_run, distill=DistillConfig(str(tmp_path / "run" / "teacher")))
    assert same(result.classifier, train(named, tmp_path / "named", squares).classifier)


def test_a_teacher_grows_with_the_pictures_where_its_patches_fit(tiny_run: RunConfig) -> None:
    config = dataclasses.replace(tiny_run, distill=LEARNS_FIRST, phases=(Phase(4, 0.5), Phase(8, 0.5)))
    assert config.first is not None
    assert config.first.phases == config.phases
    coarse = dataclasses.replace(config, distill=DistillConfig("fastcnn", widths=(8, 8, 16)))  # patches of 8 pixels
    assert coarse.first is not None
    assert coarse.first.phases == ()
    many = dataclasses.replace(coarse, phases=(), sizes=(4, 8))
    assert many.first is not None
    assert many.first.sizes == ()


def test_a_teacher_reads_pixels_as_its_pupil_does(tiny_run: RunConfig) -> None:
    model = ViTConfig(image_size=8, patch_size=2, classes=4, width=16, depth=1, heads=2, stem="conv", stem_whiten=True)
    for teacher, whitens in (("fastcnn", True), ("resnet", False)):
        distill = dataclasses.replace(LEARNS_FIRST, teacher=teacher)
        first = dataclasses.replace(tiny_run, model=model, distill=distill).first
        assert first is not None
        assert first.model.stem_whiten == whitens
        plain = dataclasses.replace(
            tiny_run, model=dataclasses.replace(model, stem_whiten=False), distill=distill
        ).first
        assert plain is not None
        assert not plain.model.stem_whiten


def test_a_teacher_with_a_share_of_a_budget_mixes_no_pictures(tiny_run: RunConfig) -> None:
    mixed = dataclasses.replace(
        tiny_run, distill=LEARNS_FIRST, augment=AugmentConfig(shift=0.125, mixup=0.25, cutmix=0.5)
    )
    assert mixed.first is not None
    assert mixed.first.augment == mixed.augment  # it takes as many steps as its pupil
    short = dataclasses.replace(mixed, steps=None, budget=60.0).first
    assert short is not None
    assert short.augment == AugmentConfig(shift=0.125)


def test_ctrl_c_while_the_teacher_learns_stops_and_the_run_goes_on(
    squares: DataSet, tiny_run: RunConfig, tmp_path: Path
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.phase == "teach" and progress.step == 11:
            os.kill(os.getpid(), signal.SIGINT)

    config = dataclasses.replace(tiny_run, distill=LEARNS_FIRST)
    stopped = train(config, tmp_path / "run", squares, watch=interrupt)
    assert stopped.interrupted
    assert stopped.teaching
    assert stopped.val_accuracy is None
    assert stopped.run == tmp_path / "run"
    on = train(config, tmp_path / "run", squares, resume=True)
    assert same(on.classifier, train(config, tmp_path / "whole", squares).classifier)


def test_what_is_told_of_a_run_is_the_models_and_its_teacher_teaches(
    squares: DataSet, tiny_run: RunConfig, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    config = dataclasses.replace(tiny_run, distill=LEARNS_FIRST)
    result = train(config, tmp_path / "run", squares, watch=seen.append)
    phases = [progress.phase for progress in seen]
    assert phases.count("done") == 1
    assert phases.index("teach") < phases.index("train")
    assert "teach" not in phases[phases.index("train") :]
    accuracy = Classifier.load(tmp_path / "run" / "teacher").provenance["val_accuracy"]
    assert f"its teacher has {accuracy:.1%} on validation pictures" in (tmp_path / "run" / "train.log").read_text()
    assert result.images == 30 * 16


def test_a_share_too_short_for_a_teacher_names_the_budget_that_works(
    squares: DataSet, tiny_run: RunConfig, tmp_path: Path
) -> None:
    short = dataclasses.replace(tiny_run, steps=None, budget=2.0, distill=dataclasses.replace(LEARNS_FIRST, time=0.05))
    with pytest.raises(ValueError, match=r"share of the budget, 0.1 s, is too short.\n.*--budget (\d+)s") as problem:
        train(short, tmp_path / "run", squares)
    assert int(str(problem.value).split()[-1][:-1]) >= 20
    assert not (tmp_path / "run" / "config.json").exists()


def test_a_plan_counts_the_teachers_time(
    squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.forecast._speed", lambda run, size: 100.0)
    budget = dataclasses.replace(tiny_run, steps=None, budget=100.0)
    taught = dataclasses.replace(budget, distill=dataclasses.replace(LEARNS_FIRST, time=0.5))
    alone, after = (forecast(config, squares, time.monotonic()) for config in (budget, taught))
    assert after.seconds == alone.seconds
    assert after.images == pytest.approx(alone.images - 50 * 100, abs=300)


def test_the_command_trains_a_teacher_of_the_same_size(tmp_path: Path) -> None:
    outcome = call("train", "digits", "--teacher", "fastcnn", "--out", tmp_path / "run", *TINY)
    assert outcome.exit_code == 0, outcome.stderr
    assert "a CNN is trained first and then teaches it besides the labels: fastcnn" in outcome.stderr
    config = read_config(tmp_path / "run")
    assert config.recipe.startswith("nano-conv-taught")
    assert config.distill == DistillConfig("fastcnn", *CNN_PRESETS["fastcnn"]["nano"])
    again = call("train", "digits", "--teacher", tmp_path / "run" / "teacher", "--out", tmp_path / "again", *TINY)
    assert again.exit_code == 0, again.stderr
    assert same(Classifier.load(tmp_path / "run"), Classifier.load(tmp_path / "again"))
    unknown = call("train", "digits", "--teacher", "fastcn", "--out", tmp_path / "none", *TINY)
    assert unknown.exit_code == 2
    assert "--teacher fastcn is no run, no classifier and no kind of CNN: did you mean 'fastcnn'?" in unknown.stderr
    assert "digits:" not in unknown.stderr  # before pictures are read
