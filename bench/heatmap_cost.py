"""Time and memory of heatmaps as pictures grow: Vitreous beside vit-explain and pytorch-grad-cam.

    python bench/heatmap_cost.py --peers-python DIR/bin/python --vit-explain DIR > heatmap-cost.jsonl
    python bench/heatmap_cost.py --tokens 65536 --rounds 1 --ways "vitreous map,vitreous rollout" > large.jsonl

The model is the nano preset (width 128, 4 blocks, 4 heads) with patch 4 on one picture of sqrt(tokens) x 4 pixels. The
peers look at timm's Vision Transformer with the same weights, its fused attention off as vit-explain needs it.
vit-explain is on no package index: ``--vit-explain`` names a folder with its files. It keeps every layer's attention
and multiplies whole matrices (mean over heads, nothing discarded, so that its map can be compared with ours).
pytorch-grad-cam's is a Grad-CAM of the last block, a map of another kind: the one that people use it for.

Every row is a process of its own, so that its peak memory (VmHWM, less what the imports and the model take) is its
own; rows follow each other in every round, so that a slow minute of the machine hits all of them. ``shape`` is the mean
of a map over its maximum: maps that are the same have the same. Standard output: one JSON object with the provenance,
then one a row and round; standard error: a Markdown table of the fastest seconds and the largest memory. Seconds are of
the processor, which a busy machine changes less than the clock: with one thread they are what an idle one takes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PATCH = 4
NANO = {"width": 128, "depth": 4, "heads": 4}


def ours(side: int, weights: str) -> Any:
    """The nano preset for pictures of side x side patches; its weights are kept for the peers."""
    import torch

    from vitreous.vit import Attention, ViT, ViTConfig

    torch.manual_seed(0)
    shape: dict[str, Any] = dict(NANO)
    model = ViT(ViTConfig(image_size=PATCH * side, patch_size=PATCH, **shape)).eval()
    for module in model.modules():
        if isinstance(module, Attention):
            torch.nn.init.normal_(module.qkv.weight, std=0.15)  # fresh weights look everywhere alike
    torch.save(model.state_dict(), weights)
    return model


def timms(side: int, weights: str) -> Any:
    """timm's, with the same weights."""
    import torch

    with_operators()
    from timm.models.vision_transformer import VisionTransformer

    shape: dict[str, Any] = {"embed_dim": NANO["width"], "depth": NANO["depth"], "num_heads": NANO["heads"]}
    model = VisionTransformer(img_size=PATCH * side, patch_size=PATCH, num_classes=10, **shape).eval()
    for block in model.blocks:
        block.attn.fused_attn = False
    model.load_state_dict(torch.load(weights))
    return model


def with_operators() -> None:
    """Beside a CPU torch, torchvision may lack its operators; an environment can bring a module that declares them."""
    try:
        __import__("torchvision_ops")
    except ImportError:
        return


def vitreous_map(model: Any, picture: Any) -> Any:
    from vitreous.attention_maps import class_map

    return class_map(model, picture)[0].numpy()


def vitreous_rollout(model: Any, picture: Any) -> Any:
    from vitreous.attention_maps import rollout

    return rollout(model, picture)[0].numpy()


def vitreous_relevance(model: Any, picture: Any) -> Any:
    from vitreous.gradient_maps import relevance

    return relevance(model, picture, model(picture).argmax(dim=1))[0].detach().numpy()


def vit_explain(model: Any, picture: Any) -> Any:
    sys.path.insert(0, os.environ["VIT_EXPLAIN"])
    from vit_rollout import VITAttentionRollout  # type: ignore[import-not-found]

    for each in model.blocks:
        each.attn.attn_drop._forward_hooks.clear()  # it leaves its hooks behind, and a second call would have two
    return VITAttentionRollout(model, head_fusion="mean", discard_ratio=0.0)(picture)


def grad_cam(model: Any, picture: Any) -> Any:
    from pytorch_grad_cam import GradCAM  # type: ignore[import-not-found]

    side = picture.shape[-1] // PATCH

    def on_the_grid(tokens: Any) -> Any:
        return tokens[:, 1:].reshape(len(tokens), side, side, -1).permute(0, 3, 1, 2)

    with GradCAM(model=model, target_layers=[model.blocks[-1].norm1], reshape_transform=on_the_grid) as cam:
        return cam(input_tensor=picture, targets=None)[0]  # the predicted class


