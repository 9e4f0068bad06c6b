"""Looking at validation pictures: a few on the way, all at the end, and how long that takes."""

from __future__ import annotations

import contextlib
import math
import statistics
import threading
import time

import torch
import torch.nn.functional as F

from vitreous import ranks
from vitreous.classifier import Classifier
from vitreous.clock import Clock
from vitreous.data import Images
from vitreous.device import Plan
from vitreous.models import count_parameters

GLANCE = 1000
"""Validation pictures that are looked at on the way, at most; all of them are at the end."""
SAVED_A_PARAMETER = 1e-7
"""Seconds: four bytes of a weight, twice as a classifier and once in a checkpoint with two moments, at 200 MB/s."""
GLANCE_SHARE = 0.02
"""Of a budget, spent on looking."""
SPARE = 0.003
"""Of a budget, at most, kept for a last evaluation that is slower than was foreseen."""


class Stopped(Exception):
    """Somebody asked to stop while validation pictures were looked at."""


@torch.no_grad()
def measure(
    classifier: Classifier, images: Images, plan: Plan | None = None, stopped: threading.Event | None = None
) -> tuple[float, float]:
    """Mean cross entropy and top-1 accuracy; under ``plan`` in the run's number type, without it in fp32.

    Several processes measure a share each, all as many pictures: the last one stands in where some are wanting. Raises
    Stopped soon after ``stopped`` is set.
    """
    classifier.model.eval()
    count, world = len(images), ranks.world()
    places = torch.arange(ranks.rank(), world * math.ceil(count / world), world)
    scores = []
    with plan.autocast() if plan else contextlib.nullcontext():
        for part in places.clamp(max=count - 1).split(250):
            if stopped and ranks.anyone(stopped.is_set()):
                raise Stopped
            scores.append(classifier.logits(images.pixels[part]))
    labels = images.labels[places[places < count]]
    own = torch.cat(scores)[: len(labels)]
    loss = F.cross_entropy(own, labels, reduction="sum").item()
    loss, right = ranks.total([loss, int((own.argmax(dim=1) == labels).sum())])
    return loss / count, right / count


def final_seconds(classifier: Classifier, validation: Images, budget: float | None = None, warm: bool = False) -> float:
    """How long the last evaluation and saving will take, from a timed part of the former and the size of the model.

    Of a ``budget`` a little is kept besides, for the machine may be slower then: what hardly counts for training.
    The faster of two timings counts, for the first call of a size is slow; their mean once all is ``warm``.
    Several processes take the first one's figure: each must look at the same pictures.
    """
    classifier.model.eval()  # or a batch normalisation would learn from pictures that are not for training
    classifier.logits(validation.pixels[:2])  # the first call of all may load libraries, for seconds
    each = []
    for count in (25, 250, 250):  # few at first, for a large model's sake; then twice, for the first of a size is slow
        start = time.perf_counter()
        pixels = validation.pixels[:count]  # decoded here where they are not in memory
        classifier.logits(pixels)
        seconds = time.perf_counter() - start
        each.append(seconds / len(pixels))
        (dear,) = ranks.told([seconds > 1])  # the same for all, who may hold the model together
        if dear:
            break
    timed = each[1:] or each
    evaluating = (statistics.mean(timed) if warm else min(timed)) * len(validation) / ranks.world()
    spare = 0.5 + 0.1 * evaluating + min(0.4 * evaluating, SPARE * (budget or 0.0))
    (told,) = ranks.told([evaluating + spare + SAVED_A_PARAMETER * count_parameters(classifier.model)])
    return told


def some(count: int, clock: Clock, looks: int) -> list[int]:
    """Places, spread evenly over ``count`` validation pictures, of those that are looked at on the way."""
    wanted = min(count, GLANCE)
    if clock.budget is not None and looks:
        affordable = GLANCE_SHARE * clock.budget / looks * count / clock.reserve
        wanted = min(wanted, max(200, int(affordable)), count)
    return [i * count // wanted for i in range(wanted)]
