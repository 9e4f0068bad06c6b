"""The ``vitreous`` command: each subcommand parses, calls one function, and prints what it returns.

Torch and the rooms that need it are imported inside the commands, so that ``vitreous --help`` is immediate. Exit codes:
0 done, 2 something the user can mend (one or two lines, no traceback), 130 interrupted with the state saved, 1 a bug.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

import vitreous

STARTED = time.monotonic()  # a budget counts from here: imports, data and all

DEFAULT_BUDGET = 300.0
"""Seconds."""

P = ParamSpec("P")

app = typer.Typer(
    name="vitreous",
    help="Train a small Vision Transformer on your own pictures in the minutes you have, and see what it looks at.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

SOURCE = "digits, cifar10, cifar100, mnist, fashion-mnist, a folder per class, a parquet folder, or hf:owner/name."
Source = Annotated[str, typer.Argument(metavar="DATA", help=SOURCE)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train made.")]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where named data sets lie (else $VITREOUS_DATA).")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Register a subcommand; what the user can mend becomes one line and exit code 2, Ctrl-C becomes 130."""

    @functools.wraps(function)
    def plainly(*arguments: P.args, **options: P.kwargs) -> None:
        try:
            function(*arguments, **options)
            sys.stdout.flush()
        except KeyboardInterrupt:
            complain("interrupted")
            raise typer.Exit(130) from None
        except BrokenPipeError:  # the reader of our output has gone, as `| head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (ValueError, OSError) as problem:
            if os.environ.get("VITREOUS_TRACEBACK"):
                raise
            complain(f"error: {explain(problem)}")
            raise typer.Exit(2) from None

    app.command()(plainly)
    return plainly


def complain(text: str) -> None:
    """One or two lines on standard error."""
    print(text, file=sys.stderr, flush=True)


def explain(problem: ValueError | OSError) -> str:
    """What went wrong and, where the system said it, what to do about it."""
    cures = {
        errno.ENOSPC: "make room, or write elsewhere with --out",
        errno.EACCES: "change its permissions, or choose another place with --out",
        errno.EROFS: "choose another place with --out",
        errno.EEXIST: "a file is in the way: choose another place with --out",
        errno.ENOTDIR: "a file is in the way: choose another place with --out",
    }
    if isinstance(problem, OSError) and problem.strerror:
        said = problem.strerror + (f": {problem.filename}" if problem.filename else "")
        number = problem.errno
    else:
        said = str(problem) or type(problem).__name__
        full = os.strerror(errno.ENOSPC) in said  # a library's own words for a full disk
        number = errno.ENOSPC if full else None
    cure = cures.get(number or 0)
    return f"{said} ({cure})" if cure else said


def emit(value: dict[str, Any]) -> None:
    """One JSON object on a line of standard output."""
    print(json.dumps(value, ensure_ascii=False))


def seconds(text: str) -> float:
    """``90s``, ``5m``, ``1h``, ``1h30m`` in seconds. Raises ValueError for anything else, a bare number included."""
    found = re.fullmatch(r"(?:([\d.]+)h)?(?:([\d.]+)m)?(?:([\d.]+)s)?", text.strip().lower())
    try:
        assert found is not None
        assert any(found.groups())
        return sum(float(part or 0) * unit for part, unit in zip(found.groups(), (3600, 60, 1), strict=True))
    except (AssertionError, ValueError):
        raise ValueError(f"a budget of {text!r} is not a time: write it like 90s, 5m or 1h") from None


def settings(pairs: list[str]) -> dict[str, str]:
    """``["optim.lr=0.01"]`` as a mapping."""
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--set {pair} has no value: write it like --set optim.lr=0.01")
    return {field.strip(): value for field, _, value in (pair.partition("=") for pair in pairs)}


def slug(source: str) -> str:
    """A folder name for a data set: ``hf:owner/name`` -> ``name``, ``my pictures/`` -> ``my-pictures``."""
    last = source.removeprefix("hf:").rstrip("/\\").replace("\\", "/").rsplit("/", 1)[-1]
    return re.sub(r"[^\w.-]+", "-", last).strip("-.") or "run"


def refuse_changes(options: list[str], changes: dict[str, str]) -> None:
    """A resumed run keeps its own config."""
    options = options + [f"--set {path}" for path in changes]
    if options:
        raise ValueError(f"{', '.join(options)} cannot be given with --resume: the run goes on with its own config")


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


def version(wanted: bool) -> None:
    """Print the version and stop."""
    if wanted:
        print(f"vitreous {vitreous.__version__}")
        raise typer.Exit


