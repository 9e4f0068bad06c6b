"""``data``: what a data set holds, and what is wrong with it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, DataRoot, PicturesOf, Source, command, emit, slug


@command
def data(
    source: Source,
    check: Annotated[
        bool,
        typer.Option("--check", help="Look at every picture: broken, odd, duplicate, with two labels; write a page."),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="The contact sheet, else runs/<name of the data>-sheet.png; with --check the page, else -check.html.",
        ),
    ] = None,
    data_root: DataRoot = None,
    images: PicturesOf = None,
    as_json: AsJson = False,
) -> None:
    """Describe DATA: splits, classes, counts, sizes, mean and deviation, fingerprint, a contact sheet."""
    if check:
        _check(source, out or Path("runs") / f"{slug(source)}-check.html", data_root, images, as_json)
        return
    from vitreous import console
    from vitreous.data import contact_sheet, describe, load

    loaded = load(source, data_root=data_root, images=images)
    facts = describe(loaded)
    sheet = contact_sheet(next(iter(loaded.splits().values())), out or Path("runs") / f"{slug(source)}-sheet.png")
    console.data_set(facts)
    console.say(f"contact sheet {sheet}")
    if as_json:
        emit({**facts, "sheet": str(sheet)})


def _check(source: str, out: Path, data_root: Path | None, images: Path | None, as_json: bool) -> None:
    """Exit code 2 for what would stop training, 0 for all else that is found."""
    from vitreous import console
    from vitreous.data import check
    from vitreous.data_page import write_page

    with console.counting_pictures() as tell:
        findings = check(source, data_root=data_root, images=images, tell=tell)
    page = write_page(findings, source, out)
    console.checked(findings)
    console.say(f"page {page}")
    if as_json:
        emit({**findings.to_json(), "page": str(page)})
    if findings.stops:
        raise typer.Exit(2)
