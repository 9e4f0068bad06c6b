"""Which heatmaps tell the truth, over runs of several seeds: the table of docs/results.md, and whether the bar is met.

    python bench/faithfulness.py runs/shapes-0 runs/shapes-1 runs/shapes-2 > faithfulness.jsonl

Each run is checked as ``vitreous heatmap RUN --check`` does it, on ``-n`` of its validation pictures. Standard output:
one JSON object with the provenance, then one a run and method. Standard error: a Markdown table, mean over the runs,
with the range where there are several; a method is faithful if it passed in every run. With ``--bar 0.95`` the exit
status is 1 unless a method that is faithful has its peak on at least that share of the planted objects in every run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from vitreous.device import hardware
from vitreous.faithfulness import Verdict, check_run


def spread(values: Sequence[float], form: str) -> str:
    """``0.19`` of one run, ``0.19 (0.17-0.21)`` of several."""
    mean = format(sum(values) / len(values), form)
    return mean if len(values) == 1 else f"{mean} ({format(min(values), form)} to {format(max(values), form)})"


COLUMNS: dict[str, tuple[Callable[[Verdict], float | None], str]] = {
    "similarity": (lambda verdict: verdict.similarity, ".2f"),
    "deletion": (lambda verdict: verdict.deletion, "+.1%"),
    "deletion curve": (lambda verdict: verdict.deletion_area, "+.1%"),
    "insertion curve": (lambda verdict: verdict.insertion_area, "+.1%"),
    "pointing": (lambda verdict: verdict.pointing, ".1%"),
    "overlap": (lambda verdict: verdict.overlap, ".0%"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, help="run folders, of one data set")
    parser.add_argument("-n", type=int, default=500, help="validation pictures")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--bar", type=float, help="share of planted objects that a faithful method must find")
    asked = parser.parse_args()
    print(json.dumps({"bench": "faithfulness", "n": asked.n, **hardware()}), flush=True)
    found: dict[str, list[Verdict]] = {}
    for run in asked.runs:
        for method, verdict in check_run(run, n=asked.n, data_root=asked.data_root).items():
            found.setdefault(method, []).append(verdict)
            print(json.dumps({"run": run.name, "method": method, **verdict.to_json()}), flush=True)
    first = next(iter(found.values()))[0]
    columns = {name: column for name, column in COLUMNS.items() if column[0](first) is not None}
    print("| method | " + " | ".join(columns) + " | verdict |", file=sys.stderr)
    print("|---|" + "---:|" * len(columns) + "---|", file=sys.stderr)
    for method, verdicts in found.items():
        cells = [
            spread([value for each in verdicts if (value := of(each)) is not None], form)
            for of, form in columns.values()
        ]
        failed = sum(bool(each.failed) for each in verdicts)
        words = "faithful" if not failed else f"**not faithful** in {failed} of {len(verdicts)}"
        print(f"| {method} | " + " | ".join(cells) + f" | {words} |", file=sys.stderr)
    if asked.bar is not None:
        passed = {
            name: min(each.pointing or 0.0 for each in own)
            for name, own in found.items()
            if not any(v.failed for v in own)
        }
        best = max(passed, key=passed.__getitem__, default=None)
        met = best is not None and passed[best] >= asked.bar
        print(
            f"\nfaithful and best at pointing: {best} ({passed.get(best or '', 0):.1%}), bar {asked.bar:.0%}",
            file=sys.stderr,
        )
        sys.exit(not met)


if __name__ == "__main__":
    main()
