"""``list``: which runs there are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, command, emit


@command
def list(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to look, at any depth.")] = Path("runs"),
    as_json: AsJson = False,
) -> None:
    """The runs below DIR with their figures: the best of each data set first."""
    from vitreous import console, inventory

    found = inventory.runs(folder)
    console.runs(found)
    if as_json:
        emit({"runs": [vars(each) for each in found]})
