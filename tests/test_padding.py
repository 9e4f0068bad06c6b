"""Padding changes nothing: a padded picture gives the scores of the unpadded one, for every kind of position."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitreous.padding import grid_of, pad, real_patches, tokens_of, whole
from vitreous.positions import KINDS
from vitreous.vit import ViT, ViTConfig, use_attention

SIZES = [(16, 16), (8, 24), (24, 12), (32, 32), (4, 4), (13, 18), (30, 5)]


def model(**changes: Any) -> ViT:
    torch.manual_seed(0)
    base: dict[str, Any] = {"image_size": 16, "classes": 5, "width": 32, "depth": 2, "heads": 4}
    made = ViT(ViTConfig(**base | changes))
    with torch.no_grad():  # weights at which attention is far from even, and statistics that are not 0 and 1
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.mul_(4)
        for _ in range(3):
            made(torch.randn(8, 3, 16, 16) + 0.3)
    return made.eval()


def pictures(sizes: list[tuple[int, int]] = SIZES) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(3, *size, generator=generator) for size in sizes]


@pytest.mark.parametrize(
    ("stem", "norm", "early", "whiten"),
    [
        ("patch", "batch", 0, False),
        ("conv", "batch", 0, False),
        ("conv", "picture", 0, False),
        ("conv", "batch", 1, False),
        ("conv", "picture", 1, False),
        ("conv", "batch", 1, True),
        ("conv", "picture", 0, True),
    ],
)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_padded_picture_gives_the_scores_of_the_unpadded(
    kind: str, pool: str, stem: str, norm: str, early: int, whiten: bool
) -> None:
    stem_of = {"stem": stem, "stem_norm": norm, "stem_early": early, "stem_whiten": whiten}
    vit = model(positions=kind, pool=pool, registers=1, **stem_of)
    alone = torch.cat([vit(picture[None]) for picture in pictures()])
    assert alone.std(dim=0).min() > 1e-3  # they are told apart
    batch, sizes = pad(pictures())
    torch.testing.assert_close(vit(batch, sizes), alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("path", ["fused", "explicit"])
@torch.no_grad()
def test_more_padding_and_what_is_in_it_change_nothing(path: str) -> None:
    vit = model(positions="rope", stem="patch")
    use_attention(vit, path)
    batch, sizes = pad(pictures([(16, 16), (8, 12)]))
    wider = torch.full((2, 3, 40, 20), 9.0)
    for i, (height, width) in enumerate(sizes):
        wider[i, :, :height, :width] = batch[i, :, :height, :width]
    torch.testing.assert_close(vit(wider, sizes), vit(batch, sizes), rtol=1e-5, atol=1e-5)


def test_a_stem_that_normalises_each_picture_alone_trains_on_padded_pictures_as_on_each_alone() -> None:
    vit = model(positions="rope", stem="conv", stem_norm="picture", stem_early=1).train()
    torch.cat([vit(picture[None]) for picture in pictures()]).square().sum().backward()
    alone = {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}
    vit.zero_grad()
    batch, sizes = pad(pictures())
    vit(batch, sizes).square().sum().backward()
    for name, parameter in vit.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[name], rtol=1e-3, atol=1e-4 * float(alone[name].abs().max()))


def test_padding_learns_nothing_and_disturbs_no_gradient() -> None:
    vit = model(positions="learned", stem="patch")
    several = pictures([(16, 16), (8, 24)])
    torch.stack([vit(p[None])[0] for p in several]).square().sum().backward()
    alone = {name: p.grad.clone() for name, p in vit.named_parameters() if p.grad is not None}
    vit.zero_grad()
    batch, sizes = pad(several)
    vit(batch, sizes).square().sum().backward()
    for name, parameter in vit.named_parameters():
        torch.testing.assert_close(parameter.grad, alone[name], rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("stem", ["patch", "conv"])
@torch.no_grad()
def test_sides_without_whole_patches_are_filled_up_with_the_mean_colour(stem: str) -> None:
    vit = model(stem=stem)
    picture = torch.randn(1, 3, 13, 18)
    filled = nn.functional.pad(picture, (0, 2, 0, 3))
    torch.testing.assert_close(vit(picture), vit(filled), rtol=0, atol=0)
    assert vit.grid(picture) == (4, 5)


def test_whole_patches_are_left_alone() -> None:
    images = torch.randn(1, 3, 8, 12)
    assert whole(images, 4) is images


@pytest.mark.parametrize("size", [(3, 16), (16, 0), (1, 1)])
def test_a_size_smaller_than_a_patch_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]} x {size[1]} pixels is smaller than a patch of 4"):
        grid_of(size, 4)


def test_sizes_that_do_not_fit_the_batch_are_refused() -> None:
    vit = model()
    with pytest.raises(ValueError, match="1 sizes for a batch of 2"):
        vit(torch.randn(2, 3, 16, 16), [(16, 16)])
    with pytest.raises(ValueError, match=r"\(24, 16\) pixels in a batch of 16 x 16"):
        vit(torch.randn(1, 3, 16, 16), [(24, 16)])
    with pytest.raises(ValueError, match="0 pictures"):
        pad([])


def test_tokens_and_patches_of_a_padded_picture() -> None:
    here = torch.device("cpu")
    real = real_patches([(1, 2), (2, 3)], (2, 3), here)
    assert real.tolist() == [[[True, True, False], [False] * 3], [[True] * 3, [True] * 3]]
    assert tokens_of((2, 2), (3, 4), 1, here).tolist() == [0, 1, 2, 5, 6]
