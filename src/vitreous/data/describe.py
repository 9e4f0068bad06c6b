"""What a data set is, in numbers (`describe`) and at a glance (`contact_sheet`)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from vitreous.data.images import DataSet, Images

_TILE = 64  # pixels a small picture is enlarged to, by a whole factor
_GAP = 4
_CAPTION = 14


def describe(data: DataSet) -> dict[str, Any]:
    """Splits, counts per class, sizes, mean, deviation, fingerprints: what `vitreous data` prints; JSON as it is.

    mean and std are of train (of the first split there is, without train), in units where white is 1.
    """
    splits = {}
    for name, images in data.splits().items():
        counts = torch.bincount(images.labels, minlength=len(images.classes)).tolist()
        splits[name] = {
            "n": len(images),
            "per_class": dict(zip(images.classes, counts, strict=True)),
            "fingerprint": images.fingerprint(),
        }
    if not splits:
        raise ValueError(f"{data.name}: no split to describe; ask for train, val or test")
    first = next(iter(data.splits().values()))
    mean, std = first.mean_std()
    original = data.original
    return {
        "name": data.name,
        "classes": list(first.classes),
        "splits": splits,
        "size": {"channels": first.pixels.shape[1], "height": first.pixels.shape[2], "width": first.pixels.shape[3]},
        "original": {"height": list(original.height), "width": list(original.width)} if original else None,
        "mean": list(mean),
        "std": list(std),
        "fingerprint": next(iter(splits.values()))["fingerprint"],
        "rejected": [{"path": each.path, "reason": each.reason} for each in data.rejected],
        "notes": list(data.notes),
    }


def _spread(images: Images, count: int) -> list[int]:
    """Indices of `count` pictures, class after class in turn, so that a small sheet shows every class it can."""
    queues = [torch.nonzero(images.labels == label).flatten().tolist() for label in range(len(images.classes))]
    longest = max((len(queue) for queue in queues), default=0)
    order = [queue[turn] for turn in range(longest) for queue in queues if turn < len(queue)]
    return order[:count]


def contact_sheet(images: Images, path: str | Path, rows: int = 5, columns: int = 10) -> Path:
    """Write a PNG of rows x columns pictures, each above its class name; returns `path`. Pixels stay unblurred."""
    path = Path(path)
    if rows < 1 or columns < 1:
        raise ValueError(f"a contact sheet of {rows} x {columns}: take at least 1 row and 1 column")
    if not len(images):
        raise ValueError("a contact sheet of 0 pictures: at least 1 is needed")
    _, channels, height, width = images.pixels.shape
    factor = max(1, round(_TILE / max(height, width)))
    tile_height, tile_width = height * factor, width * factor
    step_y, step_x = tile_height + _CAPTION + _GAP, tile_width + _GAP
    sheet = Image.new("RGB", (columns * step_x + _GAP, rows * step_y + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=_CAPTION - 4)
    for place, index in enumerate(_spread(images, rows * columns)):
        top, left = _GAP + place // columns * step_y, _GAP + place % columns * step_x
        pixels = images.pixels[index].permute(1, 2, 0).numpy()
        tile = np.repeat(pixels, 3 // channels, axis=2).repeat(factor, axis=0).repeat(factor, axis=1)
        sheet.paste(Image.fromarray(tile), (left, top))
        caption = images.classes[int(images.labels[index])].encode("latin-1", "replace").decode("latin-1")
        while len(caption) > 1 and draw.textlength(caption, font=font) > tile_width:
            caption = caption[:-1]
        draw.text((left, top + tile_height), caption, fill="black", font=font)
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, format="PNG")
    return path
