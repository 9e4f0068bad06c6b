"""Other people's weights: the same logits as in their own libraries, and nothing in a file is ever executed."""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitreous import checkpoint, pretrained, sealed
from vitreous.classifier import Classifier
from vitreous.cnn import CNNConfig
from vitreous.models import build_model
from vitreous.pretrained import Pretrained, read
from vitreous.vit import ViT, ViTConfig

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "image_size": 24, "patch_size": 4}


def peer(name: str) -> Any:
    """Another library, or a skip that names it; some of their builds need torchvision's operators declared first."""
    if importlib.util.find_spec("torchvision_ops"):
        importlib.import_module("torchvision_ops")
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    return importlib.import_module(name)


def drawn(module: nn.Module) -> nn.Module:
    """The module with every weight drawn by a seed, so that none is zero or one by chance of its making."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.15, generator=generator)
    return module.eval()


def pictures(count: int = 4, side: int = 24, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, side, side, generator=torch.Generator().manual_seed(1))


def scores(found: Pretrained, images: Tensor) -> Tensor:
    """The logits of weights with their own head."""
    with torch.no_grad():
        return found.classifier().model(images)


def features(found: Pretrained, images: Tensor) -> Tensor:
    """What the head would read, of weights whose head was left out."""
    model = build_model(found.config)
    model.load_state_dict({**model.state_dict(), **found.weights})
    assert isinstance(model, ViT)
    with torch.no_grad():
        return model.eval().features(images)


# The same logits as in their own library

pytestmark = pytest.mark.filterwarnings("ignore:.*:DeprecationWarning", "ignore:.*:FutureWarning")

TIMM = {
    "vit": {},
    "gray": {"in_chans": 1},
    "registers": {"reg_tokens": 4},
    "dinov2": {"init_values": 1e-5, "patch_size": 6},
    "dinov2 with registers": {"init_values": 1e-5, "reg_tokens": 4, "no_embed_class": True},
    "deit3": {"init_values": 1e-5, "no_embed_class": True},
    "mean pool": {"class_token": False, "global_pool": "avg", "fc_norm": False},
    "no qkv bias": {"qkv_bias": False},
    "no positions": {"pos_embed": "none"},
}


@pytest.mark.parametrize("kind", TIMM)
def test_timms_models_have_their_logits(kind: str, tmp_path: Path) -> None:
    peer("timm")
    from timm.models.vision_transformer import VisionTransformer

    shape: dict[str, Any] = {"img_size": 24, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 4}
    options = shape | {"num_classes": 5} | TIMM[kind]
    theirs = drawn(VisionTransformer(**options))
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    facts = {"architecture": "vit_tiny_patch16_224", "model_args": {"num_heads": 4}, "label_names": list("abcde")}
    facts["pretrained_cfg"] = {"input_size": [3, 24, 24], "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.2, 0.3]}
    (tmp_path / "config.json").write_text(json.dumps(facts))
    found = read(tmp_path)
    images = pictures(channels=options.get("in_chans", 3))
    with torch.no_grad():
        torch.testing.assert_close(scores(found, images), theirs(images), rtol=0, atol=1e-5)
    channels = found.config.channels
    assert found.classes == ("a", "b", "c", "d", "e")
    assert (found.mean, found.std) == ((0.4, 0.5, 0.6)[:channels], (0.2, 0.2, 0.3)[:channels])


def test_timms_distilled_deit_keeps_its_class_head_and_its_features(tmp_path: Path) -> None:
    peer("timm")
    from timm.models.deit import VisionTransformerDistilled

    theirs = drawn(
        VisionTransformerDistilled(img_size=24, patch_size=4, embed_dim=64, depth=2, num_heads=1, num_classes=5)
    )
    save_file(theirs.state_dict(), tmp_path / "deit.safetensors")
    found = read(tmp_path / "deit.safetensors")
    with torch.no_grad():
        expected = theirs.head(theirs.forward_features(pictures())[:, 0])
    torch.testing.assert_close(scores(found, pictures()), expected, rtol=0, atol=1e-5)
    assert any("distillation token became a register" in note for note in found.notes)
    assert any("1 heads of 64 each were assumed" in note for note in found.notes)
    assert found.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize("name", ["ViT", "DeiT"])
@pytest.mark.parametrize("spelling", ["saved", "in memory"])
def test_hugging_faces_classifiers_have_their_logits(name: str, spelling: str, tmp_path: Path) -> None:
    transformers = peer("transformers")
    config = getattr(transformers, f"{name}Config")(
        **SMALL, intermediate_size=96, num_labels=3, id2label={0: "ant", 1: "bee", 2: "cow"}
    )
    theirs = drawn(getattr(transformers, f"{name}ForImageClassification")(config))
    theirs.save_pretrained(tmp_path)
    if spelling == "in memory":  # names differ between versions of the library; both are read
        save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    found = read(tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(scores(found, pictures()), theirs(pictures()).logits, rtol=0, atol=1e-5)
    assert found.classes == ("ant", "bee", "cow")
    assert found.config.norm_eps == config.layer_norm_eps == 1e-12
    assert found.mean == (0.485, 0.456, 0.406) if name == "DeiT" else (0.5, 0.5, 0.5)


def test_deit_with_a_teacher_keeps_the_class_tokens_half(tmp_path: Path) -> None:
    transformers = peer("transformers")
    config = transformers.DeiTConfig(**SMALL, intermediate_size=96, num_labels=3)
    theirs = drawn(transformers.DeiTForImageClassificationWithTeacher(config))
    theirs.save_pretrained(tmp_path)
    with torch.no_grad():
        expected = theirs(pictures()).cls_logits
    torch.testing.assert_close(scores(read(tmp_path), pictures()), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["Dinov2", "Dinov2WithRegisters", "ViT"])
@pytest.mark.parametrize("head", [False, True], ids=["bare", "with a head"])
def test_hugging_faces_backbones_have_their_features(name: str, head: bool, tmp_path: Path) -> None:
    transformers = peer("transformers")
    more = {"intermediate_size": 96} if name == "ViT" else {"mlp_ratio": 3}
    config = getattr(transformers, f"{name}Config")(**SMALL, **more)
    whole = drawn(getattr(transformers, f"{name}{'ForImageClassification' if head else 'Model'}")(config))
    whole.save_pretrained(tmp_path)
    backbone = getattr(whole, whole.base_model_prefix) if head else whole
    with torch.no_grad():
        expected = backbone(pictures()).last_hidden_state[:, 0]
    found = read(tmp_path)
    torch.testing.assert_close(features(found, pictures()), expected, rtol=0, atol=1e-5)
    if name != "ViT" or not head:
        assert found.classes == ()
        with pytest.raises(ValueError, match="no head that could be used: train one with --from"):
            found.classifier()


def test_preprocessing_is_read_from_beside_the_weights(tmp_path: Path) -> None:
    folder = huggingface_like(tmp_path)
    (folder / "preprocessor_config.json").write_text('{"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]}')
    found = read(folder)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert not any("mean and deviation" in note for note in found.notes)


# Without those libraries


def timm_like(folder: Path, **options: Any) -> Path:
    """Weights of one of our models under timm's names, which are ours, in a file of their own."""
    folder.mkdir(exist_ok=True)
    config = ViTConfig(**{"image_size": 24, "width": 64, "depth": 2, "heads": 1, "classes": 3} | options)
    save_file(drawn(build_model(config)).state_dict(), folder / "model.safetensors")
    return folder


