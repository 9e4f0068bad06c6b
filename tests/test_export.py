"""What leaves answers as the classifier does, wherever it is opened; what cannot leave is told why."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_cli import NO_PROBE, SMALL, Outcome, call
from test_pretrained import drawn, peer, timm_like
from test_readme import ROOT, blocks, commands, shortened
from torch import Tensor

from vitreous.classifier import Classifier
from vitreous.cnn import CNNConfig
from vitreous.export import FORMATS, export_run, parity
from vitreous.models import build_model
from vitreous.pretrained import read
from vitreous.vit import ViTConfig

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")

needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="the export extra (onnx, onnxscript, onnxruntime) is not installed",
)

NAMES = ("ant", "bee", "cow")


def vit(**options: Any) -> ViTConfig:
    return ViTConfig(**{"image_size": 16, "width": 32, "depth": 2, "heads": 2, "classes": 3} | options)


def made(config: Any, folder: Path) -> Path:
    """A classifier folder with seeded weights."""
    model = drawn(build_model(config))
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.fill_(0.7)
    channels = config.channels
    return Classifier(model, config, NAMES, (0.5, 0.4, 0.3)[:channels], (0.2, 0.25, 0.3)[:channels]).save(folder)


def pictures(count: int, *size: int, channels: int = 3) -> Tensor:
    shape = (count, channels, *(size or (16, 16)))
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(2))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the embedded digits, with a plain stem, as the command makes it."""
    folder = tmp_path_factory.mktemp("export") / "run"
    outcome = call("train", "digits", "--steps", 20, "--stem", "patch", "--out", folder, *SMALL, *NO_PROBE)
    assert outcome.exit_code == 0, outcome.stderr
    return folder


def exported(run: Path, *words: object) -> tuple[Outcome, dict[str, Any]]:
    outcome = call("export", run, "--json", *words)
    assert outcome.exit_code == 0, outcome.stderr
    return outcome, json.loads(outcome.stdout)


# Programs

KINDS = {
    "learned, conv stem": vit(stem="conv", stem_early=1, stem_whiten=True),
    "learned, gray, layer scale, mean": vit(channels=1, layer_scale=True, pool="mean"),
    "rope, registers": vit(positions="rope", registers=2),
    "alibi, conv stem": vit(positions="alibi", stem="conv", stem_norm="picture", depth=1),
    "sincos, mean, registers": vit(positions="sincos", pool="mean", registers=1, depth=1),
    "none": vit(positions="none", depth=1),
    "resnet": CNNConfig("resnet", image_size=16, classes=3, widths=(8, 12)),
    "fastcnn": CNNConfig("fastcnn", image_size=16, classes=3, widths=(8, 12), stem_whiten=True),
    "fastcnn between patches": CNNConfig("fastcnn", image_size=28, classes=3, widths=(8, 8, 12)),
}
ANY_SIZE = [kind for kind in KINDS if not kind.startswith("learned")]


