"""How good a classifier is: accuracy, per-class figures, confusion and calibration, as functions of its predictions.

The pure functions take probabilities (n, K) and labels (n,); scikit-learn counts where it knows the measure. The test
split is read once: :func:`evaluate_run` keeps what it found beside the run. Not here: predicting one picture.

Shapes: n pictures, K classes.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vitreous import sealed
from vitreous.classifier import Classifier, classifier_folder
from vitreous.data import Images, load
from vitreous.hub import Figure
from vitreous.pictures import FAINT, INK, blank, save, shorten
from vitreous.runs import read_config

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CALIBRATION_BINS = 15
SPLITS = ("train", "val", "test")


def accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of pictures whose most probable class is the true one: (n, K), (n,) -> 0..1."""
    from sklearn.metrics import accuracy_score  # half a second to import, which other commands need not wait for

    return float(accuracy_score(labels, probabilities.argmax(axis=1)))


def log_loss(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean negative log likelihood of the true class in nats: (n, K), (n,) -> 0 or more. Rows must sum to 1."""
    from sklearn.metrics import log_loss as mean_log_loss

    return float(mean_log_loss(labels, probabilities, labels=np.arange(probabilities.shape[1])))


def confusion(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Counts of pictures by true class (row) and predicted class (column): (n, K), (n,) -> int (K, K)."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(labels, probabilities.argmax(axis=1), labels=np.arange(probabilities.shape[1]))


def precision_recall(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Precision and recall of each class: (n, K), (n,) -> two of (K,).

    NaN where there is nothing to divide by: the precision of a class never predicted, the recall of one without
    pictures.
    """
    from sklearn.metrics import precision_recall_fscore_support

    classes = np.arange(probabilities.shape[1])
    precision, recall, _, _ = precision_recall_fscore_support(
        labels, probabilities.argmax(axis=1), labels=classes, zero_division=np.nan
    )
    return precision, recall


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error: (n, K), (n,) -> 0..1. Naeini et al. 2015, with bins of equal width.

    Pictures are binned by the probability of their predicted class; the result is the mean distance, over pictures,
    between the accuracy and the mean probability of their bin.
    """
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.clip(np.ceil(sure * bins).astype(int) - 1, 0, bins - 1)  # bin b holds (b/bins, (b+1)/bins]
    gap = np.bincount(which, weights=right - sure, minlength=bins)  # count * (accuracy - probability), per bin
    return float(np.abs(gap).sum() / len(labels))


def wilson(right: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a share, ``right`` of ``n``, by default at 95 % (Wilson 1927). Never leaves 0..1."""
    if not 0 <= right <= n or n < 1:
        raise ValueError(f"{right} right of {n} pictures gives no interval: it takes at least one, and no more right")
    share = right / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


@dataclass(frozen=True)
class ClassFigures:
    """One class: ``precision`` or ``recall`` is None where there is nothing to divide by."""

    name: str
    precision: float | None
    recall: float | None
    n: int


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found on one split of one data set."""

    accuracy: float
    loss: float
    """Mean negative log likelihood in nats."""
    n: int
    split: str
    dataset: str
    fingerprint: str
    interval: tuple[float, float]
    """95 % confidence interval of the accuracy."""
    calibration_error: float
    per_class: tuple[ClassFigures, ...]
    confusion: tuple[tuple[int, ...], ...]
    """Counts by true class (row) and predicted class (column)."""
    stored: bool = False
    """Read back from an earlier evaluation instead of computed; not part of the JSON form."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``; a class has the keys ``class``, ``precision``, ``recall`` and ``n``."""
        values = dataclasses.asdict(self)
        del values["stored"]
        values["per_class"] = [{"class": entry.pop("name"), **entry} for entry in values["per_class"]]
        return values

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Evaluation:
        """The inverse of :meth:`to_json`; keys it does not know are left out."""
        known = {field.name: values[field.name] for field in dataclasses.fields(cls) if field.name != "stored"}
        figures = (ClassFigures(f["class"], f["precision"], f["recall"], f["n"]) for f in values["per_class"])
        return cls(
            **known
            | {
                "per_class": tuple(figures),
                "confusion": tuple(tuple(row) for row in values["confusion"]),
                "interval": tuple(values["interval"]),
            }
        )


def evaluate(classifier: Classifier, images: Images, split: str, dataset: str = "") -> Evaluation:
    """Every measure of a classifier on labelled pictures of its own size.

    Raises ValueError where there are no pictures, or their classes or sizes are not the classifier's.
    """
    if not len(images):
        raise ValueError(f"the {split} split has no pictures: nothing to evaluate")
    check_fit(classifier, images)
    probabilities = classifier.logits(images.pixels).double().softmax(dim=1).numpy()
    labels = images.labels.numpy()
    counts = confusion(probabilities, labels)
    precision, recall = (
        [None if math.isnan(value) else float(value) for value in values]
        for values in precision_recall(probabilities, labels)
    )
    sizes = counts.sum(axis=1).tolist()
    return Evaluation(
        accuracy=accuracy(probabilities, labels),
        loss=log_loss(probabilities, labels),
        n=len(images),
        split=split,
        dataset=dataset,
        fingerprint=images.fingerprint(),
        interval=wilson(int(counts.trace()), len(images)),
        calibration_error=calibration_error(probabilities, labels),
        per_class=tuple(map(ClassFigures, classifier.classes, precision, recall, sizes)),
        confusion=tuple(tuple(row) for row in counts.tolist()),
    )


def check_fit(classifier: Classifier, images: Images) -> None:
    """Raises ValueError where pictures are not what the classifier was trained for: other classes, size or channels."""
    if images.classes != classifier.classes:
        odd = [name for name in images.classes if name not in classifier.classes]
        gone = [name for name in classifier.classes if name not in images.classes]
        parts = [f"unknown to it: {_some(odd)}"] * bool(odd) + [f"missing: {_some(gone)}"] * bool(gone)
        raise ValueError(
            f"these pictures have other classes than the classifier ({'; '.join(parts) or 'in another order'}): "
            f"give the data it was trained on"
        )
    shape, wanted = tuple(images.pixels.shape[1:]), (classifier.channels, classifier.size, classifier.size)
    if shape != wanted:
        raise ValueError(f"pictures of (channels, height, width) {shape} where the classifier reads {wanted}: load so")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def run_images(run: Path, split: str, data_root: Path | None = None) -> tuple[Classifier, Images, str]:
    """A run's classifier, one split of the data it was trained on, and that data set's name.

    The split is the one of training: the same source, share and seed, at the classifier's size and channels. Raises
    ValueError for a split that the data set lacks and data that no longer fit the classifier, FileNotFoundError for no
    run.
    """
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}: it is one of {', '.join(SPLITS)}")
    if classifier_folder(run) == run:
        raise FileNotFoundError(f"{run} is no run folder with a classifier/ in it: give the folder that train made")
    config = read_config(run).data
    classifier = Classifier.load(run)
    data = load(
        config.source,
        data_root=data_root,
        size=classifier.size,
        channels=classifier.channels,
        val_fraction=config.val_fraction,
        seed=config.seed,
        splits={split},
        images=Path(config.images) if config.images else None,
    )
    images = data.splits().get(split)
    if images is None:
        raise ValueError(f"{data.name} has no {split} split: use another, for instance --split val")
    check_fit(classifier, images)
    return classifier, images, data.name


