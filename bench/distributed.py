"""What several processes cost: training steps of one process beside those of several that share each batch.

    python bench/distributed.py > bench/distributed.jsonl
    python bench/distributed.py --paper        # what nobody ran: 64 and 1,024 GPUs, from the cost model

The ways take turns, so that a slow moment of the machine hits all of them. Every way makes the same steps of the
default model on the same batches, the optimisers included:

    alone    one process on all threads
    carried  the same inside DistributedDataParallel, whose single process has nobody to tell
    wrapped  and with batch statistics taken over that process too, as it would be one of several
    apart    so many processes on one thread each, with their share of the batch and nothing to tell each other
    copies   processes on one thread each that average their gradients (DistributedDataParallel)
    parts    the same, each with a part of every weight (FSDP2)

``apart`` against ``alone`` is what doing without shared threads costs, ``copies`` against ``apart`` what telling costs.
The rows are JSON, one a way, after one with the machine; a table for people goes to standard error.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

WAYS = ("alone", "carried", "wrapped", "apart", "copies", "parts")
PICTURES, SIDE, CLASSES, BATCH = 2048, 32, 10, 128


def work(way: str, share: int, precision: str) -> None:
    """One process of a way: reads how many steps to make, a number a line, and answers with the seconds they took.

    Two numbers: by the clock on the wall, and of processors, which a busy machine changes less.
    """
    import torch
    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    from vitreous import parallel, ranks
    from vitreous.config import RunConfig
    from vitreous.data import DataSet, Images
    from vitreous.recipes import model_for
    from vitreous.state import Run

    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (PICTURES, 3, SIDE, SIDE), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, CLASSES, (PICTURES,), generator=generator)
    names, ids = tuple(map(str, range(CLASSES))), tuple(map(str, range(PICTURES)))
    data = DataSet("noise", Images(pixels, labels, names, ids), Images(pixels[:1], labels[:1], names, ids[:1]), None)
    config = RunConfig(
        model=model_for("vit", "nano", "conv", SIDE, 3, CLASSES),
        steps=10**6,
        batch=BATCH // share,
        precision=precision,
        attention="explicit",
        device="cpu",
        shard=way == "parts",
    )
    with ranks.joined(), tempfile.TemporaryDirectory() as nowhere:
        run = Run(config, Path(nowhere), data, time.monotonic())
        if way in ("carried", "wrapped"):
            dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
            if way == "wrapped":
                parallel.over_all(run.model)
            run.forward = DistributedDataParallel(run.model, gradient_as_bucket_view=True)
        run.model.train()
        for line in sys.stdin:
            start, worked = time.perf_counter(), time.process_time()
            for _ in range(int(line)):
                run.advance(0.5)
            print(time.perf_counter() - start, time.process_time() - worked, flush=True)


class Way:
    """The processes of one way, which wait until they are asked for steps."""

    def __init__(self, name: str, processes: int, threads: int, precision: str) -> None:
        many = name in ("apart", "copies", "parts")
        self.name, self.count, self.threads = name, processes if many else 1, 1 if many else threads
        share = processes if name == "apart" else 1
        command = [sys.executable, __file__, "--work", name, "--share", str(share), "--precision", precision]
        self.members = [
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "OMP_NUM_THREADS": str(self.threads), **where},
            )
            for where in self._places(name)
        ]

    def _places(self, name: str) -> list[dict[str, str]]:
        if name not in ("copies", "parts"):
            return [{}] * self.count
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = str(free.getsockname()[1])
        everywhere = {"WORLD_SIZE": str(self.count), "MASTER_ADDR": "localhost", "MASTER_PORT": port}
        return [{**everywhere, "RANK": str(number), "LOCAL_RANK": str(number)} for number in range(self.count)]

    def seconds(self, steps: int) -> tuple[float, float]:
        """Of so many steps: until the last process has made them, and of processors, all processes together."""
        for member in self.members:
            assert member.stdin
            member.stdin.write(f"{steps}\n")
            member.stdin.flush()
        answers = [member.stdout.readline() for member in self.members if member.stdout]
        if not all(answers):
            raise SystemExit(f"error: a process of {self.name} ended; its reason stands above")
        walls, worked = zip(*(map(float, answer.split()) for answer in answers), strict=True)
        return max(walls), sum(worked)

    def stop(self) -> None:
        for member in self.members:
            assert member.stdin
            member.stdin.close()
        for member in self.members:
            member.wait()


def measure(ways: list[Way], rounds: int, steps: int) -> list[dict[str, Any]]:
    """A row a way: pictures a second of every round, the ways in turn."""
    rates: dict[str, list[float]] = {way.name: [] for way in ways}
    worked: dict[str, list[float]] = {way.name: [] for way in ways}
    try:
        for way in ways:
            print(f"warming up {way.name} ...", file=sys.stderr, flush=True)
            way.seconds(3)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
            first = number % len(ways)  # nobody always follows the same one
            for way in ways[first:] + ways[:first]:
                wall, processors = way.seconds(steps)
                rates[way.name].append(BATCH * steps / wall)
                worked[way.name].append(processors / steps)
    finally:
        for way in ways:
            way.stop()
    rows = []
    for way in ways:
        shares = [own / first for own, first in zip(rates[way.name], rates[ways[0].name], strict=True)]
        quarters = statistics.quantiles(shares, method="inclusive")
        work = [own / first for own, first in zip(worked[way.name], worked[ways[0].name], strict=True)]
        work_quarters = statistics.quantiles(work, method="inclusive")
        rows.append(
            {
                "way": way.name,
                "processes": way.count,
                "threads_each": way.threads,
                "images_per_second": statistics.median(rates[way.name]),
                "of_first": quarters[1],
                "of_first_quartiles": [quarters[0], quarters[2]],
                "processor_seconds_a_step": statistics.median(worked[way.name]),
                "work_of_first": work_quarters[1],
                "work_of_first_quartiles": [work_quarters[0], work_quarters[2]],
                "rounds": rates[way.name],
            }
        )
    return rows


GPU = {"flops": 0.45 * 989e12, "moved": 0.5 * 3.35e12 / 2, "started": 1e6}
"""An H100 by its data sheet, of which a step is taken to reach 45 % of the products and half of the memory."""
INSIDE, BETWEEN = 450e9, 50e9
"""Bytes a second of each GPU to the others of its machine (NVLink) and beyond (400 Gbit/s each)."""
HOP, CALL = 5e-6, 50e-6
"""Seconds of one message between GPUs, and between processors over TCP."""
BUCKET = 25e6
"""Bytes of gradients that are sent together; those of the last bucket nothing hides."""
GRADIENT = 4
"""Bytes of a number that is exchanged."""


def paper() -> str:
    """Two models on 8, 64 and 1,024 GPUs: what a step takes of each, and what of it is waiting."""
    from torch import nn

    from vitreous.clock import ASKED_EVERY_STEP
    from vitreous.cost import Machine, step_cost
    from vitreous.models import build_model
    from vitreous.recipes import model_for
    from vitreous.vit import ViTConfig

    nano = model_for("vit", "nano", "conv", SIDE, 3, CLASSES)
    assert isinstance(nano, ViTConfig)
    base = ViTConfig(image_size=224, patch_size=16, width=768, depth=12, heads=12, classes=1000)
    lines = [
        "| model, pictures a GPU | GPUs | computing | gradients, not hidden | batch statistics | agreeing (CPU) "
        "| a step | of one GPU's speed each | whole batch |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, model, batch in (("nano, 32 pixels, 128", nano, 128), ("ViT-base, 224 pixels, 256", base, 256)):
        cost = step_cost(model, batch)
        alone = Machine(**GPU).seconds(cost)
        norms = sum(isinstance(module, nn.BatchNorm2d) for module in build_model(model).modules())
        for count in (8, 64, 1024):
            link, depth = (INSIDE if count <= 8 else BETWEEN), math.log2(count)
            gradients = 2 * (count - 1) / count * GRADIENT * cost.parameters / link
            last = min(1.0, BUCKET / (GRADIENT * cost.parameters))
            shown = max(last * gradients, gradients - alone * 2 / 3) + 2 * depth * HOP
            statistics = norms * ((count - 1) + 2 * depth) * HOP  # gathered in a ring forwards, summed in trees back
            ring = 2 * (count - 1) / math.ceil(count / ASKED_EVERY_STEP)
            agreeing = (2 * depth + ring) * CALL
            step = max(alone + shown + statistics, cost.started / GPU["started"] + agreeing)
            times = " | ".join(f"{1000 * part:.2f} ms" for part in (alone, shown, statistics, agreeing, step))
            lines.append(f"| {name} | {count:,} | {times} | {alone / step:.0%} | {count * batch:,} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="What several processes cost, beside one.")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS), help="the first is what others are to")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="of the ways with one process")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=6, help="of every way in a round")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16")
    parser.add_argument("--paper", action="store_true", help="a table for many GPUs instead, calculated, not measured")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("--share", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work, options.share, options.precision)
        return
    if options.paper:
        print(paper())
        return
    from vitreous.device import hardware

    facts = {
        "bench": "distributed",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": f"nano-conv, {SIDE} pixels, Muon, batch {BATCH}, {options.precision}, explicit attention",
        "rounds": options.rounds,
        "steps_a_round": options.steps,
        **hardware(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
    }
    ways = [Way(name, options.processes, options.threads, options.precision) for name in options.ways]
    rows = measure(ways, options.rounds, options.steps)
    for row in (facts, *rows):
        print(json.dumps(row))
    head = "| way | processes x threads | images/s, median | of the first's speed | of its processor time |"
    head += "\n|---|---|---:|---:|---:|"
    print(f"\n{head}", file=sys.stderr)
    for row in rows:
        low, high = row["of_first_quartiles"]
        less, more = row["work_of_first_quartiles"]
        print(
            f"| {row['way']} | {row['processes']} x {row['threads_each']} | {row['images_per_second']:.0f} "
            f"| {row['of_first']:.1%} ({low:.1%} - {high:.1%}) "
            f"| {row['work_of_first']:.1%} ({less:.1%} - {more:.1%}) |",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
