"""What is done to a batch of pictures so that no two epochs look alike. Pure functions of (pictures, draws).

All of them work on whole batches, or a process's share of one, on whatever device the pictures are on; the random
numbers are drawn from a CPU generator, so the same generator state gives the same batch everywhere.

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
    """Mirror left to right, each picture in every other epoch; off where left and right carry meaning (digits)."""
    shift: float = 0.0625
    """Largest shift in any direction, as a share of the picture's side (2 pixels of 32)."""
    randaugment: int = 0
    """Operations a picture from :func:`randaugment`; 0 for none."""
    mixup: float = 0.0
    """Share of batches that are mixed by mixup (Zhang et al. 2018)."""
    cutmix: float = 0.0
    """Share of batches that are mixed by CutMix (Yun et al. 2019)."""
    mix_until: float = 0.75
    """Share of the run after which no batch is mixed any more, so that it ends on pictures as they are."""
    erase: float = 0.0
    """Share of pictures that lose a rectangle (Zhong et al. 2020)."""

    def __post_init__(self) -> None:
        for name in ("shift", "mixup", "cutmix", "mix_until", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it is a share from 0 to 1")
        if self.mixup + self.cutmix > 1:
            raise ValueError(f"mixup {self.mixup} and cutmix {self.cutmix} together exceed 1: lower one of them")
        if self.randaugment < 0:
            raise ValueError(f"randaugment is {self.randaugment}: it must be 0 or more")


class Draws:
    """Random numbers for a whole batch, of which those for some ``rows`` of it are handed out.

    Processes that share a batch all draw the whole of it, and each takes what falls to its own pictures: so a picture
    meets the same change whoever holds it.
    """

    def __init__(self, generator: Generator, batch: int, rows: slice | Tensor = slice(None)) -> None:
        self.generator, self.batch, self.rows = generator, batch, rows

    def uniform(self, low: float = 0.0, high: float = 1.0) -> Tensor:
        """A number from ``low`` to ``high`` for each picture: (B,)."""
        return torch.empty(self.batch).uniform_(low, high, generator=self.generator)[self.rows]

    def below(self, limit: int, count: int = 1) -> Tensor:
        """``count`` whole numbers from 0 to ``limit`` - 1 for each picture: (count, B)."""
        return torch.randint(0, limit, (count, self.batch), generator=self.generator)[:, self.rows]


def mirror(images: Tensor, chosen: Tensor) -> Tensor:
    """Mirrors left to right the pictures that are ``chosen``, bool (B,)."""
    return torch.where(chosen.to(images.device).view(-1, 1, 1, 1), images.flip(3), images)


def shift(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Moves each picture by up to ``share`` of its side in both directions; the border is filled by reflection."""
    batch, _, height, width = images.shape
    reach = min(round(share * min(height, width)), min(height, width) - 1)
    if reach < 1:
        return images
    top, left = draws.below(2 * reach + 1, 2).to(images.device)
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


def erase(images: Tensor, share: float, draws: Draws) -> Tensor:
    """Fills a rectangle (2 % to a third of the area) of a ``share`` of the float pictures with 0, the mean colour."""
    height, width = images.shape[2:]
    area = draws.uniform(0.02, 1 / 3)
    ratio = draws.uniform(math.log(0.3), math.log(1 / 0.3)).exp()
    tall = ((area * ratio).sqrt() * height).clamp(1, height).round()
    wide = ((area / ratio).sqrt() * width).clamp(1, width).round()
    top = (draws.uniform() * (height - tall + 1)).floor()
    left = (draws.uniform() * (width - wide + 1)).floor()
    tall[draws.uniform() >= share] = 0
    return images.masked_fill(_rectangles(top, left, tall, wide, height, width).to(images.device), 0.0)


@dataclass(frozen=True)
class Mix:
    """How a batch is mixed with itself."""

    order: Tensor
    """The partner of each picture, (B,)."""
    keep: float
    """The share of a picture that stays its own."""
    cut: tuple[float, float] | None
    """In CutMix, where the partner's rectangle lies, from 0 (top, left) to 1; None for mixup."""


def draw_mix(batch: int, config: AugmentConfig, generator: Generator) -> Mix | None:
    """Mixup, CutMix or, by the configured shares, neither."""
    draw, keep, top, left = torch.rand(4, generator=generator).tolist()  # uniform: Beta(1, 1)
    if draw >= config.mixup + config.cutmix:
        return None
    order = torch.randperm(batch, generator=generator)
    return Mix(order, keep, (top, left) if draw >= config.mixup else None)


def mix(own: tuple[Tensor, Tensor], partners: tuple[Tensor, Tensor], how: Mix) -> tuple[Tensor, Tensor]:
    """Float pictures and their class probabilities (B, classes), mixed with those of their partners."""
    (images, targets), (others, their_targets), keep = own, partners, how.keep
    if how.cut is None:
        images = images * keep + others * (1 - keep)
    else:
        height, width = images.shape[-2:]
        tall, wide = round(height * math.sqrt(1 - keep)), round(width * math.sqrt(1 - keep))
        top, left = int(how.cut[0] * (height - tall + 1)), int(how.cut[1] * (width - wide + 1))
        images = images.clone()
        images[:, :, top : top + tall, left : left + wide] = others[:, :, top : top + tall, left : left + wide]
        keep = 1 - tall * wide / (height * width)
    return images, targets * keep + their_targets * (1 - keep)


def randaugment(images: Tensor, operations: int, draws: Draws) -> Tensor:
    """A few random changes of colour and geometry to each float picture with values in 0..1 (Cubuk et al. 2020).

    Each of ``operations`` rounds draws one of: nothing, brightness, contrast, saturation, inversion of the brightest
    values (solarise), fewer levels (posterise), rotation, shear, shift, zoom; every picture has its own strengths.
    """
    for _ in range(operations):
        images = _one_random_change(images, draws)
    return images


def _one_random_change(images: Tensor, draws: Draws) -> Tensor:
    (kind,) = draws.below(10)
    strength, second = draws.uniform(-1, 1), draws.uniform(-1, 1)

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
