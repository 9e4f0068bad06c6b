"""The CNNs learn in the same loop, take any size, and are described, saved and counted like the Vision Transformer."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNN_PRESETS, CNNConfig
from vitreous.config import RunConfig, from_json, override, to_json
from vitreous.data import DataSet
from vitreous.models import build_model, count_flops, count_parameters, describe
from vitreous.optim import parameter_groups
from vitreous.recipes import Wish, plan
from vitreous.train import train
from vitreous.vit import ViTConfig

FAMILIES = tuple(CNN_PRESETS)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("whiten", [False, True])
def test_every_parameter_learns(family: str, channels: int, whiten: bool) -> None:
    torch.manual_seed(0)
    model = CNN(CNNConfig(family, channels=channels, classes=5, widths=(8, 16, 16), depth=2, stem_whiten=whiten))
    scores = model(torch.randn(8, channels, 32, 32))
    assert scores.shape == (8, 5)
    scores.square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", [(8, 8), (28, 30), (9, 40), (64, 64)])
@torch.no_grad()
def test_any_picture_size_works(family: str, size: tuple[int, int]) -> None:
    model = CNN(CNNConfig(family, widths=(8, 16, 16))).eval()
    assert model(torch.randn(2, 3, *size)).isfinite().all()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("size", CNN_PRESETS["resnet"])
def test_every_size_of_the_dial_is_larger_than_the_one_before(family: str, size: str) -> None:
    names = list(CNN_PRESETS[family])
    with torch.device("meta"):
        counts = [count_parameters(CNN(CNNConfig(family, widths=w, depth=d))) for w, d in CNN_PRESETS[family].values()]
    place = names.index(size)
    assert all(count < counts[place] for count in counts[:place])


@pytest.mark.parametrize("family", FAMILIES)
def test_it_learns_squares_in_the_same_loop(family: str, tmp_path: Path, squares: DataSet, tiny_run: RunConfig) -> None:
    model = CNNConfig(family, image_size=8, classes=4, widths=(8, 16))
    result = train(dataclasses.replace(tiny_run, model=model, steps=60), tmp_path / "run", squares)
    assert result.val_accuracy is not None and result.val_accuracy > 0.6  # a CNN with a pool hardly sees where
    again = Classifier.load(tmp_path / "run")
    assert again.config == model
    assert squares.val is not None
    torch.testing.assert_close(again.logits(squares.val.pixels), result.classifier.logits(squares.val.pixels))
    assert family in (tmp_path / "run" / "classifier" / "README.md").read_text()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_finished_run_that_is_resumed_is_left_as_it_was(
    family: str, tmp_path: Path, squares: DataSet, tiny_run: RunConfig
) -> None:
    config = dataclasses.replace(tiny_run, model=CNNConfig(family, image_size=8, classes=4, widths=(8, 16)), steps=5)
    whole = train(config, tmp_path / "run", squares).classifier.model.state_dict()
    again = train(config, tmp_path / "run", squares, resume=True).classifier.model.state_dict()
    for name, tensor in whole.items():  # the normalisations' statistics among them
        assert torch.equal(tensor, again[name]), name


@pytest.mark.parametrize("family", FAMILIES)
def test_the_convolutions_are_matrices_for_muon(family: str) -> None:
    groups = parameter_groups(CNN(CNNConfig(family)))
    assert not any(p.ndim == 4 for group in groups.values() for p in group)
    assert [tuple(p.shape) for p in groups["decayed"]] == [(10, 128)]  # the head


def test_json_names_the_family_and_old_files_mean_a_vision_transformer() -> None:
    config = RunConfig(steps=1, model=CNNConfig("fastcnn", widths=(4, 8)))
    assert from_json(to_json(config)) == config
    plain = to_json(RunConfig(steps=1, model=ViTConfig(depth=2))).replace(',\n    "family": "vit"', "")
    assert "family" not in plain
    assert from_json(plain).model == ViTConfig(depth=2)
    with pytest.raises(ValueError, match=r"unknown model\.family 'resnets': did you mean 'resnet'"):
        from_json(to_json(config).replace("fastcnn", "resnets"))
    assert override(config, {"model.depth": "2"}).model == CNNConfig("fastcnn", widths=(4, 8), depth=2)
    with pytest.raises(ValueError, match="patch_size"):
        override(config, {"model.patch_size": "2"})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"family": "vgg"}, r"unknown family 'vgg': it is one of resnet, fastcnn"),
        ({"depth": 0}, r"depth is 0.*at least 1"),
        ({"widths": ()}, r"widths is \(\).*at least one stage"),
        ({"image_size": 2}, r"pictures of 2 pixels are smaller than 4"),
    ],
)
def test_sizes_that_cannot_be_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CNNConfig(**changes)  # type: ignore[arg-type]


def test_pictures_that_do_not_fit_are_refused() -> None:
    model = CNN(CNNConfig("fastcnn", widths=(4, 8, 8)))
    with pytest.raises(ValueError, match=r"7 x 9 pixels is too small for fastcnn.*at least 8"):
        model(torch.randn(1, 3, 7, 9))
    with pytest.raises(ValueError, match="reads 3 channels and was given 1"):
        model(torch.randn(1, 1, 32, 32))


def test_operations_are_counted_as_by_hand() -> None:
    config = ViTConfig(width=32, depth=2, heads=2, classes=7)
    tokens, width = 65, 32
    whole = tokens * width * width * 12 + 2 * tokens * tokens * width
    last = tokens * width * width * 2 + width * width * 10 + 2 * tokens * width  # keys and values of all, one query
    assert count_flops(config) == 2 * (64 * 48 * width + whole + last + width * 7)
    for family in FAMILIES:
        small, large = CNNConfig(family), count_flops(CNNConfig(family), 64)
        assert 3.9 < large / count_flops(small) < 4.1
    assert isinstance(build_model(CNNConfig()), CNN)


@pytest.mark.parametrize("family", ["vit", *FAMILIES])
def test_a_wish_for_a_model_is_granted_with_its_cost(family: str, squares: DataSet) -> None:
    config, notes = plan(Wish("squares", steps=5, model=family), squares)
    assert config.model.family == family
    assert any("parameters" in note and describe(config.model) in note for note in notes)


def test_impossible_wishes_are_refused(squares: DataSet) -> None:
    with pytest.raises(ValueError, match="unknown model 'resnt': did you mean 'resnet'"):
        plan(Wish("squares", steps=5, model="resnt"), squares)
    with pytest.raises(ValueError, match="resnet has no stem"):
        plan(Wish("squares", steps=5, model="resnet", stem="conv"), squares)
