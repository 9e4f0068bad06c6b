"""How time and memory of a training step grow with tokens, width, depth and batch; does the cost model foretell it?

    python bench/scaling.py measure                 # a process a point, appended to bench/scaling.jsonl
    python bench/scaling.py table                   # the points beside what the model says
    python bench/scaling.py draw docs/images/scaling.png
    python bench/scaling.py paper                   # what nobody ran: 1, 8 and 1,024 GPUs, a billion pictures

The model is vitreous.cost: operations, numbers moved and operations started, counted from the architecture. A machine
is three rates; they are fitted to every second point (least squares on relative errors, none below zero) and tried on
the others. Rows carry shape, hardware, threads and load.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from vitreous.cost import Cost, Machine, step_cost
from vitreous.vit import ViTConfig

ROWS = Path(__file__).with_suffix(".jsonl")
STEPS = 6

Point = tuple[str, dict[str, Any], int, int]
"""What grows, fields of ViTConfig, batch, side in pixels."""

BASE: dict[str, Any] = {"width": 128, "depth": 4, "heads": 4}
POINTS: list[Point] = [
    *(("tokens", BASE, batch, side) for side, batch in ((16, 128), (24, 128), (32, 128), (48, 64), (64, 32), (128, 8))),
    *(("width", {**BASE, "width": width}, 64, 32) for width in (64, 128, 192, 256, 384)),
    *(("depth", {**BASE, "depth": depth}, 128, 32) for depth in (1, 2, 4, 8, 12)),
    *(("batch", BASE, batch, 32) for batch in (16, 32, 64, 256)),
    *(("conv stem", {**BASE, "depth": 2, "stem": "conv"}, 128, side) for side in (16, 24, 32, 48)),
]


def config_of(fields: dict[str, Any]) -> ViTConfig:
    return ViTConfig(**fields)


def one(number: int) -> None:
    """Measures a point in this process; prints the row."""
    import torch
    import torch.nn.functional as F

    from vitreous.device import choose, hardware
    from vitreous.optim import OptimConfig, build_optimizers
    from vitreous.vit import ViT

    grows, fields, batch, side = POINTS[number]
    model = ViT(config_of(fields))
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    plan = choose(model, side, 3, "auto", "explicit")
    optimizers = build_optimizers(model, OptimConfig())
    images = torch.randn(batch, 3, side, side).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch,))
    before = peak_memory(anew=True)
    times = []
    for _ in range(STEPS):
        start = time.perf_counter()
        with plan.autocast():
            scores = model(images)
        F.cross_entropy(scores.float(), labels).backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        times.append(time.perf_counter() - start)
    row = {
        "grows": grows,
        "fields": fields,
        "batch": batch,
        "side": side,
        "seconds": statistics.median(times[1:]),
        "fastest": min(times[1:]),
        "peak_mib": round((peak_memory() - before) / 2**20, 1),
        "precision": plan.precision,
        "load_before": round(os.getloadavg()[0], 2),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        **hardware(),
    }
    print(json.dumps(row))


def peak_memory(anew: bool = False) -> int:
    """The most bytes this process has held in memory, since it was last asked ``anew``. Linux."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in status if line.startswith("VmHWM")).split()[1])


def cost_of(row: dict[str, Any]) -> Cost:
    return step_cost(config_of(row["fields"]), row["batch"], row["side"], 2 if row["precision"] == "bf16" else 4)


def fitted(rows: list[dict[str, Any]]) -> Machine:
    """The three rates that explain the rows best."""
    from scipy.optimize import nnls

    costs = [cost_of(row) for row in rows]
    matrix = np.array([[cost.flops, cost.moved, cost.started] for cost in costs])
    seconds = np.array([row["fastest"] for row in rows])
    inverse, _ = nnls(matrix / seconds[:, None], np.ones(len(rows)))
    return Machine(*(1 / max(rate, 1e-30) for rate in inverse))


def table(rows: list[dict[str, Any]]) -> str:
    machine = fitted(rows[::2])
    lines = [
        f"fitted to every second point: {machine.flops / 1e9:.0f} GFLOP/s in products, {machine.moved / 1e9:.2f} "
        f"billion numbers/s between them, {machine.started:,.0f} operations started/s",
        "",
        "| grows | shape | batch | pixels | ms a step | model, ms | error | used to fit | MiB | model, MiB |",
        "|---|---|---:|---:|---:|---:|---:|---|---:|---:|",
    ]
    for number, row in enumerate(rows):
        cost = cost_of(row)
        told = machine.seconds(cost)
        lines.append(
            f"| {row['grows']} | {', '.join(f'{k} {v}' for k, v in row['fields'].items())} | {row['batch']} "
            f"| {row['side']} | {1000 * row['fastest']:.0f} | {1000 * told:.0f} | {told / row['fastest'] - 1:+.0%} "
            f"| {'yes' if number % 2 == 0 else ''} | {row['peak_mib']:.0f} | {cost.kept / 2**20:.0f} |"
        )
    errors = [abs(machine.seconds(cost_of(row)) / row["fastest"] - 1) for row in rows[1::2]]
    lines += [
        "",
        f"On the points not used to fit: error {statistics.mean(errors):.0%} on average, {max(errors):.0%} most.",
    ]
    return "\n".join(lines)


