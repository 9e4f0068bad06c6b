"""From a run to a file or folder for elsewhere, checked before it gets its name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreous.classifier import Classifier
from vitreous.config import nearest
from vitreous.data import Images
from vitreous.evaluate import run_images
from vitreous.export import folders, programs
from vitreous.export.parity import Answers, Parity, check, compare
from vitreous.runs import place

PICTURES = 1000
"""Validation pictures that an export is asked about, at most."""


@dataclass(frozen=True)
class Format:
    """A way to leave: where it goes, how it is written and how it is opened again."""

    name: str
    """Of the file or folder within the run's export/."""
    write: Callable[[Classifier, Path], None] | None
    """None where it takes training pictures, as int8 does."""
    open: Callable[[Path, Classifier], tuple[Answers, str]]
    """Whatever answers from what was written, and its name."""
    needs: tuple[str, ...] = ()
    """Modules of the ``export`` extra."""


def _onnxruntime(path: Path, classifier: Classifier) -> tuple[Answers, str]:
    import onnxruntime

    return programs.open_onnx(path), f"onnxruntime {onnxruntime.__version__}"


def _torch_export(path: Path, classifier: Classifier) -> tuple[Answers, str]:
    return programs.open_pt2(path), f"torch {torch.__version__}"


ONNX = ("onnx", "onnxscript", "onnxruntime")
FORMATS: dict[str, Format] = {
    "onnx": Format("model.onnx", programs.write_onnx, _onnxruntime, ONNX),
    "int8": Format("model-int8.onnx", None, _onnxruntime, ONNX),
    "hf": Format("huggingface", folders.write_huggingface, folders.open_huggingface),
    "timm": Format("timm", folders.write_timm, folders.open_timm),
    "pt2": Format("model.pt2", programs.write_pt2, _torch_export),
}


@dataclass(frozen=True)
class Exported:
    """What was written, and what it answered."""

    format: str
    path: Path
    bytes: int
    parity: Parity
    by: str
    """What opened it and was asked."""
    split: str | None
    """Which pictures it was asked about; None for made-up ones."""
    accuracy: tuple[float, float] | None
    """Of the classifier and of what was written; None on made-up pictures."""
    sides: str
    """The picture sizes that it takes, in pixels."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        before, after = self.accuracy or (None, None)
        return {
            "format": self.format,
            "path": str(self.path),
            "bytes": self.bytes,
            "parity": self.parity.to_json(),
            "checked_by": self.by,
            "split": self.split,
            "accuracy": before,
            "accuracy_exported": after,
            "sides": self.sides,
        }

    def sentences(self) -> list[str]:
        """The same for people."""
        pictures = "validation pictures" if self.split else "made-up pictures, since the run's own are not there"
        told = [f"checked on {pictures} by {self.by}: {self.parity.words}"]
        if self.accuracy and self.accuracy[0] != self.accuracy[1]:
            before, after = self.accuracy
            told.append(f"accuracy on them: {before:.2%} as it was, {after:.2%} as exported ({after - before:+.2%})")
        return [*told, f"takes pictures of {self.sides} pixels", f"wrote {self.path} ({self.bytes / 1e6:.1f} MB)"]


def export_run(
    run: Path, to: str, out: Path | None = None, *, n: int = PICTURES, data_root: Path | None = None
) -> Exported:
    """Writes a run's classifier, or that of a classifier folder, in one of FORMATS, and asks it about ``n`` pictures.

    It appears under its name only after it has answered as the classifier does: within parity.TOLERANCE, or, in int8,
    with its accuracy stated. Raises ValueError for an unknown format, what a format cannot express, a place that is
    taken, and an export that answers otherwise.
    """
    if to not in FORMATS:
        raise ValueError(f"unknown format {to!r}{nearest(to, FORMATS)}")
    form, classifier = FORMATS[to], Classifier.load(run)
    path = out or place(run) / "export" / form.name
    if path.exists():
        raise ValueError(f"{path} is already there: remove it, or choose another place with --out")
    images = _pictures(run, classifier, "val", n, data_root)
    partial = path.with_name(f"partial-{path.name}")  # whose end says what it is, which libraries go by
    _remove(partial)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        if form.write is None:
            learned_on = _pictures(run, classifier, "train", programs.CALIBRATION, data_root)
            if learned_on is None:
                raise ValueError(f"{to} takes training pictures, and {run} has none to be found: give a run folder")
            programs.write_int8(classifier, partial, learned_on.pixels[:])
        else:
            form.write(classifier, partial)
        answers, by = form.open(partial, classifier)
        pixels = images.pixels[:] if images else _made_up(classifier)
        parity = compare(classifier, answers, pixels)
        if form.write is not None:
            check(parity)
            _check_other_sizes(classifier, answers, to)
        accuracy = None
        if images:
            accuracy = _accuracy(classifier.logits, images), _accuracy(answers, images)
        partial.rename(path)
    except BaseException:
        _remove(partial)
        raise
    files = [path] if path.is_file() else path.iterdir()
    sides = programs.facts(classifier)["sides"] if to in ("onnx", "int8", "pt2") else str(classifier.size)
    size = sum(file.stat().st_size for file in files)
    return Exported(to, path, size, parity, by, "val" if images else None, accuracy, sides)


def _pictures(run: Path, classifier: Classifier, split: str, n: int, data_root: Path | None) -> Images | None:
    """Pictures of the run's data, spread over the whole split; None where ``run`` is a classifier folder alone."""
    if not (run / "classifier").is_dir():
        return None
    images = run_images(run, split, data_root)[1]
    count = min(n, len(images))
    return images.select([i * len(images) // count for i in range(count)])


def _made_up(classifier: Classifier) -> Tensor:
    """Noise, smooth enough that a model tells one picture from another."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(64, classifier.channels, 4, 4, generator=generator)
    return (F.interpolate(coarse, size=classifier.size, mode="bilinear") * 255).to(torch.uint8)


def _check_other_sizes(classifier: Classifier, answers: Answers, to: str) -> None:
    """One oblong batch, of programs that promise more sizes than one."""
    taken = programs.sizes(classifier) if to in ("onnx", "pt2") else None
    if taken is not None:
        least, most, step = taken
        size = max(least, classifier.size - step), min(most, classifier.size + 2 * step)
        pixels = F.interpolate(_made_up(classifier)[:3].float(), size=size).to(torch.uint8)
        check(compare(classifier, answers, pixels, batches=(3,)))


def _accuracy(answers: Answers, images: Images) -> float:
    right = [answers(pixels).argmax(dim=1) == labels for pixels, labels in _batches(images)]
    return torch.cat(right).float().mean().item()


def _batches(images: Images) -> zip[tuple[Tensor, Tensor]]:
    return zip(images.pixels.split(64), images.labels.split(64), strict=True)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
