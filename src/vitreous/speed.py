"""How fast this machine trains a model and asks it, before any picture is at hand: ``vitreous bench``.

The very steps of a run are timed, on pictures of noise: with the number type, attention path and number of threads that
a run would choose here. Not here: the speed and accuracy of one planned run (forecast.py), other libraries (bench/).
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from time import monotonic, perf_counter
from typing import Any

import torch

from vitreous import pace
from vitreous.classifier import Classifier
from vitreous.data import DataSet, Images
from vitreous.models import count_flops, count_parameters
from vitreous.recipes import Wish, plan
from vitreous.state import Run

PICTURES = 2048
"""So many that the planner takes its largest batch."""
FEWEST = 3
"""Calls that are timed, however long they take."""
TOGETHER = 64
"""Pictures asked at once."""
TRAINING = 3
"""Times the operations of one forward pass that a training step takes."""


@dataclass(frozen=True)
class Speed:
    """What a model of one size and stem reaches here. Rates are medians."""

    recipe: str
    parameters: int
    precision: str
    attention: str
    threads: int
    """Of the candidates, the number that trains fastest."""
    batch: int
    training: dict[int, float]
    """Images a second of whole training steps, by the side of the pictures in pixels, in the order of a run."""
    training_flops: float
    """Floating-point operations a second that the model's products make up at the last of these sides."""
    share_of_products: float
    """The same as a share of what a matrix product alone reaches here."""
    one_picture: float
    """Seconds that the model takes for one picture."""
    together: float
    """Images a second where 64 are asked at once."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(wish: Wish, products: float, side: int = 32, classes: int = 10, seconds: float = 1.0) -> Speed:
    """Trains and asks a model of ``wish.size`` and ``wish.stem`` for pictures of ``side`` pixels, leaving nothing.

    ``products`` is what :func:`vitreous.device.matrix_rate` found here, operations a second. ``seconds`` is how long
    each of the figures is measured, at least. Raises ValueError as the planner and training do.
    """
    data = noise(side, classes)
    config, _ = plan(wish, data)
    before = torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as nowhere:
            run = Run(config, Path(nowhere), data, monotonic())
        run.learn()
        sides = list(dict.fromkeys([phase.size for phase in config.phases] or [side]))
        threads = _fastest_threads(run, sides[0])
        torch.set_num_threads(threads)
        training = {each: run.batches.batch / _seconds(lambda s=each: run.advance(0.0, s), seconds) for each in sides}  # type: ignore[misc]
        classifier = run.classifier(data.name)
        one, many = (_seconds(_asking(classifier, data, count), seconds) for count in (1, TOGETHER))
    finally:
        torch.set_num_threads(before)
    flops = TRAINING * count_flops(config.model, sides[-1]) * training[sides[-1]]
    return Speed(
        recipe=config.recipe,
        parameters=count_parameters(run.model),
        precision=run.plan.precision,
        attention=run.plan.attention,
        threads=threads,
        batch=run.batches.batch,
        training=training,
        training_flops=flops,
        share_of_products=flops / products,
        one_picture=one,
        together=TOGETHER / many,
    )


def noise(side: int, classes: int) -> DataSet:
    """Pictures that mean nothing: uint8 (2048, 3, side, side) to train on, a few of them for validation."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (PICTURES, 3, side, side), generator=generator, dtype=torch.uint8)
    names = tuple(f"class {number}" for number in range(classes))
    images = Images(pixels, torch.arange(PICTURES) % classes, names, tuple(map(str, range(PICTURES))))
    return DataSet("noise", images, images.part(torch.arange(TOGETHER)), None)


def _asking(classifier: Classifier, data: DataSet, count: int) -> Callable[[], object]:
    assert data.val is not None
    pixels = data.val.pixels[:count]
    return lambda: classifier.logits(pixels)


def _fastest_threads(run: Run, side: int) -> int:
    """The number of threads that a run would settle on: on a busy machine fewer can be faster (pace.py)."""
    most = torch.get_num_threads()
    if run.plan.device.type != "cpu" or most == 1:
        return most
    taken = {}
    for count in pace.candidates(most):
        torch.set_num_threads(count)
        taken[count] = _seconds(lambda: run.advance(0.0, side), 0.0)
    return min(taken, key=taken.__getitem__)


def _seconds(call: Callable[[], object], least: float) -> float:
    """The median seconds of a call, of as many as fit into ``least`` seconds; one before them is not counted."""
    times: list[float] = []
    _timed(call)
    while len(times) < FEWEST or sum(times) < least:
        times.append(_timed(call))
    return statistics.median(times)


def _timed(call: Callable[[], object]) -> float:
    start = perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return perf_counter() - start
