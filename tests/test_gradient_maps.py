"""Gradients of attention without hooks equal those of autograd through the whole matrices; attributions add up."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from test_attention_maps import GRIDS, KINDS, drawn, small
from torch import Tensor, nn

from vitreous import attention_maps
from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNNConfig
from vitreous.gradient_maps import (
    by_patch,
    grad_cam,
    gradient_attention,
    input_gradient,
    integrated_gradients,
    occlusion,
    relevance,
)
from vitreous.heatmaps import METHODS, as_shares, class_number, heat, methods_for
from vitreous.vit import ViT, attention_weights

WAYS = methods_for(small())
TARGET = torch.tensor([3, 1])


def with_weights(model: ViT, images: Tensor, target: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Every layer's whole attention (B, A, N, N) and autograd's gradient of the logit by it."""
    place, x = model.place(images), model.tokens(images)
    found = []
    for block in model.blocks:
        h = block.norm1(x)
        q, k, v = block.attn.project(h, place)
        weights = attention_weights(q, k, place.bias() if place else None)
        found.append(weights)
        x = x + block.ls1(block.attn.proj((weights @ v).transpose(1, 2).flatten(2)))
        x = x + block.ls2(block.mlp(block.norm2(x)))
    scores = model.head(model.read(x)).gather(1, target[:, None]).sum()
    return list(zip([w.detach() for w in found], torch.autograd.grad(scores, found), strict=True))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize(("kind", "scaled"), [*((kind, False) for kind in KINDS), ("learned", True)])
def test_relevance_and_gradient_attention_equal_those_of_whole_matrices(
    grid: tuple[int, int], pool: str, kind: str, scaled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = small(pool=pool, registers=2, positions=kind, layer_scale=scaled), drawn(2, *grid)
    special = model.config.special
    layers = [(w * g).clamp(min=0) for w, g in with_weights(model, images, TARGET)]
    product = torch.eye(layers[0].shape[-1]).expand(2, -1, -1)
    for layer in layers:
        product = product + layer.mean(dim=1) @ product
    product = product - torch.eye(layers[0].shape[-1])
    expected = (product[:, 0] if pool == "class" else product[:, special:].mean(dim=1))[:, special:].view(2, *grid)
    rows = [layer[:, :, 0] if pool == "class" else layer[:, :, special:].mean(dim=2) for layer in layers]
    expected_layers = torch.stack(rows, dim=1)[..., special:].unflatten(-1, grid)
    for at_once in (2**23, 500):
        monkeypatch.setattr(attention_maps, "WEIGHTS_AT_ONCE", at_once)
        torch.testing.assert_close(relevance(model, images, TARGET), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(gradient_attention(model, images, TARGET), expected_layers, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_sum_to_the_rise_of_the_score() -> None:
    model, images = small(pool="mean"), 0.3 * drawn(2)
    maps = integrated_gradients(model, images, TARGET, steps=256)
    rise = (model(images) - model(torch.zeros_like(images))).gather(1, TARGET[:, None])[:, 0]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), rise, rtol=0.02, atol=0.02)


def test_gradients_of_a_linear_model_are_its_weights() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5))
    images = drawn(2, 2, 2)
    weights = model[1].weight[TARGET].detach().view(2, 3, 8, 8)
    torch.testing.assert_close(input_gradient(model, images, TARGET), by_patch(weights.abs().amax(dim=1), 4))
    torch.testing.assert_close(integrated_gradients(model, images, TARGET), by_patch((weights * images).sum(dim=1), 4))


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.filterwarnings("ignore:Input Tensor 0 did not already require gradients")
def test_gradients_and_their_integral_are_those_of_captum(stem: str) -> None:
    attr = pytest.importorskip("captum.attr", reason="needs captum to compare with: pip install captum")
    model, images = small(stem=stem), 0.3 * drawn(2, 3, 5)
    slope = attr.Saliency(model).attribute(images, target=TARGET)
    torch.testing.assert_close(input_gradient(model, images, TARGET), by_patch(slope.amax(dim=1), 4))
    way = attr.IntegratedGradients(model)
    shares = way.attribute(images, torch.zeros_like(images), TARGET, n_steps=32, method="riemann_middle")
    found = integrated_gradients(model, images, TARGET, steps=32)
    torch.testing.assert_close(found, by_patch(shares.sum(dim=1), 4).float(), rtol=1e-4, atol=1e-5)