def draw(rows: list[dict[str, Any]], picture: Path) -> None:
    from matplotlib.figure import Figure

    machine = fitted(rows[::2])
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    for grows in dict.fromkeys(row["grows"] for row in rows):
        some = [row for row in rows if row["grows"] == grows]
        axes.plot(
            [r["fastest"] for r in some], [machine.seconds(cost_of(r)) for r in some], "o", label=grows, alpha=0.8
        )
    ends = [min(r["fastest"] for r in rows), max(r["fastest"] for r in rows)]
    axes.plot(ends, ends, "k-", linewidth=1)
    for factor in (0.8, 1.2):
        axes.plot(ends, [factor * end for end in ends], "k--", linewidth=0.7)
    axes.set(
        xscale="log", yscale="log", xlabel="seconds a step, measured", ylabel="seconds a step, from the cost model"
    )
    axes.legend(fontsize=8)
    figure.savefig(picture, dpi=110)


GPU = Machine(flops=0.45 * 989e12, moved=0.5 * 3.35e12 / 2, started=1e6)
"""An H100 SXM by its data sheet (989 TFLOP/s dense bf16, 3.35 TB/s): 45 % of the products' peak and half of the
memory's are taken to be reached, and operations to be started from CUDA graphs. Nothing of it was measured."""
LINKS = {1: 0.0, 8: 450e9, 1024: 50e9}
"""GPUs -> bytes a second of each to the others: NVLink in a machine, one 400 Gbit/s adapter a GPU between machines."""
JPEG = 110e3
"""Bytes of a picture of about 500 x 400 pixels."""
DECODE = 3e-3
"""Seconds of one core to decode it and to cut out 224 pixels, with Pillow."""


def paper() -> str:
    """A table for ViT-base on a billion pictures of 224 pixels, one pass, 256 pictures a GPU and step."""
    config = ViTConfig(image_size=224, patch_size=16, width=768, depth=12, heads=12, classes=1000)
    batch, pictures = 256, 1e9
    cost = step_cost(config, batch)
    compute = GPU.seconds(cost)
    lines = [
        "| GPUs | computing a step | gradients, if nothing overlapped | pictures/s | a billion pictures | to be read "
        "| cores that decode |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for count, link in LINKS.items():
        exchange = 2 * (count - 1) / count * 2 * cost.parameters / link if link else 0.0  # ring, two bytes a number
        rate = count * batch / max(compute, exchange)  # the way back hides the exchange, or is hidden by it
        hours = pictures / rate / 3600
        lines.append(
            f"| {count:,} | {1000 * compute:.0f} ms | {1000 * exchange:.1f} ms | {rate:,.0f} | {hours:,.2f} h "
            f"| {rate * JPEG / 1e9:,.1f} GB/s | {rate * DECODE:,.0f} |"
        )
    memory = cost.kept + 16 * cost.parameters
    kept = f"of which {cost.kept / 2**30:.0f} GiB is kept for the way back"
    return "\n".join([*lines, "", f"Memory of a step on each GPU: {memory / 2**30:.0f} GiB, {kept}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS)
    actions = parser.add_subparsers(dest="action", required=True)
    actions.add_parser("measure")
    actions.add_parser("table")
    actions.add_parser("draw").add_argument("picture", type=Path)
    actions.add_parser("paper")
    actions.add_parser("one").add_argument("number", type=int)
    asked = parser.parse_args()
    if asked.action == "one":
        one(asked.number)
        return
    if asked.action == "measure":
        for number in range(len(POINTS)):
            command = [sys.executable, __file__, "one", str(number)]
            line = subprocess.run(command, check=True, capture_output=True, text=True).stdout
            with asked.rows.open("a", encoding="utf-8") as file:
                file.write(line)
            print(line.strip(), file=sys.stderr, flush=True)
        return
    if asked.action == "paper":
        print(paper())
        return
    rows = [json.loads(line) for line in asked.rows.read_text(encoding="utf-8").splitlines()]
    if asked.action == "table":
        print(table(rows))
    else:
        draw(rows, asked.picture)


if __name__ == "__main__":
    main()
