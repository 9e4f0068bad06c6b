"""One frozen description of a run, composed of the configs that sit beside their code; JSON both ways.

The dataclass field is the only place where a default lives. ``--set optim.lr=0.001`` reaches every field by its path.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, TypeVar

from vitreous.augment import AugmentConfig
from vitreous.cnn import CNN_PRESETS, CNNConfig
from vitreous.models import FAMILIES, ModelConfig
from vitreous.optim import OptimConfig
from vitreous.vit import ViTConfig

FORMAT = 1
"""Version of the JSON form; a file with a larger one is refused by name."""

T = TypeVar("T")


@dataclass(frozen=True)
class DataConfig:
    """Where the pictures come from and how validation is held out."""

    source: str = "digits"
    val_fraction: float = 0.1
    seed: int = 0
    """Seed of the split alone, so that runs with different seeds share their validation pictures."""
    mean: tuple[float, ...] = ()
    """Of each channel, of pixels in 0..1; empty: that of the training pictures."""
    std: tuple[float, ...] = ()
    images: str = ""
    """The folder that the paths of a table are seen from; empty: the table's own."""
    balance: float = 0.0
    """How evenly classes are drawn in training: 0 as often as they are, 1 all alike (:mod:`vitreous.batches`)."""

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or min(self.std, default=1.0) <= 0:
            raise ValueError(
                f"mean {list(self.mean)} and std {list(self.std)}: give one number a channel each, those of std above 0"
            )
        if not 0 <= self.balance <= 1:
            raise ValueError(f"balance is {self.balance}: it is from 0 (classes as they are) to 1 (all alike)")
        if not 0 < self.val_fraction < 1:
            raise ValueError(
                f"val_fraction is {self.val_fraction}: it is a share of the training pictures between 0 and 1"
            )


@dataclass(frozen=True)
class Phase:
    """A stretch of the run at one picture size: progressive resizing spends the early minutes on small pictures."""

    size: int
    """Side in pixels."""
    share: float
    """Share of the run's time (budget runs) or steps."""


