"""Vision Transformers that others trained, under our names: timm's, Hugging Face's and our own, importing neither.

Only safetensors and JSON are read, so nothing in a file is ever executed. :func:`read` says what a file holds,
:meth:`Pretrained.adapted` fits it to other pictures and classes. Not here: which name is which (weight_names.py), how
such a model is trained on (finetuning.py), and the way out (export.py).

Shapes: C channels, P patch side, S special tokens (class token, registers), R*K patches, D width.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from vitreous.checkpoint import differences, listed
from vitreous.classifier import Classifier
from vitreous.data.hub import fetch
from vitreous.models import ModelConfig, build_model, describe
from vitreous.positions import KINDS, resample
from vitreous.vit import ViTConfig
from vitreous.weight_names import renamed

WEIGHTS = "model.safetensors"


@dataclass(frozen=True, eq=False)
class Pretrained:
    """A model with the weights it learned, and the preprocessing that they were learned with."""

    source: str
    config: ModelConfig
    weights: dict[str, Tensor]
    """Under our names; without those of the head where nothing useful is known of it."""
    classes: tuple[str, ...]
    """What the head tells apart; empty where there is none."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...] = ()
    """What was assumed or changed, in sentences."""

    def adapted(self, size: int, channels: int, classes: tuple[str, ...]) -> Pretrained:
        """The same model for other pictures and classes: positions resampled, the head left out where classes differ.

        A model for colour reads gray pictures exactly as it reads them with three equal channels. Raises ValueError
        for what the weights cannot be fitted to.
        """
        fitted = self if channels == self.config.channels else _gray(self, channels)
        fitted = fitted if size == self.config.image_size else _resized(fitted, size)
        if classes != self.classes:
            weights = {name: tensor for name, tensor in fitted.weights.items() if not name.startswith("head.")}
            note = f"the head is new: it tells {len(classes)} classes apart"
            config = dataclasses.replace(fitted.config, classes=len(classes))
            fitted = dataclasses.replace(
                fitted, config=config, weights=weights, classes=classes, notes=(*fitted.notes, note)
            )
        return fitted

    def classifier(self) -> Classifier:
        """The classifier that it already is. Raises ValueError for weights without a head."""
        if not self.classes:
            raise ValueError(f"{self.source} has no head that could be used: train one with --from")
        model = build_model(self.config)
        model.load_state_dict(self.weights)
        return Classifier(model.eval(), self.config, self.classes, self.mean, self.std, {"weights": self.source})


def read(source: str | Path, heads: int | None = None) -> Pretrained:
    """What weights hold: a safetensors file, the folder of one, ``hf:owner/name``, or a run or classifier of ours.

    ``heads`` is needed only where neither a config.json beside the weights nor custom tells how many there are. Raises
    FileNotFoundError for what is not there, ValueError for what cannot be read or expressed, with names and the fix.
    """
    named = str(source)
    if named.startswith("hf:"):
        fetched = fetch(named, "model", [WEIGHTS, "config.json", "preprocessor_config.json"])
        if fetched is None:
            raise ValueError(f"{named}: the model has no such revision; leave out what follows the @")
        path = fetched
    else:
        path = Path(os.path.expanduser(source))
    if (path / "classifier").is_dir() or "format" in _json(path / "config.json"):
        return _own(named, path)
    file = _find(path)
    tensors, facts = _load(file), _facts(file.parent)
    if facts.norm_eps is None and any(".layernorm_before." in name for name in tensors):
        facts = dataclasses.replace(facts, norm_eps=1e-12)  # what Hugging Face's ViT has by default
    try:
        pretrained = _completed(named, renamed(tensors), facts, heads)
        with torch.device("meta"):
            model = build_model(pretrained.config)
    except ValueError as problem:
        raise ValueError(f"cannot use {file}: {problem}") from None
    problems = differences(model, pretrained.weights)
    if not pretrained.classes:
        problems = [each for each in problems if not each.startswith("missing head.")]
    if problems:
        raise ValueError(f"cannot use {file}: {listed(problems)}")
    return pretrained


# Files


