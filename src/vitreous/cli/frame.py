"""What every subcommand shares: the app, common options, how errors are told, how JSON is printed.

Torch and the rooms that need it are imported inside the commands, so that ``vitreous --help`` is immediate. Exit codes:
0 done, 2 something the user can mend (one or two lines, no traceback), 130 interrupted with the state saved, 1 a bug.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import glob
import importlib.util
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, ParamSpec

import typer

import vitreous

STARTED = time.monotonic() - min(time.process_time(), 3.0)
"""A budget counts from here: what the interpreter took to come to this line, imports, data and all."""

P = ParamSpec("P")

app = typer.Typer(
    name="vitreous",
    help="Train a small Vision Transformer on your own pictures in the minutes you have, and see what it looks at.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

NAMED = ("digits", "shapes", "digits-clutter", "cifar10", "cifar100", "mnist", "fashion-mnist")
SOURCE = (
    f"{', '.join(NAMED)}, a folder per class, a table of paths and labels (CSV, TSV, parquet), a parquet folder, tar "
    "shards, or hf:owner/name."
)


def data_sets(begun: str) -> list[str]:
    """Named data sets that begin so; where there are none the shell completes files."""
    return [name for name in NAMED if name.startswith(begun)]


def run_folders(begun: str) -> list[str]:
    """Run folders that begin so, or lie below a folder that does; where there are none the shell completes files."""
    here = glob.escape(begun)
    return sorted(map(os.path.dirname, glob.glob(f"{here}*/config.json") + glob.glob(f"{here}*/*/config.json")))


Source = Annotated[str, typer.Argument(metavar="DATA", help=SOURCE, autocompletion=data_sets)]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder that train made.", autocompletion=run_folders)]
DataRoot = Annotated[
    Path | None, typer.Option("--data-root", metavar="DIR", help="Where named data sets lie (else $VITREOUS_DATA).")
]
PicturesOf = Annotated[
    Path | None,
    typer.Option("--images", metavar="DIR", help="Where the paths in a table are seen from (else the table's folder)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, for programs.")]


def command(function: Callable[P, None]) -> Callable[P, None]:
    """Register a subcommand; what the user can mend becomes one line and exit code 2, Ctrl-C becomes 130."""

    @functools.wraps(function)
    def plainly(*arguments: P.args, **options: P.kwargs) -> None:
        leaving: typer.Exit | None = None
        try:
            with together(function.__name__):
                try:
                    function(*arguments, **options)
                except typer.Exit as code:  # no failure that the other processes should know of
                    leaving = code
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
        if leaving is not None:
            raise leaving

    app.command(function.__name__.rstrip("_"))(plainly)  # a word that Python keeps for itself ends in _
    return plainly


@contextlib.contextmanager
def together(name: str) -> Iterator[None]:
    """The command ``name`` beside the others that torchrun started, of which one speaks; alone, nothing at all."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield
        return
    from vitreous import console, ranks

    with ranks.joined():
        if name != "train":
            raise ValueError(f"vitreous {name} works in one process: start it without torchrun")
        console.console.quiet = not ranks.first()
        yield


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
    """One JSON object on a line of standard output; letters are escaped where its encoding may lack them."""
    print(json.dumps(value, ensure_ascii=sys.stdout.encoding.lower() not in ("utf-8", "utf8")))


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
