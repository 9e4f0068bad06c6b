"""The checks tell maps that follow the model from maps that do not."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vitreous import faithfulness, heatmaps
from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNNConfig
from vitreous.config import DataConfig, RunConfig
from vitreous.faithfulness import (
    FRACTIONS,
    area,
    as_pixels,
    chance_of,
    check_run,
    curve,
    judge,
    limit,
    paired,
    randomised,
    rank_correlation,
    ranks,
    touched,
)
from vitreous.gradient_maps import by_patch
from vitreous.heatmaps import Method, heatmap_run, stored_verdicts
from vitreous.models import build_model
from vitreous.runs import prepare
from vitreous.vit import ViTConfig

CONFIG = ViTConfig(image_size=16, patch_size=4, classes=3, width=16, depth=2, heads=2)


class Bright(nn.Module):
    """Says class 1 where there is a bright patch, and keeps its weights in plain sight."""

    def __init__(self) -> None:
        super().__init__()
        self.config = CONFIG
        self.head = nn.Linear(1, 1)
        nn.init.constant_(self.head.weight, 3.0)

    def forward(self, images: Tensor) -> Tensor:
        score = by_patch(images.mean(dim=1), 4).flatten(1).amax(dim=1) - 8
        return torch.stack([torch.zeros_like(score), score, -torch.ones_like(score)], dim=1)


def planted(count: int) -> tuple[Tensor, np.ndarray]:
    """Dim noise with one bright patch: uint8 (count, 3, 16, 16) and where the patch is, bool (count, 16, 16)."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 40, (count, 3, 16, 16), generator=generator, dtype=torch.uint8)
    where = np.zeros((count, 16, 16), dtype=bool)
    for i in range(count):
        top, left = 4 * (i % 4), 4 * (i // 4 % 4)
        pixels[i, :, top : top + 4, left : left + 4] = 250
        where[i, top : top + 4, left : left + 4] = True
    return pixels, where


def bright(monkeypatch: pytest.MonkeyPatch) -> Classifier:
    """A classifier whose random twin is as blind as random weights are: its map is noise."""
    tool = Classifier(Bright().eval(), CONFIG, ("a", "b", "c"), (0.1,) * 3, (0.2,) * 3)

    def blind(classifier: Classifier, seed: int = 0) -> list[tuple[str, object]]:
        return [("head", lambda: Classifier(Blind().eval(), CONFIG, classifier.classes, (0.1,) * 3, (0.2,) * 3))]

    monkeypatch.setattr(faithfulness, "randomised", blind)
    return tool


class Blind(Bright):
    """Random weights, whose answers to covered patches have nothing to do with the patches."""

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.randn(3, images[0].numel(), generator=torch.Generator().manual_seed(1))
        return (100 * images.flatten(1) @ noise.T).sin()


def test_a_map_that_follows_the_model_is_faithful(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = bright(monkeypatch)
    pixels, where = planted(64)
    verdict = judge(tool, pixels, "occlusion", where)
    assert verdict.words == "faithful by every check", verdict
    assert verdict.pointing == 1.0
    assert verdict.pointing_by_chance == pytest.approx(1 / 16)
    assert verdict.deletion > 0.3
    assert verdict.deletion_area < 0 < verdict.insertion_area
    assert verdict.insertion_chance < 1e-4
    means = verdict.curves
    assert means["deletion"][1] < means["at random"][1] - 0.3
    assert means["insertion"][1] > means["at random"][-2] + 0.3
    assert verdict.deletion_area == pytest.approx(
        area(np.array([means["deletion"]])) - area(np.array([means["at random"]]))
    )


def test_a_map_of_the_picture_alone_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Brightness finds the object and hurts when covered, but is the same whatever the weights."""
    tool = bright(monkeypatch)
    way = Method("Brightness.", lambda model, images, target: by_patch(images.mean(dim=1), 4), asks_class=False)
    monkeypatch.setitem(heatmaps.METHODS, "brightness", way)
    verdict = judge(tool, *planted_for("brightness", tool))
    assert verdict.similarity == pytest.approx(1.0)
    assert verdict.failed == ["random weights give similar maps (correlation 1.00 > 0.41)"]


def test_a_map_of_noise_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = bright(monkeypatch)
    random = torch.Generator().manual_seed(5)
    way = Method("Noise.", lambda model, images, target: torch.rand(len(images), 4, 4, generator=random))
    monkeypatch.setitem(heatmaps.METHODS, "noise", way)
    reasons = judge(tool, *planted_for("noise", tool)).failed
    assert any("hurts no more than covering others" in reason for reason in reasons)
    assert any("no more often than by chance" in reason for reason in reasons)


def planted_for(method: str, tool: Classifier) -> tuple[Tensor, str, np.ndarray]:
    pixels, where = planted(64)
    return pixels, method, where


def marked(count: int, seed: int) -> tuple[Tensor, Tensor, np.ndarray]:
    """Grey clutter with one small disc or cross anywhere: uint8 (count, 3, 24, 24), classes, bool (count, 24, 24)."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 90, (count, 1, 24, 24)).repeat(3, axis=1)
    labels, where = np.arange(count) % 2, np.zeros((count, 24, 24), dtype=bool)
    y, x = np.mgrid[-3:4, -3:4]
    kinds = (np.hypot(y, x) < 3.2, np.minimum(np.abs(y), np.abs(x)) < 1)
    for i, (top, left) in enumerate(random.integers(0, 18, (count, 2))):
        where[i, top : top + 7, left : left + 7] = kinds[labels[i]]
        pixels[i][:, where[i]] = random.integers(120, 256, (3, 1))
    return torch.from_numpy(pixels).byte(), torch.from_numpy(labels), where


def test_a_faithful_method_finds_nearly_all_of_200_planted_objects() -> None:
    """Of a model that learnt here, by seed, what a disc and a cross are; the whole way from pixels to verdict."""
    torch.manual_seed(0)
    config = ViTConfig(image_size=24, patch_size=4, classes=2, width=32, depth=2, heads=2)
    tool = Classifier(build_model(config), config, ("disc", "cross"), (0.25,) * 3, (0.2,) * 3)
    pixels, labels, _ = marked(2048, seed=1)
    steps = 300
    optimiser = torch.optim.AdamW(tool.model.parameters(), lr=4e-3)
    slower = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=steps)
    for some in torch.randint(len(pixels), (steps, 64)):
        loss = nn.functional.cross_entropy(tool.model(tool.prepare(pixels[some])), labels[some])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        slower.step()
    tool.model.eval()
    pixels, labels, where = marked(200, seed=2)
    assert (tool.logits(pixels).argmax(dim=1) == labels).float().mean() > 0.95
    verdicts = {method: judge(tool, pixels, method, where) for method in ("occlusion", "integrated-gradients")}
    found = [verdict.pointing for verdict in verdicts.values() if not verdict.failed]
    assert max((each for each in found if each is not None), default=0.0) >= 0.95, verdicts


def test_ranks_and_correlations_are_spearmans() -> None:
    assert ranks(np.array([[3.0, 1.0, 3.0, 2.0]])).tolist() == [[2.5, 0.0, 2.5, 1.0]]
    random = np.random.default_rng(0)
    first, second = random.random((5, 4, 4)), random.integers(0, 4, (5, 4, 4))
    stats = pytest.importorskip("scipy.stats", reason="scipy is there with scikit-learn")
    expected = [stats.spearmanr(a.ravel(), b.ravel()).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(rank_correlation(first, second), expected)
    np.testing.assert_allclose(rank_correlation(first, np.ones((5, 4, 4))), 0)
    np.testing.assert_allclose(rank_correlation(first, np.exp(3 * first)), 1)


def test_unrelated_maps_are_within_the_limit_on_any_grid() -> None:
    random = np.random.default_rng(0)
    for side in (3, 4, 8, 16):
        first, second = random.random((2, 200, side, side))
        assert np.abs(rank_correlation(first, second)).mean() < 0.8 * limit(side * side)
    assert limit(64) == pytest.approx(0.2, abs=0.002)
    assert limit(256) == 0.2


def test_chance_is_that_of_a_normal() -> None:
    assert chance_of(0.0, 1.0) == 0.5
    assert chance_of(1.6449, 1.0) == pytest.approx(0.05, abs=1e-4)
    assert (chance_of(1.0, 0.0), chance_of(0.0, 0.0)) == (0.0, 1.0)


def test_a_paired_gain_is_that_of_a_one_sided_test() -> None:
    stats = pytest.importorskip("scipy.stats", reason="scipy is there with scikit-learn")
    gains = np.random.default_rng(0).normal(0.1, 1, 400)
    mean, error, chance = paired(gains)
    expected = stats.ttest_1samp(gains, 0, alternative="greater")
    assert mean / error == pytest.approx(expected.statistic)
    assert chance == pytest.approx(expected.pvalue, rel=0.05)  # of a normal here, of Student's t there


def test_curves_begin_whole_and_end_covered(monkeypatch: pytest.MonkeyPatch) -> None:
    tool = bright(monkeypatch)
    pixels, where = planted(8)
    order = touched(where, (4, 4), 4).astype(float)
    target = torch.ones(8, dtype=torch.long)
    falling, rising = (curve(tool, pixels, target, order, insert=way) for way in (False, True))
    assert falling.shape == (8, len(FRACTIONS))
    np.testing.assert_allclose(falling[:, 0], rising[:, -1])
    np.testing.assert_allclose(falling[:, -1], rising[:, 0])
    assert (falling[:, 1] < falling[:, 0]).all()  # the bright patch goes first
    assert (area(falling) < area(rising)).all()


def test_patches_that_do_not_fill_a_picture_cover_their_own_pixels() -> None:
    last = torch.zeros(1, 3, 3, dtype=torch.bool)
    last[0, 2, 2] = True
    floored = as_pixels(last, 4, (14, 14))
    assert floored[0, 8:12, 8:12].all() and floored.sum() == 16  # and nothing of the border that no patch reaches
    begun = torch.zeros(1, 4, 4, dtype=torch.bool)
    begun[0, 3, 0] = True
    cut = as_pixels(begun, 4, (14, 14))
    assert cut[0, 12:, :4].all() and cut.sum() == 8
    np.testing.assert_array_equal(touched(floored.numpy(), (3, 3), 4), last.numpy())
    np.testing.assert_array_equal(touched(cut.numpy(), (4, 4), 4), begun.numpy())
    corner = np.zeros((1, 14, 14), dtype=bool)
    corner[0, 13, 13] = True
    assert not touched(corner, (3, 3), 4).any()
    assert touched(corner, (4, 4), 4)[0, 3, 3]


def test_weights_are_replaced_from_the_head_down_until_none_is_left() -> None:
    torch.manual_seed(0)
    tool = Classifier(build_model(CONFIG).eval(), CONFIG, ("a", "b", "c"), (0.5,) * 3, (0.2,) * 3)
    for parameter in tool.model.parameters():
        nn.init.normal_(parameter)
    before = {name: value.clone() for name, value in tool.model.state_dict().items()}
    stages = [(stage, make().model.state_dict()) for stage, make in randomised(tool)]
    assert [stage for stage, _ in stages] == ["head", "block 2", "block 1", "stem"]
    kept = [sum(torch.equal(state[name], before[name]) for name in before) for _, state in stages]
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] == 0
    assert kept[0] == len(before) - 4  # the head and the last normalisation
    assert all(torch.equal(value, before[name]) for name, value in tool.model.state_dict().items())


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run on the embedded digits whose classifier was never trained."""
    folder = tmp_path / "run"
    model = ViTConfig(image_size=8, patch_size=2, channels=1, width=16, depth=1, heads=2)
    prepare(folder, RunConfig(data=DataConfig("digits"), model=model, steps=1), resume=False)
    torch.manual_seed(0)
    Classifier(build_model(model).eval(), model, tuple(map(str, range(10))), (0.3,), (0.35,)).save(
        folder / "classifier"
    )
    return folder


def test_verdicts_are_kept_with_the_run_and_shown_with_its_maps(run: Path) -> None:
    assert stored_verdicts(run) == {}
    found = check_run(run, ["attention", "occlusion"], n=40)
    assert list(found) == ["attention", "occlusion"]
    assert found["attention"].pointing is None
    kept = stored_verdicts(run)
    assert kept["attention"]["words"] == found["attention"].words
    assert json.loads(json.dumps(kept, allow_nan=False)) == kept
    check_run(run, ["rollout"], n=20)
    assert list(stored_verdicts(run)) == ["attention", "rollout", "occlusion"]
    sentences = heatmap_run(run, n=2).sentences
    assert sentences[-1] == f"Check: attention is {kept['attention']['words']}."
    weights = run / "classifier" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert stored_verdicts(run) == {}  # of other weights nothing is known


def test_a_cnn_whose_side_is_no_multiple_of_its_patch_is_checked(tmp_path: Path) -> None:
    config = CNNConfig("fastcnn", image_size=14, channels=1, widths=(8, 12))  # Grad-CAM gives 3 x 3, occlusion 4 x 4
    prepare(tmp_path / "run", RunConfig(data=DataConfig("digits"), model=config, steps=1), resume=False)
    torch.manual_seed(0)
    tool = Classifier(CNN(config).eval(), config, tuple(map(str, range(10))), (0.3,), (0.35,))
    tool.save(tmp_path / "run" / "classifier")
    found = check_run(tmp_path / "run", n=20)
    assert {name: round(verdict.allowed, 2) for name, verdict in found.items()} == {
        "grad-cam": round(limit(9), 2),
        **dict.fromkeys(("input-gradient", "integrated-gradients", "occlusion"), round(limit(16), 2)),
    }
    pixels = torch.zeros(2, 1, 14, 14, dtype=torch.uint8)
    where = np.ones((2, 14, 14), dtype=bool)
    assert judge(tool, pixels, "grad-cam", where).pointing_by_chance == 1


def test_a_check_of_what_is_not_there_is_refused(run: Path) -> None:
    with pytest.raises(ValueError, match="did you mean 'rollout'"):
        check_run(run, ["rolout"], n=10)
    with pytest.raises(ValueError, match="1 validation pictures are too few"):
        check_run(run, n=1)
