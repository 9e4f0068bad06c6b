"""The ``vitreous`` command: each subcommand parses, calls one function, and prints what it returns.

Torch and the rooms that need it are imported inside the commands, so that ``vitreous --help`` is immediate. Exit codes:
0 done, 2 something the user can mend (one or two lines, no traceback), 130 interrupted with the state saved, 1 a bug.
"""

from __future__ import annotations

import errno
import functools
import importlib.util
import json
import os
import re
import shlex
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

SOURCE = (
    "digits, shapes, digits-clutter, cifar10, cifar100, mnist, fashion-mnist, a folder per class, a parquet folder, "
    "or hf:owner/name."
)
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


def need(extra: str, *modules: str) -> None:
    """Raises ValueError where an extra is not installed, naming it."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise ValueError(f"{', '.join(missing)} is not installed: run pip install 'vitreous[{extra}]'")


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
        typer.Option(metavar="NAME", help="nano, tiny, small or base; else nano."),
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
    n: Annotated[
        int | None, typer.Option("-n", min=1, help="How many pictures of a data set; else 10, or 500 with --check.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Which pictures of a data set.")] = 0,
    method: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="attention, rollout, attention-gradient, relevance, grad-cam (CNNs), input-gradient, "
            "integrated-gradients, occlusion; else attention (grad-cam for a CNN).",
        ),
    ] = None,
    layer: Annotated[int | None, typer.Option(help="One layer, from 1; else the mean over all.")] = None,
    head: Annotated[int | None, typer.Option(help="One head, from 1; else the mean over all.")] = None,
    target: Annotated[
        str | None, typer.Option("--class", metavar="NAME", help="The class maps are about; else the predicted one.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Ask whether the maps tell the truth; all methods, or the one of --method."),
    ] = False,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to write; else the run folder.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Where RUN looks: each picture beside its heatmap, as PNG and .npy, and what the maps say."""
    from vitreous import console
    from vitreous.heatmaps import Asked, heatmap_run

    if check:
        from vitreous.faithfulness import check_run

        only = [method] if method else None
        verdicts = check_run(run, only, n=n or 500, seed=seed, data_root=data_root, tell=console.say)
        console.verdicts(verdicts)
        if as_json:
            emit({name: verdict.to_json() for name, verdict in verdicts.items()})
        return
    asked = Asked(method, target, layer, head)
    result = heatmap_run(run, sources or None, n=n or 10, seed=seed, out=out, data_root=data_root, asked=asked)
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
def compare(
    what: Annotated[
        str,
        typer.Argument(
            metavar="WHAT", help="data, size or budget: a study against that, on DATA; or runs: two runs, RUN RUN."
        ),
    ],
    names: Annotated[list[str], typer.Argument(metavar="DATA|RUN RUN", help="A data set, or two run folders.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where to write, and to go on; else runs/compare-<what>.")
    ] = None,
    at: Annotated[
        str | None,
        typer.Option(
            help="Where to measure: shares (0.01,0.1,1), pixels (24,32,64), times (15s,1m) or steps (100,200)."
        ),
    ] = None,
    series: Annotated[
        str | None,
        typer.Option(
            help="Models (vit,vit-patch,resnet,fastcnn); in a size study positions (learned,sincos,rope,alibi,none), "
            "with +sizes (rope+sizes) for training on several sizes. Else all."
        ),
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 1,
    budget: Annotated[str | None, typer.Option(metavar="TIME", help="Wall time of each run, such as 20s.")] = None,
    steps: Annotated[
        int | None, typer.Option(help="Steps of each run instead; in a budget study any number: --at counts steps.")
    ] = None,
    size: Annotated[str | None, typer.Option(metavar="NAME", help="nano, tiny, small or base.")] = None,
    stem: Annotated[str | None, typer.Option(metavar="NAME", help="patch or conv, in a size study.")] = None,
    split: Annotated[str, typer.Option(help="Pictures to measure on: val or test.")] = "val",
    pictures: Annotated[int, typer.Option(min=1, help="How many of them, at most.")] = 2000,
    n: Annotated[int, typer.Option("-n", min=1, help="How many disagreements of two runs to show.")] = 8,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Compare: accuracy against data, picture size or budget, over models; or two runs on the same pictures."""
    from vitreous import compare as room
    from vitreous import console
    from vitreous.studies import Study

    folder = out or Path("runs") / f"compare-{what}"
    if what == "runs":
        if len(names) != 2:
            raise ValueError(f"{len(names)} runs to compare: give two, as in vitreous compare runs runs/a runs/b")
        duel = room.compare_runs(Path(names[0]), Path(names[1]), folder, split=split, n=n, data_root=data_root)
        console.say("\n".join([*duel.sentences, f"page     {duel.page}", f"picture  {duel.picture}"]))
        if as_json:
            emit(duel.values)
        return
    if len(names) != 1:
        raise ValueError(f"a {what} study is of one data set, not of {len(names)}")
    study = Study(
        kind=what,
        source=names[0],
        at=points(at, times=what == "budget" and steps is None),
        series=tuple(each.strip() for each in series.split(",")) if series else (),
        seeds=tuple(range(seeds)),
        budget=seconds(budget) if budget is not None else None,
        steps=steps,
        size=size,
        stem=stem,
        split=split,
        pictures=pictures,
    )
    found = room.compare_models(
        study,
        folder,
        command=retold(sys.argv[1:]),
        data_root=data_root,
        say=console.say,
        watching=console.TrainingDisplay,
    )
    console.say(f"\n{found.table.read_text()}\npage    {found.page}\nfigure  {found.figure}\ntable   {found.table}")
    if as_json:
        emit(found.values)


def points(text: str | None, times: bool) -> tuple[float, ...]:
    """``0.1,1`` or, as ``times``, ``15s,1m``; nothing for None. Raises ValueError for anything else."""
    parts = [part.strip() for part in text.split(",")] if text else []
    try:
        return tuple(seconds(part) if times else float(part) for part in parts)
    except ValueError as problem:
        raise ValueError(f"--at {text}: {problem}" if times else f"--at {text} is no list of numbers") from None


def retold(arguments: list[str]) -> str:
    """The command that was given, without what is only about this machine."""
    kept: list[str] = []
    for argument in arguments:
        if kept and kept[-1] in ("--data-root", "--out"):
            kept.pop()
        elif not argument.startswith(("--data-root=", "--out=")) and argument != "--json":
            kept.append(argument)
    return shlex.join(["vitreous", *kept])


@command
def report(
    run: Run,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where to write; else report.html in the run folder.")
    ] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """One self-contained HTML page about RUN: accuracy, mistakes, heatmaps of every layer and head, what is inside."""
    from vitreous import console
    from vitreous.report import report_run

    path = report_run(run, data_root=data_root, out=out)
    console.say(f"report  {path}")
    if as_json:
        emit({"report": str(path), "bytes": path.stat().st_size})


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


@command
def serve(
    run: Run,
    other: Annotated[Path | None, typer.Option(metavar="RUN2", help="A second run, to compare with.")] = None,
    port: Annotated[int, typer.Option(help="0 for any that is free.")] = 8000,
    host: Annotated[
        str, typer.Option(help="Where to listen; other than this machine alone takes a token.")
    ] = "127.0.0.1",
    token: Annotated[
        str | None, typer.Option(envvar="VITREOUS_TOKEN", help="What requests must bring; 16 characters or more.")
    ] = None,
    name: Annotated[
        list[str] | None, typer.Option("--name", metavar="HOST", help="A host name to answer to; repeatable.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Show RUN in the browser: drop a picture, see its class and where the model looks; also over HTTP."""
    from vitreous import console

    need("serve", "fastapi", "uvicorn", "python_multipart")
    from vitreous.serve.server import Door
    from vitreous.serve.server import serve as start_serving

    door = Door(host, port, token, tuple(name or ()))
    paths = [path for path in (run, other) if path]
    start_serving(paths, door, data_root, ready=lambda url: console.say(f"serving {run} at {url} (Ctrl-C stops it)"))


@command
def lesson(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="arrays, patches, tokens or training; else all of them.")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="DIR", help="Write it as an HTML page that needs no network.")
    ] = None,
    edit: Annotated[bool, typer.Option("--edit", help="Open your own copy in ./lessons, to write in.")] = False,
) -> None:
    """Watch an image become arrays, patches, tokens, attention and a class."""
    from vitreous.lessons import page, shelf

    if export is not None and edit:
        raise ValueError("--export and --edit do not go together: choose one")
    if export is not None:
        for written in page.export(export, name):
            complain(str(written))
    elif edit:
        shelf.edit_lesson(name or next(iter(shelf.LESSONS)), Path("lessons"))
    else:
        shelf.open_lesson(name)


def main() -> None:
    """The console script. A SIGTERM ends it as Ctrl-C does; training takes over both while it runs."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app(prog_name="vitreous")
