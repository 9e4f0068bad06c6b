"""How fast a Vision Transformer reaches an accuracy on CIFAR-10, by the rules of the CNN speedruns.

    python bench/speedrun.py --target 0.94 --epochs 40 --seeds 0 1 2                    # on the fastest device here
    python bench/speedrun.py --target 0.5 --epochs 1 --device cpu --seeds 0 --size nano

The clock counts training alone: pictures are on the device before it starts, and warming up (compiling, a few steps at
each picture size, after which weights, optimisers and batch statistics are put back) is timed apart and stated. The
test split is read once, at the end, outside the clock, without test-time augmentation. One JSON row a seed.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vitreous.config import override
from vitreous.data import load
from vitreous.device import hardware
from vitreous.looks import measure
from vitreous.recipes import Wish, plan
from vitreous.state import Run

WARM_STEPS = 3
"""At each picture size: CUDA graphs are recorded in the second, replayed from the third."""


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def warm_up(run: Run) -> float:
    """Seconds of a few steps at each picture size; the run is as new afterwards."""
    start = time.perf_counter()
    weights = copy.deepcopy(run.model.state_dict())
    optimizers = [copy.deepcopy(optimizer.state_dict()) for optimizer in run.optimizers]
    sides = {phase.size for phase in run.config.phases} | {run.config.model.image_size}
    run.model.train()
    for side in sorted(sides):
        for _ in range(WARM_STEPS):
            run.advance(0.0, side)
    run.model.load_state_dict(weights)
    for optimizer, state in zip(run.optimizers, optimizers, strict=True):
        optimizer.load_state_dict(state)
    run.step = 0
    wait(run.plan.device)
    return time.perf_counter() - start


def one(asked: argparse.Namespace, seed: int) -> dict[str, Any]:
    data = load(asked.data, data_root=asked.data_root)
    assert data.test is not None
    wish = Wish(asked.data, epochs=asked.epochs, size=asked.size, seed=seed, device=asked.device)
    config, _ = plan(wish, data)
    changes = dict(pair.split("=", 1) for pair in asked.set)
    config = override(config, {"compile": json.dumps(asked.compile), **changes})
    with tempfile.TemporaryDirectory() as nowhere:
        run = Run(config, Path(nowhere), data, time.monotonic())
    warm = warm_up(run)
    steps = run.clock.steps
    assert steps is not None
    start = time.perf_counter()
    while run.step < steps:
        run.advance(run.step / steps)
    wait(run.plan.device)
    seconds = time.perf_counter() - start
    _, accuracy = measure(run.classifier(data.name), data.test)
    return {
        "bench": "speedrun",
        "command": "python bench/speedrun.py " + " ".join(sys.argv[1:]),
        "data": data.name,
        "fingerprint": run.pictures["fingerprint"],
        "recipe": config.recipe,
        "changes": changes,
        "epochs": asked.epochs,
        "seed": seed,
        "target": asked.target,
        "reached": accuracy >= asked.target,
        "test_accuracy": accuracy,
        "seconds": round(seconds, 3),
        "warm_up_seconds": round(warm, 3),
        "images": steps * run.batches.batch,
        "how": run.plan.note,
        "compiled": config.compile,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **hardware(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", type=float, default=0.94)
    parser.add_argument("--epochs", type=float, default=40.0)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE")
    asked = parser.parse_args()
    rows = [one(asked, seed) for seed in asked.seeds]
    for row in rows:
        print(json.dumps(row), flush=True)
    accuracies, seconds = ([row[name] for row in rows] for name in ("test_accuracy", "seconds"))
    spread = f" ± {100 * statistics.stdev(accuracies):.2f}" if len(rows) > 1 else ""
    print(
        f"{100 * statistics.mean(accuracies):.2f}{spread} % on the test split after {statistics.mean(seconds):.1f} s "
        f"(n = {len(rows)}; warm-up {statistics.mean(row['warm_up_seconds'] for row in rows):.1f} s apart); "
        f"{sum(row['reached'] for row in rows)} reached {asked.target:.0%}",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
