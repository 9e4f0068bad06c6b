"""A pack gives the scores of each picture alone, in any order, and the gradients of them all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vitreous.packing import packed_features, packed_scores
from vitreous.positions import KINDS
from vitreous.vit import ViT, ViTConfig, use_attention

SIZES = [(16, 16), (24, 32), (16, 16), (8, 40), (64, 12), (17, 30), (40, 8), (24, 32), (4, 4)]


def model(**changes: Any) -> ViT:
    torch.manual_seed(0)
    base: dict[str, Any] = {"image_size": 16, "classes": 5, "width": 32, "depth": 2, "heads": 4}
    made = ViT(ViTConfig(**base | changes)).eval()
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
    return made


def pictures() -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in SIZES]


@pytest.mark.parametrize("path", ["fused", "explicit"])
@pytest.mark.parametrize(("pool", "stem"), [("class", "patch"), ("mean", "conv"), ("class", "conv")])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_pack_equals_one_at_a_time(kind: str, pool: str, stem: str, path: str) -> None:
    vit = model(positions=kind, pool=pool, stem=stem, registers=2)
    use_attention(vit, path)
    alone = torch.cat([vit(picture[None]) for picture in pictures()])
    torch.testing.assert_close(packed_scores(vit, pictures()), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_order_of_packing_changes_no_score(kind: str) -> None:
    vit, several = model(positions=kind), pictures()
    scores = packed_scores(vit, several)
    for seed in range(3):
        order = torch.randperm(len(several), generator=torch.Generator().manual_seed(seed))
        shuffled = packed_scores(vit, [several[i] for i in order])
        torch.testing.assert_close(shuffled, scores[order], rtol=1e-5, atol=1e-5)


def test_a_pack_trains_like_its_pictures() -> None:
    vit = model(positions="rope")
    torch.stack([vit(p[None])[0] for p in pictures()]).square().sum().backward()
    alone = {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}
    vit.zero_grad()
    packed_scores(vit, pictures()).square().sum().backward()
    for name, parameter in vit.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[name], rtol=1e-4, atol=1e-3, msg=name)


def test_an_empty_pack_and_a_picture_smaller_than_a_patch_are_refused() -> None:
    with pytest.raises(ValueError, match="0 pictures"):
        packed_features(model(), [])
    with pytest.raises(ValueError, match="3 x 16 pixels is smaller than a patch of 4"):
        packed_features(model(), [torch.randn(3, 3, 16)])
