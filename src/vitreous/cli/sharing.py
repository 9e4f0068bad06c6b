"""``export``, ``import`` and ``push``: models that leave for elsewhere, and others' that come."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, DataRoot, Run, command, emit, need


@command
def export(
    run: Run,
    to: Annotated[
        str,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="onnx; int8 (ONNX in 8 bits); hf or timm (folders for these libraries); pt2 (torch.export).",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Where to write; else in the run folder, under export/.")
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Validation pictures to check it on, at most.")] = 1000,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Write RUN for use elsewhere, and check that it answers as RUN does."""
    from vitreous import console
    from vitreous.export import FORMATS, export_run

    if to in FORMATS:
        need("export", *FORMATS[to].needs)
    made = export_run(run, to, out, n=n, data_root=data_root)
    console.say("\n".join(made.sentences()))
    if as_json:
        emit(made.to_json())


@command
def import_(
    weights: Annotated[
        str, typer.Argument(metavar="WEIGHTS", help="A safetensors file or the folder of one, or hf:owner/name.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write the classifier folder.")],
    heads: Annotated[int | None, typer.Option(help="Attention heads, where nothing beside WEIGHTS tells.")] = None,
    as_json: AsJson = False,
) -> None:
    """Make a classifier of timm's or Hugging Face's WEIGHTS, for predict, heatmap, serve and export."""
    from vitreous import console
    from vitreous.pretrained import read

    if out.exists():
        raise ValueError(f"{out} is already there: remove it, or choose another place with --out")
    found = read(weights, heads)
    folder = found.classifier().save(out)
    console.say("\n".join([*found.notes, f"wrote {folder}: {len(found.classes)} classes"]))
    if as_json:
        emit({"classifier": str(folder), "classes": len(found.classes), "notes": list(found.notes)})


@command
def push(
    run: Run,
    repository: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="Made where it is not there yet.")],
    private: Annotated[bool, typer.Option("--private", help="Let only you and yours see it, if it is new.")] = False,
    as_json: AsJson = False,
) -> None:
    """Send the classifier of RUN to the Hugging Face hub, with a model card; everybody then writes hf:OWNER/NAME."""
    from vitreous import console, hub
    from vitreous.classifier import Classifier, classifier_folder
    from vitreous.evaluate import figures

    Classifier.load(run)  # whole and sound, or nothing leaves
    address = hub.push(classifier_folder(run), repository, figures(run), private=private)
    console.say(f"sent to  {address}\nused as  vitreous predict hf:{repository} IMAGE...")
    if as_json:
        emit({"repository": repository, "url": address})