def test_occlusion_is_that_of_captum() -> None:
    """Captum takes the loss of the score; ours that of its log probability, so the model given to it returns that."""
    attr = pytest.importorskip("captum.attr", reason="needs captum to compare with: pip install captum")
    model, images = small(), 0.3 * drawn(2, 3, 5)
    way = attr.Occlusion(lambda some: model(some).log_softmax(dim=1))
    with torch.no_grad():
        lost = way.attribute(images, sliding_window_shapes=(3, 4, 4), strides=(3, 4, 4), target=TARGET, baselines=0)
    expected = lost[:, 0, ::4, ::4]  # every pixel of a patch has the patch's own
    torch.testing.assert_close(occlusion(model, images, TARGET), expected.float(), rtol=1e-4, atol=1e-5)


def test_a_sum_by_patch_counts_begun_patches() -> None:
    values = torch.arange(30.0).view(1, 5, 6)
    sums = by_patch(values, 4)
    assert sums.shape == (1, 2, 2)
    assert sums[0, 0, 0] == values[0, :4, :4].sum()
    assert sums[0, 1, 1] == values[0, 4:, 4:].sum()


@pytest.mark.parametrize("grid", GRIDS)
def test_occlusion_finds_the_only_patch_that_matters(grid: tuple[int, int]) -> None:
    count = grid[0] * grid[1]

    class Reads(nn.Module):
        """Class 1 is a bright patch k, whatever else there is."""

        def forward(self, images: Tensor) -> Tensor:
            score = by_patch(images.mean(dim=1), 4).flatten(1)[:, k]
            return torch.stack([torch.zeros_like(score), score], dim=1)

    for k in range(count):
        maps = occlusion(Reads(), torch.ones(2, 3, 4 * grid[0], 4 * grid[1]), torch.tensor([1, 1]))
        assert maps.flatten(1).argmax(dim=1).tolist() == [k, k]
        others = maps.flatten(1)[0][torch.arange(count) != k]
        torch.testing.assert_close(others, torch.zeros(count - 1))


