"""Images/s of one small Vision Transformer, training and predicting: Vitreous, timm, Hugging Face and vit-pytorch.

    python bench/throughput.py --peers-python DIR/bin/python [--shape tiny] > throughput.jsonl

The shape is nano (width 128, 4 blocks, 4 heads) or tiny (192, 12, 3), MLP 4, patch 4, class token, 32 x 32 pixels, 10
classes, batch 128. A row is a library at its default (fp32, eager) or at its best settings (bf16 autocast,
torch.compile); Vitreous's default is what its probe picks on this machine. All rows run AdamW (fused), cross entropy,
the same number of threads and the same made-up pictures, one after the other in every round, so that a slow minute of
the machine hits all of them.
Warming up and compiling are timed apart. The peers may live in an interpreter of their own: they run there, as a
worker that this process tells what to do, and never at the same time as ours. Peak memory is that of two training steps
in a process of their own, above what it held before the model was made. The share of the matrix rate is the model's
operations (forwards, and twice that backwards) a second over what a medium bf16 matrix product reaches here, measured
in every round too.

Standard output: one JSON object with the provenance, then one a row. Standard error: the same as a Markdown table.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

BATCH, SIDE, CLASSES = 128, 32, 10
SHAPES = {"nano": (128, 4, 4), "tiny": (192, 12, 3)}
"""Width, depth, heads."""
MODES = ("default", "best")
ROWS = [(library, mode) for mode in MODES for library in ("vitreous", "timm", "huggingface", "vit-pytorch")]
PACKAGES = {"vitreous": "vitreous", "timm": "timm", "huggingface": "transformers", "vit-pytorch": "vit-pytorch"}


def vitreous_model(width: int, depth: int, heads: int) -> Any:
    from vitreous.vit import ViT, ViTConfig

    return ViT(ViTConfig(image_size=SIDE, patch_size=4, width=width, depth=depth, heads=heads, classes=CLASSES))


def timm_model(width: int, depth: int, heads: int) -> Any:
    import_torchvision_stub()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=width, depth=depth, num_heads=heads, mlp_ratio=4.0, num_classes=CLASSES
    )


def huggingface_model(width: int, depth: int, heads: int) -> Any:
    import_torchvision_stub()
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
        num_labels=CLASSES,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )

    class Scores(torch.nn.Module):
        """Only the scores, as the other models return them."""

        def __init__(self) -> None:
            super().__init__()
            self.model = ViTForImageClassification(config)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.model(images).logits
            return scores

    return Scores()


def vit_pytorch_model(width: int, depth: int, heads: int) -> Any:
    import_torchvision_stub()
    from vit_pytorch import ViT

    inner = {"dim_head": width // heads, "mlp_dim": 4 * width}
    return ViT(image_size=SIDE, patch_size=4, num_classes=CLASSES, dim=width, depth=depth, heads=heads, **inner)


def import_torchvision_stub() -> None:
    """Beside a CPU torch, torchvision may lack its operators; an environment can bring a module that declares them."""
    try:
        __import__("torchvision_ops")
    except ImportError:
        return


MODELS: dict[str, Callable[[int, int, int], Any]] = {
    "vitreous": vitreous_model,
    "timm": timm_model,
    "huggingface": huggingface_model,
    "vit-pytorch": vit_pytorch_model,
}


class Row:
    """One library in one mode, ready to run training steps."""

    def __init__(self, library: str, mode: str, shape: str) -> None:
        import torch

        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        if library == "vitreous":
            from vitreous.device import keep_memory

            keep_memory()
        self.model = MODELS[library](*SHAPES[shape]).to(device)
        self.images = torch.randn(BATCH, 3, SIDE, SIDE, device=device)
        self.labels = torch.randint(0, CLASSES, (BATCH,), device=device)
        self.device, attention = device, ""
        self.precision = "bf16" if mode == "best" else "fp32"
        if library == "vitreous":
            from vitreous.device import choose

            self.model = self.model.to(memory_format=torch.channels_last)
            plan = choose(self.model, SIDE, 3, "auto", "auto")
            self.precision, attention = plan.precision, f", {plan.attention} attention"
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.settings = f"{self.precision}{attention}, {'compiled' if mode == 'best' else 'eager'}"
        self.parameters = sum(p.numel() for p in self.model.parameters())
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.forward = torch.compile(self.model) if mode == "best" else self.model

    def run(self, steps: int) -> float:
        """Seconds for so many whole training steps."""
        import torch

        self.model.train()
        start = time.perf_counter()
        for _ in range(steps):
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                scores = self.forward(self.images)
            loss = torch.nn.functional.cross_entropy(scores.float(), self.labels)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            loss.item()
        return time.perf_counter() - start

    def predict(self, batches: int) -> float:
        """Seconds for the class scores of so many batches."""
        import torch

        self.model.eval()
        start = time.perf_counter()
        for _ in range(batches):
            with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                self.forward(self.images).sum().item()
        return time.perf_counter() - start


def peak_memory(anew: bool = False) -> int:
    """The most MiB this process has held in memory, since it was last asked ``anew``. Linux; 0 elsewhere."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    return int(next(line for line in status.read_text().splitlines() if line.startswith("VmHWM")).split()[1]) // 1024


