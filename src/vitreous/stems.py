"""Ways to turn an image into a grid of token vectors. Torch only.

The plain one, of the paper, is a single strided convolution. The convolutional one knows that neighbouring pixels
belong together, which a plain patch embedding has to learn: far better on little data and in little time.

Shapes: B batch, C channels, H W pixels, P patch side, R = H/P rows and K = W/P columns of patches, D width.
"""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous.convolution import conv3x3


class PatchEmbed(nn.Module):
    """One token a patch: a convolution whose stride is its kernel (Dosovitskiy et al. 2020, section 3.1).

    The same numbers as cutting the image into patches, flattening each and applying one linear layer.
    """

    def __init__(self, channels: int, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, width, kernel_size=patch, stride=patch)

    def forward(self, images: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, D, R, K). Every patch is read alone, so it does not matter which are ``real``."""
        return self.proj(images)


class PictureNorm(nn.Module):
    """Normalises each picture over its channels and places, then scales and shifts each channel.

    Group normalisation with one group (Wu & He 2018). Unlike batch normalisation it keeps no averages, which would suit
    no picture size where several are trained on, and it does not depend on what else is in the batch.
    """

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W). Only places that are ``real``, bool (B, 1, H, W), count."""
        if real is None:
            return F.group_norm(x, 1, self.weight, self.bias, self.eps)
        x = x.float()
        count = real.sum((1, 2, 3), keepdim=True) * x.shape[1]
        mean = (x * real).sum((1, 2, 3), keepdim=True) / count
        variance = ((x - mean).square() * real).sum((1, 2, 3), keepdim=True) / count
        x = (x - mean) * (variance + self.eps).rsqrt()
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class ConvNorm(nn.Module):
    """A 3 x 3 convolution and a normalisation.

    The filters are kept as the matrix that they are, (out, in * 9), so that Muon can treat them as one.
    """

    def __init__(self, channels: int, out: int, norm: str = "batch") -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.randn(out, channels * 9) * math.sqrt(2 / (channels * 9)))
        self.norm = nn.BatchNorm2d(out) if norm == "batch" else PictureNorm(out)

    def forward(self, x: Tensor, pool: bool = False, real: Tensor | None = None) -> Tensor:
        """(B, channels, H, W) -> (B, out, H, W), or with half the sides after a 2 x 2 maximum.

        ``real``, bool (B, R, K), are the patches that hold some of the picture.
        """
        filters = self.weight.unflatten(1, (self.channels, 3, 3)).contiguous(memory_format=torch.channels_last)
        x = conv3x3(x, filters)
        x = F.max_pool2d(x, 2) if pool else x
        return self.norm(x) if isinstance(self.norm, nn.BatchNorm2d) else self.norm(x, places(x, real))


class Whitening(nn.Module):
    """Fixed filters of 2 x 2 pixels whose outputs are uncorrelated and about equally large (Jordan 2024, section 3.2).

    They are the principal components of the training pictures, each over its standard deviation, with both signs, so
    that an activation after them loses nothing. Neighbouring pixels are nearly alike, and what learns from them as they
    are takes long to tell what differs. Only the biases are learned. Until :meth:`fit` the filters are random.
    """

    COMPONENTS = 8
    """The largest, of the 12 of colour pictures: the others are nearly noise, and cost time."""
    EPS = 5e-3
    """Added to the variances, of pixels that are normalised."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight: Tensor
        self.register_buffer("weight", torch.randn(whitened(channels), channels, 2, 2) / math.sqrt(2 * channels))
        self.bias = nn.Parameter(torch.zeros(whitened(channels)))

    @torch.no_grad()
    def fit(self, images: Tensor) -> None:
        """Takes the filters from pictures (B, C, H, W), normalised as those that it will read."""
        pixels = F.unfold(F.pad(images.double().cpu(), (0, 1, 0, 1)), 2).movedim(1, 0).flatten(1)  # (4C, B*H*W)
        variances, directions = torch.linalg.eigh(pixels @ pixels.T / pixels.shape[1])
        scaled = directions / (variances + self.EPS).sqrt()  # a column each, the largest last
        filters = scaled[:, -len(self.weight) // 2 :].T.reshape(-1, *self.weight.shape[1:])
        self.weight.copy_(torch.cat([filters, -filters]))

    def forward(self, images: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, 16, H, W), or fewer of gray ones; each place with what is right of and below it."""
        return F.conv2d(F.pad(images, (0, 1, 0, 1)), self.weight, self.bias)


