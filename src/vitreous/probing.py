"""Batches of a linear probe: what the head reads of each picture is computed once, and kept for all later epochs.

Nothing before the head learns and no picture is changed, so a picture's vector stays what it is. It is computed when a
step first asks for it: there is no phase before training that a budget would have to know of.

Shapes: B batch, b this process's share of it, N training pictures, D length of the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vitreous import ranks
from vitreous.batches import Batches
from vitreous.classifier import normalise
from vitreous.config import RunConfig
from vitreous.data import Images
from vitreous.device import Plan, holds


class Vectors(Batches):
    """The training batches of a probe of ``model``, which is computed with under ``plan``."""

    def __init__(self, images: Images, config: RunConfig, model: nn.Module, plan: Plan) -> None:
        super().__init__(images, config)
        self.plan, self.features = plan, cast(Callable[[Tensor], Tensor], model.features)
        width = cast(nn.Linear, model.head).in_features
        device = plan.device if holds(plan.device, 4 * width * len(images)) else torch.device("cpu")
        self.vectors = torch.empty(len(images), width, device=device)
        self.known = torch.zeros(len(images), dtype=torch.bool)

    def at(self, step: int, size: int, device: torch.device, progress: float = 0.0) -> tuple[Tensor, Tensor]:
        """This process's share of a step: float vectors (b, D) and class probabilities (b, classes).

        ``model`` is in eval mode and has the weights that it will keep.
        """
        where = self.chosen(step)[ranks.share(self.batch)]
        new = where[~self.known[where]].unique()
        if len(new):
            self.vectors[new] = self._look(self.images.pixels[new.to(self.images.pixels.device)].to(device))
            self.known[new] = True
        labels = self.images.labels[where.to(self.images.labels.device)].to(device)
        return self.vectors[where].to(device), F.one_hot(labels, len(self.images.classes)).float()

    @torch.no_grad()
    def _look(self, pixels: Tensor) -> Tensor:
        with self.plan.autocast():
            return self.features(normalise(pixels, self.mean, self.std)).to(self.vectors)
