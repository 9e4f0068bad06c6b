"""Which lessons there are, and how one is opened: as a page to read, or as a notebook to write in."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

from vitreous.config import nearest

LESSONS = {
    "arrays": "1. An image is an array",
    "patches": "2. From patches to tokens",
    "tokens": "3. Tokens that look at each other",
    "training": "4. Watch it learn",
}
"""File name and title, in the order in which they are read."""


def notebook(name: str) -> Path:
    """The marimo file of a lesson. Raises ValueError for a lesson that is not there."""
    if name not in LESSONS:
        raise ValueError(f"unknown lesson {name!r}{nearest(name, LESSONS)}")
    return Path(__file__).with_name("notebooks") / f"{name}.py"


def open_lesson(name: str | None) -> None:
    """Serve a lesson, or all of them behind a table of contents, on this machine alone, until Ctrl-C."""
    _marimo("run", *(str(notebook(each)) for each in ([name] if name else LESSONS)))


def edit_lesson(name: str, folder: Path) -> None:
    """Open the reader's own copy of a lesson, made in ``folder`` on first use, to write the exercises in."""
    source, copy = notebook(name), folder / f"{name}.py"
    need_marimo()
    if not copy.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, copy)
    _marimo("edit", str(copy))


def need_marimo() -> None:
    """Raises ValueError, with what to install, where marimo is absent."""
    if importlib.util.find_spec("marimo") is None:
        raise ValueError("the lessons are marimo notebooks and marimo is not here: pip install 'vitreous[lesson]'")


def _marimo(*arguments: str) -> None:
    need_marimo()
    try:
        done = subprocess.run([sys.executable, "-m", "marimo", *arguments], check=False)
    except KeyboardInterrupt:
        return  # how a reader closes the book
    if done.returncode > 0:
        raise ValueError(f"marimo stopped with exit code {done.returncode}; its reason stands above")
