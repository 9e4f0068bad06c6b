"""What the lines of a study say: means with bands, sentences, a table, a figure and a page.

A band is 95 %: 1.96 standard errors of the mean, from the spread over seeds and from the sampling of the pictures that
were looked at. With one seed it knows of the latter alone, which the table says.

Not here: running a study (studies.py), two runs against each other (compare.py).
"""

from __future__ import annotations

import base64
import datetime
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitreous import sealed
from vitreous.pictures import FAINT, INK, blank, save
from vitreous.studies import MANY, STUDY, WHAT, Study


@dataclass(frozen=True)
class Point:
    """The accuracy of one series at one x: mean over seeds, with half the width of its 95 % band."""

    x: float
    mean: float
    half: float
    seeds: int
    n: int
    """Pictures that each seed was measured on."""
    flops: int
    seconds: float
    """Of training, mean over seeds."""
    images: float
    """That training saw, mean over seeds."""


def points(lines: Sequence[dict[str, Any]]) -> list[Point]:
    """The lines of one series, joined over seeds, by ascending x."""
    found = []
    for x in sorted({line["x"] for line in lines}):
        here = [line for line in lines if line["x"] == x]
        values = [line["accuracy"] for line in here]
        k, n = len(here), here[0]["n"]
        mean = sum(values) / k
        between = sum((value - mean) ** 2 for value in values) / (k - 1) / k if k > 1 else 0.0
        half = 1.96 * math.sqrt(between + mean * (1 - mean) / n)
        seconds, images = (sum(line[name] for line in here) / k for name in ("seconds", "images"))
        found.append(Point(x, mean, half, k, n, here[0]["flops"], seconds, images))
    return found


def curves(study: Study, lines: Sequence[dict[str, Any]]) -> dict[str, list[Point]]:
    """Every series that has points, in the order of the study."""
    grouped = {name: [line for line in lines if line["series"] == name] for name in study.names}
    return {name: points(own) for name, own in grouped.items() if own}


NEAR = 5.0
"""Percentage points that another picture size may cost."""


def sentences(study: Study, found: dict[str, list[Point]], home: int | None = None) -> list[str]:
    """What the curves say. ``home`` is the training size in pixels, for a size study."""
    said = []
    if study.kind == "size":
        for name, curve in found.items():
            at = {point.x: point for point in curve}
            if home not in at:
                continue
            worst = min(curve, key=lambda point: point.mean)
            drop = 100 * (at[home].mean - worst.mean)
            verdict = "within" if drop <= NEAR else "more than"
            said.append(
                f"{name}: {at[home].mean:.1%} at {home} pixels; at worst {worst.mean:.1%}, at {worst.x:g} pixels: "
                f"{drop:.1f} points lower, {verdict} {NEAR:g}."
            )
        return said
    for x in sorted({point.x for curve in found.values() for point in curve}):
        ranked = sorted(
            ((name, point) for name, curve in found.items() for point in curve if point.x == x),
            key=lambda pair: -pair[1].mean,
        )
        (best, first), *others = ranked
        told = f"At {_label(study, x)}: {best} leads with {first.mean:.1%}"
        if others:
            name, second = others[0]
            gap, noise = first.mean - second.mean, math.hypot(first.half, second.half)
            clear = "" if gap > noise else ", no difference beyond noise"
            told += f", {100 * gap:.1f} points before {name}{clear}"
        said.append(told + ".")
    return said


def _label(study: Study, x: float) -> str:
    if study.kind == "data":
        return f"{100 * x:g} %"
    if study.kind == "size":
        return f"{x:g} px"
    return f"{x:g} steps" if study.steps is not None else f"{x:g} s"


def markdown(study: Study, found: dict[str, list[Point]], facts: dict[str, Any], said: Sequence[str]) -> str:
    """The table with its provenance."""
    xs = sorted({point.x for curve in found.values() for point in curve})
    parameters, hardware = facts["parameters"], facts["hardware"]
    rows = [
        f"| series | {' | '.join(_label(study, x) for x in xs)} | parameters | operations a picture | training |",
        "|---|" + "---:|" * (len(xs) + 3),
    ]
    for name, curve in found.items():
        at = {point.x: point for point in curve}
        values = [f"{100 * at[x].mean:.1f} ± {100 * at[x].half:.1f}" if x in at else "" for x in xs]
        middle = min(curve, key=lambda p: abs(p.x - facts["home"])) if study.kind == "size" else curve[-1]
        cost = f"{middle.seconds:.0f} s, {middle.images:,.0f} pictures"
        rows.append(f"| {name} | {' | '.join(values)} | {parameters[name]:,} | {middle.flops / 1e6:,.0f} M | {cost} |")
    point = next(iter(found.values()))[0]
    seeds = f"{len(study.seeds)} seeds" if len(study.seeds) > 1 else "1 seed, so the bands know nothing of other seeds"
    return "\n".join(
        [
            f"Accuracy in % against {WHAT[study.kind]} on `{study.source}`: {point.n:,} {study.split} pictures, "
            f"{seeds}. ± is half a 95 % band.",
            "",
            *rows,
            "",
            f"Made by `{facts['command']}` on {hardware['cpu']}, {hardware['threads']} threads, torch "
            f"{hardware['torch']}, {facts['date']}; training pictures {facts['fingerprint']}.",
            "",
            *[f"- {sentence}" for sentence in said],
            "",
        ]
    )