def evaluate_run(run: Path, split: str = "test", *, data_root: Path | None = None, again: bool = False) -> Evaluation:
    """Evaluate a run's classifier on a split of its data; writes eval-<split>.json and confusion-<split>.png there.

    The test split is read once: a second call gives the stored result (``stored`` is True) unless ``again``. Raises
    ValueError where the stored result is of other weights, or cannot be read.
    """
    path, weights = run / f"eval-{split}.json", weights_name(run)
    if split == "test" and path.is_file() and not again:
        return _stored(path, weights)
    classifier, images, name = run_images(run, split, data_root)
    evaluation = evaluate(classifier, images, split, name)
    confusion_picture(evaluation, run / f"confusion-{split}.png")
    sealed.write(path, json.dumps({"weights": weights, **evaluation.to_json()}, indent=2, ensure_ascii=False))
    return evaluation


def _stored(path: Path, weights: str) -> Evaluation:
    try:
        values = json.loads(path.read_bytes())
        evaluation = Evaluation.from_json(values)
    except (KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"{path} cannot be read ({problem}): evaluate with --again to replace it") from None
    if values.get("weights") != weights:
        raise ValueError(
            f"{path.name} is of an earlier classifier of this run, so the test split has been read before: "
            f"evaluate with --again to read it once more, or use --split val"
        )
    return dataclasses.replace(evaluation, stored=True)


def stored_evaluation(run: Path, split: str) -> Evaluation | None:
    """What :func:`evaluate_run` has stored of a run's present weights; None where it is of others, or damaged."""
    path = run / f"eval-{split}.json"
    try:
        return _stored(path, weights_name(run)) if path.is_file() else None
    except ValueError:
        return None


def figures(run: Path) -> list[Figure]:
    """The accuracies that :func:`evaluate_run` has stored of a run's present weights."""
    found = {split: stored_evaluation(run, split) for split in ("test", "val")}
    return [Figure(each.accuracy, split, each.dataset) for split, each in found.items() if each]


def weights_name(run: Path) -> str:
    """Names the weights of a run's classifier; empty where there are none, which loading then reports."""
    return sealed.named(classifier_folder(run) / "model.safetensors")


def confusion_picture(evaluation: Evaluation, path: Path) -> Path:
    """Draw the confusion matrix: a row is a true class, a column a predicted one, the colour the share of the row.

    Counts are written into the cells of up to 20 classes, class names beside up to 100.
    """
    counts = np.array(evaluation.confusion)
    classes = len(counts)
    side = min(max(5.5, 0.68 * classes), 13.0)
    figure = blank(side + 0.6, side + 0.6, layout="constrained")
    axes = figure.subplots()
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    if classes <= 20:
        _write_counts(axes, counts, shares)
    _name_classes(axes, [entry.name for entry in evaluation.per_class])
    axes.set_xlabel("predicted class", color=INK)
    axes.set_ylabel("true class", color=INK)
    low, high = evaluation.interval
    axes.set_title(
        f"{evaluation.accuracy:.1%} of {evaluation.n:,} pictures right, {evaluation.split} split "
        f"(95% interval {low:.1%} to {high:.1%})\n{shorten(evaluation.dataset, 60)}",
        color=INK,
        fontsize=11,
        parse_math=False,
    )
    return save(figure, path)


def _write_counts(axes: Axes, counts: np.ndarray, shares: np.ndarray) -> None:
    for (row, column), count in np.ndenumerate(counts):
        if count:
            ink = "white" if shares[row, column] > 0.55 else INK
            axes.text(column, row, str(count), ha="center", va="center", fontsize=9, color=ink)


def _name_classes(axes: Axes, names: list[str]) -> None:
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0, colors=FAINT)
    if len(names) > 100:
        return
    size = 9 if len(names) <= 20 else 5
    places, labels = range(len(names)), [shorten(name) for name in names]
    axes.set_xticks(places, labels, rotation=45 if len(names) <= 20 else 90, fontsize=size, parse_math=False)
    axes.set_yticks(places, labels, fontsize=size, parse_math=False)
    if len(names) <= 20:
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