@needs_onnx
@pytest.mark.parametrize("kind", KINDS)
def test_every_model_leaves_as_onnx(kind: str, tmp_path: Path) -> None:
    import onnxruntime

    config = KINDS[kind]
    classifier = Classifier.load(made(config, tmp_path / "classifier"))
    found = export_run(tmp_path / "classifier", "onnx", tmp_path / "model.onnx")
    assert (found.parity.same_top, found.parity.batches, found.split) == (1.0, (1, 7, 64), None)
    assert found.parity.largest_difference <= 1e-4
    own = (config.image_size, config.image_size)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for size in [own, *([(20, 28)] if kind in ANY_SIZE else [])]:
        some = pictures(5, *size, channels=config.channels)
        (scores,) = session.run(None, {"pixels": some.numpy()})
        np.testing.assert_allclose(scores, classifier.logits(some).numpy(), rtol=0, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    assert json.loads(facts["classes"]) == list(NAMES)
    assert json.loads(facts["mean"]) == list(classifier.mean)
    assert ("to" in facts["sides"]) == (kind in ANY_SIZE)


@needs_onnx
def test_the_command_checks_onnx_on_validation_pictures(run: Path) -> None:
    outcome, result = exported(run, "--to", "onnx")
    assert Path(result["path"]) == run / "export" / "model.onnx"
    assert (result["split"], result["parity"]["pictures"], result["parity"]["batches"]) == ("val", 143, [1, 7, 64])
    assert result["parity"]["same_top"] == 1.0
    assert result["parity"]["largest_difference"] <= 1e-4
    assert result["checked_by"].startswith("onnxruntime")
    assert result["accuracy"] == result["accuracy_exported"]
    assert "the same first class for 100.00%" in outcome.stderr
    assert not list((run / "export").glob("partial-*"))
    again = call("export", run, "--to", "onnx")
    assert again.exit_code == 2
    assert "already there: remove it, or choose another place with --out" in again.stderr


@needs_onnx
def test_int8_states_what_it_costs(run: Path, tmp_path: Path) -> None:
    import onnx

    _, whole = exported(run, "--to", "onnx", "--out", tmp_path / "whole.onnx")
    outcome, result = exported(run, "--to", "int8", "--out", tmp_path / "int8.onnx")
    assert result["accuracy"] == whole["accuracy"]
    assert abs(result["accuracy_exported"] - result["accuracy"]) <= 0.1
    assert 0 < result["parity"]["largest_difference"] < 2
    assert "scores at most" in outcome.stderr
    model = onnx.load(tmp_path / "int8.onnx")
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in model.graph.node}
    stored = {tensor.data_type for tensor in model.graph.initializer if len(tensor.dims) == 2}
    assert onnx.TensorProto.INT8 in stored
    assert {"classes", "mean"} <= {entry.key for entry in model.metadata_props}
    alone = call("export", run / "classifier", "--to", "int8", "--out", tmp_path / "alone.onnx")
    assert alone.exit_code == 2
    assert "int8 takes training pictures" in alone.stderr


@pytest.mark.parametrize("kind", ["learned, conv stem", "rope, registers", "resnet", "fastcnn between patches"])
def test_a_torch_program_answers_without_our_code(kind: str, tmp_path: Path) -> None:
    classifier = Classifier.load(made(KINDS[kind], tmp_path / "classifier"))
    export_run(tmp_path / "classifier", "pt2", tmp_path / "model.pt2")
    told = {"vitreous.json": ""}
    module = torch.export.load(tmp_path / "model.pt2", extra_files=told).module()
    own = (classifier.size, classifier.size)
    for size in [own, *([(20, 28)] if kind in ANY_SIZE else [])]:
        some = pictures(5, *size)
        torch.testing.assert_close(module(some), classifier.logits(some), rtol=0, atol=1e-5)
    assert json.loads(json.loads(told["vitreous.json"])["classes"]) == list(NAMES)


@pytest.mark.parametrize(
    ("config", "sides"),
    [
        (CNNConfig("fastcnn", image_size=28, classes=3, widths=(8, 8, 12)), "16 to 1024 in steps of 4"),
        (CNNConfig("fastcnn", image_size=32, classes=3, widths=(8, 8, 12)), "16 to 1024 in steps of 8"),
        (CNNConfig("fastcnn", image_size=27, classes=3, widths=(8, 8, 12)), "27"),
        (CNNConfig("resnet", image_size=4, classes=3, widths=(8, 8, 12)), "4"),
        (vit(positions="rope"), "8 to 180 in steps of 4"),
        (vit(positions="rope", image_size=4), "4"),
        (vit(positions="rope", patch_size=2, image_size=88, depth=1), "4 to 90 in steps of 2"),
        (vit(positions="rope", patch_size=2, image_size=90, depth=1), "4 to 90 in steps of 2"),
        (vit(positions="rope", patch_size=2, image_size=92, depth=1), "92"),
        (vit(positions="alibi", patch_size=2, image_size=92, depth=1, pool="mean"), "92"),
        (vit(), "16"),
    ],
)
def test_a_program_takes_every_side_that_it_promises(config: Any, sides: str, tmp_path: Path) -> None:
    found = export_run(made(config, tmp_path / "classifier"), "pt2", tmp_path / "model.pt2")
    assert found.sides == sides
    module, classifier = torch.export.load(tmp_path / "model.pt2").module(), Classifier.load(tmp_path / "classifier")
    asked = [int(word) for word in sides.split() if word.isdecimal()]
    for side in {config.image_size, asked[0], asked[0] + asked[-1] if len(asked) > 1 else asked[0]}:
        some = pictures(3, side, side)
        torch.testing.assert_close(module(some), classifier.logits(some), rtol=0, atol=1e-5)