def huggingface_like(folder: Path) -> Path:
    """The same weights as of :func:`timm_like` under the names that Hugging Face's library writes."""
    ours = load_file(timm_like(folder) / "model.safetensors")
    renames = {
        "patch_embed.proj": "vit.embeddings.patch_embeddings.projection",
        "cls_token": "vit.embeddings.cls_token",
        "pos_embed": "vit.embeddings.position_embeddings",
        "norm1": "layernorm_before",
        "norm2": "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "intermediate.dense",
        "mlp.fc2": "output.dense",
    }
    theirs: dict[str, Tensor] = {}
    for name, tensor in ours.items():
        new = name.replace("blocks.", "vit.encoder.layer.").replace("head.", "classifier.")
        new = "vit.layernorm." + name[5:] if name.startswith("norm.") else new
        for old, their in renames.items():
            new = new.replace(old, their)
        if "attn.qkv" in new:
            for letter, part in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                theirs[new.replace("attn.qkv", f"attention.attention.{letter}")] = part.contiguous()
        else:
            theirs[new] = tensor
    save_file(theirs, folder / "model.safetensors")
    (folder / "config.json").write_text(
        json.dumps({"model_type": "vit", "num_attention_heads": 1, "image_size": 24, "layer_norm_eps": 1e-6})
    )
    return folder


