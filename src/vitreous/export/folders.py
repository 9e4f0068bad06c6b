"""Weights and settings as other libraries load them: transformers' ViTForImageClassification, timm's VisionTransformer.

Preprocessing is stated in these folders and done by whoever loads them. What those architectures cannot express is
refused, with the reason.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from vitreous.classifier import Classifier
from vitreous.export.parity import Answers
from vitreous.models import describe
from vitreous.positions import KINDS
from vitreous.pretrained import WEIGHTS, read
from vitreous.vit import ViT, ViTConfig
from vitreous.weight_names import for_huggingface

INSTEAD = "export --to onnx, or train another with --stem patch and learned positions"


def expressible(classifier: Classifier, library: str) -> ViTConfig:
    """The config of a model that a library has too. Raises ValueError with what is in the way."""
    config = classifier.config
    if not isinstance(config, ViTConfig):
        raise ValueError(f"{library}'s Vision Transformer cannot be a {config.family}: {INSTEAD}")
    if config.stem != "patch":
        raise ValueError(f"{library} has no {config.stem} stem: {INSTEAD}")
    if KINDS[config.positions].placed:
        raise ValueError(f"{library}'s Vision Transformer has no {config.positions} positions: {INSTEAD}")
    if library == "transformers" and (config.pool != "class" or config.registers):
        raise ValueError(
            f"transformers' ViTForImageClassification has a class token and no registers, and this model reads the "
            f"{config.pool} of its tokens and has {config.registers} registers: export --to timm or onnx"
        )
    return config


def weights(classifier: Classifier) -> dict[str, Tensor]:
    """The weights under our names, fixed positions as the table that they come to."""
    model = classifier.model
    assert isinstance(model, ViT)
    tensors, config = model.state_dict(), model.config
    if model.pos_embed is None:
        nothing = torch.zeros(1, config.special + config.grid[0] * config.grid[1], config.width)
        tensors["pos_embed"] = KINDS[config.positions].add(nothing, None, config.grid, config.grid)
    return tensors


def write_huggingface(classifier: Classifier, folder: Path) -> None:
    """A folder for ``ViTForImageClassification.from_pretrained``, its image processor, and a card for the hub."""
    config = expressible(classifier, "transformers")
    settings = {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "hidden_size": config.width,
        "num_hidden_layers": config.depth,
        "num_attention_heads": config.heads,
        "intermediate_size": int(config.width * config.mlp_ratio),
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "layer_norm_eps": config.norm_eps,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "num_channels": config.channels,
        "qkv_bias": True,
        "id2label": dict(enumerate(classifier.classes)),
        "label2id": {name: number for number, name in enumerate(classifier.classes)},
    }
    side = config.image_size
    pictures = {
        "image_processor_type": "CLIPImageProcessor",  # the one that resizes and cuts as Classifier.read does
        "do_convert_rgb": config.channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(classifier.mean),
        "image_std": list(classifier.std),
    }
    use = (
        "from transformers import AutoImageProcessor, ViTForImageClassification\n\n"
        'model = ViTForImageClassification.from_pretrained(".")\n'
        'processor = AutoImageProcessor.from_pretrained(".")'
    )
    _write(folder, for_huggingface(weights(classifier)), settings)
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures, indent=2), encoding="utf-8")
    (folder / "README.md").write_text(_card(classifier, "transformers", use), encoding="utf-8")


def open_huggingface(folder: Path, classifier: Classifier) -> tuple[Answers, str]:
    """What loads the folder, and its name: transformers, or else our own reading of it."""
    loader, name = _found("transformers", "ViTForImageClassification")
    if loader is None:
        return _read_back(folder, classifier, name)
    model = loader.from_pretrained(folder).eval()
    return _answering(lambda images: model(images).logits, classifier), name


TIMM = "vit_tiny_patch16_224"
"""The model of timm that the arguments turn into ours."""


def timm_arguments(config: ViTConfig) -> dict[str, Any]:
    """What ``timm.create_model`` must be told to make this architecture."""
    arguments: dict[str, Any] = {
        "img_size": config.image_size,
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.width,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
        "reg_tokens": config.registers,
        "init_values": 1e-5 if config.layer_scale else None,
    }
    if config.pool == "mean":
        arguments |= {"class_token": False, "global_pool": "avg", "fc_norm": False}
    return arguments


def write_timm(classifier: Classifier, folder: Path) -> None:
    """A folder whose weights ``timm.create_model(..., checkpoint_path=...)`` loads, with a card that says the dots."""
    config = expressible(classifier, "timm")
    arguments = timm_arguments(config)
    settings = {
        "architecture": TIMM,
        "num_classes": len(classifier.classes),
        "num_features": config.width,
        "model_args": arguments,
        "label_names": list(classifier.classes),
        "pretrained_cfg": {
            "num_classes": len(classifier.classes),
            "input_size": [config.channels, config.image_size, config.image_size],
            "mean": list(classifier.mean),
            "std": list(classifier.std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    told = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    use = (
        "import timm\n\n"
        f'model = timm.create_model("{TIMM}", checkpoint_path="{WEIGHTS}", num_classes={len(classifier.classes)},\n'
        f"    {told})"
    )
    _write(folder, weights(classifier), settings)
    (folder / "README.md").write_text(_card(classifier, "timm", use), encoding="utf-8")


def open_timm(folder: Path, classifier: Classifier) -> tuple[Answers, str]:
    """What loads the folder, and its name: timm, or else our own reading of it."""
    create_model, name = _found("timm", "create_model")
    if create_model is None:
        return _read_back(folder, classifier, name)
    assert isinstance(classifier.config, ViTConfig)
    arguments = timm_arguments(classifier.config) | {"num_classes": len(classifier.classes)}
    return _answering(create_model(TIMM, checkpoint_path=folder / WEIGHTS, **arguments).eval(), classifier), name


def _found(library: str, what: str) -> tuple[Any, str]:
    """Something of another library with its name and version; None where it is missing or does not import here."""
    try:
        module = importlib.import_module(library)
        return getattr(module, what), f"{library} {module.__version__}"
    except (ImportError, RuntimeError):  # RuntimeError: beside a torch that it was not made for
        return None, library


def _read_back(folder: Path, classifier: Classifier, library: str) -> tuple[Answers, str]:
    model = read(folder).classifier().model
    return _answering(model, classifier), f"vitreous itself, for {library} cannot be imported here"


def _answering(model: Any, classifier: Classifier) -> Answers:
    @torch.no_grad()
    def answers(pixels: Tensor) -> Tensor:
        return model(classifier.prepare(pixels))

    return answers


def _write(folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    save_file({name: t.detach().contiguous() for name, t in tensors.items()}, folder / WEIGHTS, {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")


def _card(classifier: Classifier, library: str, use: str) -> str:
    """The page that the hub shows of a model."""
    facts = [f"- {key}: {value}" for key, value in classifier.provenance.items()]
    size, mean, std = classifier.size, list(classifier.mean), list(classifier.std)
    return "\n".join(
        [
            f"---\nlibrary_name: {library}\npipeline_tag: image-classification\n---",
            "# Image classifier",
            f"\n{describe(classifier.config)}, trained with vitreous.\n",
            f"Classes: {', '.join(classifier.classes)}.\n",
            f"Pictures: the short side resized to {size} pixels (bicubic), the centre cut out, values divided by 255, "
            f"then mean {mean} and deviation {std} of each channel.\n",
            f"```python\n{use}\n```\n",
            *facts,
            "",
        ]
    )
