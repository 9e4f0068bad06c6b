"""``vitreous compare``: a study from its data to its page; and two runs on the same pictures.

Of two runs: is one better than chance would make it, where do they disagree, what do they look at. How studies are run
is in studies.py, what they say in findings.py.

Shapes: n pictures, C channels, S side in pixels, R rows and K columns of patches.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vitreous import sealed
from vitreous.classifier import Classifier
from vitreous.data import Images, load
from vitreous.evaluate import run_images, wilson
from vitreous.findings import Report, embedded, render, report
from vitreous.heatmaps import heat, methods_for, stored_verdicts
from vitreous.jobs import fitting_side
from vitreous.models import describe
from vitreous.pictures import INK, RIGHT, WRONG, blank, overlay, save, shorten, upright
from vitreous.studies import Study, run_study
from vitreous.train import Watch


def compare_models(
    study: Study,
    out: Path,
    *,
    command: str = "",
    data_root: Path | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    watching: Callable[[], contextlib.AbstractContextManager[Watch | None]] = contextlib.nullcontext,
) -> Report:
    """Runs what is missing of a study in the folder ``out`` and writes its table, figure and page there.

    ``command`` is what the page says it was made by. Raises what :func:`vitreous.studies.run_study` raises.
    """
    splits = {"train", "val", study.split}
    data = load(study.source, data_root=data_root, splits=splits)
    if (side := fitting_side(data)) is not None:  # as training would read them
        data = load(study.source, data_root=data_root, splits=splits, size=side)
    lines = run_study(study, out, data, say=say, watching=watching)
    assert data.train is not None
    return report(study, lines, out, command, home=data.train.pixels.shape[-1])


def mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """How likely two equally good classifiers differ at least this much: bool (n,), bool (n,) -> p from 0 to 1.

    The exact, two-sided test (McNemar 1947): of the pictures that only one of them gets right, each is equally likely
    to be the first's or the second's.
    """
    mine, theirs = int((first & ~second).sum()), int((second & ~first).sum())
    only = mine + theirs
    tail = sum(math.comb(only, i) for i in range(min(mine, theirs) + 1))
    return min(1.0, 2 * tail / 2**only)


@dataclass(frozen=True, eq=False)
class Duel:
    """What :func:`compare_runs` found and wrote."""

    picture: Path
    page: Path
    sentences: tuple[str, ...]
    values: dict[str, Any]
    """Plain values for ``json.dumps``."""


def compare_runs(
    first: Path,
    second: Path,
    out: Path,
    *,
    split: str = "val",
    n: int = 8,
    seed: int = 0,
    data_root: Path | None = None,
) -> Duel:
    """Compare two runs on a split of the data that both were trained on; writes a page and a picture into ``out``.

    The picture shows up to ``n`` pictures that exactly one of them gets right, with the maps of both: attention for a
    Vision Transformer, Grad-CAM of the predicted class for a CNN. Raises ValueError where the runs do not see the same
    pictures, FileNotFoundError where a folder is no run.
    """
    if n < 1:
        raise ValueError(f"{n} pictures to show: give at least 1")
    names = _names(first, second)
    sides = [_Side.of(run, split, data_root) for run in (first, second)]
    _check_same(sides, names, split)
    labels = sides[0].images.labels.numpy()
    right = [side.guess == labels for side in sides]
    values = _values(names, sides, right, split)
    said = _sentences(names, sides, right, values)
    differing = np.flatnonzero(right[0] != right[1])
    shown = np.random.default_rng(seed).permutation(differing)[:n]
    picture = out / "disagreements.png"
    _draw(names, sides, np.sort(shown) if len(shown) else np.arange(min(n, len(labels))), picture)
    values |= {"sentences": said, "picture": str(picture)}
    page = out / "compare.html"
    title = f"{names[0]} and {names[1]}"
    sealed.write(page, render("duel.html", title=title, values=values, picture=embedded(picture), split=split))
    sealed.write(out / "compare.json", json.dumps(values, indent=2, ensure_ascii=False))
    return Duel(picture, page, tuple(said), values)


@dataclass(frozen=True, eq=False)
class _Side:
    """A run, the pictures as it sees them, and what it says of them, (n,)."""

    classifier: Classifier
    images: Images
    guess: np.ndarray
    sure: np.ndarray
    method: str
    """How its maps are made."""
    doubt: str
    """Why they are not to be believed, if that was found."""

    @classmethod
    def of(cls, run: Path, split: str, data_root: Path | None) -> _Side:
        classifier, images, _ = run_images(run, split, data_root)
        sure, guess = classifier.logits(images.pixels).softmax(dim=1).max(dim=1)
        method = methods_for(classifier.model)[0]
        verdict = stored_verdicts(run).get(method)
        doubt = "" if verdict is None or verdict["faithful"] else verdict["words"]
        return cls(classifier, images, guess.numpy(), sure.numpy(), method, doubt)

    def maps(self, chosen: Tensor) -> Tensor:
        """What it looks at in some pictures: (m,) -> (m, R, K), 0 or more."""
        target = torch.from_numpy(self.guess)[chosen]
        return heat(self.classifier, self.images.pixels[chosen], self.method, target=target)


def _names(first: Path, second: Path) -> tuple[str, str]:
    """What the runs are called: their folders' names, or their paths where those are the same."""
    if first.resolve() == second.resolve():
        raise ValueError(f"{first} is compared with itself: give two runs")
    same = first.name == second.name
    return (str(first), str(second)) if same else (first.name, second.name)


