"""Position encodings answer for every grid."""

from __future__ import annotations

import pytest
import torch

from vitreous.positions import KINDS, Learned, Position, resample


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


@pytest.mark.parametrize("name", KINDS)
def test_every_kind_takes_any_grid(name: str) -> None:
    kind = KINDS[name]
    table = kind.table((4, 4), width=16, special=2)
    for grid in [(4, 4), (1, 7), (9, 3)]:
        tokens = torch.randn(2, 2 + grid[0] * grid[1], 16)
        placed = kind.add(tokens, table, (4, 4), grid)
        assert placed.shape == tokens.shape
        assert placed.isfinite().all()
