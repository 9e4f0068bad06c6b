"""The Vision Transformer (Dosovitskiy et al. 2020, arXiv 2010.11929), read from the bottom up.

An image is cut into patches, each patch becomes a token, a class token joins them, and blocks of attention and MLP let
the tokens exchange what they know; a linear head reads the class token. Torch only: no training, no data, no files.
Parameter names are timm's, so converting weights is renaming. How positions are encoded is in positions.py.

Shapes: B batch, C channels, H W pixels, P patch side, R rows and K columns of patches, S special tokens (class token
and registers), N = S + R*K tokens, D width, A heads, E = D/A width of a head, L depth. Tokens are row-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous.padding import Size, grid_of, grids_of, padded_place, real_patches, tokens_of, whole
from vitreous.positions import KINDS, Grid, Packed, Place
from vitreous.stems import ConvStem, PatchEmbed


def fused_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Torch's own kernel, which never forms the N x N weights: 3 x (B, A, N, E) -> (B, A, N, E)."""
    return F.scaled_dot_product_attention(q, k, v, None if bias is None else bias.to(q.dtype))


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """Matrix product, softmax, matrix product: 3 x (B, A, N, E) -> (B, A, N, E). On CPUs often the faster one."""
    return attention_weights(q, k, bias) @ v


def attention_weights(q: Tensor, k: Tensor, bias: Tensor | None = None) -> Tensor:
    """How much each query looks at each key: (B, A, Q, E), (B, A, N, E) -> (B, A, Q, N); rows sum to 1.

    ``bias`` is added to the scores, as positions and padding ask: of a shape that expands to (B, A, Q, N).
    """
    scale = 1.0 / math.sqrt(q.shape[-1])
    scores = (q * scale) @ k.transpose(-2, -1)
    return (scores if bias is None else scores + bias.to(scores.dtype)).softmax(dim=-1)


ATTENTION_PATHS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "fused": fused_attention,
    "explicit": explicit_attention,
}

LONG = 2048
"""Tokens from which on no path forms an N x N matrix at once."""
QUERIES_AT_ONCE = 256
"""Queries of a long sequence that are answered at a time where scores have a bias."""


