"""Position encodings answer for every grid."""

from __future__ import annotations

import pytest
import torch

from vitreous import vit as rooms
from vitreous.positions import KINDS, Learned, Place, Position, angles, middles, resample
from vitreous.vit import Attention, ViT, ViTConfig, use_attention


def test_the_same_grid_is_left_alone() -> None:
    table = torch.randn(1, 15, 8)
    assert resample(table, (3, 5), (3, 5)) is table


@pytest.mark.parametrize("grid", [(1, 1), (2, 3), (9, 4), (16, 16)])
def test_resampling_keeps_a_constant_and_gives_the_asked_length(grid: tuple[int, int]) -> None:
    table = torch.arange(6.0).expand(1, 20, 6)
    stretched = resample(table, (4, 5), grid)
    assert stretched.shape == (1, grid[0] * grid[1], 6)
    torch.testing.assert_close(stretched, torch.arange(6.0).expand_as(stretched))


def test_resampling_keeps_rows_and_columns_apart() -> None:
    down = torch.arange(4.0).repeat_interleave(4)  # grows with the row alone
    across = torch.arange(4.0).repeat(4)
    table = torch.stack([down, across], dim=-1)[None]
    rows, columns = resample(table, (4, 4), (8, 12))[0].unflatten(0, (8, 12)).unbind(-1)
    torch.testing.assert_close(rows, rows[:, :1].expand(8, 12))
    torch.testing.assert_close(columns, columns[:1].expand(8, 12))
    assert (rows[1:, 0] > rows[:-1, 0]).all()
    assert (columns[0, 1:] > columns[0, :-1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_resampling_keeps_the_number_format(dtype: torch.dtype) -> None:
    assert resample(torch.randn(1, 16, 4, dtype=dtype), (4, 4), (6, 3)).dtype == dtype


def test_learned_positions_are_added_on_the_grid_of_training() -> None:
    learned = Learned()
    table = learned.table((3, 4), width=8, special=2)
    assert table.shape == (1, 14, 8)
    tokens = torch.randn(5, 14, 8)
    torch.testing.assert_close(learned.add(tokens, table, (3, 4), (3, 4)), tokens + table, rtol=0, atol=0)


@pytest.mark.parametrize("special", [0, 1, 5])
def test_special_tokens_keep_their_positions_on_another_grid(special: int) -> None:
    learned = Learned()
    table = learned.table((4, 4), width=8, special=special)
    tokens = torch.zeros(2, special + 6 * 3, 8)
    placed = learned.add(tokens, table, (4, 4), (6, 3))
    torch.testing.assert_close(placed[:, :special], table[:, :special].expand(2, -1, -1), rtol=0, atol=0)
    expected = resample(table[:, special:], (4, 4), (6, 3)).expand(2, -1, -1)
    torch.testing.assert_close(placed[:, special:], expected, rtol=0, atol=0)


def test_learned_positions_learn_on_another_grid() -> None:
    table = Learned().table((4, 4), width=8, special=1).requires_grad_()
    Learned().add(torch.zeros(1, 1 + 25, 8), table, (4, 4), (5, 5)).square().sum().backward()
    assert table.grad is not None
    assert (table.grad.abs().sum(dim=-1) > 0).all()


def test_no_positions_change_nothing() -> None:
    tokens = torch.randn(2, 5, 8)
    assert Position().table((2, 2), width=8, special=1) is None
    assert Position().add(tokens, None, (2, 2), (2, 2)) is tokens


def strong(kind: str, **changes: int | str) -> ViT:
    """A model whose attention is far from even."""
    torch.manual_seed(0)
    sizes = {"image_size": 16, "patch_size": 4, "classes": 5, "width": 32, "depth": 2, "heads": 4}
    made = ViT(ViTConfig(**sizes | {"positions": kind} | changes)).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" not in name:
                parameter.mul_(6)
    return made


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(16, 16), (4, 4), (8, 40), (64, 12), (96, 96), (17, 30)])
@torch.no_grad()
def test_every_kind_takes_every_picture(kind: str, shape: tuple[int, int]) -> None:
    vit = strong(kind, registers=1)
    images = torch.randn(2, 3, *shape)
    assert vit(images).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_kind_takes_a_thousand_pixels_without_the_whole_matrix(kind: str) -> None:
    vit = strong(kind, depth=1, width=8, heads=2)
    images = torch.randn(1, 3, 64, 1024)  # 4,096 tokens
    use_attention(vit, "explicit")
    assert vit(images).isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_long_sequences_are_answered_in_parts_with_the_same_numbers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vit = strong(kind)
    images = torch.randn(2, 3, 24, 20)
    at_once = vit(images)
    monkeypatch.setattr(rooms, "LONG", 4)
    monkeypatch.setattr(rooms, "QUERIES_AT_ONCE", 7)
    torch.testing.assert_close(vit(images), at_once, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", ["fused", "explicit"])
@torch.no_grad()
def test_weights_are_those_of_the_pass(kind: str, path: str) -> None:
    vit = strong(kind)
    use_attention(vit, path)
    images = torch.randn(2, 3, 16, 24)
    place = vit.place(images)
    for block, tokens in vit.walk(images):
        x = block.norm1(tokens)
        weights = block.attn.weights(x, place=place)
        torch.testing.assert_close(weights.sum(-1), torch.ones(2, 4, 25))
        rebuilt = (weights @ block.attn.project(x, place)[2]).transpose(1, 2).flatten(2)
        torch.testing.assert_close(block.attn.proj(rebuilt), block.attn(x, place), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(block.attn.weights(x, slice(0, 1), place), weights[:, :, :1])
        torch.testing.assert_close(block.attn.weights(x, slice(5, 9), place), weights[:, :, 5:9])


@pytest.mark.parametrize("kind", ["rope", "alibi"])
def test_attention_that_needs_a_place_asks_for_it(kind: str) -> None:
    with pytest.raises(ValueError, match=r"ViT\.place"):
        Attention(32, 4, placed=KINDS[kind].placed).weights(torch.randn(1, 5, 32))


@pytest.mark.parametrize("kind", ["learned", "sincos", "none"])
def test_kinds_that_are_added_ask_nothing_of_attention(kind: str) -> None:
    assert strong(kind).place(torch.zeros(1, 3, 16, 16)) is None


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_all_kinds_but_none_tell_patches_apart(kind: str) -> None:
    vit = strong(kind)
    images = torch.randn(1, 3, 16, 16)
    swapped = torch.cat([images[:, :, 4:8], images[:, :, :4], images[:, :, 8:]], dim=2)
    same = torch.allclose(vit(images), vit(swapped), rtol=1e-4, atol=1e-4)
    assert same == (kind == "none")


@pytest.mark.parametrize("kind", ["sincos", "rope", "alibi", "none"])
def test_only_learned_positions_have_a_parameter(kind: str) -> None:
    assert "pos_embed" not in strong(kind).state_dict()
    assert "pos_embed" in strong("learned").state_dict()


def test_middles_span_the_picture_whatever_the_grid() -> None:
    assert middles((2, 2), (2, 2)).tolist() == [[0.5, 0.5], [0.5, 1.5], [1.5, 0.5], [1.5, 1.5]]
    for grid in [(1, 1), (3, 5), (64, 2)]:
        points = middles((8, 8), grid)
        assert points.shape == (grid[0] * grid[1], 2)
        torch.testing.assert_close(points.mean(dim=0), torch.tensor([4.0, 4.0]))
        assert points.min() > 0 and points.max() < 8


def test_angles_run_from_fast_to_slow_rows_first() -> None:
    turned = angles(torch.tensor([[2.0, 5.0]]), 3)[0]
    torch.testing.assert_close(turned[0], torch.tensor(2.0))
    torch.testing.assert_close(turned[3], torch.tensor(5.0))
    torch.testing.assert_close(turned[2], torch.tensor(2.0 / 32))


def test_rotary_scores_depend_on_the_way_between_patches_alone() -> None:
    place = KINDS["rope"].place((8, 8), (8, 8), special=1, heads=2, width=32)
    assert place is not None
    torch.manual_seed(0)
    q, k = torch.randn(2, 16)
    turned_q, turned_k = (place.turn(x.expand(1, 2, 65, 16)) for x in (q, k))
    scores = (turned_q @ turned_k.transpose(-2, -1))[0, 0]

    def score(a: tuple[int, int], b: tuple[int, int]) -> torch.Tensor:
        return scores[1 + 8 * a[0] + a[1], 1 + 8 * b[0] + b[1]]

    torch.testing.assert_close(score((0, 0), (2, 3)), score((4, 1), (6, 4)))
    assert not torch.isclose(score((0, 0), (2, 3)), score((0, 0), (3, 2)))
    torch.testing.assert_close(scores[0, 0], q @ k)  # special tokens are not turned
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(1, 2, 65))


def test_alibi_takes_off_the_distance_and_leaves_special_tokens_alone() -> None:
    place = KINDS["alibi"].place((4, 4), (4, 4), special=2, heads=2, width=32)
    assert place is not None
    bias = place.bias()
    assert bias is not None and bias.shape == (1, 2, 18, 18)
    assert (bias[0, :, :2] == 0).all() and (bias[0, :, :, :2] == 0).all()
    torch.testing.assert_close(bias[0, 0, 2, 2 + 3 * 4 + 3], torch.tensor(-(18**0.5) / 16))  # slope 2^-4
    torch.testing.assert_close(bias[0, 1, 2, 3], torch.tensor(-1 / 256))
    part = place.bias(slice(5, 7))
    assert part is not None
    torch.testing.assert_close(part, bias[:, :, 5:7])


def test_sincos_differs_everywhere_and_spares_special_tokens() -> None:
    tokens = torch.zeros(1, 1 + 256, 32)
    placed = KINDS["sincos"].add(tokens, None, (8, 8), (16, 16))[0]
    assert (placed[0] == 0).all()
    apart = torch.cdist(placed[1:], placed[1:]) + torch.eye(256)
    assert apart.min() > 0.1
    torch.testing.assert_close(placed[1:].square().sum(dim=1), torch.full((256,), 16.0))


@pytest.mark.parametrize(("kind", "width", "heads"), [("sincos", 30, 2), ("rope", 36, 6)])
def test_widths_that_a_kind_cannot_use_are_refused(kind: str, width: int, heads: int) -> None:
    with pytest.raises(ValueError, match=rf"{kind} positions need.*multiple of 4, not"):
        ViTConfig(positions=kind, width=width, heads=heads)


def test_no_place_changes_nothing() -> None:
    torch.manual_seed(0)
    attention, x = Attention(16, 2), torch.randn(1, 5, 16)
    assert Place().bias() is None and Place().free
    torch.testing.assert_close(attention(x, Place()), attention(x), rtol=0, atol=0)