def test_both_spellings_give_the_same_model(tmp_path: Path) -> None:
    one, other = read(timm_like(tmp_path / "timm")), read(huggingface_like(tmp_path / "hf"))
    assert one.config == other.config
    assert torch.equal(scores(one, pictures()), scores(other, pictures()))
    assert one.classes == ("0", "1", "2")


def test_half_precision_is_read_as_whole(tmp_path: Path) -> None:
    folder = timm_like(tmp_path)
    weights = load_file(folder / "model.safetensors")
    save_file({name: tensor.half() for name, tensor in weights.items()}, folder / "model.safetensors")
    assert {tensor.dtype for tensor in read(folder).weights.values()} == {torch.float32}


def test_the_hub_is_asked_for_weights_and_settings_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def snapshot_download(repository: str, **options: Any) -> str:
        asked.update(options, repository=repository)
        return str(timm_like(tmp_path))

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    assert read("hf:somebody/vit@v2").source == "hf:somebody/vit@v2"
    assert asked == {
        "repository": "somebody/vit",
        "repo_type": "model",
        "revision": "v2",
        "allow_patterns": ["model.safetensors", "config.json", "preprocessor_config.json"],
    }
    with pytest.raises(ValueError, match="write hf:owner/name, for example hf:google/"):
        read("hf:vit")


# Fitting to other pictures and classes


def test_positions_are_resampled_and_a_smooth_table_stays_smooth(tmp_path: Path) -> None:
    found = read(timm_like(tmp_path, registers=2))
    ramp = torch.linspace(0, 1, 6)[:, None].expand(6, 6).reshape(1, 36, 1).expand(1, 36, 64)
    found.weights["pos_embed"] = torch.cat([torch.full((1, 3, 64), 7.0), ramp], dim=1)
    fitted = found.adapted(48, 3, found.classes)
    table = fitted.weights["pos_embed"]
    assert fitted.config.grid == (12, 12)
    assert table.shape == (1, 3 + 144, 64)
    assert torch.equal(table[:, :3], torch.full((1, 3, 64), 7.0))
    rows = table[0, 3:, 0].view(12, 12)
    assert torch.allclose(rows, rows[:, :1].expand(12, 12), atol=1e-6)
    assert (rows[:, 0].diff() > 0.05).all()
    assert torch.allclose(rows + rows.flip(0), torch.ones(12, 12), atol=1e-5)
    assert fitted.classifier().model(pictures(side=48)).shape == (4, 3)
    assert any("resampled from 6 x 6 to 12 x 12" in note for note in fitted.notes)


def test_a_head_stays_for_the_same_classes_and_is_new_for_others(tmp_path: Path) -> None:
    found = read(timm_like(tmp_path))
    assert "head.weight" in found.adapted(24, 3, ("0", "1", "2")).weights
    fitted = found.adapted(24, 3, ("cat", "dog"))
    assert not any(name.startswith("head.") for name in fitted.weights)
    assert (fitted.config.classes, fitted.classes) == (2, ("cat", "dog"))


