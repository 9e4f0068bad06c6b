"""The model is the one of the paper: equal to torch's own layers and to timm's, whatever the path and the picture."""

from __future__ import annotations

import dataclasses
import importlib.util
import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from vitreous.arrays import flatten_patches
from vitreous.positions import KINDS
from vitreous.stems import ConvStem, PatchEmbed, Whitening
from vitreous.vit import PRESETS, Attention, Block, ViT, ViTConfig, use_attention

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "classes": 5, "width": 32, "depth": 2, "heads": 4}


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    return ViT(ViTConfig(**SMALL | changes)).eval()


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


# Patches to tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("shape", "patch"), [((3, 32, 32), 4), ((1, 12, 20), 4), ((3, 6, 4), 1), ((2, 16, 8), 8)])
def test_embedding_is_cutting_flattening_and_one_linear_layer(
    shape: tuple[int, ...], patch: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    embed = PatchEmbed(shape[0], patch, width=24).to(dtype)
    images = torch.randn(2, *shape, dtype=dtype)
    rows = flatten_patches(images.permute(0, 2, 3, 1), patch)  # (B, N, P*P*C)
    linear = embed.proj.weight.permute(2, 3, 1, 0).reshape(-1, 24)  # (P*P*C, D)
    by_hand = rows @ linear + embed.proj.bias
    tokens = embed(images).flatten(2).transpose(1, 2)
    close(tokens, by_hand, 1e-5 if dtype == torch.float32 else 1e-12)


def test_a_colour_picture_of_32_pixels_gives_64_tokens_from_48_numbers_each() -> None:
    embed = PatchEmbed(3, 4, width=128)
    assert embed(torch.zeros(1, 3, 32, 32)).shape == (1, 128, 8, 8)
    assert embed.proj.weight[0].numel() == 48
    model = ViT(ViTConfig(width=128, depth=1))
    assert model.tokens(torch.zeros(1, 3, 32, 32)).shape == (1, 1 + 64, 128)


@pytest.mark.parametrize("channels", [1, 3])
def test_whitened_pixels_are_uncorrelated_and_come_with_both_signs(channels: int) -> None:
    torch.manual_seed(0)
    blurred = nn.functional.avg_pool2d(torch.randn(64, channels, 36, 36), 5, stride=1)
    pictures = 5 * blurred + 3 * blurred.mean(dim=1, keepdim=True)  # neighbours and colours alike
    layer = Whitening(channels)
    layer.fit(pictures)
    seen = layer(pictures)
    assert seen.shape == (64, 2 * min(8, 4 * channels), 32, 32)
    plus, minus = seen.detach().chunk(2, dim=1)
    torch.testing.assert_close(plus, -minus)
    values = plus.movedim(1, 0).flatten(1).double()
    products = values @ values.T / values.shape[1]
    torch.testing.assert_close(products, torch.diag(products.diag()), rtol=0, atol=1e-4)
    assert (products.diag().diff() >= 0).all()
    assert 0.4 < products.diag().min() <= products.diag().max() < 1  # what varies less than EPS stays small


def test_pictures_of_one_colour_and_of_one_pixel_can_be_whitened() -> None:
    for pictures in (torch.zeros(3, 3, 8, 8), torch.randn(3, 3, 1, 1)):
        layer = Whitening(3)
        layer.fit(pictures)
        assert layer(pictures).isfinite().all()


@pytest.mark.parametrize("patch", [1, 2, 4, 8, 16])
def test_the_conv_stem_gives_the_same_grid_as_the_patch_embedding(patch: int) -> None:
    images = torch.randn(2, 3, 32, 48)
    for stem in (ConvStem(3, patch, 64, depth=1), ConvStem(3, patch, 64, depth=1, whiten=True)):
        assert stem(images).shape == PatchEmbed(3, patch, 64)(images).shape


# The last block, of which only the class token is read


@pytest.mark.parametrize("path", ["fused", "explicit"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_class_token_alone_comes_out_of_the_last_block_as_it_does_with_all_others(kind: str, path: str) -> None:
    torch.manual_seed(0)
    model = ViT(ViTConfig(width=32, depth=2, heads=4, positions=kind, registers=2)).double()
    use_attention(model, path)
    with torch.no_grad():
        for parameter in model.blocks.parameters():
            parameter.mul_(5)
    images = torch.randn(3, 3, 24, 40, dtype=torch.double)
    alone = model.features(images)
    gradients = torch.autograd.grad(alone.square().sum(), list(model.parameters()), allow_unused=True)
    *_, (block, x) = model.walk(images)
    whole = model.read(block(x, model.place(images)))
    torch.testing.assert_close(alone, whole)
    others = torch.autograd.grad(whole.square().sum(), list(model.parameters()), allow_unused=True)
    for (name, _), one, other in zip(model.named_parameters(), gradients, others, strict=True):
        assert (one is None) == (other is None), name
        if one is not None:
            torch.testing.assert_close(one, other, msg=name)


# Equal to others


@pytest.mark.parametrize(("width", "heads"), [(32, 4), (24, 1), (64, 64)])
def test_a_block_is_torchs_pre_norm_encoder_layer(width: int, heads: int) -> None:
    torch.manual_seed(0)
    block = Block(ViTConfig(width=width, heads=heads)).eval()
    theirs = nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0, activation="gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    ).eval()
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=0.2)
    pairs = {
        "self_attn.in_proj_": block.attn.qkv,
        "self_attn.out_proj.": block.attn.proj,
        "linear1.": block.mlp.fc1,
        "linear2.": block.mlp.fc2,
        "norm1.": block.norm1,
        "norm2.": block.norm2,
    }
    theirs.load_state_dict({f"{name}{k}": v for name, ours in pairs.items() for k, v in ours.state_dict().items()})
    x = torch.randn(3, 17, width)
    close(block(x), theirs(x))


@pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
@pytest.mark.filterwarnings("ignore")  # timm's dependencies warn on import
@pytest.mark.parametrize("registers", [0, 4])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("scaled", [False, True], ids=["plain", "layer-scale"])
def test_the_model_is_timms_with_the_same_state_dict(registers: int, channels: int, scaled: bool) -> None:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    config = ViTConfig(
        channels=channels, classes=7, width=96, depth=3, heads=3, registers=registers, layer_scale=scaled
    )
    ours = ViT(config).eval()
    theirs = VisionTransformer(
        img_size=32,
        patch_size=4,
        in_chans=channels,
        num_classes=7,
        embed_dim=96,
        depth=3,
        num_heads=3,
        reg_tokens=registers,
        init_values=1e-5 if scaled else None,
    ).eval()
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.1)
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(4, channels, 32, 32)
    with torch.no_grad():
        close(ours(images), theirs(images))


# The fast path, the explicit path and the weights


@pytest.mark.parametrize("shape", [(32, 32), (16, 8), (4, 4)])
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_fused_and_explicit_attention_agree_in_outputs_and_gradients(shape: tuple[int, int], pool: str) -> None:
    model = small(pool=pool, registers=2)
    results = {}
    for path in ("fused", "explicit"):
        use_attention(model, path)
        model.zero_grad()
        images = torch.randn(3, 3, *shape, generator=torch.Generator().manual_seed(1)).requires_grad_()
        scores = model(images)
        scores.square().sum().backward()
        results[path] = scores.detach(), images.grad, {n: p.grad.clone() for n, p in model.named_parameters()}
    close(results["fused"][0], results["explicit"][0], 1e-5)
    close(results["fused"][1], results["explicit"][1], 1e-4)
    for name, gradient in results["fused"][2].items():
        torch.testing.assert_close(gradient, results["explicit"][2][name], rtol=1e-4, atol=1e-4, msg=name)


def test_an_unknown_path_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"flash.*fused, explicit"):
        use_attention(small(), "flash")


