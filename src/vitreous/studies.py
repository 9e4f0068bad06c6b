"""Studies: many short runs that differ in one thing, each in a folder of its own, so that a study can be stopped.

A study is a list of cells. A cell is a run (a series, a seed, perhaps a share of the data or a budget), whose
classifier is measured at one or more points. What was measured is a line of ``results.jsonl``; a cell whose lines are
there is not run again, and one that was cut short goes on from its checkpoint. What the lines say is in findings.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vitreous.augment import AugmentConfig, resize
from vitreous.batches import generator_for
from vitreous.classifier import Classifier
from vitreous.config import RunConfig, nearest
from vitreous.data import DataSet, Images
from vitreous.device import hardware
from vitreous.models import FAMILIES, count_flops, count_parameters
from vitreous.positions import KINDS
from vitreous.recipes import NO_TEACHER, Wish, plan
from vitreous.train import Watch, train
from vitreous.vit import ViTConfig


@dataclass(frozen=True)
class Study:
    """What is asked. Exactly one of ``budget`` (seconds) and ``steps`` holds for every cell but those of ``budget``."""

    kind: str
    """``data``: accuracy against the share of the training pictures; ``size``: against the picture size at test time,
    per kind of position; ``budget``: against the time (or steps) of training."""
    source: str
    at: tuple[float, ...] = ()
    """Shares, sizes in pixels, or seconds (steps where ``steps`` is set); empty for the usual ones."""
    series: tuple[str, ...] = ()
    """Models, or kinds of position (with ``+sizes`` for multi-resolution training); empty for the usual ones."""
    seeds: tuple[int, ...] = (0,)
    budget: float | None = None
    steps: int | None = None
    size: str | None = None
    """A name on the dial, the same for all runs; else ``nano``."""
    stem: str | None = None
    """Of the Vision Transformers in a ``size`` study."""
    split: str = "val"
    pictures: int = 2000
    """How many of that split's pictures are looked at, at most."""
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.kind not in USUAL:
            raise ValueError(f"unknown study {self.kind!r}{nearest(self.kind, USUAL)}")
        if self.kind == "budget":
            if self.budget is not None:
                raise ValueError("a budget study takes its budgets from --at, as in --at 15s,30s,1m")
        elif (self.budget is None) == (self.steps is None):
            raise ValueError(f"give a {self.kind} study exactly one of --budget and --steps, for each of its runs")
        if self.split not in ("val", "test"):
            raise ValueError(f"unknown split {self.split!r}: a study measures on val or test")
        if not self.seeds or len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds are {self.seeds}: give at least one, each once")
        if self.pictures < 1:
            raise ValueError(f"pictures is {self.pictures}: it must be at least 1")
        for name in self.names:
            self._check_series(name)
        for x in self.points:
            if x <= 0 or (self.kind == "data" and x > 1) or (self.kind == "size" and x != int(x)):
                raise ValueError(f"{x:g} is no {WHAT[self.kind]}: give {EXAMPLES[self.kind]}")

    @property
    def points(self) -> tuple[float, ...]:
        """Where accuracy is measured, ascending."""
        return tuple(sorted(set(self.at))) or USUAL[self.kind][0]

    @property
    def names(self) -> tuple[str, ...]:
        """The series."""
        return self.series or USUAL[self.kind][1]

    def _check_series(self, name: str) -> None:
        known = {kind + more for kind in KINDS for more in ("", MANY)} if self.kind == "size" else {*MODELS}
        if name not in known:
            raise ValueError(f"unknown series {name!r} in a {self.kind} study{nearest(name, known)}")


MANY = "+sizes"
"""Marks a series that is trained on several picture sizes."""
MODELS = {"vit": ("vit", None), "vit-patch": ("vit", "patch"), **{f: (f, None) for f in FAMILIES if f != "vit"}}
"""Series of models: family and stem."""
USUAL: dict[str, tuple[tuple[float, ...], tuple[str, ...]]] = {
    "data": ((0.01, 0.03, 0.1, 0.3, 1.0), ("vit", "vit-patch", "resnet", "fastcnn")),
    "size": ((24, 32, 40, 48, 64), tuple(kind + more for kind in KINDS for more in ("", MANY))),
    "budget": ((15, 30, 60, 120), ("vit", "vit-patch", "resnet", "fastcnn")),
}
"""Points and series of each kind of study."""
WHAT = {"data": "share of the training data", "size": "picture size", "budget": "budget"}
EXAMPLES = {"data": "shares above 0, up to 1", "size": "whole numbers of pixels", "budget": "times above 0"}


