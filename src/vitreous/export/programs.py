"""The whole way from pixels to scores as one file: ONNX, ONNX in int8, a torch.export program.

Preprocessing is inside: a program takes uint8 pixels as they are in a decoded picture of the classifier's size. Shapes
in all of them: (batch, channels, height, width) -> (batch, classes); any batch, and any height and width where the
positions allow it.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

import vitreous
from vitreous.classifier import Classifier
from vitreous.export.parity import Answers
from vitreous.vit import LONG, ViTConfig, use_attention

CALIBRATION = 256
"""Training pictures from which int8 learns how large numbers get, at most."""


class Scores(nn.Module):
    """A classifier's model behind its preprocessing."""

    centre: Tensor
    scale: Tensor

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        self.model = classifier.model
        for name, values in (("centre", classifier.mean), ("scale", classifier.std)):
            self.register_buffer(name, 255.0 * torch.tensor(values).view(1, -1, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """uint8 (B, C, H, W) -> (B, classes)."""
        return self.model((pixels.float() - self.centre) / self.scale)


def sizes(classifier: Classifier) -> tuple[int, int, int] | None:
    """Which sides a program takes: from, to and in steps of so many pixels; None for the classifier's size alone.

    A learned table of positions is as large as it is, and a program does not resample it. The classifier's own size is
    among the sides: a CNN's need not be a multiple of its patch.
    """
    config = classifier.config
    patch, most = config.patch_size, 1024
    if isinstance(config, ViTConfig):
        if config.positions == "learned":
            return None
        most = patch * math.isqrt(LONG - config.special)  # beyond LONG tokens attention is computed in parts
    step = math.gcd(config.image_size, patch)
    least, most = 2 * patch, most // step * step  # torch.export holds a single row of patches for another program
    if not least <= config.image_size <= most or step == 1 < patch:  # nor does it prove that odd sides can be pooled
        return None
    return least, most, step


def program(classifier: Classifier) -> ExportedProgram:
    """The classifier as torch.export sees it."""
    use_attention(classifier.model, "explicit")
    batch, side, shapes = 2, classifier.size, {0: Dim("batch", min=1)}
    height = width = side
    if taken := sizes(classifier):
        least, most, step = taken
        rows, columns = (Dim(name, min=least // step, max=most // step) for name in ("rows", "columns"))
        shapes |= {2: step * rows, 3: step * columns}
        patch = classifier.config.patch_size
        height, width = 3 * patch + step, 5 * patch + step  # an example that is no special case
    example = torch.zeros(batch, classifier.channels, height, width, dtype=torch.uint8)
    with torch.no_grad():
        return torch.export.export(Scores(classifier).eval(), (example,), dynamic_shapes=(shapes,))


def facts(classifier: Classifier) -> dict[str, str]:
    """What a program's user must know, as strings."""
    taken = sizes(classifier)
    sides = f"{classifier.size}" if taken is None else f"{taken[0]} to {taken[1]} in steps of {taken[2]}"
    return {
        "classes": json.dumps(classifier.classes, ensure_ascii=False),
        "input": f"pixels, uint8, (batch, {classifier.channels}, height, width)",
        "output": "logits, float32, (batch, classes): scores before softmax",
        "size": str(classifier.size),
        "sides": sides,
        "mean": json.dumps(classifier.mean),
        "std": json.dumps(classifier.std),
        "preprocessing": "mean and deviation are inside; bring the short side to size and cut the centre out",
        "vitreous": vitreous.__version__,
    }


def write_pt2(classifier: Classifier, path: Path) -> None:
    """A program for ``torch.export.load``, with :func:`facts` as its extra file vitreous.json."""
    with _quiet():
        torch.export.save(program(classifier), path, extra_files={"vitreous.json": json.dumps(facts(classifier))})


def open_pt2(path: Path) -> Answers:
    """The program as its user would run it."""
    module = torch.export.load(path).module()

    def answers(pixels: Tensor) -> Tensor:
        with torch.no_grad():
            return module(pixels)

    return answers


def write_onnx(classifier: Classifier, path: Path) -> None:
    """An ONNX file with :func:`facts` as its metadata."""
    with _quiet():
        written = torch.onnx.export(
            program(classifier), dynamo=True, verbose=False, input_names=["pixels"], output_names=["logits"]
        )
    assert written is not None
    written.model.metadata_props.update(facts(classifier))
    written.save(path)


def open_onnx(path: Path) -> Answers:
    """The file as onnxruntime answers it, on as many threads as torch has."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels.numpy()})[0])


def write_int8(classifier: Classifier, path: Path, calibration: Tensor) -> None:
    """An ONNX file whose matrix products and convolutions with weights are computed in 8 bits.

    Static quantisation, an own scale for each output of a layer; how large its inputs get is learned on
    ``calibration``, uint8 pictures (N, C, H, W). Products of two activations, as in attention, stay as they are.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):
        def __init__(self) -> None:
            self.parts: Iterator[Tensor] = iter(calibration.split(32))

        def get_next(self) -> dict[str, Any] | None:
            part = next(self.parts, None)
            return None if part is None else {"pixels": part.numpy()}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        whole, prepared = Path(folder) / "whole.onnx", Path(folder) / "prepared.onnx"
        write_onnx(classifier, whole)
        quant_pre_process(whole, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            path,
            Pictures(),
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
    import onnx

    model = onnx.load(path)  # quantising drops what the file said of itself
    onnx.helper.set_model_props(model, facts(classifier))
    onnx.save(model, path)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps back what the libraries say to their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