@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_weights_sum_to_one_and_rebuild_the_output(path: str) -> None:
    torch.manual_seed(0)
    attention = Attention(32, 4)
    attention.path = path
    x = 3 * torch.randn(2, 19, 32)
    weights = attention.weights(x)
    assert weights.shape == (2, 4, 19, 19)
    assert (weights >= 0).all()
    close(weights.sum(-1), torch.ones(2, 4, 19))
    _, _, values = attention.project(x)
    close(attention.proj((weights @ values).transpose(1, 2).flatten(2)), attention(x))


def test_one_query_gives_its_row_of_the_weights() -> None:
    torch.manual_seed(0)
    attention = Attention(32, 4)
    x = torch.randn(2, 19, 32)
    close(attention.weights(x, queries=slice(0, 1)), attention.weights(x)[:, :, :1], 1e-6)
    close(attention.weights(x, queries=slice(5, 9)), attention.weights(x)[:, :, 5:9], 1e-6)


def test_gradients_of_attention_are_those_of_finite_differences() -> None:
    torch.manual_seed(0)
    for path in ("fused", "explicit"):
        attention = Attention(6, 2).double()
        attention.path = path
        x = torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(attention, (x,))
        assert torch.autograd.gradcheck(attention.weights, (x,))


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_gradients_of_a_model_of_one_block_are_those_of_finite_differences(pool: str) -> None:
    torch.manual_seed(0)
    config = ViTConfig(
        image_size=4,
        patch_size=2,
        channels=1,
        classes=3,
        width=4,
        depth=1,
        heads=2,
        mlp_ratio=2,
        pool=pool,
        registers=1,
    )
    model = ViT(config).double()
    names, values = zip(*model.named_parameters(), strict=True)
    points = [torch.randn_like(v).mul(0.5).requires_grad_() for v in values]
    images = torch.randn(2, 1, 4, 4, dtype=torch.float64, requires_grad=True)

    def run(images: Tensor, *parameters: Tensor) -> Tensor:
        return torch.func.functional_call(model, dict(zip(names, parameters, strict=True)), (images,))

    assert torch.autograd.gradcheck(run, (images, *points))


