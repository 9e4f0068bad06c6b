"""What reads files of strangers, as functions of bytes: each may refuse them by ValueError, and may do nothing else.

``test_fuzz.py`` feeds them from hypothesis for some seconds in every run of the tests, ``run.py`` from atheris, which
follows the branches taken, for as long as one likes.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

from vitreous import checkpoint, sealed
from vitreous.classifier import Classifier
from vitreous.config import RunConfig, from_json, to_json
from vitreous.data import decode
from vitreous.models import build_model
from vitreous.vit import ViTConfig

decoding = importlib.import_module("vitreous.data.decode")  # the package gives its function the same name
SMALL = ViTConfig(image_size=8, patch_size=4, width=8, depth=1, heads=1, classes=2)


def picture(data: bytes) -> None:
    """A picture file: pixels, or ValueError; and the same whether a JPEG takes the short way or Pillow's."""
    pixels = _pixels(data)
    with mock.patch.object(decoding, "_plain_jpeg", return_value=None):
        by_pillow = _pixels(data)
    assert (pixels is None) == (by_pillow is None)
    if pixels is not None:
        assert pixels.ndim == 3
        assert pixels.shape[2] == 3
        assert np.array_equal(pixels, by_pillow)


def _pixels(data: bytes) -> np.ndarray | None:
    with contextlib.suppress(ValueError):
        return decode(data)
    return None


def run_config(data: bytes) -> None:
    """``config.json`` of a run: a config that survives being written and read, or ValueError."""
    with contextlib.suppress(ValueError):
        config = from_json(data.decode())
        assert from_json(to_json(config)) == config


def checkpoint_state(data: bytes) -> None:
    _checkpoint(checkpoint.STATE, data)


def checkpoint_tensors(data: bytes) -> None:
    _checkpoint(checkpoint.TENSORS, data)


def manifest(data: bytes) -> None:
    """Of a checkpoint; whoever forges one can forge its seal, so with and without a right one."""
    for text in (data, resealed(data)):
        _checkpoint(sealed.MANIFEST, text, seal=False)


def classifier_config(data: bytes) -> None:
    _classifier("config.json", data)


def classifier_weights(data: bytes) -> None:
    _classifier("model.safetensors", data)


TARGETS: dict[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        picture,
        run_config,
        checkpoint_state,
        checkpoint_tensors,
        manifest,
        classifier_config,
        classifier_weights,
    )
}


@functools.cache
def samples(target: str) -> tuple[bytes, ...]:
    """Good inputs of a target, from which bad ones are made."""
    if target == "picture":
        return tuple(_encoded(kind) for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM"))
    if target == "run_config":
        return (to_json(RunConfig(steps=3)).encode(), to_json(RunConfig(budget=9.0, sizes=(32, 40))).encode())
    kept, classifier = _kept()
    names = {
        "checkpoint_state": kept / checkpoint.STATE,
        "checkpoint_tensors": kept / checkpoint.TENSORS,
        "manifest": kept / sealed.MANIFEST,
        "classifier_config": classifier / "config.json",
        "classifier_weights": classifier / "model.safetensors",
    }
    return (names[target].read_bytes(),)


def resealed(data: bytes) -> bytes:
    """A manifest with the seal that it should have, where it is one at all."""
    try:
        values = json.loads(data)
        values.pop("seal", None)
        return json.dumps({**values, "seal": sealed._digest(values)}).encode()
    except (AttributeError, TypeError, ValueError, RecursionError):
        return data


def _encoded(kind: str) -> bytes:
    image, file = Image.radial_gradient("L").resize((9, 7)).convert("RGB"), io.BytesIO()
    image.save(file, kind)
    return file.getvalue()


@functools.cache
def _kept() -> tuple[Path, Path]:
    """A good checkpoint and a good classifier, on the disk until this process ends."""
    run = Path(tempfile.mkdtemp(prefix="vitreous-fuzz-"))
    atexit.register(shutil.rmtree, run)
    torch.manual_seed(0)
    model = build_model(SMALL).eval()
    folder = checkpoint.save(run, 1, model.state_dict(), {"optimizers": []})
    Classifier(model, SMALL, ("a", "b"), (0.5,) * 3, (0.2,) * 3).save(run / "classifier")
    return folder, run / "classifier"


def _forged(folder: Path, name: str, data: bytes, seal: bool = True) -> Path:
    """A copy of ``folder`` in which one file holds ``data``, with hashes that are right if ``seal``."""
    forged = folder.with_name(folder.name + "-forged")
    shutil.rmtree(forged, ignore_errors=True)
    shutil.copytree(folder, forged)
    (forged / name).write_bytes(data)
    if seal:
        sealed._seal(forged, checkpoint.FORMAT)
    return forged


def _checkpoint(name: str, data: bytes, seal: bool = True) -> None:
    """One checkpoint: tensors and an object, or ValueError (sealed.Damaged)."""
    with contextlib.suppress(ValueError, FileNotFoundError):
        tensors, state = checkpoint.read_folder(_forged(_kept()[0], name, data, seal))
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())
        assert isinstance(state, dict)


def _classifier(name: str, data: bytes) -> None:
    """A classifier that predicts, or ValueError."""
    with contextlib.suppress(ValueError):
        classifier = Classifier.load(_forged(_kept()[1], name, data))
        side = min(classifier.size, 64)
        classifier.predict(torch.zeros(1, classifier.channels, side, side, dtype=torch.uint8))