class ConvStem(nn.Module):
    """Overlapping convolutions, a pool for each halving of the sides, then residual convolutions on the token grid.

    After Hassani et al. 2021 (Compact Transformers) and Xiao et al. 2021 (early convolutions help transformers see
    better). A patch side of P = 2^n takes n pools. With ``early``, a narrow convolution reads the pixels first, and
    that many residual convolutions stand between the pools too: more is seen before the tokens, at about the same cost.
    With ``whiten``, fixed filters read the pixels instead.
    """

    def __init__(
        self,
        channels: int,
        patch: int,
        width: int,
        depth: int,
        norm: str = "batch",
        early: int = 0,
        whiten: bool = False,
    ) -> None:
        super().__init__()
        self.pool = patch > 1
        widths = stage_widths(patch, width, early)
        self.first: Whitening | ConvNorm | None = None
        if whiten:
            self.first, channels = Whitening(channels), whitened(channels)
        elif early:
            self.first, channels = ConvNorm(channels, narrowest(width), norm), narrowest(width)
        self.stages = nn.ModuleList(ConvNorm(a, b, norm) for a, b in itertools.pairwise([channels, *widths]))
        self.early = nn.ModuleList(
            nn.ModuleList(ConvNorm(between, between, norm) for _ in range(early)) for between in widths[:-1]
        )
        self.residual = nn.ModuleList(ConvNorm(width, width, norm) for _ in range(depth))

    def forward(self, images: Tensor, real: Tensor | None = None) -> Tensor:
        """(B, C, H, W) -> (B, D, R, K). Where not all patches are ``real``, bool (B, R, K), the others are held at 0.

        So a picture meets the same zeros at its border whether it is padded or not, and gives the same tokens; in
        training mode batch normalisation still counts the padding in its statistics.
        """
        x = images if self.first is None else _keep(F.gelu(self.first(images, real=real)), real)
        for stage, layers in zip(self.stages, [*self.early, self.residual], strict=True):
            x = _keep(F.gelu(stage(x, self.pool, real)), real)
            for layer in layers:
                x = _keep(x + F.gelu(layer(x, real=real)), real)
        return x


def whitened(channels: int) -> int:
    """How many fixed filters read pictures of that many channels: one a component of 2 x 2 pixels and sign."""
    return 2 * min(Whitening.COMPONENTS, 4 * channels)


def narrowest(width: int) -> int:
    """Channels of the convolution that reads the pixels, where the stem has early layers."""
    return max(8, width // 8)


def stage_widths(patch: int, width: int, early: int) -> list[int]:
    """Channels after each stage, the last ``width``; each has half the next one's, or 3/8 with early layers."""
    stages, share = max(1, int(math.log2(patch))), 3 / 8 if early else 1 / 2
    return [max(1, int(width * share ** (stages - 1 - i))) for i in range(stages)]


def places(x: Tensor, real: Tensor | None) -> Tensor | None:
    """Which places of x (B, C, H, W), at whatever resolution it has, lie in patches that are ``real``: (B, 1, H, W)."""
    if real is None:
        return None
    side = x.shape[2] // real.shape[1]
    return real.repeat_interleave(side, 1).repeat_interleave(side, 2)[:, None]


def _keep(x: Tensor, real: Tensor | None) -> Tensor:
    """Zero outside the real patches."""
    there = places(x, real)
    return x if there is None else x * there
