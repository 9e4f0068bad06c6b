"""Where a training step's time goes: operators of a few real steps under torch's profiler, put together by kind.

    python bench/step_profile.py [--size nano] [--stem conv|patch] [--image-size 32] [--steps 5] [--rounds 3]

The steps are those of a run: augmentation, forward, backward, optimiser, on pictures of noise.
Of every operator its own processor time counts, without what it called; the optimiser's are taken out first, products
in it included. Shares are medians over the rounds.

Standard output: one JSON object. Standard error: a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from vitreous.device import hardware, matrix_rate
from vitreous.models import count_flops
from vitreous.recipes import Wish, plan
from vitreous.speed import noise
from vitreous.state import Run

KINDS = {
    "matrix products": ("mm", "bmm", "baddbmm", "addmm", "linear", "mkldnn_linear", "_addmm_activation"),
    "convolutions": ("convolution", "mkldnn_convolution", "convolution_backward", "conv2d", "_convolution"),
    "softmax, normalisation, pooling": (
        "_softmax", "_softmax_backward_data", "native_layer_norm", "native_layer_norm_backward", "_log_softmax",
        "_log_softmax_backward_data", "native_batch_norm", "native_batch_norm_backward", "max_pool2d_with_indices",
        "max_pool2d_with_indices_backward",
    ),
    "GELU and its gradient": ("gelu", "gelu_backward", "relu", "threshold_backward"),
    "copies between types and layouts": ("copy_", "_to_copy", "cat", "clone", "contiguous"),
}  # fmt: skip
OPTIMISER = "the optimisers' steps"
OTHER = "all else"


def kind_of(name: str) -> str:
    """Of an operator such as ``aten::mm``."""
    plain = name.removeprefix("aten::").removeprefix("mkldnn::")
    return next((kind for kind, names in KINDS.items() if plain in names), OTHER)


def shares(run: Run, side: int, steps: int) -> dict[str, float]:
    """The share of each kind in the time of some steps."""
    with profile(activities=[ProfilerActivity.CPU]) as seen:
        for _ in range(steps):
            run.advance(0.5, side)
    spent: dict[str, float] = defaultdict(float)
    for event in seen.events():
        above, inside = event, False
        while above is not None:
            inside = inside or above.name.startswith("Optimizer.step")
            above = above.cpu_parent
        spent[OPTIMISER if inside else kind_of(event.name)] += event.self_cpu_time_total
    total = sum(spent.values())
    return {kind: value / total for kind, value in spent.items()}


def measure(size: str, stem: str, side: int, steps: int, rounds: int) -> dict[str, Any]:
    """Shares by kind, and what the steps reach without the profiler."""
    data = noise(side, 10)
    config, _ = plan(Wish("noise", steps=1000, size=size, stem=stem, device="cpu"), data)
    with tempfile.TemporaryDirectory() as nowhere:
        run = Run(config, Path(nowhere), data, time.monotonic())
    run.learn()
    found, speeds = [], []
    for _ in range(rounds):
        run.advance(0.5, side)
        begun = time.perf_counter()
        for _ in range(steps):
            run.advance(0.5, side)
        speeds.append(steps * run.batches.batch / (time.perf_counter() - begun))
        found.append(shares(run, side, steps))
    rate = statistics.median(speeds)
    kinds = {kind: statistics.median(each.get(kind, 0.0) for each in found) for kind in [*KINDS, OPTIMISER, OTHER]}
    return {
        "bench": "step_profile",
        "recipe": config.recipe,
        "side": side,
        "steps": steps,
        "rounds": rounds,
        "images_a_second": round(rate, 1),
        "share_of_products": round(3 * count_flops(config.model, side) * rate / matrix_rate(torch.device("cpu")), 3),
        "shares": {kind: round(share, 4) for kind, share in kinds.items()},
        "precision": run.plan.precision,
        "attention": run.plan.attention,
        "load": round(os.getloadavg()[0], 1),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **hardware(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="nano")
    parser.add_argument("--stem", default="conv")
    parser.add_argument("--image-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    row = measure(asked.size, asked.stem, asked.image_size, asked.steps, asked.rounds)
    print(json.dumps(row))
    print(f"| {row['recipe']}, {row['side']} pixels: {row['images_a_second']:,.0f} images/s | share |", file=sys.stderr)
    print("|---|---:|", file=sys.stderr)
    for kind, share in sorted(row["shares"].items(), key=lambda each: -each[1]):
        print(f"| {kind} | {share:.0%} |", file=sys.stderr)


if __name__ == "__main__":
    main()
