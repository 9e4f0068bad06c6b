"""The full state of a run as folders that are written once, checked by SHA-256, and never overwritten.

A checkpoint is ``checkpoints/step-<n>/``: ``tensors.safetensors``, ``state.json`` and ``manifest.json`` with the size
and hash of both. It is written under another name, synced, and renamed, so a folder with the right name is whole.
Loading runs no code: tensors come from safetensors, everything else from JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

FORMAT = 1


def save(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any], keep: int = 2) -> Path:
    """Writes ``checkpoints/step-<step>`` and removes all but the newest ``keep``. Returns the folder.

    A checkpoint of that step that is already there is left as it is. Raises OSError (a full disk, say) with nothing
    temporary left behind and every earlier checkpoint untouched.
    """
    parent = run / "checkpoints"
    target = parent / f"step-{step:08d}"
    if target.exists():
        return target
    parent.mkdir(parents=True, exist_ok=True)
    write_folder(target, tensors, {"format": FORMAT, "step": step, **state})
    for old in found(run)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def latest(run: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and state of the newest checkpoint that is whole; None where there is none.

    A damaged one is passed over with a warning that names it. Raises ValueError for one of a newer format.
    """
    for folder in reversed(found(run)):
        try:
            return read_folder(folder)
        except (OSError, CorruptCheckpoint) as problem:
            warnings.warn(f"{folder} is damaged ({problem}); trying the one before", stacklevel=2)
    return None


def found(run: Path) -> list[Path]:
    """The checkpoint folders of a run, oldest first."""
    return sorted(path for path in (run / "checkpoints").glob("step-*") if path.suffix != ".partial")


class CorruptCheckpoint(Exception):
    """A file of a checkpoint is not what its manifest says."""


def write_folder(target: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """A folder of tensors and JSON that appears under its name only when it is whole and on the disk."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file({name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}, partial / TENSORS)
        (partial / STATE).write_text(json.dumps(state, indent=1))
        manifest = {name: _fingerprint(partial / name) for name in (TENSORS, STATE)}
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        for path in [*partial.iterdir(), partial]:
            sync(path)
        os.replace(partial, target)
        sync(target.parent)
    except BaseException as problem:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(problem, SafetensorError):  # how safetensors reports a full disk
            raise OSError(f"could not write {target}: {problem}") from problem
        raise


def read_folder(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The inverse of :func:`write_folder`. Raises CorruptCheckpoint where size, hash or form is wrong."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name in (TENSORS, STATE):
            if _fingerprint(folder / name) != manifest[name]:
                raise CorruptCheckpoint(f"{name} does not match its SHA-256")
        state = json.loads((folder / STATE).read_text())
        tensors = load_file(folder / TENSORS)
    except (KeyError, TypeError, ValueError, SafetensorError) as problem:
        raise CorruptCheckpoint(str(problem)) from problem
    if state["format"] > FORMAT:
        raise ValueError(f"{folder} has format {state['format']}; this version reads up to {FORMAT}: upgrade vitreous")
    return tensors, state


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
                    if tensor.shape == parameter.shape:  # fused kernels go by memory order, which a file does not keep
                        optimizer.state[parameter][entry] = torch.empty_like(parameter).copy_(tensor)


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Copies weights into a model. Raises ValueError that lists names and shapes where they do not fit."""
    own = model.state_dict()
    problems = [f"missing {name}" for name in own if name not in tensors]
    problems += [f"unknown {name}" for name in tensors if name not in own]
    problems += [
        f"{name} has shape {tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
        for name in own
        if name in tensors and own[name].shape != tensors[name].shape
    ]
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise ValueError(f"these weights belong to another architecture: {shown}")
    model.load_state_dict(dict(tensors))


def sync(path: Path) -> None:
    """Waits until a file or folder is on the disk, where the system can tell."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"


def _fingerprint(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"bytes": path.stat().st_size, "sha256": digest}
