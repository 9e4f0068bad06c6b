"""A heatmap shows what the weights do: planted attention is found in its place, and looking changes nothing."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from vitreous.classifier import Classifier
from vitreous.cnn import CNNConfig
from vitreous.config import DataConfig, RunConfig
from vitreous.data import load
from vitreous.heatmaps import (
    Asked,
    class_attention,
    class_map,
    heatmap_run,
    observations,
    observe,
    patch_attention,
    right_and_wrong,
)
from vitreous.models import build_model
from vitreous.observations import about_heads
from vitreous.pictures import MOST_PANELS, Panel, gallery, overlay
from vitreous.runs import prepare
from vitreous.vit import ViT, ViTConfig, use_attention

SMALL: dict[str, Any] = {"image_size": 16, "patch_size": 4, "classes": 5, "width": 32, "depth": 3, "heads": 4}
GRIDS = [(4, 4), (2, 7), (6, 3)]


def small(**changes: Any) -> ViT:
    torch.manual_seed(0)
    model = ViT(ViTConfig(**SMALL | changes)).eval()
    for parameter in model.parameters():  # fresh weights look everywhere alike
        nn.init.normal_(parameter, std=0.3)
    return model


def drawn(batch: int, rows: int = 4, columns: int = 4) -> Tensor:
    return torch.randn(batch, 3, 4 * rows, 4 * columns, generator=torch.Generator().manual_seed(1))


# Attention maps


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("registers", [0, 3])
def test_a_map_is_the_mean_of_the_rows_of_the_weights(grid: tuple[int, int], pool: str, registers: int) -> None:
    model = small(pool=pool, registers=registers)
    images = drawn(2, *grid)
    maps = class_attention(model, images)
    assert maps.shape == (2, 3, 4, *grid)
    special = model.config.special
    for layer, (block, tokens) in enumerate(model.walk(images)):
        rows = block.attn.weights(block.norm1(tokens))  # (B, A, N, N)
        row = rows[:, :, 0] if pool == "class" else rows[:, :, special:].mean(dim=2)
        torch.testing.assert_close(row.sum(-1), torch.ones(2, 4), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(maps[:, layer].flatten(2), row[..., special:], rtol=1e-5, atol=1e-6)
        lost = 1 - maps[:, layer].sum((-2, -1))  # exactly what special tokens received
        torch.testing.assert_close(lost, row[..., :special].sum(-1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("registers", [0, 3])
def test_a_patch_has_the_row_of_its_own_token(registers: int) -> None:
    model = small(registers=registers)
    images = drawn(2, 2, 7)
    maps = patch_attention(model, images, (1, 3))
    special = model.config.special
    for layer, (block, tokens) in enumerate(model.walk(images)):
        rows = block.attn.weights(block.norm1(tokens))[:, :, special + 7 + 3, special:]
        torch.testing.assert_close(maps[:, layer].flatten(2), rows, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"patch \(2, 0\) is not on the grid: rows are 0 to 1, columns 0 to 6"):
        patch_attention(model, images, (2, 0))


def test_maps_without_special_tokens_sum_to_one() -> None:
    sums = class_attention(small(pool="mean"), drawn(3, 9, 9)).sum((-2, -1))  # 81 queries: more than one chunk
    torch.testing.assert_close(sums, torch.ones_like(sums), rtol=1e-5, atol=1e-5)


def test_the_class_map_is_the_mean_over_heads_and_layers_in_any_chunks() -> None:
    model, images = small(registers=2), drawn(7)
    expected = class_attention(model, images).mean(dim=(1, 2))
    for batch in (1, 3, 64):
        torch.testing.assert_close(class_map(model, images, batch=batch), expected, rtol=1e-5, atol=1e-6)


def looks_for_brightness(**changes: Any) -> ViT:
    """Every token of every layer looks for bright patches: keys tell brightness, queries ask for it."""
    model = small(**changes)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model.patch_embed.proj.weight[1] = 1.0  # coordinate 1 of a token: brightness of its patch
        for block in model.blocks:
            block.norm1.weight.fill_(1.0)
            width = model.config.width
            first = torch.arange(0, width, width // model.config.heads)  # a coordinate of each head
            block.attn.qkv.bias[first] = 8.0
            block.attn.qkv.weight[width + first, 1] = 1.0
    return model


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("registers", [0, 1, 4])
def test_the_peak_is_at_the_patch_that_is_attended_for_every_patch(
    grid: tuple[int, int], pool: str, registers: int
) -> None:
    model = looks_for_brightness(pool=pool, registers=registers)
    count = grid[0] * grid[1]
    images = torch.zeros(count, 3, 4 * grid[0], 4 * grid[1])
    for k in range(count):
        top, left = 4 * (k // grid[1]), 4 * (k % grid[1])
        images[k, :, top : top + 4, left : left + 4] = 1.0
    maps = class_map(model, images)
    assert maps.flatten(1).argmax(dim=1).tolist() == list(range(count))
    assert (maps.flatten(1).amax(dim=1) > 0.9).all()
    every = class_attention(model, images).flatten(3).argmax(dim=-1)  # in every layer and head
    assert (every == torch.arange(count)[:, None, None]).all()


@pytest.mark.parametrize("registers", [0, 2])
def test_the_peak_is_at_the_position_that_is_attended(registers: int) -> None:
    """The class token's weights single out a position, not a content: pictures are black."""
    model = small(registers=registers, depth=1, heads=1)
    special, width = model.config.special, model.config.width
    for k in range(16):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
            model.pos_embed[0] = 5 * torch.eye(special + 16, width)  # each token has a coordinate of its own
            block = model.blocks[0]
            block.norm1.weight.fill_(1.0)
            block.attn.qkv.weight[special + k, 0] = 2.0  # the query of the class token asks for that of patch k
            block.attn.qkv.weight[width : 2 * width] = torch.eye(width)
        heat = class_map(model, torch.zeros(1, 3, 16, 16))[0]
        assert heat.argmax().item() == k
        assert heat.max() > 0.9


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("training", [False, True])
def test_looking_leaves_logits_weights_and_mode_unchanged(stem: str, pool: str, training: bool) -> None:
    model, images = small(stem=stem, pool=pool), drawn(3)
    before = model(images)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    model.train(training)
    maps = [class_attention(model, images), class_map(model, images)]
    assert not any(found.requires_grad for found in maps)
    assert all(module.training == training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(model.eval()(images), before)


@pytest.mark.parametrize("path", ["fused", "explicit"])
@pytest.mark.parametrize("pool", ["class", "mean"])
@pytest.mark.parametrize("mode", ["plain", "no_grad", "inference", "bf16 autocast"])
def test_maps_are_whole_on_every_path_and_in_every_mode(path: str, pool: str, mode: str) -> None:
    model, images = small(pool=pool, registers=1), drawn(3)
    expected = class_map(model, images)
    use_attention(model, path)
    around: dict[str, Any] = {
        "plain": contextlib.nullcontext(),
        "no_grad": torch.no_grad(),
        "inference": torch.inference_mode(),
        "bf16 autocast": torch.autocast("cpu", dtype=torch.bfloat16),
    }
    with around[mode]:
        maps = class_map(model, images)
    assert maps.dtype == torch.float32
    assert maps.shape == (3, 4, 4)
    tolerance = 0.05 if "bf16" in mode else 1e-6
    torch.testing.assert_close(maps, expected, rtol=tolerance, atol=tolerance)


def test_a_compiled_model_gives_the_same_maps() -> None:
    model, images = small(), drawn(2)
    expected = class_map(model, images)
    compiled = torch.compile(model, backend="eager")
    compiled(images)
    torch.testing.assert_close(class_map(compiled, images), expected)


def test_maps_follow_the_weights_and_the_pictures() -> None:
    model, images = small(), drawn(2)
    before = class_map(model, images)
    assert not torch.equal(before[0], before[1])
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.mul_(-1)
    assert not torch.allclose(class_map(model, images), before, atol=1e-4)


def test_a_model_in_bf16_gives_maps_in_fp32() -> None:
    maps = class_map(small().to(torch.bfloat16), drawn(2).to(torch.bfloat16))
    assert maps.dtype == torch.float32
    assert maps.isfinite().all()


def test_no_pictures_give_no_maps() -> None:
    assert class_map(small(), drawn(0)).shape == (0, 4, 4)


def test_a_model_without_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear has no attention"):
        class_map(nn.Linear(3, 3), drawn(1))


# Numbers and sentences


@pytest.mark.parametrize("grid", [(8, 8), (4, 4), (3, 3), (2, 2), (1, 1), (1, 7), (14, 9)])
def test_an_even_map_is_even_in_every_measure(grid: tuple[int, int]) -> None:
    seen = observe(np.full((3, *grid), 1 / (grid[0] * grid[1]), dtype=np.float32))
    for values in (seen.entropy, seen.centre, seen.border):
        np.testing.assert_allclose(values, 1, rtol=1e-5)
    np.testing.assert_allclose(seen.peak, seen.even_peak, rtol=1e-5)
    np.testing.assert_allclose(seen.special, 0, atol=1e-5)


def test_a_map_of_one_patch_is_as_concentrated_as_can_be() -> None:
    maps = np.zeros((2, 8, 8), dtype=np.float32)
    maps[0, 3, 4] = 0.6  # the rest of its attention goes to special tokens
    maps[1, 0, 7] = 1.0
    seen = observe(maps)
    np.testing.assert_allclose(seen.entropy, 0, atol=1e-12)
    np.testing.assert_allclose(seen.peak, 1)
    np.testing.assert_allclose(seen.centre, [64 / 16, 0])
    np.testing.assert_allclose(seen.border, [0, 64 / 28])
    np.testing.assert_allclose(seen.special, [0.4, 0], atol=1e-6)
    assert seen.even_peak == 7 / 64


def test_entropy_does_not_depend_on_what_special_tokens_take() -> None:
    maps = np.random.default_rng(0).dirichlet(np.ones(16), 5).reshape(5, 4, 4)
    np.testing.assert_allclose(observe(0.3 * maps).entropy, observe(maps).entropy)


def test_a_gap_is_that_of_welch() -> None:
    random = np.random.default_rng(0)
    values, correct = random.normal(size=60), random.random(60) < 0.3
    gap = right_and_wrong(values, correct)
    assert gap is not None
    right, wrong = values[correct], values[~correct]
    assert gap.first - gap.second == pytest.approx(right.mean() - wrong.mean())
    assert gap.error == pytest.approx(np.sqrt(right.var(ddof=1) / len(right) + wrong.var(ddof=1) / len(wrong)))
    assert right_and_wrong(values, np.arange(60) < 4) is None


def planted(count: int, bias: float, seed: int = 0) -> np.ndarray:
    """Random maps (count, 8, 8) whose centre weighs exp(bias) times as much as the rest."""
    noise = np.random.default_rng(seed).normal(scale=0.3, size=(count, 8, 8))
    noise[:, 2:6, 2:6] += bias
    maps = np.exp(noise)
    return maps / maps.sum(axis=(1, 2), keepdims=True)


@pytest.mark.parametrize(("bias", "word"), [(1.0, "the centre is preferred"), (-1.0, "the border is preferred")])
def test_sentences_say_where_the_weight_lies(bias: float, word: str) -> None:
    seen = observe(planted(50, bias))
    text = " ".join(observations(seen))
    assert word in text
    assert f"{seen.centre.mean():.2f} times" in text
    assert f"{seen.entropy.mean():.1%}" in text


def test_sentences_call_noise_noise() -> None:
    half = planted(20, 0.0, seed=2)
    maps = np.concatenate([half, half])  # right and wrong predictions have the very same maps
    where, *rest = observations(observe(maps, np.arange(40) < 20))[1:]
    assert "no difference beyond noise" in where
    assert len(rest) == 3
    assert all("no difference beyond noise" in sentence for sentence in rest)


def test_sentences_tell_right_from_wrong_where_they_differ() -> None:
    maps = np.concatenate([planted(30, 1.5), planted(30, 0.0, seed=1)])
    correct = np.arange(60) < 30
    text = " ".join(observations(observe(maps, correct)))
    assert "the entropy is lower where the prediction is right" in text
    assert "the weight of the centre is higher where the prediction is right" in text
    swapped = " ".join(observations(observe(maps, ~correct)))
    assert "the entropy is higher where the prediction is right" in swapped


def test_sentences_do_not_compare_too_few() -> None:
    sentences = observations(observe(planted(10, 0.5), np.arange(10) > 0))
    assert sentences[-1] == "Right and wrong: 9 right and 1 wrong predictions; maps are compared from 5 of each on."
    assert "too few" in observations(observe(planted(1, 0.5)))[1]
    assert not any("Right and wrong" in sentence for sentence in observations(observe(planted(10, 0.5))))


def test_sentences_mention_special_tokens_where_they_take_a_share() -> None:
    assert not any("Outside" in sentence for sentence in observations(observe(planted(10, 0.0))))
    assert any("25.0% of the attention goes to" in s for s in observations(observe(0.75 * planted(10, 0.0))))


def test_rounding_is_no_share_of_special_tokens() -> None:
    maps = np.stack([planted(12, 0.0, seed) for seed in range(4)]).astype(np.float32)
    maps *= np.array([1 - 3e-7, 1, 1 + 3e-7, 1 - 2e-5], dtype=np.float32)[:, None, None, None]
    assert (observe(maps[2]).special >= 0).all()
    text = " ".join(about_heads(maps.reshape(2, 2, 12, 8, 8).transpose(2, 0, 1, 3, 4)))
    assert "What goes to" not in text
    assert "centre" in text


def test_heads_that_stand_out_are_named() -> None:
    maps = np.stack([0.9 * planted(12, bias, seed) for seed, bias in enumerate((0.0, 2.0, -2.0, 0.0, 0.3, -0.3))])
    maps[3] *= 0.5  # head 1 of layer 2 gives more away
    text = " ".join(about_heads(maps.reshape(2, 3, 12, 8, 8).transpose(2, 0, 1, 3, 4)))
    assert "A patch of the centre, over an even share: most in head 2 of layer 1" in text
    assert "least in head 3 of layer 1" in text
    assert "A patch of the border, over an even share: most in head 3 of layer 1" in text
    assert "What goes to the class token and registers: most in head 1 of layer 2 (55.0%)" in text
    assert about_heads(np.full((2, 1, 2, 4, 4), 1 / 16)) == []  # nothing stands out


def test_observations_are_json() -> None:
    values = observe(planted(20, 1.0), np.arange(20) < 3).to_json()
    assert json.loads(json.dumps(values, allow_nan=False)) == values
    assert (values["n"], values["right"], values["entropy_right_wrong"]) == (20, 3, None)
    with pytest.raises(ValueError, match="0 maps"):
        observe(np.zeros((0, 8, 8)))


# Pictures


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_overlay_is_hottest_in_the_middle_of_the_peak(grid: tuple[int, int], channels: int) -> None:
    rows, columns = grid
    pixels = torch.zeros(channels, 4 * rows, 4 * columns, dtype=torch.uint8)
    for k in range(rows * columns):
        heat = np.zeros(grid, dtype=np.float32)
        heat.flat[k] = 1.0
        drawn = overlay(pixels, heat, (0.0, 2.0), 4).sum(axis=-1)
        place = np.argwhere(drawn == drawn.max()).mean(axis=0) + 0.5
        scale = np.array(drawn.shape) / np.array(grid)
        assert tuple((place // scale).astype(int)) == divmod(k, columns)


@pytest.mark.parametrize("side", [3, 4])
def test_a_map_lies_on_the_pixels_of_its_patches_where_they_do_not_fill_the_picture(side: int) -> None:
    heat = np.zeros((side, side), dtype=np.float32)
    heat[1, 1] = 1.0
    black = torch.zeros(1, 28, 28, dtype=torch.uint8)
    warm = overlay(black, heat, (0.0, 2.0), 8).sum(axis=-1)
    assert warm.shape == (252, 252)
    place = np.argwhere(warm == warm.max()).mean(axis=0) + 0.5
    np.testing.assert_allclose(place, 12 * 9, atol=1)  # patches of 8 pixels, of which 1 is drawn as 9
    heat[1, 1], heat[2, 2] = 0.0, 1.0
    warm = overlay(black, heat, (0.0, 2.0), 8).sum(axis=-1)
    if side == 3:  # what no patch reaches is as the border beside it
        assert (warm[:, 24 * 9 :] == warm[:, [24 * 9 - 1]]).all() and (warm[24 * 9 :] == warm[24 * 9 - 1]).all()


def test_the_gallery_of_a_cnn_knows_how_large_its_patches_are(tmp_path: Path) -> None:
    config = CNNConfig("fastcnn", image_size=14, channels=1, widths=(8, 12))
    tool = Classifier(build_model(config).eval(), config, tuple(map(str, range(10))), (0.3,), (0.35,))
    prepare(tmp_path, RunConfig(data=DataConfig("digits"), model=config, steps=1), resume=False)
    tool.save(tmp_path / "classifier")
    found = heatmap_run(tmp_path, n=2, asked=Asked("grad-cam"))
    assert {(row.map.shape, row.patch) for row in found.rows} == {((3, 3), 4)}


def panel(true: str | None = "cat", shape: tuple[int, int, int] = (3, 16, 16)) -> Panel:
    pixels = torch.randint(0, 256, shape, dtype=torch.uint8)
    heat = np.random.default_rng(0).random((4, 4), dtype=np.float32)
    return Panel("made", pixels, heat / heat.sum(), shape[1] // 4, true, "a very long class name $x", 0.5)


@pytest.mark.parametrize("count", [1, 4, 10, 13])
@pytest.mark.parametrize("true", [None, "cat"])
def test_a_gallery_is_drawn_for_any_number_of_pictures(count: int, true: str | None, tmp_path: Path) -> None:
    path = gallery([panel(true)] * count, tmp_path / "new" / "gallery.png")
    with Image.open(path) as picture:
        width, height = picture.size
    assert height / -(-count // 5) > 250
    assert width > 400 * min(count, 5)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 32, 64), (3, 300, 300)])
def test_a_gallery_takes_grey_oblong_and_large_pictures(shape: tuple[int, int, int], tmp_path: Path) -> None:
    assert gallery([panel(shape=shape)], tmp_path / "gallery.png").is_file()


def test_a_gallery_of_no_or_too_many_pictures_is_refused(tmp_path: Path) -> None:
    for count in (0, MOST_PANELS + 1):
        with pytest.raises(ValueError, match=f"{count} pictures.*1 to {MOST_PANELS}"):
            gallery([panel()] * count, tmp_path / "gallery.png")


# A run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on the embedded digits whose classifier was never trained."""
    folder = tmp_path / "run"
    model = ViTConfig(image_size=8, patch_size=2, channels=1, width=16, depth=2, heads=2)
    prepare(folder, RunConfig(data=DataConfig("digits"), model=model, steps=1), resume=False)
    torch.manual_seed(0)
    classifier = Classifier(build_model(model).eval(), model, tuple(map(str, range(10))), (0.3,), (0.35,))
    classifier.save(folder / "classifier")
    return folder


def test_a_run_shows_validation_pictures_with_their_maps(run: Path) -> None:
    found = heatmap_run(run, n=6, seed=1)
    assert (found.picture, found.maps) == (run / "heatmaps.png", run / "heatmaps.npy")
    val = load("digits").val
    assert val is not None
    maps = np.load(found.maps)
    assert (maps.shape, maps.dtype) == ((6, 4, 4), np.float32)
    classifier = Classifier.load(run)
    for row, heat in zip(found.rows, maps, strict=True):
        place = val.ids.index(row.source)
        assert torch.equal(row.pixels, val.pixels[place])
        assert row.true == val.classes[val.labels[place]]
        said = classifier.predict(val.pixels[place : place + 1])[0]
        assert (row.predicted, row.probability) == (said.label, pytest.approx(said.probability, abs=1e-5))
        expected = class_map(classifier.model, classifier.prepare(val.pixels[place : place + 1]))[0]
        np.testing.assert_allclose(heat, expected, atol=1e-6)
    assert found.observations["n"] == len(val)  # the numbers are about more than the six
    values = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert values["n"] == len(values["rows"]) == 6
    assert values["sentences"] == list(found.sentences)


def test_the_seed_draws_the_pictures(run: Path, tmp_path: Path) -> None:
    first, again, other = (
        [row.source for row in heatmap_run(run, n=5, seed=seed, out=tmp_path / "out").rows] for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_picture_files_are_shown_without_a_true_class(run: Path, tmp_path: Path) -> None:
    files = []
    for name, size in (("a.png", (8, 8)), ("b.jpg", (30, 50))):
        Image.new("RGB", size, (200, 30, 90)).save(tmp_path / name)
        files.append(str(tmp_path / name))
    found = heatmap_run(run, files, n=1, out=tmp_path / "look.png")
    assert (found.picture, found.maps) == (tmp_path / "look.png", tmp_path / "look.npy")
    assert [row.source for row in found.rows] == files
    assert all(row.true is None for row in found.rows)
    assert np.load(found.maps).shape == (2, 4, 4)
    assert "right" not in found.observations


def test_a_data_set_is_shown_by_its_validation_pictures(run: Path, tmp_path: Path) -> None:
    found = heatmap_run(run, ["digits"], n=3, out=tmp_path)
    val = load("digits").val
    assert val is not None
    assert {row.source for row in found.rows} <= set(val.ids)


def test_what_cannot_be_shown_is_refused_and_nothing_is_written(run: Path, tmp_path: Path) -> None:
    before = sorted(path.name for path in run.iterdir())
    for n in (0, MOST_PANELS + 1):
        with pytest.raises(ValueError, match=f"{n} pictures in one gallery"):
            heatmap_run(run, n=n)
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"text\.png: not a JPEG"):
        heatmap_run(run, [tmp_path / "text.png"])
    with pytest.raises(FileNotFoundError, match=r"classifier is no run folder"):
        heatmap_run(run / "classifier")
    with pytest.raises((ValueError, FileNotFoundError), match="gone"):
        heatmap_run(run, [tmp_path / "gone.png"])
    with pytest.raises(FileNotFoundError, match="gone"):
        heatmap_run(run, [tmp_path / "gone.png", tmp_path / "text.png"])
    with pytest.raises(ValueError, match="no class 'sven'"):
        heatmap_run(run, asked=Asked("relevance", target="sven"))
    with pytest.raises(ValueError, match="attention are the same for every class: leave the class out"):
        heatmap_run(run, asked=Asked(target="7"))
    with pytest.raises(ValueError, match="no layer 3: the model has layers 1 to 2"):
        heatmap_run(run, asked=Asked(layer=3))
    with pytest.raises(ValueError, match="folder among other sources"):
        heatmap_run(run, [tmp_path, tmp_path / "text.png"])
    with pytest.raises(FileNotFoundError):
        heatmap_run(tmp_path / "nowhere")
    assert sorted(path.name for path in run.iterdir()) == before
