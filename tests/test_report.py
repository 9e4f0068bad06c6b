"""The page stands alone, its sentences are of the run's numbers, and hostile names stay text."""

from __future__ import annotations

import base64
import html
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from vitreous import insides
from vitreous.classifier import Classifier
from vitreous.cnn import CNN, CNNConfig
from vitreous.config import DataConfig, RunConfig
from vitreous.evaluate import ClassFigures, Evaluation, evaluate, run_images, weights_name
from vitreous.faithfulness import check_run
from vitreous.models import build_model
from vitreous.report import about_accuracy, about_calibration, about_learning, report_run
from vitreous.runs import prepare
from vitreous.vit import ViT, ViTConfig

DIGITS = tuple(map(str, range(10)))


def made(folder: Path, classifier: Classifier, config: ViTConfig | CNNConfig) -> Path:
    prepare(folder, RunConfig(data=DataConfig("digits"), model=config, steps=1), resume=False)
    classifier.save(folder / "classifier")
    rows = [
        {"seconds": i, "step": i, "epoch": i, "split": "val", "loss": 2 - i / 9, "accuracy": i / 9, "n": 90}
        for i in range(8)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut')
    (folder / "train.log").write_text("a choice <b>and</b> why\n")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    config = ViTConfig(image_size=8, patch_size=2, channels=1, width=16, depth=2, heads=2)
    torch.manual_seed(0)
    tool = Classifier(
        build_model(config).eval(), config, DIGITS, (0.3,), (0.35,), {"data": "</script><script>alert(1)"}
    )
    return made(tmp_path / "run", tool, config)


def looking(model: nn.Module) -> nn.Module:
    """The model with random weights large enough that its heads look somewhere."""
    torch.manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    return model.eval()


class Reads(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.outside: list[str] = []
        self.scripts = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        for name, value in attrs:
            if name in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:")):
                self.outside.append(value)


def carries(page: str) -> dict[str, Any]:
    """The maps that a page carries, as its script reads them."""
    found = re.search(r'id="maps">(.*?)</script>', page, re.DOTALL)
    assert found is not None
    return dict(json.loads(found.group(1)))


def test_the_page_is_one_file_that_asks_for_nothing(run: Path) -> None:
    path = report_run(run)
    assert path == run / "report.html"
    text = path.read_text(encoding="utf-8")
    page = Reads()
    page.feed(text)
    assert page.outside == []
    assert page.scripts == 2
    assert "url(http" not in text
    assert "@import" not in text
    assert len(text) < 5_000_000
    assert "a choice &lt;b&gt;and&lt;/b&gt; why" in text
    assert "<script>alert" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    carried = carries(text)
    assert set(carried["methods"]) >= {"attention", "rollout", "relevance", "occlusion"}
    assert carried["methods"]["attention"]["layers"] == 2
    assert {tuple(way["grid"]) for way in carried["methods"].values()} == {(4, 4)}
    assert len(carried["pictures"]) == 12
    for heading in (
        "What was asked",
        "How good",
        "mistakes",
        "Where it looks",
        "tell the truth",
        "Inside",
        "Which heads look where",
        "Provenance",
    ):
        assert heading in text


def test_the_page_draws_what_the_check_measured_and_doubts_what_failed(run: Path) -> None:
    assert "Not checked yet" in report_run(run).read_text()
    found = check_run(run, ["attention", "occlusion"], n=20)
    text = report_run(run).read_text()
    assert "Not checked yet" not in text
    for name, verdict in found.items():
        assert html.escape(verdict.words) in text or not verdict.failed, name
    assert "… block 1" in text  # the curve of weights replaced from the head down
    assert "insertion: probability of the class" in text
    assert ('<span class="no">not faithful on this run\'s check' in text) == bool(found["attention"].failed)


def test_every_verdict_says_of_how_many_pictures_it_is(run: Path) -> None:
    check_run(run, ["attention"], n=20)
    check_run(run, ["occlusion"], n=30)
    text = report_run(run).read_text()
    for name, n in (("attention", 20), ("occlusion", 30)):
        assert re.search(rf"<td>{name}</td><td class=[^>]*>[a-z ]*</td><td>{n}</td>", text), name


def test_a_test_accuracy_stands_there_only_where_it_is_of_these_weights(run: Path) -> None:
    classifier, images, dataset = run_images(run, "val")
    kept = {"weights": weights_name(run), **evaluate(classifier, images, "test", dataset).to_json()}
    path = run / "eval-test.json"
    assert "test pictures</span>" not in report_run(run).read_text()
    path.write_text(json.dumps(kept))
    assert "test pictures</span>" in report_run(run).read_text()
    for text in (json.dumps(kept | {"weights": "sha256:0"}), json.dumps(kept)[:60], "[]"):
        path.write_text(text)
        assert "test pictures</span>" not in report_run(run).read_text()


def test_the_fingerprint_is_that_of_the_validation_pictures(run: Path) -> None:
    _, images, _ = run_images(run, "val")
    assert f"{len(images)}, {images.fingerprint()}</td>" in report_run(run).read_text()


@pytest.mark.parametrize("registers", [0, 2])
def test_a_mean_pooled_model_is_told_nothing_of_a_class_token(registers: int, tmp_path: Path) -> None:
    config = ViTConfig(
        image_size=8, patch_size=2, channels=1, width=16, depth=2, heads=2, pool="mean", registers=registers
    )
    tool = Classifier(looking(build_model(config)), config, DIGITS, (0.3,), (0.35,))
    text = report_run(made(tmp_path / "mean", tool, config)).read_text()
    assert "How much the average patch attends to each patch" in text
    assert "class token" not in text
    assert "-0.0%" not in text
    assert ("What goes to registers: most in head" in text) == bool(registers)
    assert ("goes to registers; the other numbers" in text) == bool(registers)


def test_a_cnn_has_a_page_too(tmp_path: Path) -> None:
    config = CNNConfig(image_size=8, channels=1, widths=(8, 16))
    tool = Classifier(CNN(config).eval(), config, DIGITS, (0.3,), (0.35,))
    text = report_run(made(tmp_path / "cnn", tool, config), out=tmp_path / "page.html").read_text()
    assert "grad-cam" in text
    assert "How far heads look" not in text
    assert "Which heads look where" not in text


def test_every_method_of_a_cnn_is_drawn_on_its_own_grid(tmp_path: Path) -> None:
    config = CNNConfig("fastcnn", image_size=14, channels=1, widths=(8, 12))
    tool = Classifier(CNN(config).eval(), config, DIGITS, (0.3,), (0.35,))
    methods = carries(report_run(made(tmp_path / "cnn", tool, config)).read_text())["methods"]
    assert methods["grad-cam"]["grid"] == [3, 3]
    assert methods["occlusion"]["grid"] == [4, 4]
    for way in methods.values():
        rows, columns = way["grid"]
        assert len(base64.b64decode(way["maps"])) == 12 * rows * columns


def evaluation(counts: list[list[int]]) -> Evaluation:
    table = np.array(counts)
    recall = np.diag(table) / table.sum(axis=1)
    figures = tuple(
        ClassFigures(n, 0.5, float(r), int(k)) for n, r, k in zip("abc", recall, table.sum(axis=1), strict=True)
    )
    n = int(table.sum())
    right = float(np.trace(table) / n)
    return Evaluation(right, 1.0, n, "val", "made", "sha256:0", (0.1, 0.9), 0.2, figures, tuple(map(tuple, counts)))


def test_sentences_are_of_the_numbers() -> None:
    first, second, third = about_accuracy(evaluation([[8, 2, 0], [1, 9, 0], [0, 5, 5]]))
    assert first.startswith("73.3% of 30 val pictures are right, 10.0% to 90.0%")
    assert "commonest class would get 33.3%" in first
    assert second == "b is found most often (90.0% of its pictures), c least often (50.0%)."
    assert "c taken for b: 5 of 10 pictures, 62% of all mistakes" in third
    found = evaluation([[1, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert len(about_accuracy(found)) == 1
    sure = np.full(400, 0.9)
    assert "surer than it is right" in about_calibration(found, sure, np.arange(400) % 2)
    assert "less sure than it is right" in about_calibration(found, np.full(400, 0.3), np.arange(400) % 2)
    assert "as sure as it is right" in about_calibration(found, np.full(400, 0.51), np.arange(400) % 2)


def test_learning_is_said_to_go_on_only_beyond_noise() -> None:
    def looks(last: float) -> list[dict[str, object]]:
        return [
            {"split": "val", "accuracy": a, "seconds": 10.0 * i, "n": 1000} for i, a in enumerate((0.3, 0.5, 0.6, last))
        ]

    assert "still learning" in about_learning(looks(0.7))[0]
    assert "no gain beyond noise" in about_learning(looks(0.61))[0]
    assert about_learning(looks(0.7)[:2]) == []


def test_attention_distance_is_that_of_the_weights() -> None:
    torch.manual_seed(0)
    model = ViT(ViTConfig(image_size=16, patch_size=4, width=16, depth=2, heads=2, registers=1)).eval()
    images = torch.randn(3, 3, 16, 16)
    spots = torch.cartesian_prod(torch.arange(4), torch.arange(4)).float()
    far = torch.cdist(spots, spots) * 4
    expected = []
    for block, x in model.walk(images):
        rows = block.attn.weights(block.norm1(x))[:, :, 2:, 2:]
        expected.append(((rows * far).sum(-1) / rows.sum(-1)).mean(dim=(0, 2)))
    np.testing.assert_allclose(insides.attention_distance(model, images), torch.stack(expected).detach(), rtol=1e-4)
    with torch.no_grad():
        for block in model.blocks:
            block.attn.qkv.weight.zero_()
    even = insides.even_distance((4, 4), 4)
    np.testing.assert_allclose(insides.attention_distance(model, images), even, rtol=1e-4)


def test_filters_and_their_components() -> None:
    plain = ViT(ViTConfig(width=32))
    filters = insides.filters(plain)
    assert filters is not None
    assert filters.shape == (32, 4, 4, 3)
    np.testing.assert_allclose(filters[5, 1, 2], plain.patch_embed.proj.weight[5, :, 1, 2].detach())
    directions, shares = insides.principal(filters, 6)
    assert directions.shape == (6, 4, 4, 3)
    flat = directions.reshape(6, -1)
    np.testing.assert_allclose(flat @ flat.T, np.eye(6), atol=1e-9)
    assert (np.diff(shares) <= 1e-12).all()
    conv = insides.filters(ViT(ViTConfig(width=32, stem="conv")))
    assert conv is not None
    assert conv.shape == (16, 3, 3, 3)
    early = insides.filters(ViT(ViTConfig(width=128, stem="conv", stem_early=1)))
    assert early is not None
    assert early.shape == (16, 3, 3, 3)
    white = ViT(ViTConfig(width=128, stem="conv", stem_early=1, stem_whiten=True))
    np.testing.assert_allclose(insides.filters(white), white.patch_embed.first.weight.permute(0, 2, 3, 1))


def test_filters_that_whiten_are_called_fixed_and_have_no_components_of_their_own(run: Path, tmp_path: Path) -> None:
    assert "principal components</h3>" in report_run(run).read_text(encoding="utf-8")
    config = ViTConfig(
        image_size=8, patch_size=2, channels=1, width=16, depth=2, heads=2, stem="conv", stem_whiten=True
    )
    tool = Classifier(build_model(config).eval(), config, DIGITS, (0.3,), (0.35,))
    text = report_run(made(tmp_path / "white", tool, config)).read_text(encoding="utf-8")
    assert "8 fixed filters of 2 x 2 pixels" in text
    assert "principal components</h3>" not in text


def test_positions_are_most_like_themselves() -> None:
    similar = insides.position_similarity(ViT(ViTConfig(image_size=16, width=32)))
    assert similar is not None
    assert similar.shape == (4, 4, 4, 4)
    np.testing.assert_allclose(np.einsum("ijij->ij", similar), 1, rtol=1e-5)
    assert insides.position_similarity(ViT(ViTConfig(image_size=16, width=32, positions="rope"))) is None


def test_the_plane_holds_what_differs_most() -> None:
    random = np.random.default_rng(0)
    vectors = random.normal(size=(200, 6)) * (9, 5, 0.1, 0.1, 0.1, 0.1) + 3
    turn = np.linalg.qr(random.normal(size=(6, 6)))[0]
    points, share = insides.plane(vectors @ turn)
    assert share > 0.99
    np.testing.assert_allclose(points.mean(axis=0), 0, atol=1e-9)
    apart, expected = (np.linalg.norm(each[:, None] - each, axis=-1) for each in (points, vectors[:, :2]))
    np.testing.assert_allclose(apart, expected, atol=0.1)  # the plane is the first two, however it is turned


def test_embeddings_are_what_the_head_reads() -> None:
    torch.manual_seed(0)
    for model in (ViT(ViTConfig(image_size=16, width=32)), CNN(CNNConfig(image_size=16, widths=(8, 16)))):
        images = torch.randn(5, 3, 16, 16)
        vectors = torch.from_numpy(insides.embeddings(model.eval(), images, batch=2))
        torch.testing.assert_close(model.head(vectors), model(images), rtol=1e-4, atol=1e-5)


def test_what_is_no_run_has_no_report(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        report_run(tmp_path)
