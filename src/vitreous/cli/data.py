"""``data``: what a data set holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, DataRoot, PicturesOf, Source, command, emit, slug


@command
def data(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The contact sheet; else runs/<name of the data>-sheet.png.")
    ] = None,
    data_root: DataRoot = None,
    images: PicturesOf = None,
    as_json: AsJson = False,
) -> None:
    """Describe DATA: splits, classes, counts, sizes, mean and deviation, fingerprint, a contact sheet."""
    from vitreous import console
    from vitreous.data import contact_sheet, describe, load

    loaded = load(source, data_root=data_root, images=images)
    facts = describe(loaded)
    sheet = contact_sheet(next(iter(loaded.splits().values())), out or Path("runs") / f"{slug(source)}-sheet.png")
    console.data_set(facts)
    console.say(f"contact sheet {sheet}")
    if as_json:
        emit({**facts, "sheet": str(sheet)})
