"""A teacher: a trained classifier whose probabilities a run learns from besides the labels.

Knowledge distillation (Hinton et al. 2015) on the very pictures of the step, moved, mixed and shrunk as they are, so
that teacher and student judge the same pixels (Beyer et al. 2022, "a good teacher is patient and consistent"). A CNN
teaches a small Vision Transformer what it takes long to find by itself (Touvron et al. 2021, DeiT).

Shapes: b this process's share of a batch, C channels, H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from vitreous.batches import Batches
from vitreous.classifier import Classifier
from vitreous.config import RunConfig
from vitreous.data import Images
from vitreous.device import Plan
from vitreous.models import build_model

FOLDER = "teacher"
"""Of a run folder, where the teacher is that was trained for it; a run folder itself."""


def learned(run: Path) -> float | None:
    """Validation accuracy of the teacher in the run folder ``run``; None where it has not learned to the end."""
    try:
        accuracy: float | None = Classifier.load(run / FOLDER).provenance["val_accuracy"]
    except FileNotFoundError:
        return None
    return accuracy


def untrained(first: RunConfig, images: Images) -> Classifier:
    """A teacher that has yet to learn, to measure a run with."""
    return Classifier(build_model(first.model), first.model, images.classes, *images.mean_std())


class Teacher:
    """The teacher of a run, where the model learns, and its part of the loss."""

    def __init__(self, config: RunConfig, run: Path, batches: Batches, plan: Plan) -> None:
        """Raises FileNotFoundError where no classifier is there, ValueError where it is about other pictures."""
        self.share, self.plan = config.distill.share, plan
        self.classifier = Classifier.load(run / FOLDER if config.first else config.distill.teacher)
        knows = self.classifier.channels, self.classifier.classes
        asked = config.model.channels, batches.images.classes
        if knows != asked:
            raise ValueError(
                f"the teacher {config.distill.teacher} knows pictures of {_named(*knows)}, and these are of "
                f"{_named(*asked)}: take one that was trained on the same data"
            )
        self.model = self.classifier.model.requires_grad_(False).to(plan.device)
        scale = [student / own for student, own in zip(batches.std, self.classifier.std, strict=True)]
        moved = zip(batches.mean, self.classifier.mean, self.classifier.std, strict=True)
        offset = [(student - own) / std for student, own, std in moved]
        self.scale, self.offset = (torch.tensor(v, device=plan.device).view(1, -1, 1, 1) for v in (scale, offset))

    @torch.no_grad()
    def probabilities(self, inputs: Tensor) -> Tensor:
        """(b, C, H, W), normalised as the student reads them -> the teacher's class probabilities (b, classes)."""
        with self.plan.autocast():
            return self.model(inputs * self.scale + self.offset).float().softmax(dim=1)

    def loss(self, scores: Tensor, inputs: Tensor, by_labels: Tensor) -> Tensor:
        """``share`` of the cross entropy with the teacher's probabilities, the rest of that ``by_labels``."""
        by_teacher = F.cross_entropy(scores.float(), self.probabilities(inputs))
        return self.share * by_teacher + (1 - self.share) * by_labels


def _named(channels: int, classes: tuple[str, ...], most: int = 4) -> str:
    listed = f"{', '.join(classes[:most])}{', ...' if len(classes) > most else ''}"
    return f"{channels} channels and {len(classes)} classes ({listed})"