# Every size


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("preset", [name for name in PRESETS if name != "base"])
def test_every_preset_is_finite_and_every_parameter_learns(preset: str, channels: int, classes: int) -> None:
    _finite_and_learning(preset, channels, classes)


def test_the_base_preset_is_finite_and_every_parameter_learns() -> None:
    _finite_and_learning("base", 3, 10)


def _finite_and_learning(preset: str, channels: int, classes: int) -> None:
    torch.manual_seed(0)
    config = ViTConfig(image_size=8, patch_size=4, channels=channels, classes=classes, **PRESETS[preset])
    model = ViT(config)
    scores = model(torch.randn(2, channels, 8, 8))
    assert scores.shape == (2, classes)
    assert scores.isfinite().all()
    nn.functional.cross_entropy(scores, torch.tensor([0, 1])).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("registers", [0, 3])
def test_every_combination_learns_in_every_parameter(stem: str, pool: str, registers: int) -> None:
    model = small(stem=stem, pool=pool, registers=registers)
    model(torch.randn(4, 3, 16, 16)).square().sum().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("shape", [(16, 16), (4, 4), (8, 40), (64, 12), (96, 96)])
def test_any_picture_of_whole_patches_works(stem: str, shape: tuple[int, int]) -> None:
    model = small(stem=stem, registers=1)
    images = torch.randn(2, 3, *shape)
    assert model.grid(images) == (shape[0] // 4, shape[1] // 4)
    assert model.tokens(images).shape == (2, 2 + shape[0] * shape[1] // 16, 32)
    scores = model(images)
    assert scores.shape == (2, 5)
    assert scores.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 16), (2, 2), (16, 3)])
