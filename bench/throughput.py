"""Training images/s of one small Vision Transformer: Vitreous beside timm, Hugging Face and vit-pytorch.

    python bench/throughput.py --peers-python DIR/bin/python > throughput.jsonl

The shape is width 128, 4 blocks, 4 heads, MLP 4, patch 4, class token, 32 x 32 pixels, 10 classes, batch 128. A row is
a library at its default (fp32, eager) or at its best settings (bf16 autocast, torch.compile); Vitreous's default is
what its probe picks on this machine. All rows run AdamW (fused), cross entropy, the same number of threads and the
same made-up pictures, one after the other in every round, so that a slow minute of the machine hits all of them.
Warming up and compiling are timed apart. The peers may live in an interpreter of their own: they run there, as a
worker that this process tells what to do, and never at the same time as ours.

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
from typing import Any

BATCH, SIDE, CLASSES = 128, 32, 10
SHAPE = {"width": 128, "depth": 4, "heads": 4, "mlp_ratio": 4, "patch": 4, "side": SIDE, "classes": CLASSES}
MODES = ("default", "best")
ROWS = [(library, mode) for mode in MODES for library in ("vitreous", "timm", "huggingface", "vit-pytorch")]
PACKAGES = {"vitreous": "vitreous", "timm": "timm", "huggingface": "transformers", "vit-pytorch": "vit-pytorch"}


def vitreous_model() -> Any:
    from vitreous.vit import ViT, ViTConfig

    return ViT(ViTConfig(image_size=SIDE, patch_size=4, width=128, depth=4, heads=4, mlp_ratio=4.0, classes=CLASSES))


def timm_model() -> Any:
    import_torchvision_stub()
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=SIDE, patch_size=4, embed_dim=128, depth=4, num_heads=4, mlp_ratio=4.0, num_classes=CLASSES
    )


def huggingface_model() -> Any:
    import_torchvision_stub()
    import torch
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        image_size=SIDE,
        patch_size=4,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=512,
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


def vit_pytorch_model() -> Any:
    import_torchvision_stub()
    from vit_pytorch import ViT

    return ViT(image_size=SIDE, patch_size=4, num_classes=CLASSES, dim=128, depth=4, heads=4, dim_head=32, mlp_dim=512)


def import_torchvision_stub() -> None:
    """Beside a CPU torch, torchvision may lack its operators; an environment can bring a module that declares them."""
    try:
        __import__("torchvision_ops")
    except ImportError:
        return


MODELS: dict[str, Callable[[], Any]] = {
    "vitreous": vitreous_model,
    "timm": timm_model,
    "huggingface": huggingface_model,
    "vit-pytorch": vit_pytorch_model,
}


class Row:
    """One library in one mode, ready to run training steps."""

    def __init__(self, library: str, mode: str) -> None:
        import torch

        torch.manual_seed(0)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MODELS[library]().to(device)
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


def work(threads: int) -> None:
    """The worker: reads orders, a JSON array a line, and answers each with a JSON line."""
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what a library prints is no answer
    import torch

    torch.set_num_threads(threads)
    rows: dict[tuple[str, str], Row] = {}
    for line in sys.stdin:
        order, library, mode, steps = json.loads(line)
        if order == "prepare":
            row = rows[library, mode] = Row(library, mode)
            answer: dict[str, Any] = {"warm_up": row.run(2), "parameters": row.parameters, "settings": row.settings}
            answer |= {"version": importlib.metadata.version(PACKAGES[library]), "torch": torch.__version__}
        else:
            answer = {"rate": BATCH * steps / rows[library, mode].run(steps)}
        print(json.dumps(answer), file=answers, flush=True)


class Worker:
    """The other end of :func:`work`, in an interpreter of its own."""

    def __init__(self, python: str, threads: int) -> None:
        command = [python, __file__, "--work", "--threads", str(threads)]
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


def provenance(threads: int, rounds: int, steps: int) -> dict[str, Any]:
    from vitreous.device import hardware

    return {
        "bench": "throughput",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "shape": SHAPE,
        "batch": BATCH,
        "optimizer": "AdamW, fused",
        "rounds": rounds,
        "steps_a_round": steps,
        **hardware(),
        "threads": threads,
        "load_average": os.getloadavg()[0],
    }


def measure(ours: str, peers: str, threads: int, rounds: int, steps: int) -> list[dict[str, Any]]:
    """Every row in every round, interleaved; returns what each row gave."""
    mine = Worker(ours, threads)
    theirs = Worker(peers, threads)
    facts: dict[tuple[str, str], dict[str, Any]] = {}
    rates: dict[tuple[str, str], list[float]] = {row: [] for row in ROWS}
    try:
        for library, mode in ROWS:
            print(f"warming up {library} ({mode}) ...", file=sys.stderr, flush=True)
            worker = mine if library == "vitreous" else theirs
            facts[library, mode] = worker.ask("prepare", library, mode, 0)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds} ...", file=sys.stderr, flush=True)
            for library, mode in ROWS:
                worker = mine if library == "vitreous" else theirs
                rates[library, mode].append(worker.ask("run", library, mode, steps)["rate"])
    finally:
        mine.stop()
        theirs.stop()
    return [
        {
            "library": library,
            "mode": mode,
            **facts[library, mode],
            "images_per_second": statistics.median(found),
            "min": min(found),
            "max": max(found),
            "rounds": found,
        }
        for (library, mode), found in rates.items()
    ]


def markdown(facts: dict[str, Any], rows: list[dict[str, Any]]) -> str:
    """The rows as a table, the fastest first, each beside timm's default."""
    base = next(r["images_per_second"] for r in rows if (r["library"], r["mode"]) == ("timm", "default"))
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, torch {facts['torch']}, load {facts['load_average']:.1f} "
        f"at the start, {facts['rounds']} rounds of {facts['steps_a_round']} steps, {facts['date']}",
        "",
        "| library | settings | images/s, median | min - max | x timm fp32 eager | first two steps |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: -row["images_per_second"]):
        lines.append(
            f"| {row['library']} {row['version']} | {row['settings']} | {row['images_per_second']:.0f} "
            f"| {row['min']:.0f} - {row['max']:.0f} | {row['images_per_second'] / base:.2f} | {row['warm_up']:.1f} s |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Training images/s: Vitreous beside timm, Hugging Face, vit-pytorch.")
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter with the peers installed")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=4, help="training steps of every row in a round")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.threads)
        return
    facts = provenance(options.threads, options.rounds, options.steps)
    rows = measure(sys.executable, options.peers_python, options.threads, options.rounds, options.steps)
    for value in (facts, *rows):
        print(json.dumps(value))
    print("\n" + markdown(facts, rows), file=sys.stderr)


if __name__ == "__main__":
    main()