def _check_same(sides: list[_Side], names: tuple[str, str], split: str) -> None:
    one, other = (side.images for side in sides)
    if one.classes != other.classes or one.ids != other.ids or not torch.equal(one.labels, other.labels):
        raise ValueError(
            f"the {split} pictures of {names[0]} and {names[1]} are not the same: compare runs on the same data, "
            f"with the same data.seed and data.val_fraction"
        )


def _values(names: tuple[str, str], sides: list[_Side], right: list[np.ndarray], split: str) -> dict[str, Any]:
    runs = []
    for name, side, own in zip(names, sides, right, strict=True):
        low, high = wilson(int(own.sum()), len(own))
        runs.append(
            {
                "name": name,
                "model": describe(side.classifier.config),
                "accuracy": float(own.mean()),
                "interval": [low, high],
            }
        )
    classes = sides[0].images.classes
    labels = sides[0].images.labels.numpy()
    per_class = [
        {
            "class": classes[c],
            "n": int((labels == c).sum()),
            "accuracy": [float(own[labels == c].mean()) for own in right],
        }
        for c in range(len(classes))
        if (labels == c).any()
    ]
    return {
        "runs": runs,
        "split": split,
        "n": len(right[0]),
        "both": int((right[0] & right[1]).sum()),
        "only": [int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum())],
        "neither": int((~right[0] & ~right[1]).sum()),
        "p": mcnemar(*right),
        "agree": float((sides[0].guess == sides[1].guess).mean()),
        "per_class": per_class,
    }


def _sentences(
    names: tuple[str, str], sides: list[_Side], right: list[np.ndarray], values: dict[str, Any]
) -> list[str]:
    mine, theirs = values["only"]
    better = names[0] if mine > theirs else names[1]
    chance = f"McNemar's exact test, p = {values['p']:.2g}"
    verdict = f"{better} is better" if values["p"] < 0.05 else "no difference beyond chance"
    gap = max(values["per_class"], key=lambda row: abs(row["accuracy"][0] - row["accuracy"][1]))
    return [
        f"{names[0]} gets {right[0].mean():.1%} of {values['n']:,} pictures right, {names[1]} {right[1].mean():.1%}.",
        f"{mine:,} pictures only {names[0]} gets right, {theirs:,} only {names[1]}: {verdict} ({chance}).",
        f"They say the same of {values['agree']:.1%} of the pictures; {values['neither']:,} both get wrong.",
        f"They differ most on {gap['class']}: {gap['accuracy'][0]:.1%} against {gap['accuracy'][1]:.1%} "
        f"of {gap['n']:,} pictures.",
        *(
            f"The {side.method} maps of {name} are {side.doubt}."
            for name, side in zip(names, sides, strict=True)
            if side.doubt
        ),
    ]


def _draw(names: tuple[str, str], sides: list[_Side], chosen: np.ndarray, path: Path) -> None:
    """A row a picture: itself, then the map of each run laid over it, with what that run says."""
    places = torch.from_numpy(chosen)
    maps = [side.maps(places).numpy() for side in sides]
    classes, labels = sides[0].images.classes, sides[0].images.labels.numpy()
    pairs = 2 if len(chosen) > 1 else 1  # two pictures side by side
    lines = -(-len(chosen) // pairs)
    figure = blank(pairs * 5.4, lines * 1.95 + 0.3, layout="constrained")
    axes = figure.subplots(lines, 3 * pairs, squeeze=False)
    for each in axes.flat:
        each.set_axis_off()
    for number, i in enumerate(chosen):
        row = axes[number // pairs, 3 * (number % pairs) : 3 * (number % pairs) + 3]
        row[0].imshow(upright(sides[0].images.pixels[i]))
        row[0].set_title(shorten(classes[labels[i]]), fontsize=8.5, color=INK, parse_math=False)
        for cell, name, side, own in zip(row[1:], names, sides, maps, strict=True):
            heat = own[number] / max(float(own[number].mean()), 1e-12)  # 1 is an even share
            scale = (min(float(heat.min()), 0.5), max(float(heat.max()), 1.5))
            cell.imshow(overlay(side.images.pixels[i], heat, scale, side.classifier.config.patch_size))
            mark, colour = ("✓", RIGHT) if side.guess[i] == labels[i] else ("✗", WRONG)
            words = f"{shorten(name, 16)}\n{mark} {shorten(classes[side.guess[i]], 12)} {side.sure[i]:.0%}"
            words += "\nmap not faithful" if side.doubt else ""
            cell.set_title(words, fontsize=8, color=colour, parse_math=False)
    save(figure, path)
