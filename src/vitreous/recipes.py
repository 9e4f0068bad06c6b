"""Which config suits the pictures, the budget and the machine. Every choice comes back as a sentence.

What the numbers below rest on is in docs/results.md (what won) and docs/log.md (what lost).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import nn

from vitreous.augment import AugmentConfig
from vitreous.cnn import CNN_PRESETS, CNNConfig
from vitreous.config import DataConfig, DistillConfig, Phase, RunConfig, nearest
from vitreous.data import DataSet
from vitreous.device import pick_device, training_rate
from vitreous.models import FAMILIES, ModelConfig, build_model, count_parameters, describe
from vitreous.optim import OptimConfig
from vitreous.vit import PRESETS, ViTConfig


@dataclass(frozen=True)
class Wish:
    """What the user asked for; whatever is None is chosen."""

    source: str
    budget: float | None = None
    epochs: float | None = None
    steps: int | None = None
    size: str | None = None
    stem: str | None = None
    seed: int = 0
    device: str = "auto"
    val_fraction: float = 0.1
    model: str | None = None
    """``vit``, ``resnet`` or ``fastcnn``."""
    teacher: str | None = None
    """What teaches the model besides the labels: ``fastcnn`` or ``resnet``, trained first; a run or a classifier; or
    ``none``."""
    any_size: bool = False
    """Train on several picture sizes, so that others than the training size work at test time."""
    weights: str | None = None
    """What to start from, as :func:`vitreous.pretrained.read` takes it (finetuning.py)."""
    freeze: bool = False
    """Let the head alone learn."""
    probe: bool = False
    """Likewise, on features that are computed once a picture."""


LARGEST_BATCH = 128
Growth = tuple[tuple[float, float], ...]
GROWING: dict[str, Growth] = {
    "patch": ((0.5, 0.3), (0.75, 0.4), (1.0, 0.3)),
    "conv": ((0.75, 0.4), (1.0, 0.6)),
}
"""(size in shares of the training size, share of the run) by stem: progressive resizing. That of the conv stem is for
sizes from ``mini`` on, and was measured there alone."""
GROWING_LIGHT: Growth = ((0.75, 0.6), (1.0, 0.4))
"""Likewise, for the conv stem at ``nano`` and for CNNs, where the smallest pictures are hardly cheaper."""
SHORT_RUN, LONG_RUN = 1.5, 10
"""Epochs from which pictures are shifted, and shifted further: a picture that is seen once is new without it."""
LONG_RUN_DECAY = 0.3
"""Weight decay from ``LONG_RUN`` epochs on, where what is learned by heart has to be forgotten."""
SEEN_OFTEN, SEEN_OFTEN_MINI = 50, 15
"""Times that a run must see each picture before a larger model is worth its time; the conv stem at ``mini``."""
MIXED_SHARE = 0.5
"""Of the batches of a long run are mixed by CutMix, from ``mini`` on or where pictures are few: they are learned by
heart sooner. Measured at ``mini`` and ``nano`` alone."""
MIXED_SHARE_UNTIL = 0.85
"""Share of the run after which no batch is mixed, from ``mini`` on."""
MIXED_MUON_LR = 0.006
"""Peak rate of Muon in these runs, whose batches are twice as large."""
FILTER_LR, FASTER_FILTER_LR = 0.085, 0.12
"""Peak rates of filters, whose norm is held; the second in batches that are twice as large, and below ``SHORT_RUN``
epochs."""
FEW, OFTEN = 20_000, 20
"""Pictures below which, and epochs from which, a Vision Transformer learns them by heart unless they are changed more.
Measured at 12,500 pictures and 24 to 37 epochs, where that is worth one to two points, and at 45,000 and 22, where it
makes no difference; at 15,000 and 13 it came too early, and digits were no better for it."""
MIXED_UNTIL = 0.92
"""Share of such a run after which no batch is mixed."""
LIGHT = {"nano": (128, 4, 2), "mini": (192, 6, 3)}
"""Width, heads and residual convolutions on the token grid of these sizes with the conv stem, beside two blocks of MLP
ratio 2: where time is short, convolutions repay it before blocks do."""
PARAMETERS_A_PICTURE = 200
"""Training pictures limit the model too: a larger one learns few pictures by heart. Both limits are judgement, from
published runs (Hassani et al. 2021: 0.3 M parameters, 200 epochs, 89 %; 3.8 M, 300 epochs, 96.5 %) and not measured,
but for the one of ``mini``."""


def plan(wish: Wish, data: DataSet) -> tuple[RunConfig, list[str]]:
    """The config of a run and the reasons for it. Raises ValueError for a size name that does not exist."""
    if wish.size is not None and wish.size not in PRESETS:
        raise ValueError(f"unknown size {wish.size!r}{nearest(wish.size, PRESETS)}")
    if data.train is None:
        raise ValueError(f"{data.name} has no training pictures")
    count, channels, side = len(data.train), data.train.pixels.shape[1], data.train.pixels.shape[2]
    classes = len(data.train.classes)
    notes = []

    family = wish.model or "vit"
    batch = max(2, min(LARGEST_BATCH, 2 ** int(math.log2(max(2, count / 16)))))

    def fitted(size: str) -> tuple[ModelConfig, tuple[Phase, ...]]:
        """The model of a size, and how its pictures grow."""
        model = model_for(family, size, wish.stem, side, channels, classes)
        if wish.any_size and isinstance(model, ViTConfig) and model.stem == "conv":
            model = replace(model, stem_norm="picture", stem_whiten=False)
        return model, () if wish.any_size or side < 32 else growing(size, model)

    size = wish.size or "nano"
    model, phases = fitted(size)
    epochs = expected_epochs(wish, model, count, batch, phases)
    if wish.size is None:
        for larger in list(PRESETS)[1:]:
            candidate, its_phases = fitted(larger)
            needed = seen_often(larger, candidate)
            if epochs < needed or _parameters(candidate) > PARAMETERS_A_PICTURE * count:
                break  # without a measurement: no larger one would see more
            its_epochs = expected_epochs(wish, candidate, count, batch, its_phases)
            if its_epochs < needed:
                break
            size, model, phases, epochs = larger, candidate, its_phases, its_epochs
    patch = model.patch_size
    stem = model.stem if isinstance(model, ViTConfig) else None
    notes.append(f"{size}: {describe(model)}, {_parameters(model):,} parameters")
    if wish.size is None:
        notes.append(
            f"{size} is the largest size that sees each of {count:,} pictures {seen_often(size, model)} times"
            if size != "nano"
            else f"no larger size than nano would see each of {count:,} pictures {seen_often('mini', model)} times, "
            f"or there are too few for it"
        )
    if isinstance(model, ViTConfig):
        rows, columns = model.grid
        notes.append(f"patches of {patch} pixels make {rows} x {columns} tokens of a {side}-pixel picture")

    if model.stem_whiten:
        notes.append("the filters that read the pixels are fixed: they whiten the training pictures")
    flips = not looks_like_characters(data.name)
    if not flips:
        notes.append("no mirrored pictures: left and right carry meaning in characters")
    sizes: tuple[int, ...] = ()
    if wish.any_size:
        sizes = sizes_around(side, patch)
        notes.append(f"several picture sizes, about as long on each: {', '.join(map(str, sizes))} pixels")
        if isinstance(model, ViTConfig) and model.stem == "conv":
            notes.append("each picture is normalised alone, since averages over a batch would suit none of the sizes")
    elif phases:
        steps = ", ".join(f"{100 * phase.share:.0f} % on {phase.size}" for phase in phases)
        notes.append(f"pictures grow over the run, since small ones cost less: {steps} pixels")
    distill, told = taught_by(wish, size, model)
    notes += told
    if wish.budget and distill.widths:
        epochs *= 1 - distill.time
    shift = 0.125 if epochs >= LONG_RUN else 0.0625 if epochs >= SHORT_RUN else 0.0
    moved = f"shifted by up to {shift:.1%} of their side" if shift else "not shifted"
    optim = OptimConfig(weight_decay=LONG_RUN_DECAY) if epochs >= LONG_RUN else OptimConfig()
    notes.append(
        f"about {epochs:.1f} epochs are expected, so pictures are {moved}, the weight decay {optim.weight_decay:g}"
    )
    augment = AugmentConfig(flip=flips, shift=shift)
    if epochs >= LONG_RUN and family == "vit":
        few = count <= FEW and epochs >= OFTEN and flips
        if few:
            augment = replace(augment, randaugment=1)
            notes.append(f"{count:,} pictures are few, so each is changed by one operation of RandAugment too")
        if few or size != "nano":
            augment = replace(augment, cutmix=MIXED_SHARE, mix_until=MIXED_UNTIL if few else MIXED_SHARE_UNTIL)
            mixed = f"{MIXED_SHARE:.0%} of the batches are mixed by CutMix, up to {augment.mix_until:.0%} of the run"
            notes.append(mixed)
        if size != "nano" and batch == LARGEST_BATCH and wish.steps is None:
            batch, optim = 2 * batch, replace(optim, muon_lr=MIXED_MUON_LR)
    if turns(model):
        faster = epochs < SHORT_RUN or batch > LARGEST_BATCH
        optim = replace(optim, filter_lr=FASTER_FILTER_LR if faster else FILTER_LR)
        notes.append(f"filters keep their norm, and a step turns them by up to {optim.filter_lr:.1%} of it")
    config = RunConfig(
        data=DataConfig(source=wish.source, val_fraction=wish.val_fraction),
        model=model,
        augment=augment,
        optim=optim,
        distill=distill,
        budget=wish.budget,
        epochs=wish.epochs,
        steps=wish.steps,
        seed=wish.seed,
        batch=batch,
        phases=phases,
        sizes=sizes,
        device=wish.device,
        recipe="-".join([size, stem or family] + ["any-size"] * wish.any_size + ["taught"] * bool(distill.teacher)),
    )
    return config, notes


def model_for(family: str, size: str, stem: str | None, side: int, channels: int, classes: int) -> ModelConfig:
    """The model of a family and size name for pictures of ``side`` pixels.

    Raises ValueError for a family that does not exist, and for a stem where the family has none.
    """
    if family not in FAMILIES:
        raise ValueError(f"unknown model {family!r}{nearest(family, FAMILIES)}")
    if family != "vit":
        if stem is not None:
            raise ValueError(f"a {family} has no stem to choose: leave --stem out, or use --model vit")
        widths, depth = CNN_PRESETS[family][size]
        while 2 ** (len(widths) - (family == "resnet")) > side:
            widths = widths[1:]
        return CNNConfig(
            family, side, channels, classes, widths, depth, family == "fastcnn" and whitens(size, channels)
        )
    stem, dial = stem or "conv", PRESETS[size]
    width, heads, depth, mlp_ratio, stem_depth = dial["width"], dial["heads"], dial["depth"], 4.0, ViTConfig.stem_depth
    if stem == "conv" and size in LIGHT:
        (width, heads, stem_depth), depth, mlp_ratio = LIGHT[size], 2, 2.0
    return ViTConfig(
        image_size=side,
        patch_size=patch_for(side),
        channels=channels,
        classes=classes,
        width=width,
        depth=depth,
        heads=heads,
        mlp_ratio=mlp_ratio,
        stem=stem,
        stem_depth=stem_depth,
        stem_early=1 if stem == "conv" else 0,
        stem_whiten=stem == "conv" and whitens(size, channels),
    )


def whitens(size: str, channels: int) -> bool:
    """Whether fixed filters read the pixels: measured at nano, and at mini with the rest of its shape.

    On digits, which are gray, they lost.
    """
    return size in LIGHT and channels == 3


NO_TEACHER = "none"


def taught_by(wish: Wish, size: str, model: ModelConfig) -> tuple[DistillConfig, list[str]]:
    """Whoever teaches a model of that ``size``, and what there is to say of it."""
    if wish.teacher in (None, NO_TEACHER):
        return DistillConfig(), []
    if wish.teacher not in CNN_PRESETS:
        return DistillConfig(wish.teacher), [f"{wish.teacher} teaches it besides the labels"]
    cnn = model_for(wish.teacher, size, None, model.image_size, model.channels, model.classes)
    assert isinstance(cnn, CNNConfig)
    distill = DistillConfig(wish.teacher, cnn.widths, cnn.depth)
    first = f" for {distill.time:.0%} of the budget" if wish.budget else ""
    return distill, [f"a CNN is trained first{first} and then teaches it besides the labels: {describe(cnn)}"]


def seen_often(size: str, model: ModelConfig) -> int:
    """How often a run must see each picture before ``model``, of that ``size``, is worth its time."""
    conv = isinstance(model, ViTConfig) and model.stem == "conv"
    return SEEN_OFTEN_MINI if size == "mini" and conv else SEEN_OFTEN


def turns(model: ModelConfig) -> bool:
    """Whether a model has filters that are worth turning: a stem that normalises each picture alone loses by it."""
    return not isinstance(model, ViTConfig) or (model.stem == "conv" and model.stem_norm == "batch")


def growing(size: str, model: ModelConfig) -> tuple[Phase, ...]:
    """Progressive resizing: small pictures first, the model's own size last; none where that is not whole patches."""
    if model.image_size % model.patch_size:
        return ()
    growth = GROWING_LIGHT
    if isinstance(model, ViTConfig) and (size, model.stem) != ("nano", "conv"):
        growth = GROWING[model.stem]
    patch = model.patch_size
    return tuple(Phase(round(model.image_size * factor / patch) * patch, share) for factor, share in growth)


