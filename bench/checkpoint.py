"""What saving costs training: steps with a checkpoint written beside them against the same number without.

    python bench/checkpoint.py --sizes nano,small > bench/checkpoint.jsonl

Rounds alternate: so many steps alone, then so many during which one checkpoint is copied and written. What those took
longer is what a save costs; divided by the time until the next save (saving.py decides that), the share of training.
On a machine with other work that difference drowns, so each round also counts the processor time of one more save with
nothing beside it: what the save takes from training where there is no idle processor.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch

from vitreous.config import override
from vitreous.data import DataSet, Images
from vitreous.device import hardware
from vitreous.recipes import Wish, plan
from vitreous.state import Run


def pictures(count: int) -> Images:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8)
    return Images(pixels, torch.arange(count) % 10, tuple("0123456789"), tuple(map(str, range(count))))


def steps(run: Run, count: int) -> float:
    """Seconds that so many steps take."""
    start = time.perf_counter()
    for _ in range(count):
        run.advance(0.5)
    return time.perf_counter() - start


def measure(size: str, batch: int, rounds: int, folder: Path) -> dict[str, object]:
    data = DataSet("random pictures", pictures(2048), pictures(100), None)
    config, _ = plan(Wish("random", steps=10**6, size=size), data)
    config = override(config, {"batch": str(batch), "precision": "bf16", "attention": "explicit", "ema": "0.99"})
    run = Run(config, folder, data, time.monotonic())
    run.model.train()
    steps(run, 5)
    run.save()
    run.saver.wait()
    count = max(5, round(2 * run.saver.seconds / (steps(run, 5) / 5)))  # long enough for the writer to end
    alone, beside, stalls, written, intervals, processor = [], [], [], [], [], []
    for _ in range(rounds):
        alone.append(steps(run, count))
        start = time.perf_counter()
        run.save()
        stalls.append(time.perf_counter() - start)
        beside.append(stalls[-1] + steps(run, count))
        run.saver.wait()
        written.append(run.saver.seconds)
        intervals.append(run.saver.interval())
        steps(run, 1)
        begun = time.process_time()
        run.save()
        run.saver.wait()
        processor.append(time.process_time() - begun)
    extra = [late - early for late, early in zip(beside, alone, strict=True)]
    interval = statistics.median(intervals)
    (newest,) = sorted((folder / "checkpoints").iterdir())[-1:]
    return {
        "bench": "checkpoint",
        "size": size,
        "batch": batch,
        "megabytes": round(sum(path.stat().st_size for path in newest.iterdir()) / 1e6, 1),
        "rounds": rounds,
        "steps_a_round": count,
        "step_seconds": round(statistics.median(alone) / count, 4),
        "copy_seconds": round(statistics.median(stalls), 4),
        "written_after_seconds": round(statistics.median(written), 3),
        "cost_seconds": round(statistics.median(extra), 4),
        "cost_seconds_quartiles": [round(quartile, 4) for quartile in statistics.quantiles(extra)[::2]],
        "interval_seconds": round(interval, 1),
        "share": round(statistics.median(extra) / interval, 5),
        "processor_seconds": round(statistics.median(processor), 4),
        "processor_seconds_most": round(max(processor), 4),
        "processor_share": round(statistics.median(processor) / interval, 5),
        "load": round(os.getloadavg()[0], 1),
        **hardware(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the cost of saving beside training")
    parser.add_argument("--sizes", default="nano,small")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    for size in asked.sizes.split(","):
        with tempfile.TemporaryDirectory() as scratch:
            print(json.dumps(measure(size, asked.batch, asked.rounds, Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