@dataclass(frozen=True)
class Cell:
    """One run of a study and where it is measured."""

    series: str
    seed: int
    config: RunConfig
    share: float
    points: tuple[float, ...]
    """The x of each measurement: one, or all picture sizes."""

    @property
    def name(self) -> str:
        """Of its folder."""
        where = f"-{self.points[0]:g}" if len(self.points) == 1 else ""
        return f"{self.series.replace(MANY, '-sizes')}{where}-seed{self.seed}"


def cells(study: Study, data: DataSet) -> list[Cell]:
    """The runs of a study, seed by seed, so that one that is stopped has whole rounds.

    Raises ValueError for what cannot be run: a share that leaves a class empty, a picture smaller than a patch.
    """
    if data.train is None:
        raise ValueError(f"{data.name} has no training pictures")
    found = []
    for seed in study.seeds:
        for x in study.points if study.kind != "size" else study.points[:1]:
            share = x if study.kind == "data" else 1.0
            part = dataclasses.replace(data, train=subset(data.train, share, seed))
            for series in study.names:
                config = _config(study, series, seed, x, part)
                points = study.points if study.kind == "size" else (x,)
                found.append(Cell(series, seed, config, share, points))
                if study.kind == "size" and min(points) < config.model.patch_size:
                    raise ValueError(
                        f"pictures of {min(points):g} pixels are smaller than a patch of {config.model.patch_size}"
                    )
    return found


def _config(study: Study, series: str, seed: int, x: float, data: DataSet) -> RunConfig:
    length: dict[str, Any] = {"budget": study.budget, "steps": study.steps}
    if study.kind == "budget":
        length = {"budget": x} if study.steps is None else {"steps": int(x)}
    if study.kind == "size":
        kind, many, _ = series.partition(MANY)
        family, stem = "vit", study.stem
    else:
        kind, many, (family, stem) = "learned", "", MODELS[series]
    wish = Wish(
        source=study.source,
        size=study.size or "nano",
        stem=stem,
        seed=seed,
        device=study.device,
        model=family,
        any_size=bool(many),
        teacher=NO_TEACHER,
        **length,
    )
    config, _ = plan(wish, data)
    if study.kind == "size":
        assert isinstance(config.model, ViTConfig)
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, positions=kind))
        if not many:  # trained at one size means at one size
            config = dataclasses.replace(config, phases=())
    alike = AugmentConfig(config.augment.flip, config.augment.shift)  # without what the plan has for one family alone
    return dataclasses.replace(config, augment=alike, evaluations=0)


def subset(images: Images, share: float, seed: int) -> Images:
    """The same ``share`` of every class, drawn by ``seed``; a smaller share is part of a larger one.

    Raises ValueError for a share that leaves a class without a picture.
    """
    if share == 1:
        return images
    kept = []
    for number, name in enumerate(images.classes):
        members = (images.labels == number).nonzero().squeeze(1)
        count = round(share * len(members))
        if count < 1:
            raise ValueError(
                f"a share of {share:g} leaves class {name!r} without a picture, of {len(members)}: "
                f"give shares from {1 / max(1, len(members)):.2g} on"
            )
        order = torch.randperm(len(members), generator=generator_for("share", seed, number))
        kept.append(members[order[:count]])
    return images.part(torch.cat(kept).sort().values)