COLOURS = ("#1b6ca8", "#c2410c", "#15803d", "#7c3aed", "#a16207", "#0e7490", "#be185d")
"""One a model or kind of position; with ``+sizes`` the same colour, dashed."""


def figure(study: Study, found: dict[str, list[Point]], path: Path) -> Path:
    """Accuracy against x with its bands, as PNG."""
    drawing = blank(7.2, 4.4, layout="constrained")
    axes = drawing.subplots()
    bases = list(dict.fromkeys(name.removesuffix(MANY) for name in found))
    for name, curve in found.items():
        colour = COLOURS[bases.index(name.removesuffix(MANY)) % len(COLOURS)]
        xs = [point.x for point in curve]
        means = [100 * point.mean for point in curve]
        low, high = ([100 * (p.mean + sign * p.half) for p in curve] for sign in (-1, 1))
        axes.plot(xs, means, "--o" if name.endswith(MANY) else "-o", color=colour, label=name, markersize=3.5)
        axes.fill_between(xs, low, high, color=colour, alpha=0.13, linewidth=0)
    if study.kind != "size":
        axes.set_xscale("log")
    ticks = sorted({point.x for curve in found.values() for point in curve})
    axes.set_xticks(ticks, [_label(study, x) for x in ticks])
    axes.minorticks_off()
    axes.set_xlabel(WHAT[study.kind], color=INK)
    axes.set_ylabel(f"{study.split} accuracy, %", color=INK)
    axes.grid(color="#e5e7eb", linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=FAINT)
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8)  # beside, not over, curves
    return save(drawing, path)


@dataclass(frozen=True)
class Report:
    """What :func:`report` wrote."""

    table: Path
    json: Path
    figure: Path
    page: Path
    sentences: tuple[str, ...]
    values: dict[str, Any]


def report(study: Study, lines: Sequence[dict[str, Any]], out: Path, command: str, home: int) -> Report:
    """Writes table.md, table.json, figure.png and page.html of a study into its folder.

    ``command`` is what makes it again; ``home`` the training size in pixels.
    """
    kept = json.loads((out / STUDY).read_text(encoding="utf-8"))
    found = curves(study, lines)
    said = sentences(study, found, home)
    facts = {
        "command": command,
        "home": home,
        "date": datetime.date.today().isoformat(),
        "fingerprint": kept["study"]["fingerprint"],
        "hardware": kept["hardware"],
        "parameters": {line["series"]: line["parameters"] for line in lines},
    }
    values = {
        "study": asdict(study),
        **facts,
        "curves": {name: [asdict(point) for point in curve] for name, curve in found.items()},
        "sentences": said,
    }
    table = markdown(study, found, facts, said)
    picture = figure(study, found, out / "figure.png")
    paths = {
        "table.md": table,
        "table.json": json.dumps(values, indent=2),
        "page.html": _page(study, values, found, picture),
    }
    for name, text in paths.items():
        sealed.write(out / name, text)
    return Report(out / "table.md", out / "table.json", picture, out / "page.html", tuple(said), values)


def _page(study: Study, values: dict[str, Any], found: dict[str, list[Point]], picture: Path) -> str:
    xs = sorted({point.x for curve in found.values() for point in curve})
    rows = [
        {
            "name": name,
            "cells": [next((f"{100 * p.mean:.1f} ± {100 * p.half:.1f}" for p in curve if p.x == x), "") for x in xs],
            "parameters": f"{values['parameters'][name]:,}",
        }
        for name, curve in found.items()
    ]
    return render(
        "study.html",
        title=f"Accuracy against {WHAT[study.kind]}",
        study=study,
        heads=[_label(study, x) for x in xs],
        rows=rows,
        picture=embedded(picture),
        **{key: values[key] for key in ("sentences", "command", "date", "fingerprint", "hardware")},
    )


def render(template: str, **values: Any) -> str:
    """A page from ``templates/``; every value is escaped."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(loader=PackageLoader("vitreous"), autoescape=True, undefined=StrictUndefined)
    return environment.get_template(template).render(values)


def embedded(picture: Path) -> str:
    """A PNG as a data address, so that a page is one file."""
    return "data:image/png;base64," + base64.b64encode(picture.read_bytes()).decode()
