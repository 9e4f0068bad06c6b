"""Pictures that any model learns in a moment, for tests in this process and in others."""

from __future__ import annotations

import torch

from vitreous.data import Images


def coloured_squares(count: int, seed: int = 0) -> Images:
    """Dark pictures (3, 8, 8) with a bright patch of 4 x 4 in one of four corners: the corner is the class."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 16, (count, 3, 8, 8), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count) % 4
    for i, label in enumerate(labels.tolist()):
        top, left = 4 * (label // 2), 4 * (label % 2)
        pixels[i, :, top : top + 4, left : left + 4] += 200
    names = ("top left", "top right", "bottom left", "bottom right")
    return Images(pixels, labels, names, tuple(f"made/{i}" for i in range(count)))