def test_grad_cam_is_the_positive_part_of_weighted_channels() -> None:
    torch.manual_seed(0)
    body = nn.Conv2d(3, 6, 4, stride=4)
    model = nn.Sequential(body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    images = drawn(2, 3, 5)
    weights = model[3].weight[TARGET].detach() / 15  # the pool's gradient is even
    expected = (weights[:, :, None, None] * body(images).detach()).sum(dim=1).clamp(min=0)
    torch.testing.assert_close(grad_cam(model, images, TARGET, body), expected)
    assert not body._forward_hooks


# The registry


def classifier(**changes: Any) -> Classifier:
    model = small(**changes)
    return Classifier(model, model.config, ("ant", "bee", "cat", "dog", "eel"), (0.4,) * 3, (0.2,) * 3)


def pixels(count: int = 3) -> Tensor:
    return torch.randint(0, 256, (count, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("mode", ["plain", "no_grad", "inference", "bf16 autocast", "training"])
@pytest.mark.parametrize("pool", ["class", "mean"])
def test_every_method_gives_whole_maps_in_every_mode_and_changes_nothing(name: str, mode: str, pool: str) -> None:
    tool = classifier(pool=pool, registers=1, stem="conv")
    before = tool.logits(pixels())
    state = {key: value.clone() for key, value in tool.model.state_dict().items()}
    expected = heat(tool, pixels(), name)
    around: dict[str, Any] = {
        "no_grad": torch.no_grad(),
        "inference": torch.inference_mode(),
        "bf16 autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }
    target = before.argmax(dim=1)
    tool.model.train(mode == "training")
    with around.get(mode, contextlib.nullcontext()):
        maps = heat(tool, pixels(), name, target=target)
    tool.model.eval()
    assert (maps.shape, maps.dtype, maps.requires_grad) == ((3, 4, 4), torch.float32, False)
    assert maps.isfinite().all()
    assert maps.std() > 0
    if "bf16" not in mode:
        torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6)
    assert torch.equal(tool.logits(pixels()), before)
    assert all(torch.equal(value, state[key]) for key, value in tool.model.state_dict().items())
    assert all(parameter.grad is None for parameter in tool.model.parameters())


@pytest.mark.parametrize("name", WAYS)
def test_a_picture_alone_has_the_map_it_has_in_a_batch(name: str) -> None:
    tool = classifier()
    together = heat(tool, pixels(5), name)
    alone = torch.cat([heat(tool, one[None], name) for one in pixels(5)])
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(heat(tool, pixels(5), name, batch=2), together, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", WAYS)
def test_the_class_matters_where_a_method_says_so(name: str) -> None:
    tool = classifier()
    cat, bee = (heat(tool, pixels(), name, target=each) for each in ("cat", "bee"))
    assert torch.equal(cat, heat(tool, pixels(), name, target=torch.tensor([2, 2, 2])))
    assert torch.equal(cat, bee) != METHODS[name].asks_class


@pytest.mark.parametrize("name", [name for name in WAYS if METHODS[name].layered])
def test_layers_and_heads_make_up_the_whole(name: str) -> None:
    tool = classifier()
    parts = [[heat(tool, pixels(), name, layer=layer, head=head) for head in (1, 2, 3, 4)] for layer in (1, 2, 3)]
    whole = torch.stack([torch.stack(heads) for heads in parts])
    torch.testing.assert_close(whole.mean(dim=(0, 1)), heat(tool, pixels(), name))
    torch.testing.assert_close(whole[1].mean(dim=0), heat(tool, pixels(), name, layer=2))
    torch.testing.assert_close(whole[:, 3].mean(dim=0), heat(tool, pixels(), name, head=4))


def test_what_is_not_there_is_refused_with_the_nearest() -> None:
    tool = classifier()
    with pytest.raises(ValueError, match="no class 'cta': did you mean 'cat'"):
        heat(tool, pixels(), "relevance", target="cta")
    with pytest.raises(ValueError, match="unknown method 'rolout': did you mean 'rollout'"):
        heat(tool, pixels(), "rolout")
    with pytest.raises(ValueError, match="no layer 4: the model has layers 1 to 3"):
        heat(tool, pixels(), layer=4)
    with pytest.raises(ValueError, match="no head 0: the model has heads 1 to 4"):
        heat(tool, pixels(), head=0)
    with pytest.raises(ValueError, match=r"rollout goes through all layers.*only attention and attention-gradient"):
        heat(tool, pixels(), "rollout", layer=1)
    assert class_number(tool.classes, "eel") == 4


def test_a_model_without_attention_has_the_other_methods() -> None:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    assert methods_for(plain) == ("input-gradient", "integrated-gradients", "occlusion")
    assert methods_for(small()) == tuple(name for name in METHODS if name != "grad-cam")


def test_a_cnn_shows_grad_cam_unasked_and_no_attention() -> None:
    config = CNNConfig(image_size=16, classes=5, widths=(8, 16))
    tool = Classifier(CNN(config).eval(), config, ("ant", "bee", "cat", "dog", "eel"), (0.4,) * 3, (0.2,) * 3)
    assert methods_for(tool.model)[0] == "grad-cam"
    for name in methods_for(tool.model):
        assert heat(tool, pixels(), name).shape == (3, 8, 8)
    assert torch.equal(heat(tool, pixels()), heat(tool, pixels(), "grad-cam"))
    with pytest.raises(ValueError, match="rollout cannot look into this model: use grad-cam, input-gradient"):
        heat(tool, pixels(), "rollout")


def test_shares_sum_to_one_and_nothing_is_even() -> None:
    maps = torch.tensor([[[1.0, -3.0], [3.0, 0.0]], [[-1.0, 0.0], [0.0, -2.0]]])
    shares = as_shares(maps)
    torch.testing.assert_close(shares, torch.tensor([[[0.25, 0.0], [0.75, 0.0]], [[0.25, 0.25], [0.25, 0.25]]]))
