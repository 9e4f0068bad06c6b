"""Tensors of which every process holds a part: put together, taken apart, and as files.

The files are for any number of processes, which each read what they will hold. Torch's distributed checkpoint writes
and reads them, as safetensors: its own format keeps the table of contents as a pickle, and reading must run no code.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from vitreous import ranks


def sharded(tensor: Tensor) -> bool:
    """Whether other processes hold parts of this tensor."""
    return hasattr(tensor, "full_tensor")


def local(tensor: Tensor) -> Tensor:
    """The part that this process holds."""
    return tensor.to_local() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def whole(tensor: Tensor) -> Tensor:
    """All parts put together, on every process."""
    return tensor.full_tensor() if sharded(tensor) else tensor  # type: ignore[attr-defined]


def part(tensor: Tensor, own: Tensor) -> Tensor:
    """Of a whole tensor what this process holds of ``own``; the tensor as it is where those are of one kind."""
    if sharded(tensor) or not sharded(own):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    place = own.device_mesh, own.placements  # type: ignore[attr-defined]
    return distribute_tensor(tensor.to(own.device), *place, src_data_rank=None)


def write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Each process writes its parts into the folder, all at once. Raises OSError where one of them cannot."""
    import torch.distributed.checkpoint as dcp

    writer = dcp.HuggingFaceStorageWriter(str(folder), save_distributed=True)
    try:
        dcp.save({name: tensor.detach() for name, tensor in tensors.items()}, storage_writer=writer)
    except dcp.api.CheckpointException as problem:
        causes = [f"process {number}: {cause}" for number, (cause, _) in problem.failures.items()]
        raise OSError(f"could not write {folder}: {'; '.join(causes)}") from None


def read(folder: Path, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Everything that the files of a folder hold, each tensor in parts as that which ``own`` has for it.

    That is the one of its name, or of its name without the last part, as a parameter is for its momentum.
    """
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.metadata import TensorStorageMetadata

    reader, tensors = dcp.HuggingFaceStorageReader(str(folder)), {}
    for name, entry in reader.read_metadata().state_dict_metadata.items():
        assert isinstance(entry, TensorStorageMetadata)
        shape, kind = entry.size, entry.properties.dtype
        like = own.get(name, own.get(name.rpartition(".")[0]))
        if like is None or like.shape != shape:
            like = torch.empty(shape)
        tensors[name] = torch.empty_like(like, dtype=kind)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # one process reads as well
        dcp.load(tensors, storage_reader=reader, no_dist=ranks.world() == 1)
    return tensors