def test_gray_pictures_are_scored_as_they_were_with_three_equal_channels(tmp_path: Path) -> None:
    found = read(timm_like(tmp_path))
    colour = Pretrained(found.source, found.config, found.weights, found.classes, (0.5, 0.4, 0.3), (0.2, 0.3, 0.25))
    gray = colour.adapted(24, 1, found.classes)
    pixels = torch.randint(0, 256, (5, 1, 24, 24), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    one, three = gray.classifier().logits(pixels), colour.classifier().logits(pixels.expand(-1, 3, -1, -1))
    torch.testing.assert_close(one, three, rtol=0, atol=1e-5)


def test_what_weights_cannot_be_fitted_to_is_refused(tmp_path: Path) -> None:
    found = read(timm_like(tmp_path))
    with pytest.raises(ValueError, match=r"30 pixels are no multiple of the patch .*, 4"):
        found.adapted(30, 3, found.classes)
    with pytest.raises(ValueError, match="reads 3 channels and these pictures have 2"):
        found.adapted(24, 2, found.classes)
    turned = ViTConfig(image_size=16, width=32, depth=1, positions="rope", classes=2)
    placed = Pretrained("a run", turned, drawn(build_model(turned)).state_dict(), ("a", "b"), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(ValueError, match=r"learned its places \(rope\) at 16 pixels: keep that size"):
        placed.adapted(32, 3, ("a", "b"))


@pytest.mark.parametrize(
    "config", [ViTConfig(image_size=8, width=16, depth=1, heads=2, stem="conv"), CNNConfig(image_size=8, widths=(8,))]
)
def test_a_classifier_of_ours_is_read_as_it_is(config: Any, tmp_path: Path) -> None:
    names = tuple("abcdefghij")
    saved = Classifier(drawn(build_model(config)), config, names, (0.3,) * 3, (0.2,) * 3)
    saved.save(tmp_path / "run" / "classifier")
    for path in (tmp_path / "run", tmp_path / "run" / "classifier"):
        found = read(path)
        torch.testing.assert_close(scores(found, pictures(side=8)), saved.model(pictures(side=8)).detach())
        assert (found.classes, found.mean, found.std) == (names, saved.mean, saved.std)


# Files that cannot be used


def changed(folder: Path, **changes: Tensor | None) -> Path:
    """The folder with some weights replaced, added or (None) removed; ``__`` stands for a dot in names."""
    weights = load_file(folder / "model.safetensors")
    weights |= {name.replace("__", "."): tensor for name, tensor in changes.items() if tensor is not None}
    for name, tensor in changes.items():
        if tensor is None:
            del weights[name.replace("__", ".")]
    save_file(weights, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"norm__weight": None}, r"missing norm\.weight"),
        (
            {"blocks__1__mlp__fc1__weight": torch.zeros(9, 64)},
            r"fc1\.weight has shape \(9, 64\) instead of \(256, 64\)",
        ),
        ({"blocks__1__mlp__fc3__weight": torch.zeros(9)}, r"unknown blocks\.1\.mlp\.fc3\.weight"),
        ({"blocks__4__norm1__weight": torch.zeros(64)}, r"missing blocks\.2\.norm1\.weight.*and \d+ more"),
        ({"patch_embed__proj__weight": None}, "there is no patch embedding among its 31 weights"),
        ({"cls_token": None}, "its 37 positions are no square of patches beside 0 special tokens"),
        (
            {"norm_pre__weight": torch.zeros(64)},
            r"before its first block, as CLIP does \(norm_pre\.weight\)",
        ),
        ({"fc_norm__weight": torch.zeros(64)}, "normalises after pooling"),
        ({"blocks__0__mlp__w12__weight": torch.zeros(9)}, "its MLPs are gated"),
        ({"patch_embed__proj__weight": torch.zeros(64, 3, 4, 2)}, "its patches are 4 x 2 pixels"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_name(
    changes: dict[str, Tensor | None], said: str, tmp_path: Path
) -> None:
    folder = changed(timm_like(tmp_path), **changes)
    with pytest.raises(ValueError, match=f"cannot use .*model.safetensors: .*{said}"):
        read(folder)


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        ({"model_type": "clip"}, "models of type clip are not read here, only vit, deit"),
        ({"model_type": "vit", "hidden_act": "quick_gelu"}, "hidden_act is quick_gelu"),
        ({"model_type": "vit", "image_size": [24, 32]}, "for pictures of 24 x 32 pixels"),
        ({"model_type": "vit", "id2label": ["a"]}, r"config\.json"),
        ({"architecture": "vit", "model_args": {"global_pool": "avg"}}, "pools by 'avg'"),
        ({"format": 99}, "format 99 is newer"),
        ({"model_type": "vit", "num_attention_heads": 5}, "heads 5 does not divide width 64"),
        ([], "holds no JSON object"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(facts: Any, said: str, tmp_path: Path) -> None:
    folder = timm_like(tmp_path)
    (folder / "config.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match=said):
        read(folder)


def test_the_number_of_heads_is_asked_for_where_nothing_tells_it(tmp_path: Path) -> None:
    folder = timm_like(tmp_path, width=48, heads=3)
    with pytest.raises(ValueError, match=r"how many heads it has: say so with --set model\.heads=NUMBER"):
        read(folder)
    assert read(folder, heads=3).config == ViTConfig(image_size=24, width=48, depth=2, heads=3, classes=3)


def test_paths_that_lead_nowhere_are_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such file or folder with weights"):
        read(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no model\.safetensors"):
        read(tmp_path)
    for name in ("a", "b"):
        save_file({"x": torch.zeros(1)}, tmp_path / f"{name}.safetensors")
    with pytest.raises(ValueError, match=r"2 safetensors files: name one of a\.safetensors, b\.safetensors"):
        read(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.99])
def test_a_file_that_was_cut_short_is_refused(share: float, tmp_path: Path) -> None:
    file = timm_like(tmp_path) / "model.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ValueError, match=r"no whole safetensors file .*: fetch it again"):
        read(tmp_path)


# Pickles are never executed


class Trap:
    """Unpickling it touches a file."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.canary,))


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    path = tmp_path / "canary"
    pickle.loads(pickle.dumps(Trap(path)))
    assert path.exists()  # the trap works
    path.unlink()
    return path


@pytest.mark.parametrize("zipped", [False, True], ids=["pickle", "torch.save"])
@pytest.mark.parametrize(
    "name",
    [
        "pytorch_model.bin",
        "model.pt",
        "model.pth",
        "last.ckpt",
        "model.safetensors",
        "config.json",
        "preprocessor_config.json",
    ],
)
def test_a_trap_in_weights_or_settings_is_never_sprung(name: str, zipped: bool, canary: Path, tmp_path: Path) -> None:
    folder = tmp_path / "weights"
    if name.endswith(".json"):
        timm_like(folder)
    folder.mkdir(exist_ok=True)
    if zipped:
        torch.save(Trap(canary), folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Trap(canary)))
    for path in (folder, folder / name):
        with pytest.raises(ValueError, match=r"cannot be read as JSON|is a pickle, which can run any program"):
            read(path)
    assert not canary.exists()


@pytest.mark.parametrize("manifest", [True, False])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_trap_in_a_classifier_folder_is_never_sprung(name: str, manifest: bool, canary: Path, tmp_path: Path) -> None:
    config = ViTConfig(image_size=8, width=16, depth=1, heads=2)
    made = Classifier(build_model(config), config, tuple("abcdefghij"), (0.5,) * 3, (0.5,) * 3)
    folder = made.save(tmp_path / "classifier")
    (folder / name).write_bytes(pickle.dumps(Trap(canary)))
    if not manifest:
        (folder / sealed.MANIFEST).unlink()
    for load in (Classifier.load, read):
        with pytest.raises(ValueError, match=r"was changed after|cannot load|cannot be read as JSON"):
            load(folder)
    assert not canary.exists()


@pytest.mark.parametrize("name", [checkpoint.TENSORS, checkpoint.STATE, sealed.MANIFEST])
def test_a_trap_in_a_checkpoint_is_never_sprung(name: str, canary: Path, tmp_path: Path) -> None:
    folder = checkpoint.save(tmp_path, 1, {"model.x": torch.zeros(1)}, {})
    (folder / name).write_bytes(pickle.dumps(Trap(canary)))
    with pytest.raises(sealed.Damaged):
        checkpoint.read_folder(folder)
    assert not canary.exists()


def test_no_room_can_unpickle() -> None:
    source = Path(pretrained.__file__).parent
    words = ("pickle.load", "torch.load(", "allow_pickle=True", "joblib.load", "import pickle", "import dill")
    guilty = [f"{file.name}: {word}" for file in source.rglob("*.py") for word in words if word in file.read_text()]
    assert guilty == []
