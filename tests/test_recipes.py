"""Choices fit the pictures, are told, and can be overruled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import cast

import pytest
import torch
from torch import nn

from vitreous import recipes
from vitreous.data import DataSet, Images
from vitreous.models import build_model
from vitreous.recipes import Wish, looks_like_characters, patch_for, plan
from vitreous.vit import ViT, ViTConfig


def pictures(side: int, count: int = 64, channels: int = 3, classes: int = 3, name: str = "pets") -> DataSet:
    labels = torch.arange(count) % classes
    pixels = torch.zeros(count, channels, side, side, dtype=torch.uint8)
    images = Images(pixels, labels, tuple(f"class {i}" for i in range(classes)), tuple(map(str, range(count))))
    return DataSet(name, images, images, None)


@pytest.mark.parametrize("side", [8, 12, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 128, 224])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_every_picture_size_gets_a_model_of_a_bearable_number_of_tokens(side: int, stem: str) -> None:
    config, notes = plan(Wish("pets", budget=60.0, stem=stem), pictures(side, count=8))
    assert isinstance(config.model, ViTConfig)
    rows, columns = config.model.grid
    assert 16 <= rows * columns <= 256
    assert notes
    model = build_model(config.model).eval()
    for size in {phase.size for phase in config.phases} | {side}:
        assert model(torch.zeros(1, 3, size, size)).shape == (1, 3)


def test_small_pictures_come_first_and_the_last_phase_has_the_own_size() -> None:
    config, _ = plan(Wish("pets", budget=60.0), pictures(32))
    sizes = [phase.size for phase in config.phases]
    assert sizes == sorted(sizes)
    assert sizes[-1] == 32
    assert sum(phase.share for phase in config.phases) == pytest.approx(1.0)


@pytest.mark.parametrize(("family", "side"), [("fastcnn", 84), ("fastcnn", 36), ("resnet", 50)])
def test_a_network_whose_places_do_not_divide_the_pictures_keeps_their_size(family: str, side: int) -> None:
    config, _ = plan(Wish("pets", budget=60.0, model=family), pictures(side))
    assert config.model.image_size == side
    assert config.phases == ()


def test_characters_are_not_mirrored() -> None:
    for name in ("digits", "MNIST", "svhn"):
        assert not plan(Wish(name, budget=60.0), pictures(8, channels=1, name=name))[0].augment.flip
    for name in ("pets", "CIFAR-10 (JPEG copy)", "Fashion-MNIST", "fashion-mnist"):
        assert plan(Wish(name, budget=60.0), pictures(8, name=name))[0].augment.flip
        assert not looks_like_characters(name)


def test_little_data_gets_small_batches() -> None:
    few, many = (plan(Wish("pets", budget=60.0), pictures(8, count=n))[0] for n in (20, 10_000))
    assert 2 <= few.batch <= 20 < many.batch


def test_what_is_asked_for_is_taken() -> None:
    wish = Wish("pets", steps=7, size="tiny", stem="patch", seed=3, device="cpu", val_fraction=0.2)
    config, _ = plan(wish, pictures(32))
    assert isinstance(config.model, ViTConfig)
    assert (config.model.width, config.model.stem, config.steps, config.seed) == (192, "patch", 7, 3)
    assert (config.device, config.data.val_fraction, config.budget) == ("cpu", 0.2, None)
    assert config.model.classes == 3


def test_a_size_that_does_not_exist_is_refused_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown size 'smal': did you mean 'small'"):
        plan(Wish("pets", budget=60.0, size="smal"), pictures(32))
    with pytest.raises(ValueError, match="no training pictures"):
        plan(Wish("pets", budget=60.0), dataclasses.replace(pictures(32), train=None))


def test_patches_cut_a_picture_into_about_eight_by_eight() -> None:
    assert {side: patch_for(side) for side in (8, 16, 28, 32, 64, 96, 224)} == {
        8: 1,
        16: 2,
        28: 4,
        32: 4,
        64: 8,
        96: 16,
        224: 32,
    }


def test_long_runs_shift_pictures_further_than_short_ones_and_the_shortest_not_at_all() -> None:
    shortest, said = plan(Wish("pets", epochs=1.0), pictures(32))
    short, notes = plan(Wish("pets", epochs=2.0), pictures(32))
    long, _ = plan(Wish("pets", epochs=50.0), pictures(32))
    assert 0 == shortest.augment.shift < short.augment.shift < long.augment.shift
    assert any("1.0 epochs" in note and "not shifted" in note for note in said)
    assert any("2.0 epochs" in note and "6.2%" in note for note in notes)
    by_steps, _ = plan(Wish("pets", steps=1000), pictures(32))
    assert by_steps.augment.shift == long.augment.shift
    assert by_steps.optim == long.optim
    assert short.optim.weight_decay == shortest.optim.weight_decay
    assert short.optim.weight_decay < long.optim.weight_decay


def stopwatch(rates: dict[int, float], seen: list[int] | None = None) -> Callable[[nn.Module, int, int], float]:
    """In place of the clock: pictures a second by the width of the model, half as many again at 24 pixels.

    The widths go into ``seen``.
    """

    def rate(model: nn.Module, size: int, channels: int) -> float:
        width = cast(ViT, model).config.width
        if seen is not None:
            seen.append(width)
        return rates[width] * (1.5 if size == 24 else 1.0)

    return rate


def test_how_often_pictures_are_seen_is_told_from_the_speed_of_the_very_model(monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[int] = []
    monkeypatch.setattr(recipes, "training_rate", stopwatch({128: 1000.0}, measured))
    _, notes = plan(Wish("pets", budget=60.0), pictures(32, count=44_000))
    # 60 % of the time on pictures of 24 pixels: 1000 * (0.6 * 1.5 + 0.4) * 60 s / 44,000
    assert any("about 1.8 epochs are expected" in note for note in notes)
    assert measured == [128, 128]  # a larger model would see them less often still, which needs no clock


def test_a_fast_machine_and_many_pictures_get_a_larger_model(monkeypatch: pytest.MonkeyPatch) -> None:
    many = pictures(8, count=40_000)
    for rate, size, often in ((1e3, "nano", 15), (2e4, "mini", 15), (1e5, "tiny", 50)):
        rates = {128: rate, 256: rate / 2, 192: rate / 2, 384: rate / 10}
        monkeypatch.setattr(recipes, "training_rate", stopwatch(rates))
        config, notes = plan(Wish("pets", budget=60.0), many)
        assert config.recipe == f"{size}-conv"
        assert any(f"{often} times" in note for note in notes)
    plain, _ = plan(Wish("pets", budget=60.0, stem="patch"), many)
    assert plain.recipe == "tiny-patch"
    monkeypatch.setattr(recipes, "training_rate", stopwatch({128: 3e4, 256: 2e4}))
    plain, notes = plan(Wish("pets", budget=60.0, stem="patch"), many)
    assert plain.recipe == "nano-patch"
    assert any("50 times" in note for note in notes)
    few, _ = plan(Wish("pets", budget=60.0), pictures(8, count=400))
    assert few.recipe == "nano-conv"
    asked, _ = plan(Wish("pets", budget=60.0, size="nano"), many)
    assert asked.recipe == "nano-conv"


def test_filters_turn_wherever_there_are_some() -> None:
    many = pictures(8, count=40_000)

    def rate(**wish: object) -> float:
        return plan(Wish("pets", **({"epochs": 5.0} | wish)), many)[0].optim.filter_lr  # type: ignore[arg-type]

    usual = rate()
    assert usual > 0
    assert rate(model="fastcnn") == rate(model="fastcnn", any_size=True) == rate(size="mini") == usual
    assert rate(epochs=20.0, size="nano") == usual
    assert rate(epochs=20.0, size="mini") > usual  # its batches are twice as large
    assert rate(epochs=1.0) > usual  # nothing is seen twice, so it is speed that counts
    assert rate(stem="patch") == 0  # it has no filters before a normalisation
    assert rate(any_size=True) == 0  # its stem normalises each picture alone


def test_the_smallest_models_read_colour_pictures_by_fixed_filters() -> None:
    def whitens(channels: int = 3, **wish: object) -> bool:
        config, notes = plan(Wish("pets", epochs=5.0, **wish), pictures(32, channels=channels))  # type: ignore[arg-type]
        assert config.model.stem_whiten == any("whiten the training pictures" in note for note in notes)
        return config.model.stem_whiten

    assert whitens() and whitens(model="fastcnn")
    assert not whitens(any_size=True)
    assert not whitens(channels=1)
    assert whitens(size="mini") and not whitens(size="tiny")
    assert not whitens(stem="patch")
    assert not whitens(model="resnet")


def test_long_runs_of_models_larger_than_nano_mix_pictures() -> None:
    many = pictures(8, count=40_000)
    configs = {
        (size, epochs): plan(Wish("pets", epochs=epochs, size=size), many)[0]
        for size in ("nano", "mini", "tiny")
        for epochs in (5.0, 20.0)
    }
    mixed = {("mini", 20.0), ("tiny", 20.0)}
    assert {key for key, config in configs.items() if config.augment.cutmix} == mixed
    assert {key for key, config in configs.items() if config.batch == 256} == mixed
    plain, _ = plan(Wish("pets", epochs=20.0, size="mini", stem="patch"), many)
    assert plain.augment.cutmix
    assert plan(Wish("pets", epochs=20.0, size="mini", model="fastcnn"), many)[0].augment.cutmix == 0
    by_steps, _ = plan(Wish("pets", steps=6250, size="mini"), many)  # 20 epochs, in batches of 128
    assert by_steps.augment.cutmix
    assert by_steps.batch == 128
    few, _ = plan(Wish("pets", epochs=20.0, size="mini"), pictures(8, count=400))
    assert few.batch < 128


@pytest.mark.parametrize(
    ("name", "count", "epochs", "model", "more"),
    [
        ("pets", 400, 20.0, "vit", True),
        ("pets", 400, 19.0, "vit", False),
        ("pets", 400, 20.0, "fastcnn", False),
        ("pets", 40_000, 20.0, "vit", False),
        ("digits", 400, 20.0, "vit", False),
    ],
)
def test_few_pictures_that_are_seen_often_are_changed_more(
    name: str, count: int, epochs: float, model: str, more: bool
) -> None:
    data = dataclasses.replace(pictures(8, count=count), name=name)
    config, notes = plan(Wish(name, epochs=epochs, size="nano", model=model), data)
    assert (config.augment.randaugment > 0, config.augment.cutmix > 0) == (more, more)
    assert any("pictures are few" in note for note in notes) == more
