"""Predicting on the CPU, images/s and latency: torch, torch.compile, ONNX, ONNX in int8, and timm's ViT of that shape.

    python bench/inference.py --peers-python DIR/bin/python [--shape tiny] > inference.jsonl

The shapes are those of bench/throughput.py, at 32 x 32 pixels. Torch rows are fp32 under inference_mode and are given
normalised pictures; ONNX rows run in onnxruntime on files that `vitreous export` writes, are given uint8 pixels and
normalise them inside. All rows have the same number of threads and take turns in every round; timm may live in an
interpreter of its own. Latency is that of a single picture, images/s that of batches of 64, medians over all calls.
With one thread the seconds are those of the processor, which other work on the machine hardly touches; with more they
are those of the wall. The weights are random, which costs the same; what int8 does to accuracy is in docs/results.md.

Standard output: one JSON object with the provenance, then one a row. Standard error: the same as a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from throughput import CLASSES, MODELS, SHAPES, SIDE, Worker

BATCHES = (1, 64)
ROWS = [
    ("vitreous", "eager"),
    ("vitreous", "compiled"),
    ("vitreous", "onnx"),
    ("vitreous", "int8"),
    ("timm", "eager"),
    ("timm", "compiled"),
]


def torch_call(library: str, mode: str, shape: str) -> Callable[[int], Any]:
    """A model that answers a batch of so many pictures, in torch."""
    import torch

    torch.manual_seed(0)
    model = MODELS[library](*SHAPES[shape]).eval()
    if library == "vitreous":
        from vitreous.device import choose

        choose(model, SIDE, 3, "fp32", "auto")
    forward = torch.compile(model) if mode == "compiled" else model
    images = {batch: torch.randn(batch, 3, SIDE, SIDE) for batch in BATCHES}

    def call(batch: int) -> Any:
        with torch.inference_mode():
            return forward(images[batch])

    return call


def onnx_call(mode: str, shape: str) -> Callable[[int], Any]:
    """The same through a file that was exported."""
    import torch

    from vitreous.classifier import Classifier
    from vitreous.export import programs

    torch.manual_seed(0)
    model = MODELS["vitreous"](*SHAPES[shape]).eval()
    classifier = Classifier(model, model.config, tuple(map(str, range(CLASSES))), (0.5,) * 3, (0.25,) * 3)
    images = torch.randint(0, 256, (max(BATCHES), 3, SIDE, SIDE), dtype=torch.uint8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        if mode == "int8":
            programs.write_int8(classifier, path, images)
        else:
            programs.write_onnx(classifier, path)
        answers = programs.open_onnx(path)
    return lambda batch: answers(images[:batch])


def clock_for(threads: int) -> Callable[[], float]:
    """Seconds of this process on the processor, or of the wall where it has several threads at work."""
    return time.process_time if threads == 1 else time.perf_counter


def work(threads: int, shape: str) -> None:
    """The worker: reads orders, a JSON array a line, and answers each with a JSON line."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what a library prints is no answer
    import torch

    torch.set_num_threads(threads)
    clock = clock_for(threads)
    calls: dict[tuple[str, str], Callable[[int], Any]] = {}
    for line in sys.stdin:
        order, library, mode, count = json.loads(line)
        answer: dict[str, Any]
        if order == "prepare":
            begun = time.perf_counter()
            onnx = mode in ("onnx", "int8")
            call = calls[library, mode] = onnx_call(mode, shape) if onnx else torch_call(library, mode, shape)
            for batch in BATCHES:
                call(batch)
            package = "onnxruntime" if onnx else library
            answer = {"warm_up": time.perf_counter() - begun, "version": importlib.metadata.version(package)}
        else:
            answer = {}
            for batch in BATCHES:
                times = []
                for _ in range(count if batch == 1 else max(1, count // 8)):
                    begun = clock()
                    calls[library, mode](batch)
                    times.append(clock() - begun)
                answer[str(batch)] = times
        print(json.dumps(answer), file=answers, flush=True)


def measure(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every row in every round, interleaved; returns what each row gave."""
    mine = Worker(sys.executable, options.threads, options.shape, __file__)
    theirs = Worker(options.peers_python, options.threads, options.shape, __file__)
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    times: dict[tuple[str, str], dict[str, list[list[float]]]] = {row: {str(b): [] for b in BATCHES} for row in ROWS}
    try:
        for library, mode in ROWS:
            print(f"preparing {library} ({mode}) ...", file=sys.stderr, flush=True)
            facts[library, mode] = (theirs if library == "timm" else mine).ask("prepare", library, mode, 0)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
            for library, mode in ROWS:
                found = (theirs if library == "timm" else mine).ask("run", library, mode, options.calls)
                for batch, some in found.items():
                    times[library, mode][batch].append(some)
    finally:
        mine.stop()
        theirs.stop()
    return [row_of(library, mode, facts[library, mode], found) for (library, mode), found in times.items()]


def row_of(library: str, mode: str, facts: dict[str, Any], found: dict[str, list[list[float]]]) -> dict[str, Any]:
    """The figures of one row from the seconds of its calls, round by round."""
    single = sorted(1000 * seconds for some in found["1"] for seconds in some)
    rates = [64 / statistics.median(some) for some in found["64"]]
    return {
        "library": library,
        "mode": mode,
        **facts,
        "latency_ms": statistics.median(single),
        "latency_p95_ms": single[int(0.95 * (len(single) - 1))],
        "images_per_second": statistics.median(rates),
        "min": min(rates),
        "max": max(rates),
    }


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    from vitreous.device import hardware

    return {
        "bench": "inference",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "shape": dict(zip(("width", "depth", "heads"), SHAPES[options.shape], strict=True)),
        "side": SIDE,
        "rounds": options.rounds,
        "calls_a_round": options.calls,
        **hardware(),
        "threads": options.threads,
        "clock": clock_for(options.threads).__name__,
        "load_average": os.getloadavg()[0],
    }


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows as a table, the fastest first, each beside timm in eager torch."""
    base = next(row for row in rows if (row["library"], row["mode"]) == ("timm", "eager"))
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, {facts['clock']}, torch {facts['torch']}, "
        f"load {facts['load_average']:.1f} at the start, {facts['rounds']} rounds of {facts['calls_a_round']} single "
        f"calls, {facts['date']}",
        "",
        "| way | one picture, ms (p95) | x timm | images/s in batches of 64 (min - max) | x timm | to prepare |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["images_per_second"]):
        lines.append(
            f"| {row['library']} {row['mode']} ({row['version']}) "
            f"| {row['latency_ms']:.2f} ({row['latency_p95_ms']:.2f}) | {base['latency_ms'] / row['latency_ms']:.2f} "
            f"| {row['images_per_second']:.0f} ({row['min']:.0f} - {row['max']:.0f}) "
            f"| {row['images_per_second'] / base['images_per_second']:.2f} | {row['warm_up']:.0f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Predicting on the CPU: torch, compiled, ONNX, int8, and timm.")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter with timm installed")
    parser.add_argument("--shape", choices=list(SHAPES), default="nano")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=40, help="calls with one picture of every row in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.threads, options.shape)
        return
    facts = provenance(options)
    rows = measure(options)
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n" + markdown(facts, rows), file=sys.stderr)


if __name__ == "__main__":
    main()
