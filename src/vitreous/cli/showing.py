"""``serve`` and ``lesson``: pages in the browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import DataRoot, Run, command, complain, need


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
