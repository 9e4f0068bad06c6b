"""Which config suits weights that learned before, as recipes.py says it for those that did not.

Not here: reading weights (pretrained.py), and the loop, which is that of every run (train.py).
"""

from __future__ import annotations

from vitreous.augment import AugmentConfig
from vitreous.config import DataConfig, RunConfig
from vitreous.data import DataSet
from vitreous.optim import OptimConfig
from vitreous.pretrained import Pretrained
from vitreous.recipes import Wish, looks_like_characters, taught_by

LARGEST_BATCH = 64
RATE, LAYER_DECAY = 1e-3, 0.75
"""Peak rate of the head, and what each layer before has of the rate of the one after it. A small model of four blocks
liked twice that rate even better (docs/log.md); deeper ones are published with less."""
HEAD_RATE = 0.02
"""Peak rate where the head alone learns."""


def fit(start: Pretrained, data: DataSet) -> Pretrained:
    """The weights as these pictures and classes need them. Raises ValueError where that cannot be."""
    if data.train is None:
        raise ValueError(f"{data.name} has no training pictures")
    _, channels, height, width = data.train.pixels.shape
    if height != width:
        raise ValueError(f"{data.name} has pictures of {height} x {width} pixels: --set model.image_size={height}")
    return start.adapted(height, channels, data.train.classes)


def plan_from(wish: Wish, data: DataSet, start: Pretrained) -> tuple[RunConfig, list[str]]:
    """The config of a run that goes on from weights fitted to ``data``, and the reasons for it.

    Raises ValueError for wishes about the model, which the weights have decided.
    """
    assert data.train is not None
    asked = {"--size": wish.size, "--stem": wish.stem, "--model": wish.model, "--any-size": wish.any_size or None}
    for option, value in asked.items():
        if value is not None:
            raise ValueError(f"{option} cannot be given with --from: the weights have decided on the model")
    notes = list(start.notes)
    if wish.freeze or wish.probe:
        notes.append("the head alone learns; everything before it stays as it is")
        optim = OptimConfig(name="adamw", lr=HEAD_RATE, freeze=True)
    else:
        notes.append(f"each layer learns at {LAYER_DECAY} of the rate of the one after it, the head at {RATE:g}")
        optim = OptimConfig(name="adamw", lr=RATE, layer_decay=LAYER_DECAY, warmup=0.1)
    flips, shift = not wish.probe and not looks_like_characters(data.name), 0.0625
    if wish.probe:
        notes.append("pictures are not changed, so what the head reads of each is computed once")
        shift = 0.0
    elif not flips:
        notes.append("no mirrored pictures: left and right carry meaning in characters")
    distill, told = taught_by(wish, "mini", start.config)
    notes += told
    config = RunConfig(
        data=DataConfig(wish.source, wish.val_fraction, mean=start.mean, std=start.std),
        model=start.config,
        augment=AugmentConfig(flip=flips, shift=shift),
        optim=optim,
        distill=distill,
        budget=wish.budget,
        epochs=wish.epochs,
        steps=wish.steps,
        weights=start.source,
        probe=wish.probe,
        seed=wish.seed,
        batch=max(2, min(LARGEST_BATCH, len(data.train) // 16)),
        device=wish.device,
        recipe="probe" if wish.probe else "finetune-frozen" if wish.freeze else "finetune",
    )
    return config, notes