def _find(path: Path) -> Path:
    """The safetensors file that a path means."""
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder with weights, nor hf:owner/name")
    if path.is_file():
        return path
    if (path / WEIGHTS).is_file():
        return path / WEIGHTS
    found = sorted(path.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{path} has {len(found)} safetensors files: name one of {', '.join(p.name for p in found)}")
    pickles = sorted(p for p in path.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise ValueError(_refused_pickle(pickles[0]))
    raise ValueError(f"{path} has no {WEIGHTS}: give the folder or file of the weights")


PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")


def _refused_pickle(path: Path) -> str:
    return (
        f"{path} is a pickle, which can run any program when it is read, so it was not opened.\n"
        f"Take the {WEIGHTS} of the same model; most on the hub have one"
    )


def _load(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened:
        start = opened.read(2)
    if start[:1] == b"\x80" or start == b"PK":  # a pickle, or a zip of one
        raise ValueError(_refused_pickle(file))
    try:
        return load_file(file)
    except SafetensorError as problem:
        raise ValueError(f"{file} is no whole safetensors file ({problem}): fetch it again") from None


def _json(path: Path) -> dict[str, Any]:
    """The object in a JSON file; empty where there is no file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise ValueError(f"{path} cannot be read as JSON: {problem}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no JSON object")
    return values


def _own(source: str, path: Path) -> Pretrained:
    made = Classifier.load(path)
    weights = {name: tensor.contiguous() for name, tensor in made.model.state_dict().items()}
    note = f"from {source}: {describe(made.config)}"
    return Pretrained(source, made.config, weights, made.classes, made.mean, made.std, (note,))


# What stands beside the weights


@dataclass(frozen=True)
class _Facts:
    """What the weights themselves do not tell; None where nothing does."""

    heads: int | None = None
    size: int | None = None
    norm_eps: float | None = None
    pool: str | None = None
    classes: tuple[str, ...] = ()
    mean_std: tuple[tuple[float, ...], tuple[float, ...]] | None = None


def _facts(folder: Path) -> _Facts:
    """From the config.json of timm or Hugging Face, and the latter's preprocessor_config.json, where they are."""
    values, pictures = _json(folder / "config.json"), _json(folder / "preprocessor_config.json")
    try:
        return _timm_facts(values) if "architecture" in values else _huggingface_facts(values, pictures)
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise ValueError(f"cannot use {folder / 'config.json'}: {problem}") from None


def _timm_facts(values: dict[str, Any]) -> _Facts:
    trained, made = values.get("pretrained_cfg", {}), values.get("model_args", {})
    return _Facts(
        heads=made.get("num_heads"),
        size=_side(made.get("img_size", trained.get("input_size", [None])[1:])),
        pool=made.get("global_pool", values.get("global_pool")),
        classes=tuple(map(str, values.get("label_names") or trained.get("label_names") or ())),
        mean_std=(tuple(trained["mean"]), tuple(trained["std"])) if "mean" in trained else None,
    )


def _huggingface_facts(values: dict[str, Any], pictures: dict[str, Any]) -> _Facts:
    kind = values.get("model_type", HUGGINGFACE_KINDS[0])
    if kind not in HUGGINGFACE_KINDS:
        raise ValueError(f"models of type {kind} are not read here, only {', '.join(HUGGINGFACE_KINDS)}")
    if values.get("hidden_act", "gelu") != "gelu":
        raise ValueError(f"its hidden_act is {values['hidden_act']}, and only gelu is known here")
    names = values.get("id2label", {})
    return _Facts(
        heads=values.get("num_attention_heads"),
        size=_side(values.get("image_size")),
        norm_eps=values.get("layer_norm_eps"),
        classes=tuple(str(names[key]) for key in sorted(names, key=int)),
        mean_std=(tuple(pictures["image_mean"]), tuple(pictures["image_std"])) if "image_mean" in pictures else None,
    )


HUGGINGFACE_KINDS = ("vit", "deit", "dinov2", "dinov2_with_registers")


def _side(size: Any) -> int | None:
    """The side of square pictures, given as a number or as [height, width]; None for nothing."""
    if isinstance(size, list):
        if len(set(size)) > 1:
            raise ValueError(f"it is for pictures of {size[0]} x {size[1]} pixels, and only square ones are read here")
        return size[0] if size else None
    return size


# What the weights tell of the model


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
"""Mean and deviation of pictures where nothing tells them: DeiT and DINOv2 learned with those of ImageNet, Google's
ViTs with a half."""


def _completed(source: str, weights: dict[str, Tensor], facts: _Facts, heads: int | None) -> Pretrained:
    """The model that weights under timm's names are of, with what is missing in them where that changes nothing."""
    notes = [f"from {source}"]
    width, channels, patch, across = weights["patch_embed.proj.weight"].shape
    if patch != across:
        raise ValueError(f"its patches are {patch} x {across} pixels, and only square ones are known here")
    imagenet = "dist_token" in weights or "blocks.0.ls1.gamma" in weights
    if "dist_token" in weights:
        weights["reg_token"] = weights.pop("dist_token")
        notes.append("the distillation token became a register, and its half of the head was left out")
    if "head.weight" in weights and weights["head.weight"].shape[1] != width:
        weights = {name: tensor for name, tensor in weights.items() if not name.startswith("head.")}
        notes.append("its head reads more than the class token and was left out")
    pool = "class" if "cls_token" in weights else "mean"
    if facts.pool not in (None, "", {"class": "token", "mean": "avg"}[pool]):
        raise ValueError(f"it pools by {facts.pool!r}, which cannot be expressed here")
    registers = weights["reg_token"].shape[1] if "reg_token" in weights else 0
    if "pos_embed" in weights:
        special = (pool == "class") + registers
        weights["pos_embed"], rows = _table(weights["pos_embed"], special, pool, facts.size and facts.size // patch)
    elif facts.size is None:
        raise ValueError("neither positions nor a config.json tell for which picture size it is")
    else:
        rows = facts.size // patch
    depth = 1 + max((int(name.split(".")[1]) for name in weights if re.match(r"blocks\.\d+\.", name)), default=-1)
    hidden = weights["blocks.0.mlp.fc1.weight"].shape[0] if "blocks.0.mlp.fc1.weight" in weights else 4 * width
    zeros = {"patch_embed.proj.bias": width, **{f"blocks.{i}.attn.qkv.bias": 3 * width for i in range(depth)}}
    weights = {name: torch.zeros(size) for name, size in zeros.items()} | weights  # a bias left out is one of zero
    if heads is None and facts.heads is None:
        if width % HEAD_WIDTH:
            raise ValueError("nothing tells how many heads it has: say so with --set model.heads=NUMBER")
        notes.append(f"{width // HEAD_WIDTH} heads of {HEAD_WIDTH} each were assumed, as is the custom")
    classes: tuple[str, ...] = ()
    if "head.weight" in weights:
        count = len(weights["head.weight"])
        classes = facts.classes if len(facts.classes) == count else tuple(map(str, range(count)))
    if facts.mean_std is None:
        name = "those of ImageNet" if imagenet else "a half each"
        notes.append(f"nothing tells mean and deviation of its pictures: {name} were assumed")
    mean, std = facts.mean_std or (IMAGENET if imagenet else HALF)
    config = ViTConfig(
        image_size=rows * patch,
        patch_size=patch,
        channels=channels,
        classes=max(1, len(classes)),
        width=width,
        depth=depth,
        heads=heads or facts.heads or width // HEAD_WIDTH,
        mlp_ratio=hidden / width,
        pool=pool,
        registers=registers,
        positions="learned" if "pos_embed" in weights else "none",
        layer_scale="blocks.0.ls1.gamma" in weights,
        norm_eps=facts.norm_eps or 1e-6,
    )
    notes.insert(1, describe(config))
    return Pretrained(source, config, weights, classes, mean[:channels], std[:channels], tuple(notes))


HEAD_WIDTH = 64


def _table(table: Tensor, special: int, pool: str, rows: int | None) -> tuple[Tensor, int]:
    """Positions (1, s + R*R, D), s of special tokens -> (1, S + R*R, D), the absent ones zero, and R.

    DINOv2 gives its registers no position, and DeiT III none to the class token either.
    """
    count = table.shape[1]
    squares = {
        given: math.isqrt(count - given)
        for given in (special, min(special, int(pool == "class")), 0)
        if math.isqrt(max(0, count - given)) ** 2 == count - given
    }
    if not squares:
        raise ValueError(f"its {count} positions are no square of patches beside {special} special tokens")
    given, side = next((pair for pair in squares.items() if pair[1] == rows), next(iter(squares.items())))
    absent = table.new_zeros(1, special - given, table.shape[2])
    return torch.cat([table[:, :given], absent, table[:, given:]], dim=1), side


# Fitting to other pictures


def _resized(pretrained: Pretrained, size: int) -> Pretrained:
    """The same model for square pictures of another size."""
    config = pretrained.config
    weights, notes = dict(pretrained.weights), list(pretrained.notes)
    if isinstance(config, ViTConfig):
        if size % config.patch_size or size < config.patch_size:
            raise ValueError(
                f"pictures of {size} pixels are no multiple of the patch of {pretrained.source}, {config.patch_size}"
            )
        if KINDS[config.positions].placed or config.positions == "sincos":
            raise ValueError(
                f"{pretrained.source} learned its places ({config.positions}) at {config.image_size} pixels: "
                f"keep that size"
            )
        if "pos_embed" in weights:
            old, new = config.grid, (size // config.patch_size, size // config.patch_size)
            special, patches = weights["pos_embed"].split([config.special, old[0] * old[1]], dim=1)
            weights["pos_embed"] = torch.cat([special, resample(patches, old, new)], dim=1)
            notes.append(f"positions were resampled from {old[0]} x {old[1]} to {new[0]} x {new[1]} patches")
    config = dataclasses.replace(config, image_size=size)
    return dataclasses.replace(pretrained, config=config, weights=weights, notes=tuple(notes))


def _gray(pretrained: Pretrained, channels: int) -> Pretrained:
    """The same model for gray pictures, which it scores as it did those with three equal channels."""
    config = pretrained.config
    if channels != 1 or not isinstance(config, ViTConfig) or config.stem != "patch":
        raise ValueError(
            f"{pretrained.source} reads {config.channels} channels and these pictures have {channels}: "
            f"take other weights, or store the pictures with as many"
        )
    filters, bias = (pretrained.weights[f"patch_embed.proj.{kind}"] for kind in ("weight", "bias"))
    means, stds = torch.tensor(pretrained.mean), torch.tensor(pretrained.std)
    mean, std = means.mean(), stds.mean()
    weights = pretrained.weights | {
        "patch_embed.proj.weight": torch.einsum("dcxy,c->dxy", filters, std / stds)[:, None],
        "patch_embed.proj.bias": bias + torch.einsum("dcxy,c->d", filters, (mean - means) / stds),
    }
    return dataclasses.replace(
        pretrained,
        config=dataclasses.replace(config, channels=1),
        weights=weights,
        mean=(mean.item(),),
        std=(std.item(),),
        notes=(*pretrained.notes, "its patches read gray pictures as they did those with three equal channels"),
    )
