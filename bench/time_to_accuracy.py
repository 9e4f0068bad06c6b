"""Accuracy against seconds: whole `vitreous train` commands at given budgets and seeds, one JSON row each.

    python bench/time_to_accuracy.py run --data cifar10 --data-root DIR --budgets 60s 90s 5m --seeds 0 1 2
    python bench/time_to_accuracy.py table
    python bench/time_to_accuracy.py draw docs/images/time_to_accuracy.png

A row's seconds are those of the whole command, from the start of the interpreter to its end, as the operating system
saw it; its validation accuracy is that of the saved classifier on every held-out picture, its test accuracy is read
once, by `vitreous eval`. Rows are appended to bench/time_to_accuracy.jsonl with recipe, data fingerprint, hardware,
threads, load average and the command.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROWS = Path(__file__).with_suffix(".jsonl")

ANCHORS = [
    ("handout's model,\nfp32, 2 cores", 300, 44.5),
    ("CCT authors, 12 cores\n(80 % in under 30 min)", 1800, 80.0),
]
"""Figures of others on the same task, (name, seconds, accuracy in %), for the drawing."""

LINES = {
    "as planned, from --budget alone": ("nano-conv", "mini-conv"),
    "plain patch embedding, --stem patch": ("nano-patch",),
}
"""Lines of the drawing, and the recipes that each is made of; whatever else was run is a gray point."""


def one(data: str, budget: str, seed: int, extra: list[str], data_root: str | None) -> dict[str, Any]:
    """Trains once in a fresh process and folder; returns the row."""
    root = ["--data-root", data_root] if data_root else []
    with tempfile.TemporaryDirectory() as folder:
        run = f"{folder}/run"
        options = ["train", data, "--budget", budget, "--seed", str(seed), *extra]
        load = os.getloadavg()[0]
        start = time.monotonic()
        trained = vitreous([*options, "--out", run, "--json", *root])
        seconds = time.monotonic() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024
        tested = vitreous(["eval", run, "--json", *root])
        config = json.loads(Path(run, "config.json").read_text(encoding="utf-8"))
        card = json.loads(Path(run, "classifier", "config.json").read_text(encoding="utf-8"))["provenance"]
    return {
        "command": "vitreous " + " ".join(options),
        "data": tested["dataset"],
        "fingerprint": card["fingerprint"],
        "recipe": config["recipe"],
        "budget": budget,
        "seed": seed,
        "seconds": round(seconds, 2),
        "images": trained["images"],
        "val_accuracy": trained["val_accuracy"],
        "test_accuracy": tested["accuracy"],
        "test_n": tested["n"],
        "peak_mib": peak,
        "load_before": round(load, 2),
        "hardware": {
            key: card[key] for key in ("cpu", "gpu", "threads", "torch", "precision", "attention") if key in card
        },
        "parameters": card["parameters"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def vitreous(arguments: list[str]) -> dict[str, Any]:
    """One command of the installed package; its JSON answer."""
    done = subprocess.run([sys.executable, "-m", "vitreous", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"vitreous {' '.join(arguments)} ended with {done.returncode}:\n{done.stderr}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def rows(path: Path) -> dict[tuple[str, str, str], list[dict[str, Any]]]:
    """All rows by (data, recipe, budget); runs of one core are told apart from those of two."""
    grouped: dict[tuple[str, str, str], list[dict[str, Any]]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        recipe = row["recipe"] + ", one core" * (row["hardware"]["threads"] == 1)
        grouped[row["data"], recipe, row["budget"]].append(row)
    return grouped


def mean_and_spread(values: list[float]) -> str:
    """``71.2 ± 0.3`` in per cent: mean and standard deviation over the seeds; of one its value alone."""
    mean = f"{100 * statistics.mean(values):.1f}"
    return f"{mean} ± {100 * statistics.stdev(values):.1f}" if len(values) > 1 else mean


def table(path: Path) -> str:
    """The rows as a Markdown table, a line for each data set, recipe and budget."""
    lines = [
        "| data | recipe | budget | seconds | val accuracy % | test accuracy % | seeds | images | peak MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (data, recipe, budget), found in rows(path).items():
        peak = max(r["peak_mib"] or 0 for r in found)
        lines.append(
            f"| {data} | {recipe} | {budget} | {max(r['seconds'] for r in found):.0f} at most "
            f"| {mean_and_spread([r['val_accuracy'] for r in found])} "
            f"| {mean_and_spread([r['test_accuracy'] for r in found])} | {len(found)} "
            f"| {statistics.mean(r['images'] for r in found):,.0f} | {peak or 'not measured'} |"
        )
    return "\n".join(lines)


def draw(path: Path, picture: Path) -> None:
    """Test accuracy against seconds, with the anchors; a point is the mean over the seeds."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    grouped = rows(path)
    line_of = {recipe: line for line, recipes in LINES.items() for recipe in recipes}
    points: dict[str | None, list[tuple[float, float, float, bool]]] = defaultdict(list)
    for found in grouped.values():
        accuracies = [r["test_accuracy"] for r in found]
        spread = 100 * statistics.stdev(accuracies) if len(found) > 1 else 0.0
        seconds, one_core = statistics.mean(r["seconds"] for r in found), found[0]["hardware"]["threads"] == 1
        points[line_of.get(found[0]["recipe"])].append((seconds, 100 * statistics.mean(accuracies), spread, one_core))
    for seconds, accuracy, *_ in points[None]:
        axes.plot(seconds, accuracy, "o", color="0.75", markersize=4)
    axes.plot([], [], "o", color="0.75", markersize=4, label="plans before, and choices by hand")
    for number, name in enumerate(LINES):
        x, y, spreads, _ = zip(*sorted(points[name]), strict=True)
        axes.errorbar(x, y, yerr=spreads, marker="o", color=f"C{number}", capsize=3, label=name)
        for seconds, accuracy, _, one_core in points[name]:
            axes.annotate(
                f"{accuracy:.1f}" + ", one core" * one_core,
                (seconds, accuracy),
                textcoords="offset points",
                xytext=(0, 9),
                ha="right" if one_core else "center",
                color=f"C{number}",
                fontsize=9,
            )
    for name, x_anchor, y_anchor in ANCHORS:
        axes.plot(x_anchor, y_anchor, "k*", markersize=10)
        axes.annotate(
            name, (x_anchor, y_anchor), textcoords="offset points", xytext=(0, -8), ha="center", va="top", fontsize=8
        )
    axes.set_title(", ".join(sorted({data for data, _, _ in grouped})) + ", two CPU cores", fontsize=10)
    axes.set(xscale="log", xlabel="seconds of the whole command (log scale)", ylabel="test accuracy, %")
    axes.set_xticks([30, 60, 90, 300, 900, 1800, 3600], ["30 s", "60 s", "90 s", "5 min", "15 min", "30 min", "1 h"])
    axes.minorticks_off()
    axes.set_xlim(45, 5000)
    axes.set_ylim(38, 96)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=9, loc="lower right")
    figure.savefig(picture, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    actions = parser.add_subparsers(dest="action", required=True)
    run = actions.add_parser("run")
    run.add_argument("--data", default="cifar10")
    run.add_argument("--data-root")
    run.add_argument("--budgets", nargs="+", default=["60s", "90s", "5m"])
    run.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    run.add_argument("--extra", nargs=argparse.REMAINDER, default=[], help="further options of vitreous train; last")
    actions.add_parser("table")
    actions.add_parser("draw").add_argument("picture", type=Path)
    asked = parser.parse_args()
    if asked.action == "table":
        print(table(asked.rows))
    elif asked.action == "draw":
        draw(asked.rows, asked.picture)
    else:
        for seed in asked.seeds:  # seeds outside, so that a slow hour of the machine hits every budget
            for budget in asked.budgets:
                row = one(asked.data, budget, seed, asked.extra, asked.data_root)
                with asked.rows.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(f"{row['command']}: {row['val_accuracy']:.4f} val, {row['test_accuracy']:.4f} test", flush=True)


if __name__ == "__main__":
    main()