class Attention(nn.Module):
    """Multi-head self-attention (Vaswani et al. 2017). ``path`` names the row of ATTENTION_PATHS that is used.

    ``placed`` says that positions act here, so that whoever forgets the place is told and not answered wrongly.
    """

    def __init__(self, width: int, heads: int, placed: bool = False) -> None:
        super().__init__()
        self.heads, self.placed = heads, placed
        self.path = "fused"
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def project(self, x: Tensor, place: Place | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values of every head, turned by their place: (B, N, D) -> 3 x (B, A, N, E)."""
        return self._split(self.qkv(x), place)

    def forward(self, x: Tensor, place: Place | Packed | None = None, first: bool = False) -> Tensor:
        """(B, N, D) -> (B, N, D), or what only the ``first`` token, the class token, gets: (B, 1, D)."""
        if first:
            assert not isinstance(place, Packed)
            return self.proj(self._first(x, place))
        qkv = self.qkv(x)  # (B, N, 3D)
        if isinstance(place, Packed):
            parts = zip(qkv.split(place.lengths, dim=1), place.blocks, strict=True)
            mixed = [self._mix(p.unflatten(1, (n, -1))[0], own).flatten(0, 1) for p, (n, _, own) in parts]
            return self.proj(torch.cat(mixed)[None])
        return self.proj(self._mix(qkv, place))

    def weights(self, x: Tensor, queries: slice = slice(None), place: Place | None = None) -> Tensor:
        """The attention weights that ``forward`` uses, for some query tokens: (B, N, D) -> (B, A, Q, N).

        ``queries=slice(0, 1)`` gives the class token's row alone, in memory that grows with N and not with N x N.
        """
        q, k, _ = self.project(x, place)
        return attention_weights(q[:, :, queries], k, place.bias(queries) if place else None)

    def _first(self, x: Tensor, place: Place | None) -> Tensor:
        """The first row of :meth:`_mix`, (B, N, D) -> (B, 1, D): the keys and values of all, the query of one."""
        width = x.shape[-1]
        own, others = self.qkv.weight.split([width, 2 * width])
        own_bias, other_bias = (None, None) if self.qkv.bias is None else self.qkv.bias.split([width, 2 * width])
        q = F.linear(x[:, :1], own, own_bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, A, 1, E)
        k, v = F.linear(x, others, other_bias).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if place:  # the class token lies nowhere, so nothing turns its query
            k = place.turn(k)
        mixed = ATTENTION_PATHS[self.path](q, k, v, place.bias(slice(0, 1)) if place else None)  # (B, A, 1, E)
        return mixed.transpose(1, 2).flatten(2)

    def _split(self, qkv: Tensor, place: Place | None) -> tuple[Tensor, Tensor, Tensor]:
        """(B, N, 3D) -> queries, keys, values, each (B, A, N, E)."""
        if self.placed and place is None:
            raise ValueError("positions act in this attention: give it the place of the tokens, from ViT.place")
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return (place.turn(q), place.turn(k), v) if place else (q, k, v)

    def _mix(self, qkv: Tensor, place: Place | None) -> Tensor:
        """(B, N, 3D) -> the values as the weights mix them, heads side by side (B, N, D)."""
        q, k, v = self._split(qkv, place)
        path, count = ATTENTION_PATHS[self.path], q.shape[2]
        if count <= LONG:
            mixed = path(q, k, v, place.bias() if place else None)  # (B, A, N, E)
        elif place is None or place.free:
            mixed = fused_attention(q, k, v)
        else:
            some = [slice(i, i + QUERIES_AT_ONCE) for i in range(0, count, QUERIES_AT_ONCE)]
            mixed = torch.cat([path(q[:, :, part], k, v, place.bias(part)) for part in some], dim=2)
        return mixed.transpose(1, 2).flatten(2)


class MLP(nn.Module):
    """Two linear layers with GELU between, applied to each token alone."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return self.fc2(F.gelu(self.fc1(x)))


class LayerScale(nn.Module):
    """What a layer adds, times a learned number for each of its D outputs (Touvron et al. 2021, CaiT)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-5))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, D) -> (B, N, D)."""
        return x * self.gamma


class Block(nn.Module):
    """A pre-norm transformer block: tokens exchange (attention), then each thinks alone (MLP)."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        width, eps = config.width, config.norm_eps
        self.norm1 = nn.LayerNorm(width, eps)
        self.attn = Attention(width, config.heads, KINDS[config.positions].placed)
        self.ls1 = LayerScale(width) if config.layer_scale else nn.Identity()
        self.norm2 = nn.LayerNorm(width, eps)
        self.mlp = MLP(width, int(width * config.mlp_ratio))
        self.ls2 = LayerScale(width) if config.layer_scale else nn.Identity()

    def forward(self, x: Tensor, place: Place | Packed | None = None, first: bool = False) -> Tensor:
        """(B, N, D) -> (B, N, D), or the ``first`` token alone, (B, 1, D), at a fraction of the cost."""
        mixed = self.attn(self.norm1(x), place, first)
        return self.think((x[:, :1] if first else x) + self.ls1(mixed))

    def think(self, x: Tensor) -> Tensor:
        """The block's second half, in which no token sees another: (B, N, D) -> (B, N, D)."""
        return x + self.ls2(self.mlp(self.norm2(x)))


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
    stem_early: int = 0
    """Residual convolutions between the pools, behind a narrow first one; 0 for the stem of Hassani et al. 2021. In the
    conv stem only."""
    stem_whiten: bool = False
    """Whether the convolution that reads the pixels is fixed and whitens the training pictures, instead of a learned
    narrow one; in the conv stem only."""
    stem_norm: str = "batch"
    """``batch`` normalisation, or ``picture``: each picture alone, for several picture sizes; in the conv stem only."""
    pool: str = "class"
    """What the head reads: the ``class`` token, or the ``mean`` of the patch tokens (then there is no class token)."""
    registers: int = 0
    """Extra tokens without a patch (Darcet et al. 2023)."""
    positions: str = "learned"
    """A row of positions.KINDS: ``learned``, ``sincos``, ``rope``, ``alibi`` or ``none``."""
    layer_scale: bool = False
    """Whether what a layer adds is scaled by learned numbers, as DINOv2's weights need it."""
    norm_eps: float = 1e-6
    """What normalisation adds to the variance; weights of Hugging Face's ViT need 1e-12."""
    family: str = "vit"
    """What the JSON form calls this kind of model (models.py)."""

    def __post_init__(self) -> None:
        for name in ("image_size", "patch_size", "channels", "classes", "width", "depth", "heads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least 1")
        for name in ("registers", "stem_depth", "stem_early"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be 0 or more")
        for name in ("mlp_ratio", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        if self.image_size % self.patch_size:
            fits = [p for p in range(1, min(self.image_size, 64) + 1) if self.image_size % p == 0]
            raise ValueError(
                f"patch_size {self.patch_size} does not divide image_size {self.image_size}: "
                f"use a patch of {', '.join(map(str, fits))}"
            )
        if self.width % self.heads:
            fits = [a for a in range(1, min(self.width, 64) + 1) if self.width % a == 0]
            raise ValueError(
                f"heads {self.heads} does not divide width {self.width}: use {', '.join(map(str, fits))} heads"
            )
        for name, known in (
            ("family", ("vit",)),
            ("stem", ("patch", "conv")),
            ("stem_norm", ("batch", "picture")),
            ("pool", POOLS),
            ("positions", KINDS),
        ):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: it is one of {', '.join(known)}")
        if self.stem == "conv" and self.patch_size & (self.patch_size - 1):
            raise ValueError(
                f"the conv stem halves the sides, so patch_size {self.patch_size} must be a power of 2: "
                f"change it, or use the patch stem"
            )
        KINDS[self.positions].check(self.width, self.heads)

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
    "mini": {"width": 256, "depth": 4, "heads": 8},
    "tiny": {"width": 192, "depth": 12, "heads": 3},
    "small": {"width": 384, "depth": 12, "heads": 6},
    "base": {"width": 768, "depth": 12, "heads": 12},
}
"""The dial. From tiny on, the widths, depths and heads of Touvron et al. 2021 (DeiT)."""


class ViT(nn.Module):
    """Images of any size to class scores.

    Wherever images are taken, ``sizes`` may say that they are padded (padding.py): the height and width in pixels of
    each picture, which lies at the top left. Without it, a whole batch is pictures.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = (
            PatchEmbed(config.channels, config.patch_size, config.width)
            if config.stem == "patch"
            else ConvStem(
                config.channels,
                config.patch_size,
                config.width,
                config.stem_depth,
                config.stem_norm,
                config.stem_early,
                config.stem_whiten,
            )
        )
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.pool == "class" else None
        self.reg_token = nn.Parameter(torch.zeros(1, config.registers, config.width)) if config.registers else None
        self.positions = KINDS[config.positions]
        table = self.positions.table(config.grid, config.width, config.special)
        self.pos_embed = None if table is None else nn.Parameter(table)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.head = nn.Linear(config.width, config.classes)
        self.apply(_initialise)
        for token in (self.cls_token, self.reg_token):
            if token is not None:
                nn.init.normal_(token, std=0.02)

    def grid(self, images: Tensor) -> Grid:
        """Rows and columns of patches of a batch (B, C, H, W), begun ones included.

        Raises ValueError for pictures smaller than a patch or of other channels.
        """
        _, channels, height, width = images.shape
        if channels != self.config.channels:
            raise ValueError(f"the model reads {self.config.channels} channels and was given {channels}")
        return grid_of((height, width), self.config.patch_size)

    def tokens(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
        """What enters the first block: (B, C, H, W) -> (B, N, D)."""
        grid, own = self.grid(images), self._grids(images, sizes)
        real = None if own is None else real_patches(own, grid, images.device)
        x = self.patch_embed(whole(images, self.config.patch_size), real).flatten(2).transpose(1, 2)  # (B, R*K, D)
        special = [t.expand(x.shape[0], -1, -1).to(x.dtype) for t in (self.cls_token, self.reg_token) if t is not None]
        x = torch.cat([*special, x], dim=1)  # (B, N, D)
        if own is None:
            return self.positions.add(x, self.pos_embed, self.config.grid, grid)
        placed = []
        for each, alone in zip(own, x, strict=True):
            spots = tokens_of(each, grid, self.config.special, x.device)
            there = self.positions.add(alone[None, spots], self.pos_embed, self.config.grid, each)
            placed.append(alone.index_copy(0, spots, there[0].to(alone.dtype)))
        return torch.stack(placed)

    def place(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Place | None:
        """What every block is told of where the tokens of (B, C, H, W) lie; None where it need not know."""
        grid, own, config = self.grid(images), self._grids(images, sizes), self.config
        facts = (config.special, config.heads, config.width, images.device)
        if own is None:
            return self.positions.place(config.grid, grid, *facts)
        places = [self.positions.place(config.grid, each, *facts) for each in own]
        spots = [tokens_of(each, grid, config.special, images.device) for each in own]
        return padded_place(places, spots, real_patches(own, grid, images.device), config.special)

    def _grids(self, images: Tensor, sizes: Sequence[Size] | None) -> list[Grid] | None:
        return None if sizes is None else grids_of(sizes, self.config.patch_size, len(images), self.grid(images))

    def walk(self, images: Tensor) -> Iterator[tuple[Block, Tensor]]:
        """Each block with the tokens that enter it, first to last. The way in for whoever wants to see."""
        x, place = self.tokens(images), self.place(images)
        for block in self.blocks:
            assert isinstance(block, Block)
            yield block, x
            x = block(x, place)

    def features(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
        """The vector that the head reads: (B, C, H, W) -> (B, D).

        Where that is the class token, the last block computes nothing else: nobody would read it.
        """
        x, place = self.tokens(images, sizes), self.place(images, sizes)
        *early, last = self.blocks
        for block in early:
            x = block(x, place)
        x = last(x, place, first=self.config.pool == "class")
        return self.read(x, None if place is None else place.real)

    def read(self, x: Tensor, real: Tensor | None = None) -> Tensor:
        """The class token, or the mean of the patch tokens that are ``real``, bool (B, N): (B, N, D) -> (B, D)."""
        x = self.norm(x)
        if self.config.pool == "class":
            return x[:, 0]
        patches = x[:, self.config.special :]
        if real is None:
            return patches.mean(dim=1)
        kept = real[:, self.config.special :, None]
        return (patches * kept).sum(dim=1) / kept.sum(dim=1)

    def forward(self, images: Tensor, sizes: Sequence[Size] | None = None) -> Tensor:
        """(B, C, H, W) -> class scores before softmax (B, classes)."""
        return self.head(self.features(images, sizes))


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
