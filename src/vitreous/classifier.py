"""A trained model with all that is needed to use it: weights, class names, picture size, mean and standard deviation.

A classifier is one folder (``config.json``, ``model.safetensors``, ``README.md``, and a manifest with their hashes),
and predicting, evaluating, drawing heatmaps and exporting take only that, so preprocessing cannot differ between them.
Loading runs no code from it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vitreous import hub, sealed
from vitreous.checkpoint import check_weights, load_weights
from vitreous.config import model_config
from vitreous.data import Pixels, decode, fit
from vitreous.data.hub import fetch
from vitreous.models import ModelConfig, build_model, describe

FORMAT = 1
T = TypeVar("T")
Picture = str | Path | bytes | np.ndarray | Image.Image
PNG_HOLDS = {"1", "L", "LA", "I;16", "P", "RGB", "RGBA"}
"""Pillow's modes that a PNG keeps as they are; a TIFF keeps the others."""
NO_FILE_HOLDS = {"La": "LA", "RGBa": "RGBA", "RGBX": "RGB", "HSV": "RGB"}
"""Modes that only Pillow knows, and what a file of them would be."""


@dataclass(frozen=True)
class Prediction:
    """What the classifier says of one picture."""

    label: str
    probability: float
    top: tuple[tuple[str, float], ...]
    """The most probable classes with their probabilities, the best first."""