def work(threads: int, shape: str) -> None:
    """The worker: reads orders, a JSON array a line, and answers each with a JSON line."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what a library prints is no answer
    import torch

    torch.set_num_threads(threads)
    rows: dict[tuple[str, str], Row] = {}
    for line in sys.stdin:
        order, library, mode, steps = json.loads(line)
        if order == "prepare":
            before = peak_memory(anew=True)
            row = rows[library, mode] = Row(library, mode, shape)
            answer: dict[str, Any] = {"warm_up": row.run(2), "parameters": row.parameters, "settings": row.settings}
            answer |= {"version": importlib.metadata.version(PACKAGES[library]), "torch": torch.__version__}
            answer |= {"peak_mib": peak_memory() - before}
            row.predict(2)
        elif order == "matrix":
            from vitreous.device import matrix_rate

            answer = {"rate": matrix_rate(torch.device("cpu"))}
        else:
            row = rows[library, mode]
            answer = {"train": BATCH * steps / row.run(steps), "predict": BATCH * steps / row.predict(steps)}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """The other end of :func:`work`, or of that of another ``script``, in an interpreter of its own."""

    def __init__(self, python: str, threads: int, shape: str, script: str = __file__) -> None:
        command = [python, script, "--work", "--threads", str(threads), "--shape", shape]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, *order: Any) -> dict[str, Any]:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"error: the worker for {order[1]} ended; its reason stands above")
        result: dict[str, Any] = json.loads(answer)
        return result

    def stop(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait()


def provenance(options: argparse.Namespace) -> dict[str, Any]:
    from vitreous.device import hardware
    from vitreous.models import count_flops
    from vitreous.vit import ViTConfig

    width, depth, heads = SHAPES[options.shape]
    return {
        "bench": "throughput",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "shape": options.shape,
        "flops_a_picture": count_flops(ViTConfig(width=width, depth=depth, heads=heads), SIDE),
        "batch": BATCH,
        "optimizer": "AdamW, fused",
        "rounds": options.rounds,
        "steps_a_round": options.steps,
        **hardware(),
        "threads": options.threads,
        "load_average": os.getloadavg()[0],
    }


def measure(options: argparse.Namespace) -> tuple[float, list[dict[str, Any]]]:
    """The matrix rate, and every row in every round, interleaved: what each row gave."""

    def worker(library: str) -> Worker:
        python = sys.executable if library == "vitreous" else options.peers_python
        return Worker(python, options.threads, options.shape)

    facts: dict[tuple[str, str], dict[str, Any]] = {}
    found: dict[tuple[str, str], list[dict[str, float]]] = {row: [] for row in ROWS}
    matrix: list[float] = []
    workers = {row: worker(row[0]) for row in ROWS}  # a process a row, so that memory is each row's own
    try:
        for library, mode in ROWS:
            print(f"warming up {library} ({mode}) ...", file=sys.stderr, flush=True)
            facts[library, mode] = workers[library, mode].ask("prepare", library, mode, 0)
        for number in range(options.rounds):
            print(f"round {number + 1} of {options.rounds} ...", file=sys.stderr, flush=True)
            matrix.append(workers["vitreous", "default"].ask("matrix", "vitreous", "default", 0)["rate"])
            for library, mode in ROWS:
                found[library, mode].append(workers[library, mode].ask("run", library, mode, options.steps))
    finally:
        for each in workers.values():
            each.stop()
    rows = [
        {
            "library": library,
            "mode": mode,
            **facts[library, mode],
            **{
                name: {"median": statistics.median(rates), "min": min(rates), "max": max(rates), "rounds": rates}
                for name in ("train", "predict")
                for rates in [[each[name] for each in rounds]]
            },
        }
        for (library, mode), rounds in found.items()
    ]
    return statistics.median(matrix), rows


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows as a table, the fastest first, each beside timm's default."""
    base = next(r["train"]["median"] for r in rows if (r["library"], r["mode"]) == ("timm", "default"))
    lines = [
        f"{facts['shape']}; {facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, load "
        f"{facts['load_average']:.1f} at the start, {facts['rounds']} rounds of {facts['steps_a_round']} steps, "
        f"{facts['matrix_rate'] / 1e9:.0f} GFLOP/s in a bf16 matrix product, {facts['date']}",
        "",
        "| library | settings | training images/s (min - max) | x timm fp32 eager | share of the matrix rate "
        "| predicting images/s (min - max) | peak memory | first two steps |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["train"]["median"]):
        train, predict = row["train"], row["predict"]
        share = 3 * facts["flops_a_picture"] * train["median"] / facts["matrix_rate"]
        lines.append(
            f"| {row['library']} {row['version']} | {row['settings']} "
            f"| {train['median']:.0f} ({train['min']:.0f} - {train['max']:.0f}) | {train['median'] / base:.2f} "
            f"| {share:.0%} | {predict['median']:.0f} ({predict['min']:.0f} - {predict['max']:.0f}) "
            f"| {row['peak_mib']} MiB | {row['warm_up']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Images/s: Vitreous beside timm, Hugging Face, vit-pytorch.")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter with the peers installed")
    parser.add_argument("--shape", choices=list(SHAPES), default="nano")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="training steps of every row in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.threads, options.shape)
        return
    facts = provenance(options)
    facts["matrix_rate"], rows = measure(options)
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n" + markdown(facts, rows), file=sys.stderr)


if __name__ == "__main__":
    main()
