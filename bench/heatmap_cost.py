"""Time and memory of a class-token map and a rollout, as pictures grow: Vitreous beside the ways that keep matrices.

    python bench/heatmap_cost.py --tokens 64,256,1024,4096 > heatmap-cost.jsonl
    python bench/heatmap_cost.py --tokens 65536 --ways vitreous > heatmap-cost-large.jsonl

The model is the nano preset (width 128, 4 blocks, 4 heads) with patch 4 on one picture of sqrt(tokens) x 4 pixels. The
two rivals are written here as the popular tools do it and are not those tools:

- ``keeps L x A x N x N``: hooks keep every layer's whole attention, rollout multiplies whole matrices (as vit-explain).
- ``keeps activations and gradients``: the last layer's tokens and their gradient from a whole backward pass, as
  pytorch-grad-cam asks of a Vision Transformer; a Grad-CAM, not a rollout, shown for its cost alone.

Every row is a process of its own, so that its peak memory (VmHWM, less what the imports and the model take) is its
own. Standard output: one JSON object with the provenance, then one a row; standard error: a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

REPEATS = 3


def model_and_picture(tokens: int) -> tuple[Any, Any]:
    """The nano preset with fixed random weights, and a picture of so many patches."""
    import torch

    from vitreous.vit import PRESETS, ViT, ViTConfig

    torch.manual_seed(0)
    side = math.isqrt(tokens)
    nano: dict[str, Any] = dict(PRESETS["nano"])
    model = ViT(ViTConfig(image_size=32, patch_size=4, **nano)).eval()
    return model, torch.randn(1, 3, 4 * side, 4 * side)


def vitreous_map(model: Any, picture: Any) -> Any:
    from vitreous.attention_maps import class_map

    return class_map(model, picture)


def vitreous_rollout(model: Any, picture: Any) -> Any:
    from vitreous.attention_maps import rollout

    return rollout(model, picture)


def kept(model: Any, picture: Any) -> list[Any]:
    """Every layer's whole attention, from one pass that keeps it."""
    import torch

    found: list[Any] = []
    with torch.no_grad():
        x = model.tokens(picture)
        for block in model.blocks:
            weights = block.attn.weights(block.norm1(x))  # (1, A, N, N)
            found.append(weights)
            _, _, values = block.attn.project(block.norm1(x))
            x = x + block.attn.proj((weights @ values).transpose(1, 2).flatten(2))
            x = x + block.mlp(block.norm2(x))
        model.head(model.read(x))
    return found


def kept_map(model: Any, picture: Any) -> Any:
    """The mean over heads and layers of the class token's row of the kept matrices."""
    import torch

    return torch.stack([weights[:, :, 0, 1:] for weights in kept(model, picture)]).mean(dim=(0, 2))


def kept_rollout(model: Any, picture: Any) -> Any:
    """The product of whole matrices."""
    import torch

    matrices = kept(model, picture)
    product = torch.eye(matrices[0].shape[-1])
    for weights in matrices:
        mixed = weights.mean(dim=1)[0] + torch.eye(product.shape[0])
        product = (mixed / mixed.sum(dim=-1, keepdim=True)) @ product
    return product[0, 1:]


def cam(model: Any, picture: Any) -> Any:
    """Grad-CAM of the last block's tokens, from a whole backward pass."""
    import torch

    seen: list[Any] = []
    handle = model.blocks[-1].norm1.register_forward_hook(lambda module, inputs, output: seen.append(output))
    scores = model(picture)
    handle.remove()
    slope = torch.autograd.grad(scores.amax(), seen[0], retain_graph=True)[0]
    scores.amax().backward()
    return (slope[:, 1:].mean(dim=1, keepdim=True) * seen[0][:, 1:]).sum(dim=-1).clamp(min=0).detach()


WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "vitreous map": vitreous_map,
    "vitreous rollout": vitreous_rollout,
    "keeps L x A x N x N: map": kept_map,
    "keeps L x A x N x N: rollout": kept_rollout,
    "keeps activations and gradients: Grad-CAM": cam,
}


def peak_mib() -> float:
    """The most resident memory this process has had, MiB (Linux)."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(way: str, tokens: int) -> dict[str, Any]:
    """One row: seconds of the fastest of some calls, and the memory that the calls added."""
    model, picture = model_and_picture(tokens)
    WAYS[way](*model_and_picture(64))  # imports, threads and workspaces are no cost of the method
    before = peak_mib()
    times: list[float] = []
    while not times or (len(times) < REPEATS and sum(times) < 20):
        start = time.perf_counter()
        found = WAYS[way](model, picture)
        times.append(time.perf_counter() - start)
    return {
        "way": way,
        "tokens": tokens,
        "seconds": round(min(times), 4),
        "calls": len(times),
        "added_mib": round(peak_mib() - before, 1),
        "peak_mib": round(peak_mib(), 1),
        "sum": round(float(found.sum()), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", default="64,256,1024,4096", help="square numbers, separated by commas")
    parser.add_argument("--ways", default="", help="only those whose name begins so")
    parser.add_argument("--row", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        print(json.dumps(work(asked.row[0], int(asked.row[1]))))
        return
    from vitreous.device import hardware

    counts = [int(count) for count in asked.tokens.split(",")]
    if any(math.isqrt(count) ** 2 != count for count in counts):
        parser.error(f"--tokens {asked.tokens}: give square numbers, such as 64 or 1024")
    print(json.dumps({"bench": "heatmap_cost", "model": "nano, patch 4", **hardware()}), flush=True)
    print("| way | tokens | seconds | memory added, MiB |\n|---|---:|---:|---:|", file=sys.stderr)
    for count in counts:
        for way in (each for each in WAYS if each.startswith(asked.ways)):
            command = [sys.executable, __file__, "--row", way, str(count)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:  # out of memory, for one
                row = {"way": way, "tokens": count, "failed": done.stderr.strip().splitlines()[-1:] or ["killed"]}
                print(f"| {way} | {count:,} | failed | |", file=sys.stderr)
            else:
                row = json.loads(done.stdout)
                cells = f"{row['seconds']:.3f} | {row['added_mib']:,.0f}"
                print(f"| {way} | {count:,} | {cells} |", file=sys.stderr, flush=True)
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