# Folders

LEAVING = {
    "plain": vit(),
    "gray": vit(channels=1),
    "layer scale": vit(layer_scale=True),
    "sincos": vit(positions="sincos"),
    "none": vit(positions="none"),
    "huggingface's epsilon": vit(norm_eps=1e-12),
}
TIMM_ONLY = {"registers": vit(registers=3), "mean": vit(pool="mean", registers=2)}


@pytest.mark.parametrize("kind", LEAVING)
def test_a_hugging_face_folder_is_read_back_with_the_same_logits(kind: str, tmp_path: Path) -> None:
    config = LEAVING[kind]
    classifier = Classifier.load(made(config, tmp_path / "classifier"))
    found = export_run(tmp_path / "classifier", "hf", tmp_path / "out")
    assert {path.name for path in found.path.iterdir()} == {
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
        "README.md",
    }
    back = read(found.path).classifier()
    some = pictures(5, channels=config.channels)
    torch.testing.assert_close(back.logits(some), classifier.logits(some), rtol=0, atol=1e-5)
    assert (back.classes, back.mean, back.std) == (NAMES, classifier.mean, classifier.std)
    card = (found.path / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-classification\n---\n")


@pytest.mark.parametrize("kind", [*LEAVING, *TIMM_ONLY])
def test_a_timm_folder_is_read_back_with_the_same_logits(kind: str, tmp_path: Path) -> None:
    config = (LEAVING | TIMM_ONLY)[kind]
    classifier = Classifier.load(made(config, tmp_path / "classifier"))
    found = export_run(tmp_path / "classifier", "timm", tmp_path / "out")
    back = read(found.path).classifier()
    some = pictures(5, channels=config.channels)
    torch.testing.assert_close(back.logits(some), classifier.logits(some), rtol=0, atol=1e-5)
    assert (back.classes, back.mean, back.std) == (NAMES, classifier.mean, classifier.std)


@pytest.mark.parametrize("kind", LEAVING)
def test_transformers_loads_the_folder(kind: str, tmp_path: Path) -> None:
    transformers = peer("transformers")
    config = LEAVING[kind]
    classifier = Classifier.load(made(config, tmp_path / "classifier"))
    assert export_run(tmp_path / "classifier", "hf", tmp_path / "out").by.startswith("transformers")
    model, told = transformers.ViTForImageClassification.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(told.values())
    some = pictures(5, channels=config.channels)
    with torch.no_grad():
        scores = model.eval()(classifier.prepare(some)).logits
    torch.testing.assert_close(scores, classifier.logits(some), rtol=0, atol=1e-5)
    assert tuple(model.config.id2label.values()) == NAMES


def test_transformers_processor_prepares_square_pictures_as_we_do(tmp_path: Path) -> None:
    transformers = peer("transformers")
    from PIL import Image

    classifier = Classifier.load(made(vit(), tmp_path / "classifier"))
    export_run(tmp_path / "classifier", "hf", tmp_path / "out")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out")
    picture = Image.fromarray(pictures(1, 48, 48)[0].permute(1, 2, 0).numpy())
    theirs = processor(picture, return_tensors="pt")["pixel_values"]
    ours = classifier.prepare(classifier.read(picture)[None])
    assert theirs.shape == ours.shape
    assert (theirs - ours).abs().mean() < 0.02  # the resampling differs by rounding


@pytest.mark.parametrize("kind", [*LEAVING, *TIMM_ONLY])
def test_timm_loads_the_folder_as_its_card_says(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peer("timm")
    config = (LEAVING | TIMM_ONLY)[kind]
    classifier = Classifier.load(made(config, tmp_path / "classifier"))
    assert export_run(tmp_path / "classifier", "timm", tmp_path / "out").by.startswith("timm")
    code = (tmp_path / "out" / "README.md").read_text().split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(tmp_path / "out")
    names: dict[str, Any] = {}
    exec(code, names)
    some = pictures(5, channels=config.channels)
    with torch.no_grad():
        scores = names["model"].eval()(classifier.prepare(some))
    torch.testing.assert_close(scores, classifier.logits(some), rtol=0, atol=1e-5)


# What is refused


@pytest.mark.parametrize(
    ("config", "to", "said"),
    [
        (vit(stem="conv"), "hf", "transformers has no conv stem: export --to onnx, or train another with --stem patch"),
        (vit(stem="conv"), "timm", "timm has no conv stem"),
        (vit(positions="rope"), "hf", "no rope positions"),
        (vit(positions="alibi"), "timm", "no alibi positions"),
        (vit(pool="mean"), "hf", "reads the mean of its tokens"),
        (vit(registers=2), "hf", "has 2 registers: export --to timm or onnx"),
        (CNNConfig(image_size=16, classes=3, widths=(8,)), "hf", "cannot be a resnet"),
        (vit(), "onxx", "unknown format 'onxx': did you mean 'onnx'?"),
    ],
)
def test_what_a_format_cannot_express_is_refused(config: Any, to: str, said: str, tmp_path: Path) -> None:
    folder = made(config, tmp_path / "classifier")
    outcome = call("export", folder, "--to", to, "--out", tmp_path / "out")
    assert outcome.exit_code == 2
    assert said in outcome.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"classifier"}


def test_an_export_that_answers_otherwise_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = made(vit(), tmp_path / "classifier")
    monkeypatch.setattr(parity, "TOLERANCE", -1.0)
    with pytest.raises(ValueError, match="does not answer as the classifier does, so it was removed"):
        export_run(folder, "timm", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"classifier"}


def test_parity_sees_one_score_that_is_wrong(tmp_path: Path) -> None:
    classifier = Classifier.load(made(vit(), tmp_path / "classifier"))
    wrong = classifier.logits(pictures(70)).argmax(dim=1)[-1]

    def answers(pixels: Tensor) -> Tensor:
        scores = classifier.logits(pixels)
        if torch.equal(pixels[-1], pictures(70)[-1]):
            scores[-1, wrong] -= 100
        return scores

    found = parity.compare(classifier, answers, pictures(70))
    assert found.same_top == pytest.approx(69 / 70)
    assert found.largest_difference == pytest.approx(100, abs=1)


def test_a_missing_extra_is_named(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "onnxscript" else found(name))
    outcome = call("export", run, "--to", "int8")
    assert outcome.exit_code == 2
    assert "onnxscript is not installed: run pip install 'vitreous[export]'" in outcome.stderr


@needs_onnx
def test_every_command_and_the_python_of_the_page_run(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = ROOT / "docs" / "export.md"
    found = commands(page, "vitreous")
    assert [words[1] for words in found] == ["train", *["export"] * len(FORMATS)]
    assert {words[-1] for words in found[1:]} == set(FORMATS)
    for _, *words in found:
        outcome = call(*shortened(words))
        assert outcome.exit_code == 0, f"{' '.join(words)}\n{outcome.stderr}"
    (code,) = blocks(page, "python")
    exec(code, {})
    assert capsys.readouterr().out.strip() in ("cat", "dog")


# The way in


def test_import_makes_a_classifier_of_weights(tmp_path: Path) -> None:
    outcome = call("import", timm_like(tmp_path / "weights"), "--out", tmp_path / "classifier", "--json")
    assert outcome.exit_code == 0, outcome.stderr
    result = json.loads(outcome.stdout)
    assert result["classes"] == 3
    assert "a half each were assumed" in outcome.stderr
    assert Classifier.load(result["classifier"]).classes == ("0", "1", "2")
    again = call("import", tmp_path / "weights", "--out", tmp_path / "classifier")
    assert again.exit_code == 2
    assert "already there" in again.stderr
