"""Convolutional networks for small pictures, to stand beside the Vision Transformer in the same loop.

Two families: ``resnet``, residual blocks after He et al. 2016, and ``fastcnn``, a plain stack with few layers in the
manner of Jordan 2024 (94 % on CIFAR-10 in seconds). Both end in a pool over the whole grid, so any size works. Their
3 x 3 convolutions are those of the conv stem: filters kept as matrices, which Muon treats as such. Torch only.

Shapes: B batch, C channels, H W pixels, R rows and K columns of the last grid, D width of the last stage.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from vitreous.stems import ConvNorm, Whitening, whitened


@dataclass(frozen=True)
class CNNConfig:
    """The architecture. Sizes that cannot be are refused here, before any work starts."""

    family: str = "resnet"
    """``resnet`` or ``fastcnn``."""
    image_size: int = 32
    """Side of the training pictures in pixels; any other size can be given to the model later."""
    channels: int = 3
    classes: int = 10
    widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage; between stages the sides are halved."""
    depth: int = 1
    """Residual blocks a stage; in ``fastcnn``, convolutions a stage after the one that pools."""
    stem_whiten: bool = False
    """Whether the convolution that reads the pixels is fixed and whitens the training pictures; in ``fastcnn`` only."""

    def __post_init__(self) -> None:
        if self.family not in CNN_PRESETS:
            raise ValueError(f"unknown family {self.family!r}: it is one of {', '.join(CNN_PRESETS)}")
        for name in ("image_size", "channels", "classes", "depth"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if not self.widths or min(self.widths) < 1:
            raise ValueError(f"widths is {self.widths}: give the channels of at least one stage, each at least 1")
        if self.image_size < self.patch_size:
            raise ValueError(
                f"{self.family} halves the sides {self.patch_size.bit_length() - 1} times, and pictures of "
                f"{self.image_size} pixels are smaller than {self.patch_size}: use fewer widths"
            )

    @property
    def patch_size(self) -> int:
        """Side in pixels of what becomes one place of the last grid; the least side of a picture."""
        return 2 ** (len(self.widths) - (self.family == "resnet"))


CNN_PRESETS: dict[str, dict[str, tuple[tuple[int, ...], int]]] = {
    "resnet": {
        "nano": ((32, 64, 128), 1),
        "mini": ((64, 128, 256), 1),
        "tiny": ((64, 128, 256), 2),
        "small": ((128, 256, 512), 2),
        "base": ((192, 384, 768), 4),
    },
    "fastcnn": {
        "nano": ((64, 128, 128), 1),
        "mini": ((80, 192, 192), 1),
        "tiny": ((96, 256, 256), 1),
        "small": ((192, 512, 512), 2),
        "base": ((256, 768, 768), 4),
    },
}
"""The dial: widths and depth of each family. At nano and 32 pixels both cost what the nano ViT with conv stem does."""


class Residual(nn.Module):
    """Two convolutions beside a shortcut, which is a matrix where the width changes."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first, self.second = ConvNorm(channels, out), ConvNorm(out, out)
        self.shortcut = nn.Linear(channels, out, bias=False) if channels != out else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W)."""
        y = self.second(F.relu(self.first(x)))
        if self.shortcut is not None:
            x = self.shortcut(x.movedim(1, -1)).movedim(-1, 1)  # (B, out, H, W)
        return F.relu(x + y)


class PooledStage(nn.Module):
    """A convolution that halves the sides by a maximum, then more convolutions, each with GELU."""

    def __init__(self, channels: int, out: int, depth: int) -> None:
        super().__init__()
        self.first = ConvNorm(channels, out)
        self.more = nn.ModuleList(ConvNorm(out, out) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, out, H/2, W/2)."""
        x = F.gelu(self.first(x, pool=True))
        for layer in self.more:
            x = F.gelu(layer(x))
        return x


class CNN(nn.Module):
    """Images of any size to class scores: a first convolution, ``stages``, a pool over the grid, a linear head."""

    def __init__(self, config: CNNConfig) -> None:
        super().__init__()
        self.config = config
        whitens = config.family == "fastcnn" and config.stem_whiten
        if config.family == "resnet":
            first = config.widths[0]
            stages: list[nn.Module] = []
            for before, width in itertools.pairwise((first, *config.widths)):
                stages += [nn.MaxPool2d(2)] * bool(stages)
                stages += [Residual(before, width), *(Residual(width, width) for _ in range(config.depth - 1))]
        else:
            first = whitened(config.channels) if whitens else max(1, 3 * config.widths[0] // 8)
            pairs = itertools.pairwise((first, *config.widths))
            stages = [PooledStage(before, width, config.depth) for before, width in pairs]
        self.stem = Whitening(config.channels) if whitens else ConvNorm(config.channels, first)
        self.stages = nn.Sequential(*stages)
        self.head = nn.Linear(config.widths[-1], config.classes)
        nn.init.trunc_normal_(self.head.weight, std=0.02)
        nn.init.zeros_(self.head.bias)

    def features(self, images: Tensor) -> Tensor:
        """The vector that the head reads: (B, C, H, W) -> (B, D). The last grid is what ``stages`` gives."""
        _, channels, height, width = images.shape
        if channels != self.config.channels:
            raise ValueError(f"the model reads {self.config.channels} channels and was given {channels}")
        if min(height, width) < self.config.patch_size:
            raise ValueError(
                f"a picture of {height} x {width} pixels is too small for {self.config.family}: "
                f"enlarge it to at least {self.config.patch_size}"
            )
        grid = self.stages(F.gelu(self.stem(images)))  # (B, D, R, K)
        return grid.mean(dim=(2, 3)) if self.config.family == "resnet" else grid.amax(dim=(2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> class scores before softmax (B, classes)."""
        return self.head(self.features(images))
