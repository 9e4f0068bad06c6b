"""``eval`` and ``predict``: a run at work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, DataRoot, Run, command, complain, emit, explain


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
