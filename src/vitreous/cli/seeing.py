"""``heatmap``, ``report``, ``compare``: what a run looks at, and what sets it apart from others."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from vitreous.cli.frame import AsJson, DataRoot, Run, command, emit, seconds


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

        given = {"DATA": sources or None, "--class": target, "--layer": layer, "--head": head, "--out": out}
        if extra := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"--check is about the run's own validation pictures and whole maps of the predicted class, and keeps "
                f"its verdicts in the run folder: leave {' and '.join(extra)} out"
            )
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
    size: Annotated[str | None, typer.Option(metavar="NAME", help="nano (else), mini, tiny, small or base.")] = None,
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
    table = found.table.read_text(encoding="utf-8")
    console.say(f"\n{table}\npage    {found.page}\nfigure  {found.figure}\ntable   {found.table}")
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
