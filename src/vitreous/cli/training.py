"""``train``: from pictures to a run folder."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from vitreous.train import Progress

from vitreous.cli.frame import (
    SOURCE,
    STARTED,
    AsJson,
    DataRoot,
    PicturesOf,
    command,
    data_sets,
    emit,
    seconds,
    settings,
    slug,
)

DEFAULT_BUDGET = 300.0
"""Seconds."""
NAMES = {"weights": "from", "any_size": "any-size"}
"""Options that are not called what they set."""


@command
def train(
    source: Annotated[str | None, typer.Argument(metavar="DATA", help=SOURCE, autocompletion=data_sets)] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="The run folder; else runs/<name of the data>.")
    ] = None,
    budget: Annotated[
        str | None, typer.Option(metavar="TIME", help="Wall time for everything, such as 90s, 5m, 1h; else 5m.")
    ] = None,
    epochs: Annotated[float | None, typer.Option(help="Train so many epochs instead; repeats exactly.")] = None,
    steps: Annotated[int | None, typer.Option(help="Train so many steps instead; repeats exactly.")] = None,
    size: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="nano, mini, tiny, small or base; else what data and time allow."),
    ] = None,
    stem: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="patch: the paper's plain embedding; conv: learns faster. Else conv."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="vit, or a CNN to compare with: resnet, fastcnn. Else vit.")
    ] = None,
    teacher: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="What else to learn from: fastcnn or resnet, trained first; or a run of yours."
        ),
    ] = None,
    start: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="WEIGHTS", help="Train on from weights: safetensors, hf:owner/name, or a run of yours."
        ),
    ] = None,
    freeze: Annotated[bool, typer.Option("--freeze", help="Let the head alone learn; with --from.")] = False,
    probe: Annotated[
        bool, typer.Option("--probe", help="Likewise, on features computed once: unchanged pictures; with --from.")
    ] = False,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Train on several picture sizes, for pictures of other sizes later.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, order and augmentation; else 0.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; else auto.")] = None,
    data_root: DataRoot = None,
    images: PicturesOf = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change any setting, such as optim.lr=0.01; repeatable."),
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", help="Settings in YAML or JSON, or a run's config.json."),
    ] = None,
    track: Annotated[
        list[str] | None,
        typer.Option("--track", metavar="NAME", help="Figures also to tensorboard or mlflow; repeatable."),
    ] = None,
    like: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Train as RUN was trained, on the same pictures; what differs is said."),
    ] = None,
    again: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
    only_plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be done and what to expect of it, and do not train.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on DATA within a budget of time."""
    from vitreous import console, jobs, ranks
    from vitreous.recipes import Wish
    from vitreous.settings import LIMITS, combine, read_settings
    from vitreous.tracking import tracking

    changes = settings(change or []) | ({"data.images": json.dumps(str(images))} if images else {})
    if only_plan and (again or like):
        raise ValueError("--plan goes with neither --resume nor --like: those runs have their plan already")
    if (like and (source or again)) or not (source or like or (again and out)):
        raise ValueError("give one of: DATA; --like RUN; --resume --out RUN")
    if out is None and ranks.restarts():
        raise ValueError("torchrun --max-restarts goes on with a run that is named: give its folder with --out")
    folder = out or ranks.from_first(lambda: (latest if again else fresh)(Path("runs"), slug(source or str(like))))
    given: dict[str, Any] = {
        "size": size,
        "stem": stem,
        "model": model,
        "teacher": teacher,
        "weights": start,
        "freeze": freeze or None,
        "probe": probe or None,
        "any_size": any_size or None,
        "budget": budget,
        "epochs": epochs,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    if again or like:
        refused = [name for name, value in [*given.items(), ("config", file)] if value is not None]
        refuse_changes([f"--{NAMES.get(name, name)}" for name in refused], changes, "--like" if like else "--resume")
    elif source is not None:
        options, asked = combine(given, read_settings(file) if file else {})
        changes = jobs.beside_file(asked, changes)
        if all(options[name] is None for name in LIMITS):
            options["budget"] = DEFAULT_BUDGET
        elif isinstance(options["budget"], str):
            options["budget"] = seconds(options["budget"])
        wish = Wish(source, **{name: value for name, value in options.items() if value is not None})
    if only_plan:
        config, notes, expected = jobs.plan_on(wish, changes=changes, data_root=data_root, started=STARTED)
        console.say("\n".join(f"  {sentence}" for sentence in [*notes, *expected.sentences()]))
        if as_json and ranks.first():
            emit({"config": asdict(config), "notes": notes, "forecast": expected.to_json()})
        return
    repeated = None
    trackers = [name.strip() for names in track or () if ranks.first() for name in names.split(",")]
    with console.TrainingDisplay() as display, tracking(trackers, folder, console.say) as tracked:

        def watch(progress: Progress) -> None:
            display(progress)
            tracked(progress)

        if like:
            repeated = jobs.repeat(like, folder, data_root=data_root, watch=watch, started=STARTED)
            result = repeated.result
        elif again:
            result = jobs.resume(folder, source, data_root=data_root, watch=watch, started=STARTED)
        else:
            result = jobs.train_on(wish, folder, changes=changes, data_root=data_root, watch=watch, started=STARTED)
    console.trained(result, source)
    if repeated:
        console.repeated(repeated)
    if as_json and ranks.first():
        emit(
            {
                "run": str(result.run),
                "seconds": round(result.seconds, 3),
                "images": result.images,
                "val_accuracy": result.val_accuracy,
                "interrupted": result.interrupted,
                **({"like": repeated.to_json()} if repeated else {}),
            }
        )
    if result.interrupted:
        raise typer.Exit(130)


def refuse_changes(options: list[str], changes: dict[str, str], beside: str) -> None:
    """A run that goes on, or is repeated, keeps its own config."""
    options = options + [f"--set {path}" for path in changes]
    if options:
        raise ValueError(f"{', '.join(options)} cannot be given with {beside}: that run's own config holds")


def fresh(parent: Path, name: str) -> Path:
    """The first of ``name``, ``name-2``, ``name-3`` that is not there yet."""
    number = 1
    while (path := parent / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return path


def latest(parent: Path, name: str) -> Path:
    """The last folder that :func:`fresh` gave out. Raises ValueError where there is none."""
    number = 1
    while (parent / f"{name}-{number + 1}").exists():
        number += 1
    path = parent / (name if number == 1 else f"{name}-{number}")
    if not path.exists():
        raise ValueError(f"there is no run {path} to resume: name its folder with --out")
    return path
