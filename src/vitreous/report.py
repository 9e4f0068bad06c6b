"""One page about a run that opens from disk: what was asked, how good it is, what it looks at, what is inside.

The page carries everything it needs and asks nothing of any network. Every sentence is made from numbers of the run.
What is measured is in evaluate.py, observations.py, faithfulness.py and insides.py; how it is drawn in charts.py and
templates/report.html.

Shapes: n pictures, K classes, R rows and K columns of patches, A heads, L depth.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import vitreous
from vitreous import charts, insides, sealed
from vitreous.attention_maps import attentive, class_attention
from vitreous.classifier import Classifier
from vitreous.data import Images
from vitreous.evaluate import CALIBRATION_BINS, Evaluation, evaluate, run_images, stored_evaluation
from vitreous.faithfulness import FRACTIONS
from vitreous.heatmaps import METHODS, OBSERVED, as_shares, explained, heat, methods_for, stored_verdicts
from vitreous.observations import about_heads, observations, observe, special_tokens
from vitreous.pictures import overlay, upright
from vitreous.runs import read_config
from vitreous.stems import Whitening

GALLERY = 12
"""Pictures whose maps of every layer and head the page carries."""
MISTAKES = 12
"""Most confident mistakes shown."""
SHOWN_FILTERS = 64
LOOKED_INTO = 64
"""Pictures over which heads are described."""
ON_THE_PLANE = 600
"""Pictures projected to a plane: each is a mark in the page."""
MOST_CLASSES = 40
"""Classes up to which the whole confusion matrix is in the page; of more, the pairs most often confused."""
HOTTEST = 8.0
"""Multiples of an even share beyond which maps in the page are all alike: they are kept in a byte a patch."""


@dataclass(frozen=True, eq=False)
class _Seen:
    """A run's classifier on its validation pictures."""

    classifier: Classifier
    images: Images
    sure: np.ndarray
    """Probability of the predicted class, (n,)."""
    guess: np.ndarray
    """Predicted class, (n,)."""

    @property
    def right(self) -> np.ndarray:
        """bool (n,)"""
        return np.asarray(self.guess == self.images.labels.numpy())


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.1f} min"


def about_accuracy(found: Evaluation) -> list[str]:
    """How good it is, against chance, by class, and what is confused."""
    counts = np.array(found.confusion)
    low, high = found.interval
    common = counts.sum(axis=1).max() / found.n
    sentences = [
        f"{found.accuracy:.1%} of {found.n:,} {found.split} pictures are right, {low:.1%} to {high:.1%} with 95 % "
        f"confidence; always naming the commonest class would get {common:.1%}."
    ]
    known = [entry for entry in found.per_class if entry.recall is not None]
    best, worst = (pick(known, key=lambda entry: entry.recall or 0.0) for pick in (max, min))
    if best.recall != worst.recall:
        sentences.append(
            f"{best.name} is found most often ({best.recall:.1%} of its pictures), {worst.name} least often "
            f"({worst.recall:.1%})."
        )
    off = counts - np.diag(np.diag(counts))
    if off.any():
        true, said = np.unravel_index(off.argmax(), off.shape)
        names = [entry.name for entry in found.per_class]
        sentences.append(
            f"The commonest mistake is {names[true]} taken for {names[said]}: {off[true, said]} of "
            f"{counts[true].sum()} pictures, {off[true, said] / off.sum():.0%} of all mistakes."
        )
    return sentences


def about_calibration(found: Evaluation, sure: np.ndarray, right: np.ndarray) -> str:
    """Whether it is too sure or not sure enough; a gap within two standard errors is no gap."""
    gap = float(sure.mean() - right.mean())
    error = float((sure - right).std() / np.sqrt(len(sure)))
    if abs(gap) <= 2 * error:
        said = "as sure as it is right"
    else:
        said = "surer than it is right" if gap > 0 else "less sure than it is right"
    return (
        f"On average it is {said}: {sure.mean():.1%} sure, {right.mean():.1%} right (difference {gap:+.1%}, standard "
        f"error {error:.1%}). The calibration error is {found.calibration_error:.1%}."
    )