@dataclass(frozen=True)
class Classifier:
    """A model beside its preprocessing. ``model`` is in eval mode and on the CPU unless it was moved."""

    model: nn.Module
    config: ModelConfig
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    """Per channel, of pixels in 0..1."""
    std: tuple[float, ...]
    provenance: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def size(self) -> int:
        """Side in pixels of the pictures it was trained on, to which :meth:`read` brings every picture."""
        return self.config.image_size

    @property
    def channels(self) -> int:
        """1 for grayscale, 3 for colour."""
        return self.config.channels

    @property
    def width(self) -> int:
        """Length D of the vector that the head reads."""
        return cast(nn.Linear, self.model.head).in_features

    def prepare(self, pixels: Tensor) -> Tensor:
        """What the model reads: uint8 (B, C, H, W) -> float32 (B, C, H, W), mean 0 and deviation 1 over the data."""
        return normalise(pixels, self.mean, self.std)

    @torch.no_grad()
    def logits(self, pixels: Pixels, batch: int = 250) -> Tensor:
        """Class scores before softmax, in fp32: uint8 (B, C, H, W) -> (B, classes)."""
        device = next(self.model.parameters()).device
        parts = [self.model(self.prepare(part.to(device))).float().cpu() for part in pixels.split(batch)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.classes))

    @torch.no_grad()
    def features_and_logits(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """The vectors that the head reads and :meth:`logits` of them: (B, C, H, W) -> fp32 (B, D), (B, classes)."""
        features = cast(Callable[[Tensor], Tensor], self.model.features)
        head = cast(nn.Module, self.model.head)
        vectors = features(self.prepare(pixels.to(next(self.model.parameters()).device)))
        return vectors.float().cpu(), head(vectors).float().cpu()

    def read(self, picture: Picture) -> Tensor:
        """One picture of any size and kind as the model's input pixels, uint8 (C, S, S).

        Raises ValueError for what is no picture, FileNotFoundError for a file that is not there.
        """
        if isinstance(picture, Image.Image):
            picture = _as_file(picture)
        if isinstance(picture, str):
            picture = Path(picture)
        if isinstance(picture, Path) and not picture.exists():
            raise FileNotFoundError(f"there is no picture {picture}")
        if isinstance(picture, np.ndarray):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != self.channels:
                raise ValueError(
                    f"an array of {picture.dtype} {picture.shape} is no picture for this model: "
                    f"give uint8 (H, W, {self.channels})"
                )
            pixels = picture
        else:
            pixels = decode(picture, channels=1 if self.channels == 1 else 3)
        return torch.from_numpy(np.ascontiguousarray(fit(pixels, (self.size, self.size)))).permute(2, 0, 1)

    def predict(self, pictures: Iterable[Picture] | Tensor, top: int = 5) -> list[Prediction]:
        """The most probable classes of each picture; a uint8 tensor (B, C, H, W) is taken as it is."""
        pixels = pictures if isinstance(pictures, Tensor) else torch.stack([self.read(picture) for picture in pictures])
        return self.ranked(self.logits(pixels), top)

    def ranked(self, logits: Tensor, top: int = 5) -> list[Prediction]:
        """The most probable classes of each row of class scores (B, classes)."""
        probabilities = logits.softmax(dim=1)
        values, indices = probabilities.topk(min(top, len(self.classes)), dim=1)
        ranked = [
            tuple((self.classes[i], p) for i, p in zip(row_indices, row_values, strict=True))
            for row_indices, row_values in zip(indices.tolist(), values.tolist(), strict=True)
        ]
        return [Prediction(label=row[0][0], probability=row[0][1], top=row) for row in ranked]

    def fingerprint(self) -> str:
        """ "sha256:" and 16 hexadecimal digits over the weights and all that turns a picture into an answer."""
        facts = (dataclasses.asdict(self.config), self.classes, self.mean, self.std)
        digest = hashlib.sha256(json.dumps(facts).encode())
        for name, tensor in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().contiguous().cpu().numpy().data)
        return f"sha256:{digest.hexdigest()[:16]}"

    def save(self, folder: str | Path) -> Path:
        """Writes the classifier folder, whole or not at all; an earlier one of that name is replaced."""
        target = Path(folder)
        description = {
            "format": FORMAT,
            "model": dataclasses.asdict(self.config),
            "classes": list(self.classes),
            "mean": list(self.mean),
            "std": list(self.std),
            "provenance": self.provenance,
        }
        weights = {name: tensor.detach().contiguous().cpu() for name, tensor in self.model.state_dict().items()}
        with sealed.writing(target, FORMAT) as partial:
            save_file(weights, partial / "model.safetensors")
            (partial / "config.json").write_text(
                json.dumps(description, indent=2, ensure_ascii=False), encoding="utf-8"
            )
            (partial / "README.md").write_text(self._card(), encoding="utf-8")
        return target

    def push_to_hub(self, repository: str, *, private: bool = False) -> str:
        """Sends it to ``owner/name`` as :func:`vitreous.hub.push` does; returns its address."""
        with tempfile.TemporaryDirectory() as folder:
            return hub.push(self.save(Path(folder) / "classifier"), repository, private=private)

    @classmethod
    def from_pretrained(cls, name: str | Path) -> Classifier:
        """The classifier of a folder, or of ``owner/name`` or ``owner/name@revision`` on the Hugging Face hub."""
        return cls.load(name if Path(name).exists() else f"hf:{name}")

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """Reads a classifier folder, the classifier of a run folder, or that of ``hf:owner/name``.

        Raises FileNotFoundError where there is none, ValueError where its files do not fit together or were changed
        since they were written; a folder without a manifest is taken at its word.
        """
        folder = classifier_folder(_fetched(path))
        for name in ("config.json", "model.safetensors"):
            if not (folder / name).is_file():
                lacks = f"has no {name}" if folder.exists() else "does not exist"
                raise FileNotFoundError(
                    f"{path} is no classifier and no finished run: it {lacks}.\n"
                    "Give the folder that train made (a run that was stopped ends with train --resume) or hf:owner/name"
                )
        try:
            if (folder / sealed.MANIFEST).exists():
                sealed.check(folder, FORMAT)
            values = json.loads((folder / "config.json").read_bytes())
            version = values["format"]
            if version > FORMAT:
                raise ValueError(f"format {version} is newer than {FORMAT}, the newest known here: upgrade vitreous")
            config = model_config(values["model"])
            model = _built(config, load_file(folder / "model.safetensors"))
            return cls(
                model=model.eval().to(memory_format=torch.channels_last),  # type: ignore[call-overload]
                config=config,
                classes=_listed(values, "classes", str, config.classes),
                mean=_listed(values, "mean", float, config.channels),
                std=_listed(values, "std", float, config.channels),
                provenance=dict(values.get("provenance", {})),
            )
        except sealed.Damaged as problem:
            raise ValueError(
                f"{folder} was changed after it was written ({problem}): make it anew from the run's checkpoint with "
                f"vitreous train --resume --out RUN, or, if you edited it, remove its {sealed.MANIFEST}"
            ) from None
        except KeyError as problem:
            raise ValueError(f"{folder / 'config.json'} has no {problem}: is it a classifier of vitreous?") from None
        except (AttributeError, TypeError, ValueError, ArithmeticError, RuntimeError, SafetensorError) as problem:
            raise ValueError(f"cannot load {folder}: {problem}") from None

    def _card(self) -> str:
        facts = [f"- {key}: {value}" for key, value in self.provenance.items()]
        return "\n".join(
            [
                "---",
                "library_name: vitreous",
                "pipeline_tag: image-classification",
                "---",
                "# Image classifier",
                "",
                f"For pictures of {self.size} x {self.size} pixels: {describe(self.config)}.",
                "",
                f"Classes: {', '.join(self.classes)}.",
                "",
                *facts,
                "",
                "```python",
                "from vitreous import Classifier",
                'print(Classifier.load(".").predict(["picture.jpg"]))',
                "```",
                "",
            ]
        )


