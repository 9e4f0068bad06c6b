"""Pictures of mixed sizes: packed beside padded to the largest, in one run, interleaved.

    python bench/packing.py [--train] [--width 128 --depth 4 --count 64 --rounds 7]

Sides are uniform over the multiples of the patch from 24 to 64 pixels, height and width apart. The padded way masks
its padding, so both give the same scores (checked before measuring).
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vitreous.device import hardware
from vitreous.packing import packed_scores
from vitreous.padding import pad
from vitreous.vit import ViT, ViTConfig, use_attention

PATCH = 4
SMALLEST, LARGEST = 24, 64


def mixed(count: int, square: bool, seed: int = 0) -> list[Tensor]:
    """Noise in ``count`` sizes."""
    generator = torch.Generator().manual_seed(seed)
    sides = PATCH * torch.randint(SMALLEST // PATCH, LARGEST // PATCH + 1, (count, 2), generator=generator)
    if square:
        sides[:, 1] = sides[:, 0]
    return [torch.randn(3, int(h), int(w), generator=generator) for h, w in sides]


def seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description="Images/s of mixed sizes: packed beside padded to the largest.")
    parser.add_argument("--train", action="store_true", help="forward and backward, not forward alone")
    parser.add_argument("--square", action="store_true", help="height equals width")
    parser.add_argument("--positions", default="rope")
    parser.add_argument("--stem", default="patch")
    parser.add_argument("--attention", default="explicit")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--count", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    torch.manual_seed(0)
    config = ViTConfig(
        width=options.width, depth=options.depth, heads=4, positions=options.positions, stem=options.stem
    )
    model = ViT(config).eval()
    use_attention(model, options.attention)
    pictures = mixed(options.count, options.square)

    def padded() -> Tensor:
        batch, sizes = pad(pictures)
        return model(batch, sizes)

    def packed() -> Tensor:
        return packed_scores(model, pictures)

    def step(scores: Callable[[], Tensor]) -> None:
        with torch.set_grad_enabled(options.train):
            result = scores()
            if options.train:
                result.square().mean().backward()
                model.zero_grad(set_to_none=True)

    with torch.no_grad():
        torch.testing.assert_close(packed(), padded(), rtol=1e-4, atol=1e-5)
    times: dict[str, list[float]] = {"padded": [], "packed": []}
    for _ in range(options.rounds):
        for name, way in (("padded", padded), ("packed", packed)):
            times[name].append(seconds(lambda way=way: step(way)))  # type: ignore[misc]
    rates = {name: options.count / statistics.median(spent) for name, spent in times.items()}
    ratios = [a / b for a, b in zip(times["padded"], times["packed"], strict=True)]
    print(
        json.dumps(
            {
                **vars(options),
                "images_per_second": {name: round(rate, 1) for name, rate in rates.items()},
                "ratio": round(rates["packed"] / rates["padded"], 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
                **hardware(),
            }
        )
    )


if __name__ == "__main__":
    main()
