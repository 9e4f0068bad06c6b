"""A whole training run in one call: read the pictures, choose a config, train. ``vitreous train`` and Python share it.

Not here: the choices (recipes.py), the loop (train.py), the display (console.py).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from vitreous import origin, ranks
from vitreous.classifier import Classifier
from vitreous.cnn import CNN_PRESETS
from vitreous.config import DataConfig, RunConfig, nearest, override
from vitreous.data import DataSet, load
from vitreous.evaluate import weights_name
from vitreous.finetuning import fit, plan_from
from vitreous.forecast import Forecast, forecast
from vitreous.pretrained import read
from vitreous.recipes import NO_TEACHER, Wish, plan
from vitreous.runs import claim, flat, read_config, vacant
from vitreous.train import Result, Watch, train
from vitreous.vit import ViTConfig

MOST_REJECTED = 20
"""Files left out that are named one by one; the others are counted."""


@ranks.joined()
def train_on(
    wish: Wish,
    out: str | Path,
    *,
    changes: Mapping[str, str] | None = None,
    data_root: Path | None = None,
    watch: Watch | None = None,
    started: float | None = None,
) -> Result:
    """Train on what ``wish`` names into the new run folder ``out``.

    ``changes`` replaces settings of the chosen config by path, as ``{"optim.lr": "0.01"}``; ``watch`` is told every
    automatic choice as the note of a :class:`Progress`; a budget counts from ``started`` (``time.monotonic()``), now
    if not given. Raises ValueError for what the user can mend, before training where that is possible.

    Where torchrun starts processes again after a failure, a run that is in ``out`` already goes on.
    """
    started = time.monotonic() if started is None else started
    if ranks.from_first(lambda: ranks.restarts() and (Path(out) / "config.json").exists()):
        return resume(out, wish.source, data_root=data_root, watch=watch, started=started)
    ranks.from_first(lambda: vacant(Path(out)))
    with claim(Path(out)):  # a folder that is taken or cannot be written is found before pictures are read
        config, data, notes = _planned(wish, changes or {}, data_root)
        return train(config, out, data, watch=watch, started=started, notes=notes, weights=_weights(config, data))


CHANGED = "-changed"
BESIDE_THE_RECIPE = {
    "data.source",
    "data.images",
    "data.seed",
    "data.val_fraction",
    "budget",
    "epochs",
    "steps",
    "seed",
}
BESIDE_THE_RECIPE |= {"evaluations", "device", "threads", "precision", "attention", "compile", "shard"}
"""Settings that leave a run of the recipe that it is named after: which pictures, how long and on what."""


def beside_file(asked: Mapping[str, str], changes: Mapping[str, str]) -> dict[str, str]:
    """The settings ``asked`` of a file with ``changes`` by hand; the recipe that the file names is then changed."""
    changed = [path for path, text in changes.items() if _value(asked.get(path)) != _value(text)]
    named = asked.get("recipe")
    if named and not named.endswith(CHANGED) and not BESIDE_THE_RECIPE.issuperset(changed):
        asked = {**asked, "recipe": f"{named}{CHANGED}"}
    return {**asked, **changes}


def _value(text: str | None) -> Any:
    """What a setting's text says, in whatever way it is written."""
    try:
        return None if text is None else json.loads(text)
    except json.JSONDecodeError:
        return text


def plan_on(
    wish: Wish,
    *,
    changes: Mapping[str, str] | None = None,
    data_root: Path | None = None,
    started: float | None = None,
) -> tuple[RunConfig, list[str], Forecast]:
    """What :func:`train_on` would do, without training: the config, the reasons for it, and what is to be expected."""
    started = time.monotonic() if started is None else started
    config, data, notes = _planned(wish, changes or {}, data_root)
    return config, notes, forecast(config, data, started)


def _planned(wish: Wish, changes: Mapping[str, str], data_root: Path | None) -> tuple[RunConfig, DataSet, list[str]]:
    limits = RunConfig(budget=wish.budget, epochs=wish.epochs, steps=wish.steps)  # refused before pictures are read
    held_out = override(limits, {path: text for path, text in changes.items() if path.startswith("data.")}).data
    side, heads = (
        _whole(name, changes[name]) if name in changes else None for name in ("model.image_size", "model.heads")
    )
    if (wish.freeze or wish.probe) and not wish.weights:
        option = "--probe" if wish.probe else "--freeze"
        raise ValueError(f"{option} keeps weights as they are: say which with --from")
    _look_for(wish.teacher)
    start = read(wish.weights, heads) if wish.weights else None
    held_out = replace(held_out, source=wish.source)
    data = _read(held_out, side or (start.config.image_size if start else None), data_root)
    if side is None and (fitting := fitting_side(data)) is not None:
        data = _read(held_out, fitting, data_root)
    wish = replace(wish, val_fraction=held_out.val_fraction)
    config, reasons = ranks.from_first(lambda: plan_from(wish, data, fit(start, data)) if start else plan(wish, data))
    chosen, config = config, override(config, dict(changes))
    if start and config.model != chosen.model:
        raise ValueError(f"the weights of {wish.weights} decide on the model: leave --set model... out")
    before, after = flat(asdict(chosen)), flat(asdict(config))
    changed = [path for path in changes if after.get(path) != before.get(path)]
    if config.recipe == chosen.recipe and not BESIDE_THE_RECIPE.issuperset(changed):
        config = replace(config, recipe=f"{config.recipe}{CHANGED}")  # or it would be taken for what was measured
    asked = [f"as asked: {path}={changes[path]}" for path in changed]
    plain = isinstance(config.model, ViTConfig) and config.model.stem == "patch"
    if chosen.optim.filter_lr and (plain or config.optim.name != "muon"):
        asked.append("so no filters are turned: that takes Muon, and a conv stem or a CNN")
    return config, data, [*_notes(data), *reasons, *asked]