@app.callback()
def start(
    wanted: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    pass


@command
def train(
    source: Source,
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
        typer.Option(metavar="NAME", help="nano, tiny, small or base; else chosen for data, time and machine."),
    ] = None,
    stem: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="patch: the paper's plain embedding; conv: learns faster. Else conv."),
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="vit, or a CNN to compare with: resnet, fastcnn. Else vit.")
    ] = None,
    any_size: Annotated[
        bool, typer.Option("--any-size", help="Train on several picture sizes, for pictures of other sizes later.")
    ] = False,
    seed: Annotated[int | None, typer.Option(help="Of initial weights, order and augmentation; else 0.")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:1 or mps; else auto.")] = None,
    data_root: DataRoot = None,
    change: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="Change any setting, such as optim.lr=0.01; repeatable."),
    ] = None,
    again: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out where it stopped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on DATA within a budget of time."""
    from vitreous import console, jobs
    from vitreous.recipes import Wish

    changes = settings(change or [])
    folder = out or (latest if again else fresh)(Path("runs"), slug(source))
    with console.TrainingDisplay() as display:
        if again:
            given = {
                "size": size,
                "stem": stem,
                "model": model,
                "any-size": any_size or None,
                "budget": budget,
                "epochs": epochs,
                "steps": steps,
                "seed": seed,
                "device": device,
            }
            refuse_changes([f"--{name}" for name, value in given.items() if value is not None], changes)
            result = jobs.resume(folder, source, data_root=data_root, watch=display, started=STARTED)
        else:
            limit = seconds(budget) if budget is not None else None
            if budget is None and epochs is None and steps is None:
                limit = DEFAULT_BUDGET
            wish = Wish(
                source,
                limit,
                epochs,
                steps,
                size,
                stem,
                seed=seed or 0,
                device=device or "auto",
                model=model,
                any_size=any_size,
            )
            result = jobs.train_on(wish, folder, changes=changes, data_root=data_root, watch=display, started=STARTED)
    console.trained(result, source)
    if as_json:
        emit(
            {
                "run": str(result.run),
                "seconds": round(result.seconds, 3),
                "images": result.images,
                "val_accuracy": result.val_accuracy,
                "interrupted": result.interrupted,
            }
        )
    if result.interrupted:
        raise typer.Exit(130)


@command
def eval(
    run: Run,
    split: Annotated[str, typer.Option(help="test, val or train.")] = "test",
    again: Annotated[bool, typer.Option("--again", help="Read the test split once more.")] = False,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Accuracy, per-class figures, confusion and calibration of RUN; the test split is read once."""
    from vitreous import console
    from vitreous.evaluate import evaluate_run

    found = evaluate_run(run, split, data_root=data_root, again=again)
    picture = run / f"confusion-{split}.png"
    result = {**found.to_json(), "run": str(run), "picture": str(picture), "stored": found.stored}
    if found.stored:
        console.say("The test split was read before; this is what was found then (--again reads it once more).")
    console.evaluation(result)
    console.say(f"confusion matrix   {picture}")
    if as_json:
        emit(result)


@command
def predict(
    run: Run,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Picture files of any size.")],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    as_json: AsJson = False,
) -> None:
    """The most probable classes of each IMAGE; with --json one object a line."""
    from vitreous import console
    from vitreous.classifier import Classifier

    classifier = Classifier.load(run)
    failed = 0
    for image in images:
        try:
            if image.is_dir():
                raise ValueError(f"{image} is a folder: give its pictures, as in {image / '*.jpg'}")
            prediction = classifier.predict([image], top=top)[0]
        except (ValueError, OSError) as problem:  # the other pictures still get their answer
            reason = explain(problem)
            failed += 1
            complain(f"error: {reason if str(image) in reason else f'{image}: {reason}'}")
            if as_json:
                emit({"image": str(image), "error": reason})
            continue
        ranked = [{"label": label, "probability": probability} for label, probability in prediction.top]
        if as_json:
            emit({"image": str(image), "label": prediction.label, "probability": prediction.probability, "top": ranked})
        console.table((str(image), ""), [(label, f"{probability:.1%}") for label, probability in prediction.top])
    if failed:
        raise typer.Exit(2)


@command
def heatmap(
    run: Run,
    sources: Annotated[
        list[str] | None,
        typer.Argument(metavar="DATA|IMAGE", help="What to look at; else validation pictures of the run's data."),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures of a data set.")] = 10,
    seed: Annotated[int, typer.Option(help="Which pictures of a data set.")] = 0,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="attention, rollout, attention-gradient, relevance, input-gradient, integrated-gradients, occlusion.",
        ),
    ] = "attention",
    layer: Annotated[int | None, typer.Option(help="One layer, from 1; else the mean over all.")] = None,
    head: Annotated[int | None, typer.Option(help="One head, from 1; else the mean over all.")] = None,
    target: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class maps are about; else the predicted one.")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; else the run folder.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Where RUN looks: each picture beside its heatmap, as PNG and .npy, and what the maps say."""
    from vitreous import console
    from vitreous.heatmaps import Asked, heatmap_run

    asked = Asked(method, target, layer, head)
    result = heatmap_run(run, sources or None, n=n, seed=seed, out=out, data_root=data_root, asked=asked)
    for sentence in result.sentences:
        console.say(f"  {sentence}")
    console.say(f"heatmaps  {result.picture}\nmaps      {result.maps}")
    if as_json:
        emit(
            {
                "picture": str(result.picture),
                "maps": str(result.maps),
                "observations": result.observations,
                "sentences": list(result.sentences),
            }
        )


@command
def data(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The contact sheet; else runs/<name of the data>-sheet.png.")
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Describe DATA: splits, classes, counts, sizes, mean and deviation, fingerprint, a contact sheet."""
    from vitreous import console
    from vitreous.data import contact_sheet, describe, load

    loaded = load(source, data_root=data_root)
    facts = describe(loaded)
    sheet = contact_sheet(next(iter(loaded.splits().values())), out or Path("runs") / f"{slug(source)}-sheet.png")
    console.data_set(facts)
    console.say(f"contact sheet {sheet}")
    if as_json:
        emit({**facts, "sheet": str(sheet)})


def main() -> None:
    """The console script. A SIGTERM ends it as Ctrl-C does; training takes over both while it runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="vitreous")