def run_study(
    study: Study,
    out: Path,
    data: DataSet,
    *,
    say: Callable[[str], None] = lambda sentence: None,
    watching: Callable[[], contextlib.AbstractContextManager[Watch | None]] = contextlib.nullcontext,
) -> list[dict[str, Any]]:
    """Runs what is not there yet of a study in the folder ``out``, and returns all its lines.

    ``say`` is told of every cell; ``watching`` gives whoever watches the training of one. Raises ValueError where
    ``out`` holds another study or the study cannot be run; KeyboardInterrupt, with everything kept, where a run was
    interrupted.
    """
    planned = cells(study, data)
    images = data.splits().get(study.split)
    if images is None or not len(images):
        raise ValueError(f"{data.name} has no {study.split} pictures: use --split {_other(study.split)}")
    images = _spread(images, study.pictures)
    assert data.train is not None
    assert data.val is not None
    _claim(out, study, data)
    lines = [line for line in read_lines(out) if line["cell"] in {cell.name for cell in planned}]
    done = {line["cell"] for line in lines}
    left = [cell for cell in planned if cell.name not in done]
    if done:
        say(f"{len(done)} of {len(planned)} runs are there already")
    begun = time.monotonic()
    for number, cell in enumerate(left):
        spent = time.monotonic() - begun
        rest = f", about {spent / number * (len(left) - number) / 60:.0f} min left" if number else ""
        say(f"run {len(done) + number + 1} of {len(planned)}: {cell.name}{rest}")
        train_part = dataclasses.replace(
            data, train=subset(data.train, cell.share, cell.seed), val=_spread(data.val, LOOKED_AT)
        )
        with watching() as watch:
            classifier, facts = _trained(cell, out / "cells" / cell.name, train_part, watch)
        found = [
            {
                **_about(cell),
                "x": x,
                **facts,
                **measure_at(classifier, images, int(x) if study.kind == "size" else None),
            }
            for x in cell.points
        ]
        _append(out, found)
        lines += found
    return lines


def measure_at(classifier: Classifier, images: Images, size: int | None = None) -> dict[str, Any]:
    """Top-1 accuracy on pictures that are shown at ``size`` pixels, their own if None."""
    side = size or images.pixels.shape[-1]
    parts = images.pixels.split(500)
    scores = torch.cat([classifier.logits(resize(part, side), batch=125) for part in parts])
    right = int((scores.argmax(dim=1) == images.labels).sum())
    return {"accuracy": right / len(images), "n": len(images), "flops": count_flops(classifier.config, side)}


def read_lines(out: Path) -> list[dict[str, Any]]:
    """What a study has measured so far; a line that a kill cut short is passed over."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in (out / RESULTS).read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                found += json.loads(line)["points"]
    return found


RESULTS, STUDY = "results.jsonl", "study.json"
LOOKED_AT = 500
"""Validation pictures that a run measures itself on; what the study measures is its own affair."""


def _claim(out: Path, study: Study, data: DataSet) -> None:
    """Makes the folder a study's own. Raises ValueError where it is another's."""
    assert data.train is not None
    facts = {**dataclasses.asdict(study), "fingerprint": data.train.fingerprint()}
    facts = json.loads(json.dumps(facts))  # tuples as JSON has them
    path = out / STUDY
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))["study"]
        differing = [key for key in facts if before.get(key) != facts[key]]
        if differing:
            changed = "; ".join(f"{key}: {before.get(key)} -> {facts[key]}" for key in differing)
            raise ValueError(f"{out} holds another study ({changed}): choose another --out")
        return
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out} is not empty and holds no study: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"study": facts, "hardware": hardware()}, indent=2), encoding="utf-8")


def _trained(cell: Cell, folder: Path, data: DataSet, watch: Watch | None) -> tuple[Classifier, dict[str, Any]]:
    """The classifier of a cell, trained as far as it is not yet, and what it cost."""
    result = None
    if any((folder / "checkpoints").glob("step-*")):
        with contextlib.suppress(ValueError):  # a damaged run is begun again
            result = train(cell.config, folder, data, resume=True, watch=watch)
    if result is None:
        shutil.rmtree(folder, ignore_errors=True)
        result = train(cell.config, folder, data, watch=watch)
    if result.interrupted:
        raise KeyboardInterrupt
    facts = {
        "seconds": round(result.seconds, 1),
        "images": result.images,
        "trained_on": len(data.train or ()),
        "parameters": count_parameters(result.classifier.model),
    }
    return result.classifier, facts


def _about(cell: Cell) -> dict[str, Any]:
    return {"cell": cell.name, "series": cell.series, "seed": cell.seed}


def _append(out: Path, points: list[dict[str, Any]]) -> None:
    """One line for the whole cell, on the disk before the next begins."""
    path = out / RESULTS
    torn = path.exists() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * torn)
        file.write(json.dumps({"points": points}) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _spread(images: Images, most: int) -> Images:
    """At most ``most`` pictures, evenly over all."""
    if len(images) <= most:
        return images
    return images.select([i * len(images) // most for i in range(most)])


def _other(split: str) -> str:
    return "test" if split == "val" else "val"
