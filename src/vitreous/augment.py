"""What is done to a batch of pictures so that no two epochs look alike. Pure functions of (pictures, generator).

All of them work on whole batches on whatever device the pictures are on; the random numbers are drawn from the given
CPU generator, so the same generator state gives the same batch everywhere.

Shapes: B batch, C channels, H W pixels. Pictures are uint8 or float (B, C, H, W) and keep their type.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Generator, Tensor


@dataclass(frozen=True)
class AugmentConfig:
    """Which changes are made, and how strong. Flip and shift suit short runs; the others suit long ones."""

    flip: bool = True
    """Mirror left to right; off where left and right carry meaning (digits)."""
    shift: float = 0.0625
    """Largest shift in any direction, as a share of the picture's side (2 pixels of 32)."""
    randaugment: int = 0
    """Operations a picture from :func:`randaugment`; 0 for none."""
    mixup: float = 0.0
    """Share of batches that are mixed by mixup (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Share of batches that are mixed by CutMix (Yun et al. 2019)."""
    erase: float = 0.0
    """Share of pictures that lose a rectangle (Zhong et al. 2020)."""

    def __post_init__(self) -> None:
        for name in ("shift", "mixup", "cutmix", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share from 0 to 1")
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix} together exceed 1: lower one of them")
        if self.randaugment < 0:
            raise ValueError(f"randaugment is {self.randaugment}: it must be 0 or more")


