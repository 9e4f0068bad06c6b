"""The full state of a run as folders that are written once, checked by SHA-256, and never overwritten.

A checkpoint is ``checkpoints/step-<n>/``: ``tensors.safetensors`` (or, of weights that are in parts on several
processes, a file from each), ``state.json`` and a manifest (sealed.py).
Loading runs no code: tensors come from safetensors, everything else from JSON.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from vitreous import parts, ranks, sealed

FORMAT = 1
KEEP = 2
"""Checkpoints that stay: so many of the newest, and the one that did best on validation pictures."""
TENSORS, STATE = "tensors.safetensors", "state.json"


class NotFinite(ValueError):
    """A tensor of the state holds NaN or infinite values: it is worth nothing, and no checkpoint will hold it."""


def snapshot(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, contiguous, that training does not change any more.

    Raises NotFinite, naming the tensor, where one holds anything but numbers.
    """
    sums = {name: tensor.detach().sum() for name, tensor in tensors.items() if tensor.is_floating_point()}
    if sums and not torch.stack([value.float().cpu() for value in sums.values()]).isfinite().all():
        for name in sums:
            if not tensors[name].isfinite().all():
                raise NotFinite(f"{name} holds NaN or infinite values")
    return {name: torch.empty(t.shape, dtype=t.dtype).copy_(t.detach()) for name, t in tensors.items()}


def save(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP) -> Path:
    """Writes ``checkpoints/step-<step>`` and removes those that need not stay. Returns the folder.

    Those that stay are the newest ``keep`` and the one whose state has the highest ``accuracy``. A whole checkpoint of
    that step that is already there is left as it is. Raises OSError (a full disk, say) with nothing temporary left
    behind and every earlier checkpoint untouched.
    """
    target = _folder(run, step)
    if target.exists() and not _problem(target):
        return target
    with sealed.writing(target, FORMAT) as partial:
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial / TENSORS)
        _write_state(partial, step, state)
    _tidy(run, keep)
    return target


def save_parts(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = KEEP) -> Path:
    """As :func:`save`, for tensors of which every process holds a part: all call it, and each writes its own.

    Raises NotFinite, on all, where one holds anything but numbers.
    """
    target = _folder(run, step)
    if ranks.from_first(lambda: target.exists() and not _problem(target)):
        return target
    held = [parts.local(tensor) for tensor in tensors.values() if tensor.is_floating_point()]
    if ranks.anyone(not all(tensor.isfinite().all() for tensor in held)):
        raise NotFinite("a weight or a moment holds NaN or infinite values")
    with contextlib.ExitStack() as first:
        partial = ranks.from_first(lambda: first.enter_context(sealed.writing(target, FORMAT)))
        parts.write(partial, tensors)
        if ranks.first():
            _write_state(partial, step, state)
    ranks.from_first(lambda: _tidy(run, keep))
    return target


