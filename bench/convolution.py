"""The gradient of 3 x 3 filters: torch's own beside that of convolution.py, which takes its place on AMX.

    OMP_NUM_THREADS=1 python bench/convolution.py --batch 256

A line a shape: milliseconds of either, the best of all rounds, in which they take turns, and their ratio.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch import Tensor

from vitreous.convolution import filter_gradient, has_matrix_units, products_win
from vitreous.device import hardware

SHAPES = [(channels, side) for channels in (96, 128, 256, 384) for side in (4, 6, 7, 8, 12)]


def milliseconds(call: Callable[[], Tensor]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256, help="pictures")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--fp32", action="store_true", help="instead of bf16")
    asked = parser.parse_args()
    dtype = torch.float32 if asked.fp32 else torch.bfloat16
    print(f"{hardware()}, AMX {'yes' if has_matrix_units() else 'no'}, batch {asked.batch}, {dtype}")
    print("| channels | grid | torch, ms | products, ms | ratio | used |\n|---:|---:|---:|---:|---:|---|")
    for channels, side in SHAPES:
        x, up = (
            torch.randn(asked.batch, channels, side, side).to(dtype, memory_format=torch.channels_last)
            for _ in range(2)
        )
        filters = torch.randn(channels, channels, 3, 3).to(dtype, memory_format=torch.channels_last)

        def own(x: Tensor = x, up: Tensor = up, filters: Tensor = filters) -> Tensor:
            ones, zeros, wanted = [1, 1], [0, 0], [False, True, False]
            gradients = torch.ops.aten.convolution_backward(
                up, x, filters, None, ones, ones, ones, False, zeros, 1, wanted
            )
            result: Tensor = gradients[1]
            return result

        def products(x: Tensor = x, up: Tensor = up) -> Tensor:
            return filter_gradient(x, up)

        times = [(milliseconds(own), milliseconds(products)) for _ in range(asked.rounds)]
        torchs, ours = (min(each) for each in zip(*times, strict=True))
        with torch.autocast("cpu", torch.bfloat16, enabled=not asked.fp32):
            used = "yes" if products_win(x, channels) else "no"
        print(
            f"| {channels} | {side} x {side} | {torchs:.1f} | {ours:.1f} | {torchs / ours:.2f} | {used} |", flush=True
        )


if __name__ == "__main__":
    main()
