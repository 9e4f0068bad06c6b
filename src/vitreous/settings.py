"""A file of settings for ``train``: YAML or JSON, nested or by path, checked before any work starts.

The keys are those of a run's ``config.json`` and of ``--set``, so a run's own ``config.json`` is such a file. What is
given on the command line comes first: an option overrules the settings that it decides, ``--set`` every one. Where an
option makes another recipe of a file's, the rest of the recipe is the file's own: its size, stem and picture sizes.

Not here: the settings themselves (config.py), what is chosen where nothing is given (recipes.py).
"""

from __future__ import annotations

import dataclasses
import json
import re
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from vitreous.config import FORMAT, RunConfig, convert, nearest
from vitreous.models import FAMILIES, ModelConfig
from vitreous.recipes import NO_TEACHER, growing, model_for
from vitreous.vit import PRESETS, ViTConfig

LIMITS = ("budget", "epochs", "steps")
FROM_DATA = ("data.source", "model.classes", "model.channels")
"""Settings that DATA decides, whatever a file says."""
BESIDE = {
    "size": (
        *("model.width", "model.depth", "model.heads", "model.mlp_ratio", "model.widths"),
        *("model.stem_depth", "model.stem_whiten"),
    ),
    "stem": (
        *("model.stem", "model.stem_depth", "model.stem_early", "model.stem_whiten", "model.stem_norm"),
        "optim.filter_lr",
    ),
    "teacher": ("distill.teacher", "distill.widths", "distill.depth"),
    "any_size": ("sizes", "phases", "model.stem_norm", "model.stem_whiten", "optim.filter_lr"),
    "freeze": ("optim.freeze",),
    "probe": ("probe", "optim.freeze", "augment.flip", "augment.shift"),
}
"""Options of the command line, and the settings of a file that each of them overrules."""
RENAMING = ("size", "stem", "model", "teacher", "any_size", "weights", "freeze", "probe")
"""Options with which a run is no longer of the recipe that a file names."""


def read_settings(path: Path) -> dict[str, Any]:
    """The settings of a file by path, as ``{"optim.lr": 0.01}``.

    Raises ValueError with the line of what is no setting, of another type or given twice; FileNotFoundError.
    """
    text = path.read_text(encoding="utf-8")
    loader = _Loader(text.replace("\t", "  ") if path.suffix == ".json" else text)  # YAML's one quarrel with JSON
    try:
        root = loader.get_single_node()
        if not isinstance(root, yaml.MappingNode):
            raise ValueError(f"{path} holds no settings: write them like batch: 64")
        return dict(_settings(path, loader, root))
    except yaml.YAMLError as problem:
        raise ValueError(f"{path} is no YAML: {' '.join(str(problem).split())}") from None


