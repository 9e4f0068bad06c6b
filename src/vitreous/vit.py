"""The Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), read from the bottom up.

An image is cut into patches, each patch becomes a token, a class token joins them, and blocks of attention and MLP let
the tokens exchange what they know; a linear head reads the class token. Torch only: no training, no data, no files.
Parameter names are timm's, so converting weights is renaming. How positions are encoded is in positions.py.

Shapes: B batch, C channels, H W pixels, P patch side, R rows and K columns of patches, S special tokens (class token
and registers), N = S + R*K tokens, D width, A heads, E = D/A width of a head, L depth. Tokens are row-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous.positions import KINDS, Grid
from vitreous.stems import ConvStem, PatchEmbed


def fused_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Torch's own kernel, which never forms the N x N weights: 3 x (B, A, N, E) -> (B, A, N, E)."""
    return F.scaled_dot_product_attention(q, k, v)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Matrix product, softmax, matrix product: 3 x (B, A, N, E) -> (B, A, N, E). On CPUs often the faster one."""
    return attention_weights(q, k) @ v


def attention_weights(q: Tensor, k: Tensor) -> Tensor:
    """How much each query looks at each key: (B, A, Q, E), (B, A, N, E) -> (B, A, Q, N); rows sum to 1."""
    scale = 1.0 / math.sqrt(q.shape[-1])
    return ((q * scale) @ k.transpose(-2, -1)).softmax(dim=-1)


ATTENTION_PATHS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "fused": fused_attention,
    "explicit": explicit_attention,
}


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017). ``path`` names the row of ATTENTION_PATHS that is used."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.path = "fused"
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head: (B, N, D) -> 3 x (B, A, N, E)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, A, N, E)
        return q, k, v

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        mixed = ATTENTION_PATHS[self.path](*self.project(x))  # (B, A, N, E)
        return self.proj(mixed.transpose(1, 2).flatten(2))  # (B, N, D)

    def weights(self, x: Tensor, queries: slice = slice(None)) -> Tensor:
        """The attention weights that ``forward`` uses, for some query tokens: (B, N, D) -> (B, A, Q, N).

        ``queries=slice(0, 1)`` gives the class token's row alone, in memory that grows with N and not with N x N.
        """
        q, k, _ = self.project(x)
        return attention_weights(q[:, :, queries], k)


class MLP(nn.Module):
    """Two linear layers with GELU between, applied to each token alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block: tokens exchange (attention), then each thinks alone (MLP)."""

    def __init__(self, width: int, heads: int, mlp_ratio: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = MLP(width, int(width * mlp_ratio))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


@dataclass(frozen=True)
class ViTConfig:
    """The architecture. Sizes that cannot be are refused here, before any work starts."""

    image_size: int = 32
    """Side of the training pictures in pixels; any other size can be given to the model later."""
    patch_size: int = 4
    channels: int = 3
    classes: int = 10
    width: int = 128
    depth: int = 6
    heads: int = 4
    mlp_ratio: float = 4.0
    stem: str = "patch"
    """``patch``: one strided convolution; ``conv``: overlapping convolutions and pools."""
    stem_depth: int = 2
    """Residual convolutions on the token grid; in the conv stem only."""
    pool: str = "class"
    """What the head reads: the ``class`` token, or the ``mean`` of the patch tokens (then there is no class token)."""
    registers: int = 0
    """Extra tokens without a patch (Darcet et al. 2023)."""
    positions: str = "learned"

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "channels", "classes", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        if self.registers < 0:
            raise ValueError(f"registers is {self.registers}: it must be 0 or more")
        if self.mlp_ratio <= 0:
            raise ValueError(f"mlp_ratio is {self.mlp_ratio}: it must be above 0")
        if self.image_size % self.patch_size:
            fits = [p for p in range(1, self.image_size + 1) if self.image_size % p == 0]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}: "
                f"use a patch of {', '.join(map(str, fits))}"
            )
        if self.width % self.heads:
            fits = [a for a in range(1, min(self.width, 64) + 1) if self.width % a == 0]
            raise ValueError(
                f"heads {self.heads} does not divide width {self.width}: use {', '.join(map(str, fits))} heads"
            )
        for name, known in (("stem", ("patch", "conv")), ("pool", POOLS), ("positions", KINDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: it is one of {', '.join(known)}")
        if self.stem == "conv" and self.patch_size & (self.patch_size - 1):
            raise ValueError(
                f"the conv stem halves the sides, so patch_size {self.patch_size} must be a power of 2: "
                f"change it, or use the patch stem"
            )
        if self.stem_depth < 0:
            raise ValueError(f"stem_depth is {self.stem_depth}: it must be 0 or more")

    @property
    def grid(self) -> Grid:
        """Rows and columns of patches at the training size."""
        return (self.image_size // self.patch_size, self.image_size // self.patch_size)

    @property
    def special(self) -> int:
        """Tokens that stand before the patches: the class token, then the registers."""
        return (self.pool == "class") + self.registers


POOLS = ("class", "mean")

PRESETS: dict[str, dict[str, int]] = {
    "nano": {"width": 128, "depth": 4, "heads": 4},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
}
"""The dial. From tiny on, the widths, depths and heads of Touvron et al. 2021 (DeiT)."""


class ViT(nn.Module):
    """Images of any size (a multiple of the patch) to class scores."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = (
            PatchEmbed(config.channels, config.patch_size, config.width)
            if config.stem == "patch"
            else ConvStem(config.channels, config.patch_size, config.width, config.stem_depth)
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.pool == "class" else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        table = KINDS[config.positions].table(config.grid, config.width, config.special)
        self.pos_embed = None if table is None else nn.Parameter(table)
        self.blocks = nn.ModuleList(Block(config.width, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.head = nn.Linear(config.width, config.classes)
        self.apply(_initialise)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    def grid(self, images: Tensor) -> Grid:
        """Rows and columns of patches of a batch (B, C, H, W). Raises ValueError for an impossible picture size."""
        _, channels, height, width = images.shape
        patch = self.config.patch_size
        if channels != self.config.channels:
            raise ValueError(f"the model reads {self.config.channels} channels and was given {channels}")
        if height % patch or width % patch or not height or not width:
            raise ValueError(
                f"a picture of {height} x {width} pixels has no whole patches of {patch}: "
                f"resize or pad its sides to multiples of {patch}"
            )
        return height // patch, width // patch

    def tokens(self, images: Tensor) -> Tensor:
        """What enters the first block: (B, C, H, W) -> (B, N, D)."""
        grid = self.grid(images)
        x = self.patch_embed(images).flatten(2).transpose(1, 2)  # (B, R*K, D)
        special = [t.expand(len(x), -1, -1).to(x.dtype) for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([*special, x], dim=1)  # (B, N, D)
        return KINDS[self.config.positions].add(x, self.pos_embed, self.config.grid, grid)

    def walk(self, images: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Each block with the tokens that enter it, first to last. The way in for whoever wants to see."""
        x = self.tokens(images)
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block, x
            x = block(x)

    def features(self, images: Tensor) -> Tensor:
        """The vector that the head reads: (B, C, H, W) -> (B, D)."""
        x = self.tokens(images)
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x[:, 0] if self.config.pool == "class" else x[:, self.config.special :].mean(dim=1)

    def forward(self, images: Tensor) -> Tensor:
        """(B, C, H, W) -> class scores before softmax (B, classes)."""
        return self.head(self.features(images))


def use_attention(model: nn.Module, path: str) -> None:
    """Sets the path of every attention layer of a model. Raises ValueError for a path that does not exist."""
    if path not in ATTENTION_PATHS:
        raise ValueError(f"unknown attention path {path!r}: it is one of {', '.join(ATTENTION_PATHS)}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.path = path


def _initialise(module: nn.Module) -> None:
    """Truncated normal of 0.02 for matrices, zero for biases, as timm and the paper's code do."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
