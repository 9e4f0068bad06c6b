"""The loop: it learns, it keeps its promise of time, it repeats and resumes to the bit, and it stops before harm."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
from coloured import coloured_squares
from torch import nn

from vitreous import checkpoint, looks
from vitreous import train as training
from vitreous.augment import AugmentConfig
from vitreous.batches import Batches
from vitreous.classifier import Classifier
from vitreous.config import RunConfig, override
from vitreous.data import DataSet
from vitreous.runs import prepare
from vitreous.state import Diverged, Run, compiled
from vitreous.stems import Whitening
from vitreous.train import Progress, train


def weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if line["split"] == "train"}


def test_it_learns_and_leaves_a_run_folder(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    config = dataclasses.replace(tiny_run, steps=100)
    result = train(config, tmp_path / "run", squares)
    assert result.val_accuracy is not None
    assert result.val_accuracy > 0.9
    assert result.images == 1600
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"config.json", "metrics.jsonl", "train.log", "checkpoints", "classifier"} <= names
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {"seconds", "step", "epoch", "split", "loss", "accuracy", "lr"} <= set(lines[0])
    assert lines[-1]["split"] == "val"
    assert lines[-1]["accuracy"] == result.val_accuracy
    loaded = Classifier.load(tmp_path / "run")
    assert squares.val is not None
    assert torch.equal(loaded.logits(squares.val.pixels), result.classifier.logits(squares.val.pixels))


def test_thirty_two_pictures_are_learnt_by_heart(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    few = dataclasses.replace(squares.train.select(range(32)), labels=torch.randint(0, 4, (32,)))
    data = dataclasses.replace(squares, train=few, val=few)
    config = dataclasses.replace(tiny_run, steps=200, batch=32, label_smoothing=0.0)
    result = train(override(config, {"model.width": "32"}), tmp_path / "run", data)
    assert result.val_accuracy == 1.0


def test_shuffled_labels_teach_nothing_about_other_pictures(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    assert squares.train is not None
    labels = squares.train.labels[torch.randperm(128, generator=torch.Generator().manual_seed(0))]
    data = dataclasses.replace(squares, train=dataclasses.replace(squares.train, labels=labels))
    result = train(dataclasses.replace(tiny_run, steps=100), tmp_path / "run", data)
    assert result.val_accuracy is not None
    assert abs(result.val_accuracy - 0.25) <= 3 * (0.25 * 0.75 / 32) ** 0.5


def test_same_seed_same_weights_other_seed_others(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    first = train(tiny_run, tmp_path / "a", squares)
    second = train(tiny_run, tmp_path / "b", squares)
    other = train(dataclasses.replace(tiny_run, seed=1), tmp_path / "c", squares)
    assert weights_hash(first.classifier.model) == weights_hash(second.classifier.model)
    assert weights_hash(first.classifier.model) != weights_hash(other.classifier.model)


class Stop(Exception):
    """Stands for a kill at an arbitrary step: nothing after it runs."""


@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_a_killed_and_resumed_run_equals_the_uninterrupted_one(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch, stem: str
) -> None:
    everything = AugmentConfig(flip=True, shift=0.25, randaugment=1, mixup=0.3, cutmix=0.3, erase=0.3)
    changes = {"model.stem": f'"{stem}"', "model.stem_whiten": "true"}
    config = override(dataclasses.replace(tiny_run, augment=everything, ema=0.9, steps=60), changes)
    monkeypatch.setattr(training, "LOG_STEPS", 1)
    whole = train(config, tmp_path / "whole", squares)

    def kill(progress: Progress) -> None:
        if progress.step == 37 and progress.phase == "train":
            raise Stop

    monkeypatch.setattr("vitreous.saving.Saver.due", lambda *_, **__: True)
    with pytest.raises(Stop):
        train(config, tmp_path / "killed", squares, watch=kill)
    resumed = train(config, tmp_path / "killed", squares, resume=True)
    assert weights_hash(resumed.classifier.model) == weights_hash(whole.classifier.model)
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def test_filters_that_whiten_are_those_of_the_training_pictures_and_stay_or_those_of_the_weights_it_starts_from(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    assert squares.train is not None
    config = override(tiny_run, {"model.stem": '"conv"', "model.stem_whiten": "true"})
    name, expected = "patch_embed.first.weight", Whitening(3)
    expected.fit(Batches(squares.train, config).some())
    weights = train(config, tmp_path / "run", squares).classifier.model.state_dict()
    assert torch.equal(weights[name], expected.weight)
    others = dataclasses.replace(squares, train=coloured_squares(128, seed=7))
    apart = train(dataclasses.replace(config, steps=1), tmp_path / "apart", others).classifier
    assert not torch.equal(apart.model.state_dict()[name], expected.weight)
    on = train(dataclasses.replace(config, steps=1), tmp_path / "on", others, weights=lambda: weights).classifier
    assert torch.equal(on.model.state_dict()[name], expected.weight)


@pytest.mark.alone
def test_a_budget_is_kept_and_used(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    seen: list[Progress] = []
    config = dataclasses.replace(tiny_run, steps=None, budget=6.0)
    started = time.monotonic()
    result = train(config, tmp_path / "run", squares, started=started, watch=seen.append)
    assert 4.0 < time.monotonic() - started < 6.3
    assert result.seconds == pytest.approx(time.monotonic() - started, abs=0.3)
    trained = [p for p in seen if p.phase == "train"]
    assert trained[-1].lr < 0.02 * max(p.lr for p in trained)


def test_a_budget_too_short_to_train_is_refused_with_the_least_that_works(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    config = dataclasses.replace(tiny_run, steps=None, budget=5.0)
    with pytest.raises(ValueError, match=r"too short.*\n.*--budget \d+s"):
        train(config, tmp_path / "run", squares, started=time.monotonic() - 4.9)


@pytest.mark.parametrize(("last", "said"), [(0.2, False), (1.4, True)])
def test_a_last_look_that_takes_much_of_the_budget_is_said(
    last: float, said: bool, tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.train.final_seconds", lambda *_, **__: last)
    seen: list[Progress] = []
    train(dataclasses.replace(tiny_run, steps=None, budget=5.0), tmp_path / "run", squares, watch=seen.append)
    assert any("validation pictures at the end takes about 1 of the 5 s" in (p.note or "") for p in seen) == said


def test_a_machine_that_slows_down_before_the_end_gets_its_last_look_in_time(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreseen = [0.5, 1.2]  # seconds of the last look, at the start and near the end
    monkeypatch.setattr("vitreous.train.final_seconds", lambda *_, **__: foreseen.pop(0))
    seen: list[Progress] = []
    train(dataclasses.replace(tiny_run, steps=None, budget=5.0), tmp_path / "run", squares, watch=seen.append)
    trained = [p.seconds for p in seen if p.phase == "train"]
    assert not foreseen
    assert 3.4 < trained[-1] < 4.1


@pytest.mark.parametrize(
    ("seconds_a_picture", "looked_at", "expected"),
    [(0.01, [2, 25, 32, 32], 0.35), (0.1, [2, 25], 3.5), (0.035, [2, 25, 32], 1.2)],
)
def test_the_last_look_is_foreseen_from_few_pictures_where_they_take_long(
    seconds_a_picture: float,
    looked_at: list[int],
    expected: float,
    squares: DataSet,
    tiny_run: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, now, counts = Run(tiny_run, tmp_path, squares, 0.0), 0.0, []

    def logits(self: Classifier, pixels: torch.Tensor) -> None:
        nonlocal now
        now += seconds_a_picture * len(pixels) + 5.0 * (not counts)  # the first call of all loads something
        counts.append(len(pixels))

    monkeypatch.setattr(Classifier, "logits", logits)
    monkeypatch.setattr(looks.time, "perf_counter", lambda: now)
    told = looks.final_seconds(run.classifier("squares"), run.validation)
    assert counts == looked_at
    assert told == pytest.approx(0.5 + expected, abs=0.05)


def test_a_warm_machine_is_taken_as_it_is_on_average(
    squares: DataSet, tiny_run: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, now, speeds = Run(tiny_run, tmp_path, squares, 0.0), 0.0, []

    def logits(self: Classifier, pixels: torch.Tensor) -> None:
        nonlocal now
        now += speeds.pop(0) * len(pixels)

    monkeypatch.setattr(Classifier, "logits", logits)
    monkeypatch.setattr(looks.time, "perf_counter", lambda: now)
    classifier = run.classifier("squares")
    for warm, a_picture in ((False, 0.01), (True, 0.015)):
        speeds[:] = [0.0, 0.03, 0.02, 0.01]
        told = looks.final_seconds(classifier, run.validation, warm=warm)
        assert told == pytest.approx(0.5 + 1.1 * a_picture * len(run.validation), abs=0.01)


@pytest.mark.parametrize(("budget", "spare"), [(None, 0.0), (10.0, 0.03), (100.0, 0.3), (10_000.0, 1.28)])
def test_a_longer_budget_keeps_more_for_a_machine_that_slows_down(
    budget: float | None,
    spare: float,
    squares: DataSet,
    tiny_run: RunConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run, now = Run(tiny_run, tmp_path, squares, 0.0), 0.0

    def logits(self: Classifier, pixels: torch.Tensor) -> None:
        nonlocal now
        now += 0.1 * len(pixels)

    monkeypatch.setattr(Classifier, "logits", logits)
    monkeypatch.setattr(looks.time, "perf_counter", lambda: now)
    told = looks.final_seconds(run.classifier("squares"), run.validation, budget)
    assert len(run.validation) == 32
    assert told == pytest.approx(0.5 + 1.1 * 3.2 + spare, abs=0.005)


def test_a_run_that_could_not_begin_leaves_no_folder_to_the_next_try(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    if torch.cuda.is_available():
        pytest.skip("asks for a device that is not there")
    with pytest.raises(ValueError, match="use --device cpu"):
        train(dataclasses.replace(tiny_run, device="cuda"), tmp_path / "run", squares)
    assert not (tmp_path / "run").exists()
    assert train(tiny_run, tmp_path / "run", squares).val_accuracy is not None


def broken(*_: object) -> None:
    raise RuntimeError("no C++ compiler")


def spoilt(run: Run, *arguments: float) -> float:
    """A step after which a weight is no number."""
    value = advance(run, *arguments)
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    return value


advance = Run.advance


@pytest.mark.parametrize(
    ("owner", "name", "instead", "said"),
    [
        (training, "final_seconds", broken, "no C"),
        (torch, "compile", lambda *_, **__: broken, "no C"),
        (
            Run,
            "advance",
            spoilt,
            r"after step 1 .* holds NaN or infinite values; nothing was saved\.\nTry lower rates: --set",
        ),
    ],
)
def test_a_run_that_fails_before_it_has_saved_leaves_no_folder_to_the_next_try(
    owner: object,
    name: str,
    instead: object,
    said: str,
    tmp_path: Path,
    squares: DataSet,
    tiny_run: RunConfig,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(owner, name, instead)
    with pytest.raises((RuntimeError, Diverged), match=said):
        train(dataclasses.replace(tiny_run, compile=owner is torch), tmp_path / "run", squares)
    assert not (tmp_path / "run").exists()
    monkeypatch.undo()
    assert train(tiny_run, tmp_path / "run", squares).val_accuracy is not None


def test_a_run_that_fails_where_it_goes_on_stays(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path / "run", tiny_run, resume=False)  # killed before its first checkpoint
    monkeypatch.setattr(training, "final_seconds", broken)
    with pytest.raises(RuntimeError, match="no C"):
        train(tiny_run, tmp_path / "run", squares, resume=True)
    monkeypatch.undo()
    assert train(tiny_run, tmp_path / "run", squares, resume=True).val_accuracy is not None


def test_a_loss_that_is_no_number_stops_before_the_update(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    config = override(tiny_run, {"optim.lr": "1e30", "optim.muon_lr": "1e30", "optim.warmup": "0.0"})
    with pytest.raises(Diverged, match=r"(?s)loss became (nan|inf) at step \d+,.*made/\d+.*Try lower rates") as caught:
        train(config, tmp_path / "run", squares)
    assert "what was saved before stays.\nTry lower rates and another --out: --set" in str(caught.value)
    assert checkpoint.found(tmp_path / "run")
    assert not (tmp_path / "run/classifier").exists()


def test_a_first_loss_that_is_no_number_says_that_nothing_was_saved(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    run = Run(tiny_run, tmp_path, squares, time.monotonic())
    with torch.no_grad():
        next(run.model.parameters()).fill_(float("nan"))
    with pytest.raises(Diverged, match=r"became nan at step 0,.*; nothing was saved\.\nTry lower rates: --set"):
        run.advance(0.0)


def test_a_classifier_says_what_it_was_measured_on(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    run = Run(tiny_run, tmp_path, squares, time.monotonic())
    assert run.classifier("squares").provenance["device"] == "cpu"
    run.plan = dataclasses.replace(run.plan, device=torch.device("mps"))
    assert run.classifier("squares").provenance["device"] == "mps"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_leaves_a_usable_classifier_and_resume_goes_on(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig, number: signal.Signals
) -> None:
    def interrupt(progress: Progress) -> None:
        if progress.step == 11 and progress.phase == "train":
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    result = train(tiny_run, tmp_path / "run", squares, watch=interrupt)
    assert result.interrupted
    assert result.val_accuracy is None
    assert signal.getsignal(number) == before
    assert squares.val is not None
    assert len(Classifier.load(tmp_path / "run").predict(squares.val.pixels)) == 32
    finished = train(tiny_run, tmp_path / "run", squares, resume=True)
    whole = train(tiny_run, tmp_path / "whole", squares)
    assert weights_hash(finished.classifier.model) == weights_hash(whole.classifier.model)


def test_it_runs_in_a_thread_where_no_signal_can_be_heard(
    tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    results = []
    thread = threading.Thread(target=lambda: results.append(train(tiny_run, tmp_path / "run", squares)))
    thread.start()
    thread.join()
    assert len(results) == 1


def test_what_does_not_fit_together_is_refused(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    train(tiny_run, tmp_path / "run", squares)
    with pytest.raises(ValueError, match="already holds a run"):
        train(tiny_run, tmp_path / "run", squares)
    with pytest.raises(ValueError, match=r"another configuration: optim\.lr: 0\.\d+ -> 0\.5"):
        train(override(tiny_run, {"optim.lr": "0.5"}), tmp_path / "run", squares, resume=True)
    with pytest.raises(FileNotFoundError, match="no run folder"):
        train(tiny_run, tmp_path / "nothing", squares, resume=True)
    with pytest.raises(ValueError, match="no validation pictures"):
        train(tiny_run, tmp_path / "other", dataclasses.replace(squares, val=None))
    with pytest.raises(ValueError, match="4 classes and the model 5"):
        train(override(tiny_run, {"model.classes": "5"}), tmp_path / "other", squares)
    with pytest.raises(ValueError, match="pictures are 8 x 8"):
        train(override(tiny_run, {"model.image_size": "16"}), tmp_path / "other", squares)
    assert squares.train is not None
    swapped = dataclasses.replace(squares, train=squares.train.select(range(100)))
    with pytest.raises(ValueError, match="not those that"):
        train(tiny_run, tmp_path / "run", swapped, resume=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        train(tiny_run, tmp_path / "file/run", squares)


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # of the compiler's own
def test_a_compiled_step_learns_what_the_eager_one_does(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    config = dataclasses.replace(tiny_run, steps=20, evaluations=0)
    eager = train(config, tmp_path / "eager", squares)
    quick = train(dataclasses.replace(config, compile=True), tmp_path / "compiled", squares)
    assert losses(tmp_path / "compiled")[20] == pytest.approx(losses(tmp_path / "eager")[20], rel=1e-3)
    assert quick.val_accuracy == pytest.approx(eager.val_accuracy, abs=0.1)
    assert not any(name.startswith("_orig_mod") for name in quick.classifier.model.state_dict())


@pytest.mark.parametrize("built_in", [True, False])
def test_the_number_type_of_muon_is_told(
    built_in: bool, tmp_path: Path, squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.optim.bf16_built_in", lambda device: built_in)
    run = Run(override(tiny_run, {"optim.name": "muon"}), tmp_path, squares, time.monotonic())
    assert ("Muon in fp32, as bf16 is not built in" in run.plan.note) is not built_in


@pytest.mark.parametrize(
    ("device", "world", "mode"), [("cuda", 1, "reduce-overhead"), ("cuda", 2, None), ("cpu", 1, None)]
)
def test_one_gpu_replays_graphs_of_a_compiled_step(
    device: str, world: int, mode: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch is asked for; whether it is quicker takes a GPU to tell (bench/speedrun.py)."""
    asked: list[object] = []
    monkeypatch.setattr(torch, "compile", lambda model, dynamic, mode: asked.append(mode))
    monkeypatch.setattr("vitreous.ranks.world", lambda: world)
    compiled(nn.Linear(1, 1), torch.device(device))
    assert asked == [mode]


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    run = Run(tiny_run, tmp_path, squares, time.monotonic())
    run.advance(0.5)
    run.save()
    with torch.no_grad():
        next(run.model.parameters()).view(-1)[0] = float("nan")
    run.step += 1
    with pytest.raises(Diverged, match=r"after step 2 model\.cls_token holds NaN.*before stays\.\nTry lower rates and"):
        run.save()
    assert [path.name for path in checkpoint.found(tmp_path)] == ["step-00000001"]