def about_learning(lines: Sequence[dict[str, Any]]) -> list[str]:
    """Whether it was still getting better when time was up."""
    looks = [line for line in lines if line.get("split") == "val" and line.get("accuracy") is not None]
    if len(looks) < 3:
        return []
    last, before = looks[-1], looks[-1 - max(1, len(looks) // 4)]
    gain, spent = last["accuracy"] - before["accuracy"], last["seconds"] - before["seconds"]
    error = np.sqrt(sum(look["accuracy"] * (1 - look["accuracy"]) / look.get("n", 1000) for look in (last, before)))
    verdict = "it was still learning" if gain > 2 * error else "which is no gain beyond noise"
    change = f"{gain:+.1%} (standard error {error:.1%})"
    return [f"The last {_seconds(spent)} changed validation accuracy by {change}: {verdict}."]


def _journal(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl that can be read."""
    lines = []
    path = run / "metrics.jsonl"
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:  # a line that a kill cut short
            continue
    return lines


def _confusion(found: Evaluation) -> dict[str, Any]:
    """The matrix, or the commonest confusions where it would be too large to look at."""
    names = [entry.name for entry in found.per_class]
    counts = np.array(found.confusion)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    off = counts - np.diag(np.diag(counts))
    worst = [divmod(int(i), len(names)) for i in np.argsort(-off, axis=None)[:20]]
    pairs = zip(counts.tolist(), shares.tolist(), strict=True)
    return {
        "names": names,
        "rows": [list(zip(*pair, strict=True)) for pair in pairs] if len(names) <= MOST_CLASSES else None,
        "pairs": [(names[i], names[j], int(off[i, j]), float(shares[i, j])) for i, j in worst if off[i, j]],
    }


def _mistakes(seen: _Seen, method: str) -> list[dict[str, str]]:
    """The wrong predictions it was surest of, each with its map."""
    wrong = np.flatnonzero(~seen.right)
    wrong = wrong[np.argsort(-seen.sure[wrong], kind="stable")][:MISTAKES]
    if not len(wrong):
        return []
    some = seen.images.select(torch.from_numpy(wrong))
    maps = as_shares(heat(seen.classifier, some.pixels[:], method)).numpy()
    even = maps * maps[0].size
    scale = (min(0.5, float(np.quantile(even, 0.02))), max(1.5, float(np.quantile(even, 0.98))))
    return [
        {
            "picture": charts.data_uri(upright(pixels), charts.LARGEST),
            "heat": charts.data_uri(overlay(pixels, own, scale, seen.classifier.config.patch_size), charts.LARGEST),
            "true": seen.classifier.classes[label],
            "said": seen.classifier.classes[seen.guess[i]],
            "sure": f"{seen.sure[i]:.0%}",
            "id": some.ids[place],
        }
        for place, (i, pixels, own, label) in enumerate(
            zip(wrong, some.pixels[:], even, some.labels.tolist(), strict=True)
        )
    ]


def _bytes(maps: Tensor) -> str:
    """Maps (..., R, K) as text, a byte a patch: 255 for 1 and above."""
    return base64.b64encode((maps.numpy() * 255).round().clip(0, 255).astype(np.uint8).tobytes()).decode()


def _gallery(seen: _Seen, verdicts: dict[str, Any]) -> dict[str, Any]:
    """Pictures with the maps of every method, and of every layer and head where a method has them."""
    classifier, some = seen.classifier, seen.images.select(torch.arange(min(GALLERY, len(seen.images))))
    methods: dict[str, Any] = {}
    target = torch.from_numpy(seen.guess[: len(some)])
    for name in methods_for(classifier.model):
        way, maps = METHODS[name], heat(classifier, some.pixels[:], name, target=target)
        verdict = verdicts.get(name)
        entry = {
            "sentence": explained(name, classifier.config),
            "verdict": "not checked" if verdict is None else verdict["words"],
            "faithful": None if verdict is None else verdict["faithful"],
            "maps": _bytes(as_shares(maps) * maps[0].numel() / HOTTEST),
            "grid": list(maps.shape[1:]),
        }
        if way.layered is not None:
            layered = way.layered(classifier.model, classifier.prepare(some.pixels[:]), target).clamp(min=0)
            most = layered.amax(dim=(3, 4), keepdim=True)  # for the page: a mean over heads is one of raw maps
            entry |= {"layered": _bytes(layered / most.clamp(min=1e-30)), "layers": layered.shape[1]}
            entry |= {"heads": layered.shape[2], "weights": [float(f"{each:.4g}") for each in most.flatten().tolist()]}
        methods[name] = entry
    labels = some.labels.tolist()
    return {
        "hottest": HOTTEST,
        "across": classifier.size / classifier.config.patch_size,
        "methods": methods,
        "colours": _inferno(),
        "pictures": [
            {
                "src": charts.data_uri(upright(pixels), charts.LARGEST),
                "true": classifier.classes[label],
                "said": classifier.classes[seen.guess[i]],
                "sure": float(seen.sure[i]),
            }
            for i, (pixels, label) in enumerate(zip(some.pixels[:], labels, strict=True))
        ],
    }


def _truth(verdicts: dict[str, Any]) -> dict[str, str]:
    """What the checks measured, drawn; empty where nothing was checked."""
    if not verdicts:
        return {}
    allowed = {each["allowed"] for each in verdicts.values()}
    return {
        "cascade": charts.cascade({name: each["cascade"] for name, each in verdicts.items()}, allowed),
        "covering": charts.covering({name: each["curves"] for name, each in verdicts.items()}, FRACTIONS),
    }


def _inferno() -> list[list[int]]:
    from matplotlib import colormaps

    return (colormaps["inferno"](np.linspace(0, 1, 64))[:, :3] * 255).round().astype(int).tolist()


def _inside(seen: _Seen) -> dict[str, Any]:
    """Pictures of the model's insides, each with a sentence made from its numbers."""
    model, classifier = seen.classifier.model, seen.classifier
    parts: dict[str, Any] = {"pictures": min(LOOKED_INTO, len(seen.images))}
    weights = insides.filters(model)
    if weights is not None:
        parts["filters"] = charts.data_uri(charts.mosaic(charts.as_colours(weights[:SHOWN_FILTERS]), 16))
        count = f"filters of {weights.shape[1]} x {weights.shape[2]} pixels"
        if any(isinstance(module, Whitening) for module in model.modules()):
            parts["filters_words"] = (
                f"{len(weights)} fixed {count}: the principal components of the training pictures, with both signs. "
                f"What they see is uncorrelated; what is learned begins behind them."
            )
        else:
            directions, shares = insides.principal(weights, weights[0].size)
            half = int((shares.cumsum() < 0.5).sum()) + 1
            parts["components"] = charts.data_uri(charts.mosaic(charts.as_colours(directions[:28]), 14))
            parts["filters_words"] = (
                f"{len(weights)} {count}. Half of what tells them apart lies in {half} of {weights[0].size} directions."
            )
    similar = insides.position_similarity(model)
    if similar is not None:
        parts |= _positions(similar)
    few = classifier.prepare(seen.images.pixels[:LOOKED_INTO])
    if hasattr(model, "walk"):
        vit = attentive(model)
        far = insides.attention_distance(vit, few)
        even = insides.even_distance(vit.grid(few), vit.config.patch_size)
        parts["distance"] = charts.distances(far, even)
        looks = class_attention(vit, few).cpu().numpy()
        shares = looks.mean(axis=0) / looks.mean(axis=0).sum(axis=(2, 3), keepdims=True)
        parts["heads"] = charts.heads(shares * shares[0, 0].size)
        parts["heads_words"] = about_heads(looks, special_tokens(vit.config))
        near_at, far_at = (np.unravel_index(place, far.shape) for place in (far.argmin(), far.argmax()))
        parts["distance_words"] = (
            f"Over {len(few)} pictures the nearest-looking head is head {near_at[1] + 1} of layer {near_at[0] + 1}, "
            f"{far.min():.1f} pixels on average; the farthest is head {far_at[1] + 1} of layer {far_at[0] + 1}, "
            f"{far.max():.1f} pixels. A head that looks everywhere alike has {even:.1f}."
        )
    some = seen.images.select(torch.arange(min(ON_THE_PLANE, len(seen.images))))
    vectors = insides.embeddings(model, classifier.prepare(some.pixels[:]))
    points, share = insides.plane(vectors)
    labels = some.labels.numpy()
    parts["plane"] = charts.scatter(points, labels, classifier.classes)
    parts["plane_words"] = (
        f"{len(some)} validation pictures by the vector that the head reads, on the plane along which they differ "
        f"most: it holds {share:.0%} of the variance. The nearest other picture has the same class for "
        f"{_same_neighbour(vectors, labels):.0%} of them."
    )
    return parts


def _positions(similar: np.ndarray) -> dict[str, str]:
    from matplotlib import colormaps

    rows, columns = similar.shape[:2]
    tiles = colormaps["viridis"]((similar.reshape(-1, rows, columns) + 1) / 2)[..., :3]
    spots = np.stack(np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij"), axis=-1).reshape(-1, 2)
    apart = np.abs(spots[:, None] - spots[None]).sum(axis=-1)
    flat = similar.reshape(len(spots), len(spots))
    next_to = f"{flat[apart == 1].mean():+.2f}" if (apart == 1).any() else "none"
    return {
        "positions": charts.data_uri(charts.mosaic(tiles, columns)),
        "positions_words": (
            f"Cosine of each patch's learned position with all others, a small map a patch. Neighbours have {next_to} "
            f"on average, patches at least half the picture apart {flat[apart >= max(rows, columns) // 2].mean():+.2f}."
        ),
    }


def _same_neighbour(vectors: np.ndarray, labels: np.ndarray) -> float:
    far = np.linalg.norm(vectors[:, None] - vectors[None], axis=-1) if len(vectors) > 1 else np.zeros((1, 1))
    np.fill_diagonal(far, np.inf)
    return float((labels[far.argmin(axis=1)] == labels).mean())


def report_run(run: Path, data_root: Path | None = None, out: Path | None = None, seed: int = 0) -> Path:
    """Write the page about a run, on its validation pictures. Returns its path: report.html in the run, or ``out``.

    Raises ValueError or FileNotFoundError for what is no finished run.
    """
    from jinja2 import Environment, PackageLoader

    classifier, images, dataset = run_images(run, "val", data_root)
    found = evaluate(classifier, images, "validation", dataset)  # in their own order, which is in the fingerprint
    images = images.part(torch.randperm(len(images), generator=torch.Generator().manual_seed(seed)))
    sure, guess = (each.numpy() for each in classifier.logits(images.pixels).softmax(dim=1).max(dim=1))
    seen = _Seen(classifier, images, sure, guess)
    config, lines, verdicts = read_config(run), _journal(run), stored_verdicts(run)
    method = methods_for(classifier.model)[0]
    looked = images.pixels[:OBSERVED]
    maps = heat(classifier, looked, method)
    shares = maps if METHODS[method].shares else as_shares(maps)
    log = run / "train.log"
    page = Environment(loader=PackageLoader("vitreous"), autoescape=True, trim_blocks=True).get_template("report.html")
    text = page.render(
        title=f"{dataset}: {run.name}",
        found=found,
        test=stored_evaluation(run, "test"),
        config=config,
        notes=log.read_text(encoding="utf-8", errors="replace").splitlines() if log.is_file() else [],
        accuracy_words=about_accuracy(found),
        learning_words=about_learning(lines),
        learning=charts.learning(lines) if lines else "",
        calibration=charts.calibration(sure, seen.right, CALIBRATION_BINS),
        calibration_words=about_calibration(found, sure, seen.right),
        confusion=_confusion(found),
        mistakes=_mistakes(seen, method),
        method=method,
        gallery=_gallery(seen, verdicts),
        heat_words=observations(
            observe(shares.numpy(), seen.right[: len(looked)]),
            "attention" if METHODS[method].shares else "relevance",
            special_tokens(classifier.config),
        ),
        verdicts=verdicts,
        truth=_truth(verdicts),
        inside=_inside(seen),
        provenance=classifier.provenance,
        settings=json.dumps(json.loads((run / "config.json").read_text(encoding="utf-8")), indent=2),
        version=vitreous.__version__,
    )
    path = out or run / "report.html"
    path = path / "report.html" if path.is_dir() else path
    path.parent.mkdir(parents=True, exist_ok=True)
    sealed.write(path, text)
    return path