def _as_file(picture: Image.Image) -> bytes:
    """A picture of Pillow as the file that :func:`decode` makes the same of: turned as EXIF says, every mode kept."""
    try:
        picture.load()
    except Exception as problem:  # a damaged file can raise anything at all
        raise ValueError(f"the picture cannot be decoded: {problem}") from None
    with contextlib.suppress(Exception):  # with damaged EXIF it stays as it is, as a file's does
        picture = ImageOps.exif_transpose(picture)
    picture = picture.convert(NO_FILE_HOLDS[picture.mode]) if picture.mode in NO_FILE_HOLDS else picture
    buffer = BytesIO()
    if picture.mode in PNG_HOLDS:
        picture.save(buffer, "PNG")
    else:
        picture.save(buffer, "TIFF", compression="raw")
    return buffer.getvalue()


def _fetched(path: str | Path) -> str | Path:
    """Where the files of ``hf:owner/name`` lie once they are here; any other path as it is."""
    name = Path(path).as_posix()
    if not name.startswith("hf:"):
        return path
    folder = fetch(name, "model", list(hub.FILES))
    if folder is None:
        raise ValueError(f"{name}: no such revision")
    return folder


def classifier_folder(path: str | Path) -> Path:
    """The classifier folder that ``path`` is or, as a run folder, holds; it need not be there."""
    folder = Path(path)
    inside = sealed.standing(folder / "classifier")
    return inside if inside.is_dir() else sealed.standing(folder)


def _built(config: ModelConfig, weights: dict[str, Tensor]) -> nn.Module:
    """The module with these weights in it.

    A stranger's config may ask for more than the memory holds: it is built only once its shapes, which cost nothing,
    are those of the weights. Raises ValueError with what differs.
    """
    if config.depth > len(weights):
        raise ValueError(f"the model has a depth of {config.depth} and the weights are {len(weights)} tensors")
    with torch.device("meta"):
        check_weights(build_model(config), weights)
    model = build_model(config)
    load_weights(model, weights)
    return model


def _listed(values: dict[str, Any], name: str, kind: type[T], count: int) -> tuple[T, ...]:
    """``count`` entries of one kind. Raises ValueError for anything else, NaN included."""
    entries = values[name]
    if not isinstance(entries, list) or len(entries) != count or any(type(entry) is not kind for entry in entries):
        raise ValueError(f"{name} is {str(entries)[:60]}: it must be a list of {count} {kind.__name__}")
    if kind is float and not all(map(math.isfinite, entries)):
        raise ValueError(f"{name} is {entries}: these must be numbers")
    return tuple(entries)


def normalise(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8, or float in 0..255, (B, C, H, W) -> float32: (pixels / 255 - mean) / std, channels last in memory."""
    scale = torch.tensor([255.0 * s for s in std], device=pixels.device).view(1, -1, 1, 1)
    centre = torch.tensor([255.0 * m for m in mean], device=pixels.device).view(1, -1, 1, 1)
    return ((pixels.float() - centre) / scale).contiguous(memory_format=torch.channels_last)