def read_parts(run: Path, step: int, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What :func:`save_parts` wrote, in parts again as the tensors of ``own`` are, however many processes there are."""
    return parts.read(_folder(run, step), own)


def latest(
    run: Path, say: Callable[[str], None] = lambda sentence: warnings.warn(sentence, stacklevel=3)
) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint that is whole; None where there is none.

    ``say`` is told of a damaged one, which is passed over. Raises ValueError for one of a newer format.
    """
    for folder in reversed(found(run)):
        try:
            return read_folder(folder)
        except (OSError, sealed.Damaged) as problem:
            say(f"{folder} is damaged ({problem}); trying the one before")
    return None


def found(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if not path.suffix)


def set_aside(run: Path, step: int) -> None:
    """Renames the checkpoints after ``step``, which are damaged if a run goes on from there, out of the way."""
    for folder in found(run):
        if folder.name > f"step-{step:08d}":
            sealed.discard(folder.with_name(folder.name + sealed.DAMAGED))
            folder.rename(folder.with_name(folder.name + sealed.DAMAGED))


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of one checkpoint; no tensors where they are in parts, for :func:`read_parts`.

    Raises sealed.Damaged where size, hash or form is wrong, sealed.Newer.
    """
    sealed.check(folder, FORMAT)
    try:
        state = dict(json.loads((folder / STATE).read_bytes()))
        return load_file(folder / TENSORS) if (folder / TENSORS).exists() else {}, state
    except (TypeError, ValueError, RecursionError, SafetensorError) as problem:
        raise sealed.Damaged(str(problem)) from problem


def _folder(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step-{step:08d}"


def _write_state(folder: Path, step: int, state: Mapping[str, Any]) -> None:
    (folder / STATE).write_text(json.dumps({"step": step, **state}, indent=1), encoding="utf-8")


def _problem(folder: Path) -> str | None:
    """Why a checkpoint is not whole, if it is not."""
    try:
        sealed.check(folder, FORMAT)
    except (OSError, sealed.Damaged) as problem:
        return str(problem)
    return None


def _tidy(run: Path, keep: int) -> None:
    """Removes checkpoints that need not stay, and what a killed process left half written."""
    whole = found(run)
    best = max(whole, key=lambda folder: (_accuracy(folder), folder.name))  # the newest where nothing was measured
    for folder in whole[:-keep]:
        if folder != best:
            sealed.discard(folder)
    for left in (run / "checkpoints").glob(f"*{sealed.PARTIAL}"):
        sealed.discard(left)


def _accuracy(folder: Path) -> float:
    """Of a checkpoint on validation pictures, -1 where it was not measured."""
    try:
        measured = json.loads((folder / STATE).read_bytes()).get("accuracy")
    except (OSError, ValueError):
        return -1.0
    return -1.0 if measured is None else float(measured)


def pack(model: nn.Module, optimizers: list[Optimizer]) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights and optimiser state as flat tensors, and what of the optimisers is plain numbers."""
    tensors = {f"model.{name}": tensor for name, tensor in model.state_dict().items()}
    plain = []
    for number, optimizer in enumerate(optimizers):
        state = optimizer.state_dict()
        for index, entries in state["state"].items():
            for name, tensor in entries.items():
                tensors[f"optimizer.{number}.{index}.{name}"] = tensor
        plain.append(state["param_groups"])
    return tensors, plain


@torch.no_grad()
def unpack(tensors: Mapping[str, Tensor], plain: list[Any], model: nn.Module, optimizers: list[Optimizer]) -> None:
    """The inverse of :func:`pack`, into a model and optimisers of the same making.

    Raises ValueError that lists the differing names where the checkpoint is of another architecture.
    """
    load_weights(model, {n.removeprefix("model."): t for n, t in tensors.items() if n.startswith("model.")})
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        prefix = f"optimizer.{number}."
        for name, tensor in tensors.items():
            if name.startswith(prefix):
                index, entry = name.removeprefix(prefix).split(".", 1)
                state.setdefault(int(index), {})[entry] = tensor
        optimizer.load_state_dict({"state": state, "param_groups": plain[number]})
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                for entry, tensor in optimizer.state[parameter].items():
                    tensor = parts.part(tensor, parameter) if tensor.shape == parameter.shape else tensor
                    if tensor.shape == parameter.shape:  # fused kernels go by memory order, which a file does not keep
                        optimizer.state[parameter][entry] = torch.empty_like(parameter).copy_(tensor)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies weights into a model. Raises ValueError that lists names and shapes where they do not fit."""
    check_weights(model, tensors)
    own = model.state_dict()
    model.load_state_dict({name: parts.part(tensor, own[name]) for name, tensor in tensors.items()})


def check_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError that lists names and shapes where weights do not fit a model, be it on no device at all."""
    if problems := differences(model, tensors):
        raise ValueError(f"these weights belong to another architecture: {listed(problems)}")


def differences(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """What keeps weights from fitting a model: names that are missing or unknown, and other shapes."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    return problems + [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]


def listed(problems: list[str]) -> str:
    """The first five, and how many more there are."""
    return "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
