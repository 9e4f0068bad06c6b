"""Rollout equals the textbook product of matrices, for every kind of model, without ever forming one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitreous import attention_maps
from vitreous.attention_maps import class_map, patch_attention, rollout
from vitreous.vit import ViT, ViTConfig

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "classes": 5, "width": 32, "depth": 3, "heads": 4}
GRIDS = [(4, 4), (2, 7), (6, 3)]
KINDS = ["learned", "sincos", "rope", "alibi", "none"]


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SMALL | changes)).eval()
    for parameter in model.parameters():  # fresh weights look everywhere alike
        nn.init.normal_(parameter, std=0.3)
    return model


def drawn(batch: int, rows: int = 4, columns: int = 4) -> Tensor:
    return torch.randn(batch, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(1))


def softmax(scores: np.ndarray) -> np.ndarray:
    grown = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return grown / grown.sum(axis=-1, keepdims=True)


def textbook(model: ViT, images: Tensor) -> np.ndarray:
    """Abnar & Zuidema with NumPy in float64: the whole matrices, multiplied; (B, R, K)."""
    model, images = model.double(), images.double()
    place, special = model.place(images), model.config.special
    product = np.eye(special + np.prod(model.grid(images)))[None]
    for block, x in model.walk(images):
        q, k, _ = (each.detach().numpy() for each in block.attn.project(block.norm1(x), place))
        scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1])
        if place is not None and (bias := place.bias()) is not None:
            scores = scores + bias.numpy()
        mixed = softmax(scores).mean(axis=1) + np.eye(scores.shape[-1])
        mixed /= mixed.sum(axis=-1, keepdims=True)
        product = mixed @ product
    row = product[:, 0] if model.config.pool == "class" else product[:, special:].mean(axis=1)
    return row[:, special:].reshape(len(images), *model.grid(images))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_rollout_is_the_product_of_the_matrices(
    grid: tuple[int, int], pool: str, registers: int, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, images = small(pool=pool, registers=registers, positions=kind), drawn(2, *grid)
    whole = rollout(model, images)
    monkeypatch.setattr(attention_maps, "WEIGHTS_AT_ONCE", 3 * 4 * 2 * (registers + 20))  # some three queries a step
    in_steps = rollout(model, images)
    expected = textbook(model, images)
    np.testing.assert_allclose(whole, expected, atol=1e-6)
    np.testing.assert_allclose(in_steps, expected, atol=1e-6)


@pytest.mark.parametrize("pool", ["class", "mean"])
def test_rollout_without_special_tokens_keeps_everything(pool: str) -> None:
    maps = rollout(small(pool=pool), drawn(2))
    sums = maps.sum(dim=(1, 2))
    if pool == "mean":
        torch.testing.assert_close(sums, torch.ones(2), rtol=1e-5, atol=1e-5)
    assert (sums <= 1 + 1e-5).all()
    assert (maps >= 0).all()


def test_one_layer_of_rollout_is_half_of_its_attention() -> None:
    model, images = small(depth=1), drawn(3)
    torch.testing.assert_close(rollout(model, images), class_map(model, images) / 2, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_class_maps_know_of_positions(kind: str) -> None:
    """A map with positions equals that of the weights that the pass itself uses."""
    model, images = small(positions=kind, depth=2), drawn(2)
    place = model.place(images)
    layers = [block.attn.weights(block.norm1(x), place=place)[:, :, 0] for block, x in model.walk(images)]
    expected = torch.stack(layers).mean(dim=(0, 2))[:, model.config.special :].view(2, 4, 4)
    torch.testing.assert_close(class_map(model, images), expected, rtol=1e-5, atol=1e-6)


def test_a_patch_looks_where_its_row_says() -> None:
    model, images = small(registers=1), drawn(2)
    block, x = next(model.walk(images))
    row = block.attn.weights(block.norm1(x))[:, :, 2 + 1 * 4 + 3]
    maps = patch_attention(model, images, (1, 3))
    torch.testing.assert_close(maps[:, 0].flatten(2), row[..., 2:], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"patch \(4, 0\) is not on the grid: rows are 0 to 3"):
        patch_attention(model, images, (4, 0))


def largest_tensor(model: ViT, images: Tensor) -> int:
    """Numbers in the largest tensor that any operation of a rollout makes."""
    sizes = [0]

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = func(*args, **(kwargs or {}))
            for each in found if isinstance(found, tuple | list) else (found,):
                if isinstance(each, Tensor):
                    sizes.append(each.untyped_storage().nbytes() // each.element_size())
            return found

    with Watch():
        rollout(model, images)
        class_map(model, images)
    return max(sizes)


def test_memory_grows_with_tokens_and_not_with_their_square(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_maps, "WEIGHTS_AT_ONCE", 2**14)
    model = small(depth=2, positions="sincos")
    for side in (32, 64):  # 1,024 and 4,096 patches
        count = side * side + 1
        limit = max(4 * count * model.config.width, 2**14 + count)  # the MLP's hidden layer, or the rows of a step
        assert largest_tensor(model, drawn(1, side, side)) <= limit < count * count


def test_rollout_of_no_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no attention"):
        rollout(nn.Linear(3, 3), drawn(1))