def combine(options: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """The options of the command line, filled up from a file's settings, and the changes that these still make.

    ``options`` are named as in :class:`vitreous.recipes.Wish`, None where nothing was given.
    """
    options, left = dict(options), {name: value for name, value in values.items() if name not in FROM_DATA}
    renamed = any(options[name] is not None for name in RENAMING)
    overruled = {path for option, paths in BESIDE.items() if options[option] is not None for path in paths}
    overruled |= {"recipe"} if renamed else set()
    limits = {name: left.pop(name, None) for name in LIMITS}
    if all(options[name] is None for name in LIMITS):
        options |= limits
    family = left.pop("model.family", None)
    if (family and options["model"] not in (None, family)) or options["weights"] is not None:
        its = ("model.", "recipe", "optim.filter_lr")  # they are about another model
        left = {name: value for name, value in left.items() if not name.startswith(its)}
    taught = left.pop("distill.teacher", "" if "recipe" in left else None)
    if taught is not None and options["teacher"] is None:
        options["teacher"] = taught or NO_TEACHER
    for name in ("seed", "device", "weights"):
        value = left.pop(name, None)
        options[name] = value if options[name] is None else options[name]
    if not options["weights"]:
        options["model"] = options["model"] or family
    if renamed and not options["weights"]:  # the rest of the new recipe is that of the file's
        size = _size(options["model"] or "vit", left)
        if size and (options["stem"] is not None or options["size"] is not None):
            overruled |= _of_recipe(size, left)
        own = {"size": size, "stem": left.get("model.stem"), "any_size": bool(left.get("sizes")) or None}
        options |= {name: value for name, value in own.items() if options[name] is None}
    return options, {
        path: value if isinstance(value, str) else json.dumps(value)
        for path, value in left.items()
        if path not in overruled
    }


def _size(family: str, values: Mapping[str, Any]) -> str | None:
    """The size that has the width and heads of a file's model, a CNN's widths; else the one that its recipe names."""
    for size in PRESETS:
        model = _model(family, size, None, values)
        if isinstance(model, ViTConfig):
            dial: dict[str, Any] = {"model.width": model.width, "model.heads": model.heads}
        else:
            dial = {"model.widths": list(model.widths)}
        if dial.items() <= values.items():
            return size
    named = values.get("recipe", "").partition("-")[0]
    return named if named in PRESETS else None


def _of_recipe(size: str, values: Mapping[str, Any]) -> set[str]:
    """What a file has of the recipe of its size and stem, so that another one decides it anew; the rest is by hand."""
    model = _model("vit", size, values.get("model.stem"), values)
    assert isinstance(model, ViTConfig)
    phases = [dataclasses.asdict(phase) for phase in growing(size, model)]
    shape = {f"model.{name}": getattr(model, name) for name in ("width", "heads", "depth", "mlp_ratio")}
    given = shape | {"phases": phases}
    return {path for path, value in given.items() if values.get(path) == value}


def _model(family: str, size: str, stem: str | None, values: Mapping[str, Any]) -> ModelConfig:
    """A recipe's model for pictures as a file has them; channels and classes make no difference here."""
    side = values.get("model.image_size", ViTConfig.image_size)
    return model_for(family, size, stem, max(1, side), ViTConfig.channels, ViTConfig.classes)


class _Loader(yaml.SafeLoader):
    """YAML 1.1 as PyYAML reads it, but 1e-3 is a number, as in JSON and YAML 1.2."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def _settings(path: Path, loader: _Loader, root: yaml.MappingNode) -> Iterator[tuple[str, Any]]:
    known, seen = dict(_known(RunConfig)), set()
    for name, line, node in _leaves(root):
        here = f"{path}, line {line}"
        if name == "format":
            _check_format(here, loader.construct_object(node))
            continue
        if name not in known:
            parent = name.rpartition(".")[0]
            beside = [other for other in known if other.rpartition(".")[0] == parent] or known
            raise ValueError(f"{here}: unknown setting {name!r}{nearest(name, beside)}")
        if name in seen:
            raise ValueError(f"{here}: {name} is given twice: keep one")
        seen.add(name)
        value = loader.construct_object(node, deep=True)
        if name == "budget" and isinstance(value, str):  # 5m, as on the command line
            yield name, value
            continue
        try:
            convert(known[name], value, name)
        except (TypeError, ValueError) as problem:
            raise ValueError(f"{here}: {problem}") from None
        yield name, value


def _check_format(here: str, value: Any) -> None:
    if not isinstance(value, int) or value > FORMAT:
        raise ValueError(f"{here}: format {value}; this version reads up to {FORMAT}: upgrade vitreous")


def _leaves(node: yaml.MappingNode, above: str = "") -> Iterator[tuple[str, int, yaml.Node]]:
    """Every setting below a mapping: its path, its line and its value."""
    for key, value in node.value:
        name = f"{above}{key.value}"
        if isinstance(value, yaml.MappingNode):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, key.start_mark.line + 1, value


def _known(kind: type, above: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a config by path, with its type; of a model those of every family."""
    for name, hint in typing.get_type_hints(kind).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        inner = [option for option in options if dataclasses.is_dataclass(option)]
        for option in set(FAMILIES.values()) if len(inner) > 1 else inner:
            yield from _known(typing.cast(type, option), f"{above}{name}.")
        if not inner:
            yield above + name, hint
