"""Batches depend on the step alone, and an epoch shows every picture once."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from vitreous import ranks
from vitreous.augment import AugmentConfig
from vitreous.batches import Batches
from vitreous.config import DataConfig, RunConfig
from vitreous.data import DataSet, Images

CPU = torch.device("cpu")


def test_an_epoch_shows_each_picture_once_and_the_next_in_another_order(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    batches = Batches(squares.train, tiny_run)
    epochs = [torch.cat([batches.chosen(e * 8 + i) for i in range(8)]) for e in range(2)]
    assert all(sorted(epoch.tolist()) == list(range(128)) for epoch in epochs)
    assert not torch.equal(epochs[0], epochs[1])


def test_two_epochs_show_each_picture_and_its_mirror(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    config = dataclasses.replace(tiny_run, augment=AugmentConfig(flip=True, shift=0.0))
    plain = Batches(squares.train, dataclasses.replace(tiny_run, augment=AugmentConfig(flip=False, shift=0.0)))
    seen: list[dict[int, bool]] = []
    for epoch in range(3):
        turned = {}
        batches = Batches(squares.train, config)
        for step in range(8 * epoch, 8 * epoch + 8):
            inputs, own = batches.at(step, 8, CPU)[0], plain.at(step, 8, CPU)[0]
            for place, picture, as_is in zip(batches.chosen(step).tolist(), inputs, own, strict=True):
                turned[place] = torch.equal(picture, as_is.flip(2))
                assert turned[place] or torch.equal(picture, as_is)
        seen.append(turned)
    assert 40 < sum(seen[0].values()) < 88  # of 128
    assert all(seen[1][place] is not turned for place, turned in seen[0].items())
    assert seen[2] == seen[0]


def test_a_step_s_batch_does_not_depend_on_what_came_before(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    augment = AugmentConfig(flip=True, shift=0.25, randaugment=1, mixup=0.5, cutmix=0.5, erase=0.5)
    config = dataclasses.replace(tiny_run, augment=augment)
    walked = Batches(squares.train, config)
    for step in range(20):
        inputs, targets = walked.at(step, 8, CPU)
    again, same = Batches(squares.train, config).at(19, 8, CPU)
    assert torch.equal(inputs, again)
    assert torch.equal(targets, same)
    other, _ = Batches(squares.train, dataclasses.replace(config, seed=1)).at(19, 8, CPU)
    assert not torch.equal(inputs, other)


def test_batches_are_normalised_sized_and_one_hot(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    batches = Batches(squares.train, tiny_run)
    everything = torch.cat([batches.at(step, 8, CPU)[0] for step in range(8)])
    assert everything.mean().abs() < 1e-4
    assert (everything.std() - 1).abs() < 1e-3
    inputs, targets = batches.at(0, 4, CPU)
    assert inputs.shape == (16, 3, 4, 4)
    assert torch.equal(targets.argmax(1), squares.train.labels[batches.chosen(0)])


def test_a_batch_is_never_larger_than_the_data(squares: DataSet, tiny_run: RunConfig) -> None:
    assert squares.train is not None
    few = squares.train.select(range(10))
    assert len(Batches(few, tiny_run).chosen(3)) == 10


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_the_shares_of_several_processes_make_up_the_batch_of_one(
    squares: DataSet, tiny_run: RunConfig, monkeypatch: pytest.MonkeyPatch, world: int, kind: str
) -> None:
    assert squares.train is not None
    augment = AugmentConfig(flip=True, shift=0.25, randaugment=2, erase=0.5, **{kind: 0.7})  # type: ignore[arg-type]
    batches = Batches(squares.train, dataclasses.replace(tiny_run, augment=augment))
    whole = [batches.at(step, 8, CPU) for step in range(6)]
    monkeypatch.setattr(ranks, "world", lambda: world)
    parts = []
    for rank in range(world):
        monkeypatch.setattr(ranks, "rank", lambda number=rank: number)
        parts.append([batches.at(step, 8, CPU) for step in range(6)])
    for step, (inputs, targets) in enumerate(whole):
        assert torch.equal(torch.cat([part[step][0] for part in parts]), inputs)
        assert torch.equal(torch.cat([part[step][1] for part in parts]), targets)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_a_run_ends_on_pictures_that_are_not_mixed(squares: DataSet, tiny_run: RunConfig, kind: str) -> None:
    assert squares.train is not None
    augment = AugmentConfig(mix_until=0.6, **{kind: 1.0})  # type: ignore[arg-type]
    mixing = Batches(squares.train, dataclasses.replace(tiny_run, augment=augment))
    plain = Batches(squares.train, dataclasses.replace(tiny_run, augment=AugmentConfig()))
    early, late, as_they_are = mixing.at(3, 8, CPU, 0.59), mixing.at(3, 8, CPU, 0.6), plain.at(3, 8, CPU, 0.6)
    assert not torch.equal(early[0], as_they_are[0])
    assert (early[1].max(dim=1).values < 1).any()
    assert torch.equal(late[0], as_they_are[0])
    assert torch.equal(late[1], as_they_are[1])


def uneven(counts: list[int]) -> Images:
    labels = torch.cat([torch.full((count,), label) for label, count in enumerate(counts)])
    pixels = torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8)
    return Images(pixels, labels, tuple("abcd"[: len(counts)]), tuple(map(str, range(len(labels)))))


@pytest.mark.parametrize(("balance", "expected"), [(0.0, [90, 9, 0, 1]), (0.5, [70, 22, 0, 8]), (1.0, [34, 33, 0, 33])])
def test_balance_draws_classes_as_evenly_as_asked(tiny_run: RunConfig, balance: float, expected: list[int]) -> None:
    images = uneven([90, 9, 0, 1])
    config = dataclasses.replace(tiny_run, batch=10, data=DataConfig(balance=balance))
    drawn = torch.cat([Batches(images, config).chosen(step) for step in range(10)])
    assert torch.bincount(images.labels[drawn], minlength=4).tolist() == expected
    times = torch.bincount(drawn, minlength=100)
    for label in (0, 1, 3):
        own = times[images.labels == label]
        assert own.max() - own.min() <= 1  # no picture of a class is favoured over another


def test_a_balanced_order_depends_on_seed_and_step_alone_and_mixes_the_classes(tiny_run: RunConfig) -> None:
    images = uneven([90, 10])
    config = dataclasses.replace(tiny_run, batch=10, data=DataConfig(balance=1.0))
    batches = Batches(images, config)
    forward = [batches.chosen(step) for step in range(25)]
    assert all(torch.equal(Batches(images, config).chosen(step), forward[step]) for step in (24, 3, 11))
    other = Batches(images, dataclasses.replace(config, seed=1)).chosen(0)
    assert not torch.equal(forward[0], other)
    assert all(0 < int((images.labels[each] == 1).sum()) < 10 for each in forward)
    assert not torch.equal(torch.cat(forward[:10]).sort()[0], torch.cat(forward[10:20]).sort()[0])  # others of class 0


@pytest.mark.parametrize("balance", [-0.1, 1.1])
def test_a_balance_out_of_range_is_refused(balance: float) -> None:
    with pytest.raises(ValueError, match="it is from 0"):
        DataConfig(balance=balance)
