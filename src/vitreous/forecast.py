"""What a run will come to, before it is started: pictures seen, operations, and the accuracy that such runs reached.

The speed is measured on real steps of the very config, a few at each picture size. The accuracy is read off runs that
were measured (bench/time_to_accuracy.jsonl): it depends on the data, the stem and how many pictures are seen, and
hardly on the machine. For other data, other picture sizes and recipes changed by hand nobody knows it, and so it is not
told.
"""

from __future__ import annotations

import itertools
import math
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vitreous.config import RunConfig
from vitreous.data import DataSet
from vitreous.distilling import FOLDER, untrained
from vitreous.looks import final_seconds
from vitreous.models import count_flops
from vitreous.state import Run

STEPS = 4
"""Steps timed at each picture size, of which the first warms up."""

Curve = tuple[tuple[float, float], ...]

MEASURED: dict[tuple[str, str], Curve] = {
    ("CIFAR-10", "nano-conv"): (
        (39_979, 0.774),
        (67_371, 0.803),
        (247_253, 0.858),
        (738_773, 0.883),
    ),
    ("CIFAR-10", "mini-conv"): ((1_357_824, 0.9),),
    ("CIFAR-10", "nano-patch"): ((54_059, 0.58), (241_493, 0.735), (968_704, 0.803), (2_437_376, 0.82)),
}
"""(data set, recipe) -> (pictures seen, mean test accuracy): the means over the seeds of bench/time_to_accuracy.jsonl,
for CIFAR-10 of its JPEG copy."""
SIDE = 32
"""Of the pictures of those runs, in pixels."""


@dataclass(frozen=True)
class Forecast:
    """What is expected of a run."""

    seconds: float
    """Of the whole command, for runs without a budget those of training and the last evaluation."""
    images: int
    epochs: float
    images_per_second: float
    flops: float
    """Floating-point operations of all training steps, forwards and backwards."""
    accuracy: float | None
    """On pictures never seen; None where no such run was measured."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def sentences(self) -> list[str]:
        """The forecast in words."""
        told = [
            f"{self.images:,} pictures in {self.seconds:,.0f} s, {self.epochs:.1f} times each, "
            f"at {self.images_per_second:,.0f} a second",
            f"{self.flops / 1e12:,.1f} TFLOP of training",
        ]
        if self.accuracy is None:
            told.append("accuracy: nobody knows, for no run like this on such pictures was measured here")
        else:
            told.append(f"accuracy about {self.accuracy:.0%}, as measured runs that saw as many pictures had it")
        return told


def forecast(config: RunConfig, data: DataSet, started: float) -> Forecast:
    """Measures a few steps of ``config`` on ``data`` and tells what the whole run would be. Leaves nothing behind.

    ``started`` is the ``time.monotonic()`` from which a budget would count. Raises ValueError as :func:`train` does.
    """
    with tempfile.TemporaryDirectory() as nowhere:
        if config.first and data.train:
            untrained(config.first, data.train).save(Path(nowhere) / FOLDER)
        run = Run(config, Path(nowhere), data, started)
    reserve = final_seconds(run.classifier(data.name), run.validation, config.budget)
    start = run.clock.begun = time.monotonic() - started + (config.first.budget or 0 if config.first else 0)
    run.clock.reserve = reserve
    run.clock.check()
    total = sum(phase.share for phase in config.phases)
    parts = [(phase.size, phase.share / total) for phase in config.phases] or [(config.model.image_size, 1.0)]
    if config.sizes:  # about as long on each
        parts = [(size, 1 / len(config.sizes)) for size in config.sizes]
    run.learn()
    speeds = {size: _speed(run, size) for size, _ in parts}
    training = config.budget - start - reserve if config.budget is not None else None
    total_images = (run.clock.steps or 0) * run.batches.batch
    if config.probe:  # each picture goes through the model once, its features through the head at every step
        run.step, count = 0, len(run.images)
        (first,), again = speeds.values(), _speed(run, config.model.image_size)
        if training is None:
            training = min(total_images, count) / first + max(0, total_images - count) / again
        images = round(min(training, count / first) * first + max(0.0, training - count / first) * again)
        flops = 1.0 * count_flops(config.model, config.model.image_size) * min(images, count)
    else:
        if training is None:
            seen = {size: total_images * share for size, share in parts}
            training = sum(seen[size] / speeds[size] for size in seen)
        else:
            seen = {size: training * share * speeds[size] for size, share in parts}
        images = round(sum(seen.values()))
        flops = sum(3.0 * count_flops(config.model, size) * count for size, count in seen.items())
    return Forecast(
        seconds=config.budget or training + reserve,
        images=images,
        epochs=images / len(run.images),
        images_per_second=images / training,
        flops=flops,
        accuracy=expected_accuracy(data.name, config.recipe, images) if config.model.image_size == SIDE else None,
    )


def _speed(run: Run, size: int) -> float:
    """Pictures a second of the run's next few steps, with pictures of ``size`` pixels."""
    times = []
    for _ in range(STEPS):
        begun = time.perf_counter()
        run.advance(0.0, size)
        times.append(time.perf_counter() - begun)
    return run.batches.batch / statistics.median(times[1:])


def expected_accuracy(name: str, recipe: str, images: int) -> float | None:
    """Test accuracy of measured runs of this recipe that saw ``images`` pictures; None where there are none.

    Between two measured points errors are interpolated in the logarithm of both; beyond the last the last is told.
    """
    curve = MEASURED.get((name.removesuffix(" (JPEG copy)"), recipe))
    if curve is None or images < curve[0][0] / 2:
        return None
    for (fewer, low), (more, high) in itertools.pairwise(curve):
        if images <= more:
            place = max(0.0, math.log(images / fewer) / math.log(more / fewer))
            return 1 - (1 - low) ** (1 - place) * (1 - high) ** place
    return curve[-1][1]