def flip(images: Tensor, generator: Generator) -> Tensor:
    """Mirrors each picture left to right with probability one half."""
    chosen = torch.rand(len(images), generator=generator) < 0.5
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def shift(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Moves each picture by up to ``share`` of its side in both directions; the border is filled by reflection."""
    batch, _, height, width = images.shape
    reach = min(round(share * min(height, width)), min(height, width) - 1)
    if reach < 1:
        return images
    top, left = torch.randint(0, 2 * reach + 1, (2, batch), generator=generator).to(images.device)
    rows = _reflected(height, reach, images.device)[top[:, None] + torch.arange(height, device=images.device)]  # (B, H)
    columns = _reflected(width, reach, images.device)[
        left[:, None] + torch.arange(width, device=images.device)
    ]  # (B, W)
    picture = torch.arange(batch, device=images.device)
    return images[picture[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def resize(images: Tensor, size: int) -> Tensor:
    """Shrinks or enlarges to (B, C, size, size), bilinear and antialiased; nothing where the size is theirs."""
    if images.shape[-2:] == (size, size):
        return images
    resized = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True)
    return resized if images.is_floating_point() else resized.round().clamp(0, 255).to(images.dtype)


def erase(images: Tensor, share: float, generator: Generator) -> Tensor:
    """Fills a rectangle (2 % to a third of the area) of a ``share`` of the float pictures with 0, the mean colour."""
    batch, _, height, width = images.shape
    area = torch.empty(batch).uniform_(0.02, 1 / 3, generator=generator)
    ratio = torch.empty(batch).uniform_(math.log(0.3), math.log(1 / 0.3), generator=generator).exp()
    tall = ((area * ratio).sqrt() * height).clamp(1, height).round()
    wide = ((area / ratio).sqrt() * width).clamp(1, width).round()
    top = (torch.rand(batch, generator=generator) * (height - tall + 1)).floor()
    left = (torch.rand(batch, generator=generator) * (width - wide + 1)).floor()
    tall[torch.rand(batch, generator=generator) >= share] = 0
    return images.masked_fill(_rectangles(top, left, tall, wide, height, width).to(images.device), 0.0)


def mix(images: Tensor, targets: Tensor, config: AugmentConfig, generator: Generator) -> tuple[Tensor, Tensor]:
    """Mixup or CutMix of a float batch with itself in another order, or neither, by the configured shares.

    ``targets`` (B, classes) are class probabilities and are mixed in the same proportion.
    """
    draw = float(torch.rand((), generator=generator))
    order = torch.randperm(len(images), generator=generator).to(images.device)
    keep = float(torch.rand((), generator=generator))  # uniform: Beta(1, 1)
    if draw < config.mixup:
        images = images * keep + images[order] * (1 - keep)
    elif draw < config.mixup + config.cutmix:
        height, width = images.shape[-2:]
        tall, wide = round(height * math.sqrt(1 - keep)), round(width * math.sqrt(1 - keep))
        top = int(torch.randint(0, height - tall + 1, (), generator=generator))
        left = int(torch.randint(0, width - wide + 1, (), generator=generator))
        images = images.clone()
        images[:, :, top : top + tall, left : left + wide] = images[order, :, top : top + tall, left : left + wide]
        keep = 1 - tall * wide / (height * width)
    else:
        return images, targets
    return images, targets * keep + targets[order] * (1 - keep)


def randaugment(images: Tensor, operations: int, generator: Generator) -> Tensor:
    """A few random changes of colour and geometry to each float picture with values in 0..1 (Cubuk et al. 2020).

    Each of ``operations`` rounds draws one of: nothing, brightness, contrast, saturation, inversion of the brightest
    values (solarise), fewer levels (posterise), rotation, shear, shift, zoom; every picture has its own strengths.
    """
    for _ in range(operations):
        images = _one_random_change(images, generator)
    return images


def _one_random_change(images: Tensor, generator: Generator) -> Tensor:
    batch = len(images)
    kind = torch.randint(0, 10, (batch,), generator=generator)
    strength = torch.empty(batch).uniform_(-1, 1, generator=generator)
    second = torch.empty(batch).uniform_(-1, 1, generator=generator)

    def column(values: Tensor) -> Tensor:
        return values.to(images.device).view(-1, 1, 1, 1)

    def where(number: int, changed: Tensor, otherwise: Tensor) -> Tensor:
        return torch.where(column(kind == number), changed, otherwise)

    factor = column(1 + 0.7 * strength)
    gray = images.mean(dim=1, keepdim=True)
    out = where(1, images * factor, images)
    out = where(2, (images - gray.mean((2, 3), keepdim=True)) * factor + gray.mean((2, 3), keepdim=True), out)
    out = where(3, (images - gray) * factor + gray, out)
    out = where(4, torch.where(images > column(0.75 + 0.25 * strength), 1 - images, images), out)
    levels = column((4 + 3 * strength).round().exp2() - 1)
    out = where(5, (images * levels).round() / levels, out)

    geometric = (kind >= 6).nonzero().squeeze(1)
    if len(geometric):
        picked = geometric.to(images.device)
        matrices = _affine(kind[geometric], strength[geometric], second[geometric]).to(images)
        grid = F.affine_grid(matrices, [len(geometric), *images.shape[1:]], align_corners=False)
        moved = F.grid_sample(images[picked], grid, mode="bilinear", padding_mode="reflection", align_corners=False)
        out = out.index_copy(0, picked, moved)
    return out.clamp(0, 1)


def _affine(kind: Tensor, strength: Tensor, second: Tensor) -> Tensor:
    """(B, 2, 3) matrices: 6 rotation to 30 degrees, 7 shear to 0.3, 8 shift to 0.2 of the side, 9 zoom to 25 %."""
    zero = torch.zeros_like(strength)
    angle = torch.where(kind == 6, strength * math.pi / 6, zero)
    shear = torch.where(kind == 7, strength * 0.3, zero)
    along = torch.where(kind == 8, strength * 0.4, zero)  # the picture spans -1..1
    down = torch.where(kind == 8, second * 0.4, zero)
    zoom = torch.where(kind == 9, 1 + strength * 0.25, torch.ones_like(strength))
    rows = [
        torch.stack([zoom * angle.cos(), -zoom * angle.sin() + shear, along], dim=1),
        torch.stack([zoom * angle.sin(), zoom * angle.cos(), down], dim=1),
    ]
    return torch.stack(rows, dim=1)


def _rectangles(top: Tensor, left: Tensor, tall: Tensor, wide: Tensor, height: int, width: int) -> Tensor:
    """Boolean masks (B, 1, H, W) that are true inside each rectangle."""
    rows = torch.arange(height).view(1, 1, -1, 1)
    columns = torch.arange(width).view(1, 1, 1, -1)
    top, left, tall, wide = (value.view(-1, 1, 1, 1) for value in (top, left, tall, wide))
    return (rows >= top) & (rows < top + tall) & (columns >= left) & (columns < left + wide)


def _reflected(length: int, reach: int, device: torch.device) -> Tensor:
    """Where each pixel of a line lies that is continued by reflection: (length + 2 * reach,) places in 0..length-1."""
    places = torch.arange(-reach, length + reach, device=device).abs()
    return torch.where(places < length, places, 2 * (length - 1) - places)