WAYS: dict[str, tuple[Callable[[int, str], Any], Callable[[Any, Any], Any]]] = {
    "vitreous map": (ours, vitreous_map),
    "vitreous rollout": (ours, vitreous_rollout),
    "vitreous relevance": (ours, vitreous_relevance),
    "vit-explain rollout": (timms, vit_explain),
    "pytorch-grad-cam GradCAM": (timms, grad_cam),
}


def peak_mib() -> float:
    """The most resident memory this process has had, MiB (Linux)."""
    line = next(each for each in Path("/proc/self/status").read_text().splitlines() if each.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def work(way: str, tokens: int, folder: str) -> dict[str, Any]:
    """One row: seconds of the fastest of some calls, and the memory that the calls added."""
    import torch

    make, look = WAYS[way]

    def ready(side: int) -> tuple[Any, Any]:
        picture = torch.randn(1, 3, PATCH * side, PATCH * side, generator=torch.Generator().manual_seed(1))
        return make(side, f"{folder}/{side}.pt"), picture

    model, picture = ready(math.isqrt(tokens))
    small = ready(4)
    look(*small)  # imports, threads and workspaces are no cost of the method
    before = peak_mib()
    times: list[float] = []
    while not times or (len(times) < 3 and sum(times) < 10):
        start = time.process_time()
        found = look(model, picture)
        times.append(time.process_time() - start)
    return {
        "way": way,
        "tokens": tokens,
        "seconds": round(min(times), 4),
        "calls": len(times),
        "added_mib": round(peak_mib() - before, 1),
        "peak_mib": round(peak_mib(), 1),
        "shape": round(float(found.mean() / found.max()), 6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--tokens", default="64,256,1024,4096", help="square numbers, separated by commas")
    parser.add_argument("--ways", default=",".join(WAYS), help="separated by commas; ours first")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers-python", default=sys.executable, help="an interpreter with timm and grad-cam")
    parser.add_argument("--vit-explain", default="", help="a folder with vit-explain's files")
    parser.add_argument("--row", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.row:
        way, tokens, folder = asked.row
        print(json.dumps(work(way, int(tokens), folder)))
        return
    from vitreous.device import hardware

    counts, ways = [int(count) for count in asked.tokens.split(",")], asked.ways.split(",")
    if any(math.isqrt(count) ** 2 != count for count in counts):
        parser.error(f"--tokens {asked.tokens}: give square numbers, such as 64 or 1024")
    if not set(ways) <= set(WAYS):
        parser.error(f"--ways {asked.ways}: give some of {', '.join(WAYS)}")
    print(json.dumps({"bench": "heatmap_cost", "model": "nano, patch 4", **hardware()}), flush=True)
    environment = {**os.environ, "VIT_EXPLAIN": asked.vit_explain}
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            for number in range(asked.rounds):
                for way in ways:
                    python = sys.executable if WAYS[way][0] is ours else asked.peers_python
                    command = [python, __file__, "--row", way, str(count), folder]
                    done = subprocess.run(command, capture_output=True, text=True, env=environment)
                    row = {"way": way, "tokens": count, "failed": done.stderr.strip().splitlines()[-1:] or ["killed"]}
                    row = row if done.returncode else json.loads(done.stdout)
                    rows.append(row)
                    print(json.dumps({"round": number, **row}), flush=True)
    print("| way | " + " | ".join(f"{count:,} tokens" for count in counts) + " |", file=sys.stderr)
    print("|---|" + "---:|" * len(counts), file=sys.stderr)
    for way in ways:
        cells = []
        for count in counts:
            own = [row for row in rows if (row["way"], row["tokens"]) == (way, count) and "failed" not in row]
            least, most = (pick(own, key=key) for pick, key in ((min, _seconds), (max, _mib))) if own else (None, None)
            cells.append(f"{least['seconds']:.3f} s, {most['added_mib']:,.0f} MiB" if least and most else "failed")
        print(f"| {way} | " + " | ".join(cells) + " |", file=sys.stderr)


def _seconds(row: dict[str, Any]) -> float:
    return float(row["seconds"])


def _mib(row: dict[str, Any]) -> float:
    return float(row["added_mib"])


if __name__ == "__main__":
    main()
