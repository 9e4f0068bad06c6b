"""Measures equal scikit-learn's or a hand count, and the test split is read once."""

from __future__ import annotations

import dataclasses
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics
from test_cli import TINY, call
from torch import Tensor, nn

from vitreous.classifier import Classifier
from vitreous.config import DataConfig, RunConfig, to_json
from vitreous.data import DataSet, Images, load
from vitreous.evaluate import (
    Evaluation,
    accuracy,
    calibration_error,
    confusion,
    confusion_picture,
    evaluate,
    evaluate_run,
    log_loss,
    precision_recall,
    wilson,
)
from vitreous.models import build_model
from vitreous.runs import prepare
from vitreous.vit import ViTConfig


@pytest.fixture
def guesses() -> tuple[np.ndarray, np.ndarray]:
    """Random probabilities (200, 6) and labels that agree with them about half the time."""
    random = np.random.default_rng(0)
    probabilities = random.dirichlet(np.full(6, 0.5), 200)
    labels = np.where(random.random(200) < 0.5, probabilities.argmax(axis=1), random.integers(0, 6, 200))
    return probabilities, labels


def test_measures_equal_scikit_learns(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = guesses
    predicted = probabilities.argmax(axis=1)
    assert accuracy(probabilities, labels) == metrics.accuracy_score(labels, predicted)
    assert log_loss(probabilities, labels) == pytest.approx(metrics.log_loss(labels, probabilities), abs=1e-12)
    np.testing.assert_array_equal(confusion(probabilities, labels), metrics.confusion_matrix(labels, predicted))
    precision, recall = precision_recall(probabilities, labels)
    np.testing.assert_allclose(precision, metrics.precision_score(labels, predicted, average=None), rtol=1e-12)
    np.testing.assert_allclose(recall, metrics.recall_score(labels, predicted, average=None), rtol=1e-12)


def test_measures_equal_a_count_by_hand(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = guesses
    predicted = probabilities.argmax(axis=1)
    assert accuracy(probabilities, labels) == np.mean(predicted == labels)
    assert log_loss(probabilities, labels) == pytest.approx(-np.log(probabilities[np.arange(200), labels]).mean())
    counts = confusion(probabilities, labels)
    for true in range(6):
        for guess in range(6):
            assert counts[true, guess] == np.sum((labels == true) & (predicted == guess))


def test_a_class_that_is_never_seen_or_never_predicted_has_no_figure() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.7, 0.2, 0.1], [0.2, 0.2, 0.6]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        precision, recall = precision_recall(probabilities, np.array([0, 1, 0]))
    np.testing.assert_array_equal(precision, [0.5, np.nan, 0.0])
    np.testing.assert_array_equal(recall, [0.5, 0.0, np.nan])
    assert confusion(probabilities, np.array([0, 1, 0])).shape == (3, 3)
    assert log_loss(probabilities, np.array([0, 0, 0])) > 0


def test_calibration_error_is_the_mean_gap_of_fifteen_equal_bins(guesses: tuple[np.ndarray, np.ndarray]) -> None:
    probabilities, labels = guesses
    sure, right = probabilities.max(axis=1), probabilities.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (sure > number / 15) & (sure <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(right[inside].mean() - sure[inside].mean())
    assert calibration_error(probabilities, labels) == pytest.approx(expected, abs=1e-12)


def test_calibration_error_of_known_cases() -> None:
    certain = np.array([[1.0, 0.0]] * 4)
    assert calibration_error(certain, np.zeros(4, int)) == 0
    assert calibration_error(certain, np.array([0, 0, 1, 1])) == 0.5
    assert calibration_error(np.array([[0.75, 0.25]] * 4), np.array([0, 0, 0, 1])) == pytest.approx(0)


def test_the_interval_is_wilsons() -> None:
    low, high = wilson(50, 100)
    assert (low, high) == (pytest.approx(0.40383, abs=1e-5), pytest.approx(0.59617, abs=1e-5))
    assert wilson(0, 10) == (0.0, pytest.approx(0.27753, abs=1e-5))
    assert wilson(10, 10) == (pytest.approx(0.72247, abs=1e-5), pytest.approx(1.0))
    assert wilson(10, 10)[1] <= 1
    narrow = wilson(5000, 10000)
    assert low < narrow[0] < 0.5 < narrow[1] < high
    for right, n in [(1, 0), (-1, 5), (6, 5)]:
        with pytest.raises(ValueError, match="no interval"):
            wilson(right, n)


class Corner(nn.Module):
    """Scores the four corners of a picture by their brightness: right on every picture of squares."""

    def __init__(self, sharpness: float = 5.0) -> None:
        super().__init__()
        self.sharpness = nn.Parameter(torch.tensor(sharpness))

    def forward(self, images: Tensor) -> Tensor:
        return self.sharpness * nn.functional.avg_pool2d(images.mean(dim=1, keepdim=True), 4).flatten(1)


def corner_classifier(classes: tuple[str, ...], sharpness: float = 5.0) -> Classifier:
    config = ViTConfig(image_size=8, patch_size=4, classes=4, width=16, depth=2, heads=2)
    return Classifier(Corner(sharpness).eval(), config, classes, (0.5,) * 3, (0.25,) * 3)


def test_evaluating_a_classifier_that_is_right(squares: DataSet) -> None:
    assert squares.val is not None
    found = evaluate(corner_classifier(squares.val.classes), squares.val, "val", "squares")
    assert (found.accuracy, found.n, found.split, found.dataset) == (1.0, 32, "val", "squares")
    assert found.fingerprint == squares.val.fingerprint()
    assert found.confusion == ((8, 0, 0, 0), (0, 8, 0, 0), (0, 0, 8, 0), (0, 0, 0, 8))
    assert [(entry.precision, entry.recall, entry.n) for entry in found.per_class] == [(1.0, 1.0, 8)] * 4
    assert found.interval[0] < 1.0 == found.interval[1]


def test_the_loss_is_torchs_cross_entropy(squares: DataSet) -> None:
    assert squares.val is not None
    classifier = corner_classifier(squares.val.classes, sharpness=-1.0)
    found = evaluate(classifier, squares.val, "val")
    expected = nn.functional.cross_entropy(classifier.logits(squares.val.pixels), squares.val.labels)
    assert found.loss == pytest.approx(expected.item(), rel=1e-6)
    assert found.accuracy == 0.0


def test_an_evaluation_survives_json(squares: DataSet) -> None:
    assert squares.val is not None
    one_class = squares.val.select(torch.arange(0, 32, 4))  # leaves classes without a precision or recall
    found = evaluate(corner_classifier(squares.val.classes), one_class, "val")
    text = json.dumps(found.to_json(), allow_nan=False)
    values = json.loads(text)
    assert set(values) == {
        *("accuracy", "loss", "n", "split", "dataset", "fingerprint", "interval"),
        *("calibration_error", "per_class", "confusion"),
    }
    assert values["per_class"][0] == {"class": "top left", "precision": 1.0, "recall": 1.0, "n": 8}
    assert values["per_class"][1] == {"class": "top right", "precision": None, "recall": None, "n": 0}
    assert Evaluation.from_json(values) == found


def test_pictures_of_other_classes_or_sizes_are_refused(squares: DataSet) -> None:
    assert squares.val is not None
    pixels, labels = squares.val.pixels, squares.val.labels
    classifier = corner_classifier(squares.val.classes)
    others = Images(pixels, labels, ("top left", "cat", "dog", "owl"), squares.val.ids)
    with pytest.raises(
        ValueError, match=r"unknown to it: cat, dog, owl; missing: top right, bottom left, bottom right"
    ):
        evaluate(classifier, others, "val")
    turned = Images(pixels, labels, tuple(reversed(squares.val.classes)), squares.val.ids)
    with pytest.raises(ValueError, match="another order"):
        evaluate(classifier, turned, "val")
    large = Images(pixels.repeat(1, 1, 2, 2), labels, squares.val.classes, squares.val.ids)
    with pytest.raises(ValueError, match=r"\(3, 16, 16\).*\(3, 8, 8\)"):
        evaluate(classifier, large, "val")
    with pytest.raises(ValueError, match="no pictures"):
        evaluate(classifier, squares.val.select([]), "val")


@pytest.mark.parametrize(
    "names",
    [
        ("cat", "dog"),
        ("$x^2", "a\nb"),  # no formula, no second line
        ("\N{CAT FACE}", "\N{CJK UNIFIED IDEOGRAPH-72AC}"),  # the font has neither
        tuple(f"a class with a rather long name {i}" for i in range(25)),
        tuple(map(str, range(150))),
    ],
    ids=["two", "odd", "foreign", "long", "many"],
)
def test_the_confusion_picture_is_drawn_whatever_the_classes(names: tuple[str, ...], tmp_path: Path) -> None:
    images = Images(
        torch.zeros(len(names), 1, 8, 8, dtype=torch.uint8), torch.arange(len(names)), names, ("",) * len(names)
    )
    config = ViTConfig(image_size=8, patch_size=4, channels=1, classes=len(names), width=16, depth=1, heads=1)
    classifier = Classifier(build_model(config).eval(), config, names, (0.5,), (0.5,))
    found = evaluate(classifier, images, "val", "odd $names$")
    path = confusion_picture(found, tmp_path / "new" / "confusion.png")
    with Image.open(path) as picture:
        assert min(picture.size) > 500
        assert len(picture.convert("RGB").getcolors(1 << 24) or []) > 10
    assert list(path.parent.iterdir()) == [path]


@pytest.fixture
def digits_run(tmp_path: Path) -> Path:
    """A run on the embedded digits whose classifier was never trained."""
    names = tuple(map(str, range(10)))
    model = ViTConfig(image_size=8, patch_size=4, channels=1, width=16, depth=1, heads=2)
    run = tmp_path / "run"
    config = RunConfig(data=DataConfig("digits", val_fraction=0.2, seed=3), model=model, steps=1)
    prepare(run, config, resume=False)
    _save(run, model, names, seed=0)
    return run


def _save(run: Path, model: ViTConfig, names: tuple[str, ...], seed: int) -> None:
    torch.manual_seed(seed)
    Classifier(build_model(model).eval(), model, names, (0.5,), (0.5,)).save(run / "classifier")


def test_a_run_is_evaluated_on_the_pictures_it_held_out(digits_run: Path) -> None:
    found = evaluate_run(digits_run, "val")
    held = load("digits", val_fraction=0.2, seed=3).val
    assert held is not None
    assert (found.n, found.fingerprint) == (len(held), held.fingerprint())
    values = json.loads((digits_run / "eval-val.json").read_text())
    assert Evaluation.from_json(values) == found
    assert (digits_run / "confusion-val.png").is_file()
    assert not evaluate_run(digits_run, "val").stored


def test_the_test_split_is_read_once(digits_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = evaluate_run(digits_run, "test")
    assert not first.stored
    reads = []
    monkeypatch.setattr("vitreous.evaluate.load", lambda *a, **k: reads.append(k["splits"]) or load(*a, **k))
    second = evaluate_run(digits_run, "test")
    assert reads == []
    assert second == dataclasses.replace(first, stored=True)
    assert evaluate_run(digits_run, "test", again=True) == first
    assert reads == [{"test"}]


def test_a_stored_result_of_other_weights_does_not_pass_for_theirs(digits_run: Path) -> None:
    evaluate_run(digits_run, "test")
    model = Classifier.load(digits_run).config
    _save(digits_run, model, tuple(map(str, range(10))), seed=1)
    with pytest.raises(ValueError, match=r"earlier classifier.*--again"):
        evaluate_run(digits_run, "test")
    assert not evaluate_run(digits_run, "test", again=True).stored
    assert evaluate_run(digits_run, "test").stored


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"accuracy": 1}'])
def test_a_broken_stored_result_is_reported(digits_run: Path, text: str) -> None:
    (digits_run / "eval-test.json").write_text(text)
    with pytest.raises(ValueError, match=r"eval-test\.json cannot be read.*--again"):
        evaluate_run(digits_run, "test")


def test_what_cannot_be_evaluated_is_refused(digits_run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'dev'.*train, val, test"):
        evaluate_run(digits_run, "dev")
    with pytest.raises(FileNotFoundError, match="no run folder"):
        evaluate_run(tmp_path / "nowhere", "val")
    config = RunConfig(data=DataConfig("digits"), model=Classifier.load(digits_run).config, steps=1)
    _save(digits_run, config.model, tuple("abcdefghij"), seed=0)
    (digits_run / "config.json").write_text(to_json(config))
    with pytest.raises(ValueError, match=r"other classes.*unknown to it: 0, 1, 2 and 7 more"):
        evaluate_run(digits_run, "val")


def test_a_run_coloured_by_one_picture_beyond_the_sample_reads_its_gray_test_pictures_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vitreous.data.plan.SAMPLE", 2)
    for split in ("train", "val", "test"):
        for label in ("cat", "dog"):
            for number in range(5):
                path = tmp_path / "pets" / split / label / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                coloured = split == "train" and number == 1
                Image.new("RGB" if coloured else "L", (8, 8), "red" if coloured else 40 * number).save(path)
    run, source = tmp_path / "run", str(tmp_path / "pets")
    assert call("train", source, "--out", run, *TINY).exit_code == 0
    assert Classifier.load(run).channels == 3
    assert evaluate_run(run, "test").n == 10
    assert evaluate_run(run, "val").n == 10
    for command in (["verify", run], ["heatmap", run], ["heatmap", run, source]):
        outcome = call(*command)
        assert outcome.exit_code == 0, outcome.stderr