def _look_for(teacher: str | None) -> None:
    """Refuses a teacher that is nowhere, before pictures are read: probably a misspelt family."""
    named = (*CNN_PRESETS, NO_TEACHER)
    if teacher and teacher not in named and not teacher.startswith("hf:") and not Path(teacher).expanduser().exists():
        raise ValueError(f"--teacher {teacher} is no run, no classifier and no kind of CNN{nearest(teacher, named)}")


def _weights(config: RunConfig, data: DataSet) -> Callable[[], Mapping[str, Tensor]] | None:
    """What the run of a config starts from, read when it is asked for; None for random weights."""
    if not config.weights:
        return None
    heads = config.model.heads if isinstance(config.model, ViTConfig) else None
    return lambda: fit(read(config.weights, heads), data).weights


@ranks.joined()
def resume(
    run: str | Path,
    source: str | None = None,
    *,
    data_root: Path | None = None,
    watch: Watch | None = None,
    started: float | None = None,
) -> Result:
    """Go on with a run that was stopped or killed, under its own config, from its newest whole checkpoint.

    Raises ValueError where it was trained on another ``source``, FileNotFoundError where ``run`` is no run folder.
    """
    started = time.monotonic() if started is None else started
    config = ranks.from_first(lambda: read_config(run))
    if source is not None and source != config.data.source:
        raise ValueError(f"{run} was trained on {config.data.source!r}, not on {source!r}: name the run with --out")
    with claim(Path(run)):
        data = _read(config.data, config.model.image_size, data_root)
        notes, weights = [f"{run} goes on, with its own settings", *_notes(data)], _weights(config, data)
        return train(config, run, data, resume=True, watch=watch, started=started, notes=notes, weights=weights)


@dataclass(frozen=True)
class Repeated:
    """A run that was trained as another was."""

    result: Result
    like: Path
    elsewhere: tuple[str, ...]
    """Versions and hardware that are not those of then, as ``name then -> now``."""
    accuracy_then: float | None
    same_weights: bool | None
    """To the bit; None for a budget, which depends on the speed of a machine, and where either run was stopped."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {
            "run": str(self.like),
            "elsewhere": list(self.elsewhere),
            "val_accuracy": self.accuracy_then,
            "same_weights": self.same_weights,
        }


def repeat(
    like: str | Path,
    out: str | Path,
    *,
    data_root: Path | None = None,
    watch: Watch | None = None,
    started: float | None = None,
) -> Repeated:
    """Train in ``out`` as the run ``like`` was trained: its config, its pictures, on its processor also its plan.

    Raises ValueError where the pictures are others, FileNotFoundError where ``like`` is no run with a classifier.
    """
    started = time.monotonic() if started is None else started
    like, out = Path(like), Path(out)
    config, before = read_config(like), Classifier.load(like).provenance
    vacant(out)
    with claim(out):
        data = _read(config.data, config.model.image_size, data_root)
        if data.train and before.get("fingerprint") != (now := data.train.fingerprint()):
            raise ValueError(f"the training pictures are not those of {like}: {before.get('fingerprint')} -> {now}")
        notes = [f"as {like} was trained", *_notes(data)]
        elsewhere = origin.differing(origin.of(before), origin.machine())
        if elsewhere:
            notes.append(f"not as then: {'; '.join(elsewhere)}; the result may differ")
        if origin.same_processor(before):
            config = replace(config, precision=before["precision"], attention=before["attention"])
            if config.budget is None:
                config = replace(config, threads=before["threads"])
        weights = _weights(config, data)
        result = train(config, out, data, watch=watch, started=started, notes=notes, weights=weights)
    then = before.get("val_accuracy")
    comparable = config.budget is None and then is not None and not result.interrupted
    same = weights_name(out) == weights_name(like) if comparable else None
    return Repeated(result, like, tuple(elsewhere), then, same)


def _read(held_out: DataConfig, side: int | None, data_root: Path | None) -> DataSet:
    return ranks.machine_by_machine(
        lambda: load(
            held_out.source,
            data_root=data_root,
            size=side,
            val_fraction=held_out.val_fraction,
            seed=held_out.seed,
            splits={"train", "val"},
            images=Path(held_out.images) if held_out.images else None,
        )
    )


def fitting_side(data: DataSet) -> int | None:
    """The side to read pictures at whose own is not square or no multiple of 4; None where theirs will do."""
    if data.train is None:
        return None
    height, width = data.train.pixels.shape[2:]
    if height == width and height % 4 == 0:
        return None
    return max(8, 8 * round(min(height, width) / 8))


def _notes(data: DataSet) -> Iterator[str]:
    yield from data.notes
    for each in data.rejected[:MOST_REJECTED]:
        yield f"left out: {each.path}: {each.reason}"
    if len(data.rejected) > MOST_REJECTED:
        yield f"left out: {len(data.rejected) - MOST_REJECTED} more"


def _whole(name: str, text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError(f"{name} is {text!r}: it must be a whole number")
    return int(text)
