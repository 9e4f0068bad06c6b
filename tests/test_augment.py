"""Augmentation: pure, seeded, and doing to each picture what its name says."""

from __future__ import annotations

import pytest
import torch
from torch import Generator, Tensor

from vitreous import augment
from vitreous.augment import AugmentConfig, Draws


def seeded(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def draws(count: int, seed: int = 0) -> Draws:
    return Draws(seeded(seed), count)


def pictures(count: int = 64, side: int = 16) -> Tensor:
    return torch.randint(0, 256, (count, 3, side, side), generator=seeded(9), dtype=torch.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda x, d: augment.shift(x, 0.25, d),
        lambda x, d: augment.randaugment(x.float() / 255, 2, d),
        lambda x, d: augment.erase(x.float(), 0.5, d),
    ],
)
def test_same_seed_same_pictures_other_seed_others_and_the_input_is_left_alone(change) -> None:  # type: ignore[no-untyped-def]
    batch = pictures()
    before = batch.clone()
    first = change(batch, draws(64, 1))
    assert torch.equal(first, change(batch, draws(64, 1)))
    assert not torch.equal(first, change(batch, draws(64, 2)))
    assert torch.equal(batch, before)
    assert first.shape == batch.shape


def test_mirror_turns_the_chosen_and_leaves_the_rest() -> None:
    batch, chosen = pictures(4), torch.tensor([True, False, False, True])
    turned = augment.mirror(batch, chosen)
    assert torch.equal(turned[chosen], batch[chosen].flip(3))
    assert torch.equal(turned[~chosen], batch[~chosen])


def test_shift_moves_by_whole_pixels_within_reach_and_reflects() -> None:
    batch = pictures(200, side=16)
    moved = augment.shift(batch, 0.125, draws(200))  # reach 2
    padded = torch.nn.functional.pad(batch.float(), (2, 2, 2, 2), mode="reflect").to(torch.uint8)
    seen = set()
    for i in range(len(batch)):
        places = [
            (dy, dx)
            for dy in range(5)
            for dx in range(5)
            if torch.equal(moved[i], padded[i, :, dy : dy + 16, dx : dx + 16])
        ]
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) == 25
    assert torch.equal(augment.shift(batch, 0.0, draws(200)), batch)


def test_resize_keeps_type_and_mean_and_is_nothing_at_the_own_size() -> None:
    batch = pictures(8, side=32)
    assert augment.resize(batch, 32) is batch
    small = augment.resize(batch, 24)
    assert small.shape == (8, 3, 24, 24)
    assert small.dtype == torch.uint8
    assert small.float().mean() == pytest.approx(batch.float().mean().item(), abs=1.0)


def test_erase_fills_rectangles_of_the_promised_size_in_the_promised_share() -> None:
    batch = torch.ones(500, 1, 32, 32)
    erased = augment.erase(batch, 0.4, draws(500))
    share = (erased == 0).flatten(1).float().mean(1)
    hit = share > 0
    assert 150 < int(hit.sum()) < 250
    assert share.max() < 0.45
    assert torch.equal(augment.erase(batch, 0.0, draws(500)), batch)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_mixes_pictures_and_targets_in_the_same_proportion(kind: str) -> None:
    labels = torch.arange(64) % 2
    images = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 16, 16)  # the picture is its label
    targets = torch.nn.functional.one_hot(labels, 2).float()
    how = augment.draw_mix(64, AugmentConfig(**{kind: 1.0}), seeded(3))
    assert how is not None
    mixed, soft = augment.mix((images, targets), (images[how.order], targets[how.order]), how)
    assert torch.allclose(mixed.mean((1, 2, 3)), soft[:, 1], atol=1e-5)
    assert torch.allclose(soft.sum(1), torch.ones(64))
    assert not torch.equal(soft, targets)
    assert augment.draw_mix(64, AugmentConfig(), seeded(3)) is None


def test_randaugment_stays_in_range_and_changes_most_pictures() -> None:
    batch = pictures(100).float() / 255
    changed = augment.randaugment(batch, 2, draws(100))
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert torch.isfinite(changed).all()
    assert (changed != batch).flatten(1).any(1).float().mean() > 0.9


def test_impossible_strengths_are_refused() -> None:
    for values in ({"shift": 2.0}, {"mixup": -0.1}, {"mixup": 0.6, "cutmix": 0.6}, {"randaugment": -1}):
        with pytest.raises(ValueError, match=next(iter(values))):
            AugmentConfig(**values)
