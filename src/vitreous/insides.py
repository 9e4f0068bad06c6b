"""What is inside a trained model: filters, positions, how far heads look, where pictures lie among each other.

Shapes: B batch, C channels, P filter side, R rows and K columns of patches, D width, A heads, L depth, n pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from vitreous.attention_maps import attentive, entering, looking, some_rows
from vitreous.stems import Whitening
from vitreous.vit import ViT


def filters(model: nn.Module) -> np.ndarray | None:
    """What the first layer looks for in the pixels: (count, P, P, C), or None where it is no convolution."""
    convolution = next((module for module in model.modules() if isinstance(module, nn.Conv2d | Whitening)), None)
    if convolution is not None:
        weights = convolution.weight
    else:  # the conv stem keeps its 3 x 3 filters as a matrix
        first = next((module for module in model.modules() if hasattr(module, "channels")), None)
        if first is None or not isinstance(first.weight, Tensor):
            return None
        weights = first.weight.unflatten(1, (-1, 3, 3))
    return weights.detach().float().permute(0, 2, 3, 1).cpu().numpy()


def principal(vectors: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Directions along which (n, ...) differ most, and the share of the variance of each: (count, ...), (count,)."""
    flat = vectors.reshape(len(vectors), -1).astype(np.float64)
    _, size, directions = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    shares = size**2 / max(float((size**2).sum()), 1e-30)
    return directions[:count].reshape(-1, *vectors.shape[1:]), shares[:count]


def position_similarity(model: nn.Module) -> np.ndarray | None:
    """Cosine of each patch's learned position with every other's: (R, K, R, K), or None where none are learned.

    Dosovitskiy et al. 2020, figure 7.
    """
    if not isinstance(model, ViT) or model.pos_embed is None:
        return None
    table = model.pos_embed.detach()[0, model.config.special :].float()
    table = table / table.norm(dim=1, keepdim=True).clamp(min=1e-12)
    rows, columns = model.config.grid
    return (table @ table.T).view(rows, columns, rows, columns).cpu().numpy()


def attention_distance(model: nn.Module, images: Tensor) -> np.ndarray:
    """How far patches look, in pixels, by layer and head: (B, C, H, W) -> (L, A).

    Distance between patch middles, weighed by the attention among patches, mean over patches and pictures
    (Dosovitskiy et al. 2020, figure 7). An even spread over the picture is the far end, each patch looking at itself 0.
    """
    vit = attentive(model)
    special, patch = vit.config.special, vit.config.patch_size
    rows, columns = vit.grid(images)
    spots = torch.cartesian_prod(torch.arange(rows), torch.arange(columns)).float().to(images.device)
    layers = []
    with looking(model):
        place = vit.place(images)
        for block, x in entering(vit, images):
            q, k, _ = block.attn.project(block.norm1(x), place)
            total = torch.zeros(q.shape[1], device=images.device)
            for part, weights in some_rows(q, k, place, first=special):
                far = torch.cdist(spots[part.start - special : part.stop - special], spots)  # (Q, R*K)
                among = weights[..., special:].float()
                total += ((among * far).sum(dim=-1) / among.sum(dim=-1).clamp(min=1e-12)).sum(dim=(0, 2))
            layers.append(total / (len(images) * rows * columns) * patch)
    return torch.stack(layers).cpu().numpy()


def even_distance(grid: tuple[int, int], patch: int) -> float:
    """What :func:`attention_distance` would be for heads that look everywhere alike."""
    spots = torch.cartesian_prod(*(torch.arange(count) for count in grid)).float().view(-1, 2)
    return float(torch.cdist(spots, spots).mean()) * patch


@torch.no_grad()
def embeddings(model: nn.Module, images: Tensor, batch: int = 250) -> np.ndarray:
    """The vectors that the head reads: (B, C, H, W) -> (B, D)."""
    features = cast(Callable[[Tensor], Tensor], model.features)
    return torch.cat([features(some).float().cpu() for some in images.split(batch)]).numpy()


def plane(vectors: np.ndarray) -> tuple[np.ndarray, float]:
    """Vectors (n, D) on the plane along which they differ most: (n, 2), and the share of the variance that is in it."""
    directions, shares = principal(vectors, 2)
    return (vectors - vectors.mean(axis=0)) @ directions.reshape(len(directions), -1).T, float(shares.sum())
