"""Does the planner leave much on the table? Whole `vitreous train` commands as it plans them, and with changes by hand.

    python bench/planner.py --data fashion-mnist --budget 60s --data-root DIR [--seeds 0 1]

Every way gets the same budget, in a process and folder of its own; ways are interleaved, so that a slow minute hits all
of them. Compared is validation accuracy, by which nothing else here picks anything; the aim is that no way is more than
2 points better than the plan.

Standard output: one JSON row a run, as bench/time_to_accuracy.py writes them, with the way's name; the file that is
given with --rows gets them too. Standard error: a Markdown table of all rows there.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from time_to_accuracy import one

ROWS = Path(__file__).with_suffix(".jsonl")
PLAN = "as planned"
WAYS = {
    PLAN: [],
    "plain stem": ["--stem", "patch"],
    "size tiny": ["--size", "tiny"],
    "four blocks": ["--set", "model.depth=4"],
    "batch 64": ["--set", "batch=64"],
    "Muon at half the rate": ["--set", "optim.muon_lr=0.0025"],
    "Muon at twice the rate": ["--set", "optim.muon_lr=0.01"],
    "no shifts": ["--set", "augment.shift=0"],
    "neither shifts nor mirroring": ["--set", "augment.shift=0", "--set", "augment.flip=false"],
    "shifts of an eighth": ["--set", "augment.shift=0.125"],
    "one picture size": ["--set", "phases=[]"],
    "learned first filters": ["--set", "model.stem_whiten=false"],
    "filters that are not turned": ["--set", "optim.filter_lr=0"],
    "averaged weights": ["--set", "ema=0.98"],
}


def table(path: Path) -> str:
    """All rows of a file: for each data set and budget the ways, best first, and what each is ahead of the plan."""
    found: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[row["data"], row["budget"]][row["way"]].append(row)
    lines = []
    for (data, budget), ways in found.items():
        mean = {way: 100 * statistics.mean(row["val_accuracy"] for row in rows) for way, rows in ways.items()}
        lines += [
            f"{data}, {budget}",
            "",
            "| way | validation % | ahead of the plan | seeds | images |",
            "|---|---:|---:|---:|---:|",
        ]
        for way in sorted(mean, key=mean.__getitem__, reverse=True):
            ahead = f"{mean[way] - mean[PLAN]:+.1f}" if PLAN in mean else ""
            images = statistics.mean(row["images"] for row in ways[way])
            lines.append(f"| {way} | {mean[way]:.1f} | {ahead} | {len(ways[way])} | {images:,.0f} |")
        lines.append("")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--data", default="fashion-mnist")
    parser.add_argument("--data-root")
    parser.add_argument("--budget", default="60s")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    asked = parser.parse_args()
    for seed in asked.seeds:
        for way in asked.ways:
            row = {"way": way, **one(asked.data, asked.budget, seed, WAYS[way], asked.data_root)}
            with asked.rows.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
            print(json.dumps(row), flush=True)
    print(table(asked.rows), file=sys.stderr)


if __name__ == "__main__":
    main()