def test_a_picture_smaller_than_a_patch_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{shape[0]} x {shape[1]}.*smaller than a patch of 4"):
        small()(torch.randn(1, 3, *shape))


def test_a_picture_of_other_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"reads 3 channels.*given 1"):
        small()(torch.randn(1, 1, 16, 16))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 5}, r"patch_size 5 does not divide image_size 16: use a patch of 1, 2, 4, 8, 16"),
        ({"patch_size": 32}, r"patch_size 32 does not divide image_size 16"),
        ({"heads": 5}, r"heads 5 does not divide width 32: use 1, 2, 4, 8, 16, 32"),
        ({"width": 0}, r"width is 0.*at least 1"),
        ({"depth": -1}, r"depth is -1.*at least 1"),
        ({"classes": 0}, r"classes is 0.*at least 1"),
        ({"channels": 0}, r"channels is 0.*at least 1"),
        ({"image_size": 0}, r"image_size is 0.*at least 1"),
        ({"registers": -1}, r"registers is -1.*0 or more"),
        ({"mlp_ratio": 0}, r"mlp_ratio is 0.*above 0"),
        ({"pool": "max"}, r"pool 'max'.*class, mean"),
        ({"stem": "big"}, r"stem 'big'.*patch, conv"),
        ({"positions": "random"}, r"positions 'random'.*learned"),
        ({"image_size": 18, "patch_size": 3, "stem": "conv"}, r"patch_size 3 must be a power of 2"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_value_limit_and_fix(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ViTConfig(**SMALL | changes)


# What the head reads


def test_special_tokens_stand_before_the_patches() -> None:
    for pool, registers, special in [("class", 0, 1), ("class", 3, 4), ("mean", 0, 0), ("mean", 2, 2)]:
        model = small(pool=pool, registers=registers)
        assert model.config.special == special
        assert model.tokens(torch.randn(1, 3, 16, 16)).shape[1] == special + 16


def test_the_mean_pool_is_the_mean_over_patch_tokens_alone() -> None:
    model = small(pool="mean", registers=2)
    images = torch.randn(2, 3, 16, 16)
    *_, (last, tokens) = model.walk(images)
    close(model.features(images), model.norm(last(tokens))[:, 2:].mean(dim=1))


def test_walking_gives_every_block_what_enters_it() -> None:
    model = small(depth=3, registers=1)
    images = torch.randn(2, 3, 16, 16)
    steps = list(model.walk(images))
    assert [block for block, _ in steps] == list(model.blocks)
    close(steps[0][1], model.tokens(images), 0)
    for (block, tokens), (_, following) in itertools.pairwise(steps):
        close(block(tokens), following)
    block, tokens = steps[-1]
    close(model.head(model.norm(block(tokens))[:, 0]), model(images))


@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("path", ["fused", "explicit"])
def test_a_picture_alone_equals_itself_in_a_batch_of_64(pool: str, path: str) -> None:
    model = small(pool=pool)
    use_attention(model, path)
    images = torch.randn(64, 3, 16, 16)
    with torch.no_grad():
        together = model(images)
        for i in (0, 17, 63):
            close(model(images[i : i + 1]), together[i : i + 1])


def test_without_positions_patches_are_a_bag_and_with_them_they_are_not() -> None:
    model = small()
    for parameter in model.parameters():  # at the start of training all attention is even and positions are faint
        nn.init.normal_(parameter, std=0.3)
    images = torch.randn(1, 3, 16, 16)
    swapped = torch.cat([images[:, :, 4:8], images[:, :, :4], images[:, :, 8:]], dim=2)
    with torch.no_grad():
        assert not torch.allclose(model(images), model(swapped), atol=1e-3)
        model.pos_embed.zero_()
        close(model(images), model(swapped))


def test_a_config_is_a_value() -> None:
    assert ViTConfig(**SMALL) == dataclasses.replace(ViTConfig(**SMALL))
    assert ViTConfig(image_size=32, patch_size=4).grid == (8, 8)