def expected_epochs(wish: Wish, model: ModelConfig, count: int, batch: int, phases: tuple[Phase, ...]) -> float:
    """How often the run will see each picture; for a budget an estimate, from a few steps of the model here.

    Steps are timed at every picture size of the run.
    """
    if wish.epochs is not None:
        return wish.epochs
    if wish.steps is not None:
        return wish.steps * batch / count
    assert wish.budget is not None
    side = model.image_size
    built = _built(model).to(pick_device(wish.device))
    parts = [(phase.size, phase.share) for phase in phases] or [(side, 1.0)]
    rate = sum(share * training_rate(built, size, model.channels) for size, share in parts)
    return wish.budget * rate / sum(share for _, share in parts) / count


def sizes_around(side: int, patch: int) -> tuple[int, ...]:
    """Sides from three quarters to twice the training size, in whole patches."""
    return tuple(sorted({max(patch, round(side * factor / patch) * patch) for factor in (0.75, 1, 1.25, 1.5, 2)}))


def _parameters(model: ModelConfig) -> int:
    return count_parameters(_built(model))


def _built(model: ModelConfig) -> nn.Module:
    """A model to measure; torch's random state stays as it is."""
    with torch.random.fork_rng(devices=[]):
        return build_model(model)


def patch_for(side: int) -> int:
    """A patch side, a power of two, that cuts a picture into about 8 x 8 patches."""
    patch = 2 ** max(0, round(math.log2(side / 8)))
    while side % patch:
        patch //= 2
    return patch


def looks_like_characters(name: str) -> bool:
    """Whether a data set holds written characters, which a mirror would turn into others."""
    return any(word in name.lower().replace("fashion-mnist", "").replace("fashion mnist", "") for word in CHARACTERS)


CHARACTERS = ("digit", "mnist", "svhn", "letter", "character", "omniglot")
