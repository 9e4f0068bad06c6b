"""``eval``, ``verify``, ``predict``, ``search``: a run at work."""

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
def verify(run: Run, data_root: DataRoot = None, as_json: AsJson = False) -> None:
    """Recompute the hashes, the fingerprint and the accuracies of RUN; exit code 2 where something is not as it was."""
    from vitreous import console
    from vitreous.verify import verify_run

    found = verify_run(run, data_root)
    console.verified(found, run)
    if as_json:
        emit({"run": str(run), **found.to_json()})
    if not found.holds:
        raise typer.Exit(2)


@command
def predict(
    run: Run,
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...",
            help="Picture files of any size; with --out also folders, quoted patterns and .txt lists of them.",
        ),
    ],
    top: Annotated[int, typer.Option(min=1, help="How many classes to show.")] = 5,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A table (.parquet, .csv, .jsonl) of any number; the same command goes on."),
    ] = None,
    embed: Annotated[bool, typer.Option("--embed", help="Also the vector that the head reads, in --out.")] = False,
    device: Annotated[str, typer.Option(help="For --out: auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    as_json: AsJson = False,
) -> None:
    """The most probable classes of each IMAGE; with --json one object a line, with --out one object in all."""
    from vitreous import console
    from vitreous.classifier import Classifier
    from vitreous.device import pick_device
    from vitreous.predict import predict_files, row

    if out is None and embed:
        raise ValueError("--embed needs a table to write to, as in --out features.parquet")
    classifier = Classifier.load(run)
    if out is not None:
        classifier.model.to(pick_device(device))
        try:
            with console.Counter("predicting") as watch:
                done = predict_files(classifier, images, out, top=top, embed=embed, watch=watch)
        except KeyboardInterrupt:
            console.say("what is done is kept: the same command goes on")
            raise
        console.predicted(done)
        if as_json:
            emit(done.to_json())
        if done.unreadable == done.n:
            raise ValueError(f"none of the {done.n} files could be read as a picture: the reasons are in {out}")
        return
    failed = 0
    for image in images:
        try:
            if Path(image).is_dir():
                raise ValueError(f"{image} is a folder: give its pictures, or --out predictions.parquet for all")
            prediction = classifier.predict([image], top=top)[0]
        except (ValueError, OSError) as problem:  # the other pictures still get their answer
            reason = explain(problem)
            failed += 1
            complain(f"error: {reason if image in reason else f'{image}: {reason}'}")
            if as_json:
                emit({"image": image, "error": reason})
            continue
        if as_json:
            emit(row(image, prediction))
        console.table((image, ""), [(label, f"{probability:.1%}") for label, probability in prediction.top])
    if failed:
        raise typer.Exit(2)


@command
def search(
    run: Run,
    query: Annotated[Path, typer.Argument(metavar="QUERY", help="A picture file.")],
    among: Annotated[
        str | None,
        typer.Option(
            "--in",
            metavar="FOLDER|FILE",
            help="Where to search: a folder, quoted pattern or .txt list, or a table of predict --embed, which is "
            "faster; else the run's training pictures.",
        ),
    ] = None,
    n: Annotated[int, typer.Option("-n", min=1, help="How many pictures to find.")] = 9,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="The sheet; else search.png in the run.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """The pictures that RUN finds most like QUERY, on one sheet with their similarity."""
    from vitreous import console
    from vitreous.search import search as find

    with console.Counter("searching") as watch:
        found = find(run, query, among, n=n, out=out, data_root=data_root, watch=watch)
    console.say(f"{query}: {found.label}, among {found.compared:,} pictures")
    rows = [(each.image, f"{each.similarity:.3f}", each.label) for each in found.neighbours]
    console.table(("picture", "similarity", "class"), rows)
    console.say(f"sheet  {found.picture}")
    if as_json:
        emit(found.to_json())