@dataclass(frozen=True)
class DistillConfig:
    """Learning from another classifier's probabilities besides the labels (:mod:`vitreous.distilling`)."""

    teacher: str = ""
    """A run folder, a classifier folder or ``hf:owner/name``; ``fastcnn`` or ``resnet`` for a CNN that is trained
    first, within the run and its budget; empty for none."""
    widths: tuple[int, ...] = ()
    """Of such a CNN, as in :class:`vitreous.cnn.CNNConfig`."""
    depth: int = 1
    """Likewise."""
    time: float = 0.2
    """Share of the budget in which it is trained; in a run of epochs or steps it has as many as the run."""
    share: float = 0.7
    """Of the loss that is about the teacher's probabilities."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"share is {self.share}: it is a share from 0 to 1")
        if not 0 < self.time <= 0.5:
            raise ValueError(f"time is {self.time}: it is a share of the budget, from above 0 to a half")
        if self.teacher in CNN_PRESETS and not self.widths:
            raise ValueError(f"teacher is {self.teacher} and has no widths: take --teacher {self.teacher}")


@dataclass(frozen=True)
class RunConfig:
    """Everything a run is made of. Exactly one of ``budget`` (seconds), ``epochs`` and ``steps`` is set."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ViTConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    budget: float | None = None
    epochs: float | None = None
    steps: int | None = None
    weights: str = ""
    """What the model started from, as :func:`vitreous.pretrained.read` takes it; empty: weights drawn by the seed."""
    probe: bool = False
    """Let the head alone learn, on features that are computed once a picture; with ``optim.freeze``."""
    seed: int = 0
    batch: int = 128
    phases: tuple[Phase, ...] = ()
    """Picture sizes over the run; empty: the model's own size throughout. The last phase has the model's own size."""
    sizes: tuple[int, ...] = ()
    """Multi-resolution training: each step draws its picture size from these, by the seed, so that each gets about the
    same share of the time. Empty: the phases, or the model's own size."""
    label_smoothing: float = 0.1
    ema: float = 0.0
    """Decay a step of the averaged weights that are kept at the end; 0 for none. No gain was measured
    (docs/results.md)."""
    evaluations: int = 8
    """How often validation accuracy is measured on the way (on at most 1,000 pictures; on all of them at the end)."""
    precision: str = "auto"
    """``fp32``, ``bf16`` or ``auto``: what a probe of a second or two measures fastest."""
    attention: str = "auto"
    """``fused``, ``explicit`` or ``auto``, likewise."""
    compile: bool = False
    """Compile the step with torch.compile: tens of seconds for each picture size, then about a tenth faster with the
    plain stem on CPUs, no faster with the conv stem (docs/results.md); for runs of a quarter of an
    hour and more. On a single GPU into CUDA graphs."""
    shard: bool | None = None
    """Of several processes, whether each holds a part of every weight (FSDP2) instead of a copy; null: where the state
    of a copy would take more than half of a GPU."""
    threads: int = 0
    """Of the processor; 0: what torch takes by itself, and in a run with a budget what steps show to be fastest."""
    device: str = "auto"
    recipe: str = "custom"
    """Name of the recipe this came from."""

    def __post_init__(self) -> None:
        given = [name for name in ("budget", "epochs", "steps") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"give exactly one of budget, epochs and steps, not {' and '.join(given) or 'none'}")
        if getattr(self, given[0]) <= 0:
            raise ValueError(f"{given[0]} is {getattr(self, given[0])}: it must be above 0")
        if self.batch < 2:
            raise ValueError(f"batch is {self.batch}: it must be at least 2")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must be 0 or more")
        if self.threads < 0:
            raise ValueError(f"threads is {self.threads}: it must be 0 or more")
        if self.evaluations < 0:
            raise ValueError(f"evaluations is {self.evaluations}: it must be 0 or more")
        for name in ("label_smoothing", "ema"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be from 0 to below 1")
        for name, known in (("precision", ("auto", "fp32", "bf16")), ("attention", ("auto", "fused", "explicit"))):
            if getattr(self, name) not in known:
                raise ValueError(f"unknown {name} {getattr(self, name)!r}: it is one of {', '.join(known)}")
        if self.probe and not self.optim.freeze:
            raise ValueError("probe computes features once, so nothing before the head may learn: take --probe")
        if self.probe and (self.sizes or self.phases or self.augment != AugmentConfig(flip=False, shift=0.0)):
            raise ValueError(
                "probe computes features once, so pictures stay as they are: leave augment, sizes and phases out, "
                "or take --freeze, which computes them anew for every step"
            )
        if self.probe and self.distill.teacher:
            raise ValueError("probe computes features once, and a teacher reads pictures: leave one of them out")
        if self.sizes and self.phases:
            raise ValueError(
                "sizes and phases both say how large pictures are: give one of them, as with --set phases=[]"
            )
        for size in [*self.sizes, *(phase.size for phase in self.phases)]:
            if size % self.model.patch_size or size < self.model.patch_size:
                raise ValueError(f"pictures of {size} pixels are no multiple of the patch, {self.model.patch_size}")
        for phase in self.phases:
            if phase.share <= 0:
                raise ValueError(f"a phase's share is {phase.share}: it must be above 0")
        if self.phases and self.phases[-1].size != self.model.image_size:
            raise ValueError(
                f"the last phase has {self.phases[-1].size} pixels and the model {self.model.image_size}: end at that"
            )

    @property
    def first(self) -> RunConfig | None:
        """The run of the teacher that is trained first: this one but for the model, and its share of the budget.

        It reads pixels as its pupil does, by fixed filters or learned ones. In a share of a budget it sees pictures too
        seldom to learn them by heart, so none are mixed there.
        Where the pictures are no whole number of its patches at some size of the run, it learns at the full one alone.
        """
        distill, model = self.distill, self.model
        if distill.teacher not in CNN_PRESETS:
            return None
        cnn = CNNConfig(
            family=distill.teacher,
            image_size=model.image_size,
            channels=model.channels,
            classes=model.classes,
            widths=distill.widths,
            depth=distill.depth,
            stem_whiten=distill.teacher == "fastcnn" and model.stem_whiten,
        )
        sides = (*self.sizes, *(phase.size for phase in self.phases))
        fits = not any(side % cnn.patch_size for side in sides)
        return dataclasses.replace(
            self,
            model=cnn,
            phases=self.phases if fits else (),
            sizes=self.sizes if fits else (),
            augment=dataclasses.replace(self.augment, mixup=0.0, cutmix=0.0) if self.budget else self.augment,
            optim=dataclasses.replace(self.optim, layer_decay=1.0, freeze=False),
            weights="",
            distill=DistillConfig(),
            budget=self.budget and self.budget * distill.time,
            recipe=f"{self.recipe}-teacher",
        )

    def size_at(self, progress: float) -> int:
        """Side in pixels of the training pictures when ``progress`` (0 to 1) of the run is done."""
        total = sum(phase.share for phase in self.phases)
        reached = 0.0
        for phase in self.phases:
            reached += phase.share / total
            if progress < reached:
                return phase.size
        return self.model.image_size


def to_json(config: RunConfig) -> str:
    """The whole config as indented JSON, with its format version."""
    return json.dumps({"format": FORMAT, **dataclasses.asdict(config)}, indent=2)


def from_json(text: str) -> RunConfig:
    """The inverse of :func:`to_json`. Raises ValueError for a newer format, unknown keys and wrong types."""
    try:
        values = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as problem:
        raise ValueError(f"the configuration is no JSON: {problem}") from None
    if not isinstance(values, dict):
        raise ValueError("the configuration is no JSON object")
    version = values.pop("format", FORMAT)
    if not isinstance(version, int) or version > FORMAT:
        raise ValueError(f"the configuration has format {version}; this version reads up to {FORMAT}: upgrade vitreous")
    return build(RunConfig, values)


def build(kind: type[T], values: dict[str, Any], path: str = "") -> T:
    """A dataclass from plain JSON values, nested ones included. An unknown key is an error that names the nearest."""
    types_of = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in values:
        if key not in known:
            raise ValueError(f"unknown setting {path + key!r}{nearest(key, known)}")
    return kind(**{key: convert(types_of[key], value, path + key) for key, value in values.items()})


def model_config(values: Any, path: str = "model.") -> ModelConfig:
    """The config of a model of whatever family ``values`` names, by default a Vision Transformer."""
    if not isinstance(values, dict):
        raise ValueError(f"{path[:-1]} is {values!r}: it has fields of its own, such as {path}family")
    family = values.get("family", "vit")
    if family not in FAMILIES:
        raise ValueError(f"unknown {path}family {family!r}{nearest(str(family), FAMILIES)}")
    return build(FAMILIES[family], values, path)


def override(config: RunConfig, changes: dict[str, str]) -> RunConfig:
    """A copy with fields replaced by path: ``{"optim.lr": "0.001", "batch": "64"}``. Values are JSON or plain text."""
    values = dataclasses.asdict(config)
    for path, text in changes.items():
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        inner = values
        *parents, last = path.split(".")
        for depth, key in enumerate([*parents, last]):
            if not isinstance(inner, dict) or key not in inner:
                raise ValueError(f"unknown setting {path!r}{nearest(key, inner if isinstance(inner, dict) else ())}")
            if depth < len(parents):
                inner = inner[key]
        inner[last] = value
    return build(RunConfig, values)


def nearest(word: str, known: typing.Iterable[str]) -> str:
    """The end of an error message about an unknown word: the nearest known one, or all of them."""
    known = sorted(known)
    close = difflib.get_close_matches(word, known, n=1)
    return f": did you mean {close[0]!r}?" if close else f": known are {', '.join(known)}" if known else ""


def convert(kind: Any, value: Any, path: str) -> Any:
    """One JSON value as the type of its field."""
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value is None:
        if type(None) in options:
            return None
        raise ValueError(f"{path} must not be null")
    target = next(option for option in options if option is not type(None))
    if len(options) > 1 and all(dataclasses.is_dataclass(option) for option in options):
        return model_config(value, path + ".")
    if typing.get_origin(target) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"{path} is {value!r}: it must be a list")
        return tuple(convert(typing.get_args(target)[0], item, path) for item in value)
    if dataclasses.is_dataclass(target) and isinstance(target, type):
        if not isinstance(value, dict):
            raise ValueError(f"{path} is {value!r}: it has fields of its own, such as {path}.{_first(target)}")
        return build(target, value, path + ".")
    if target is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if target is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is float and not math.isfinite(value):
        raise ValueError(f"{path} is {value}: it must be a number")
    if type(value) is not target:
        raise ValueError(f"{path} is {value!r}: it must be {target.__name__}, not {type(value).__name__}")
    return value


def _first(kind: type) -> str:
    return dataclasses.fields(kind)[0].name
