"""Which of several processes this is, and the little that they tell each other. One process is the first of one.

``torchrun`` starts the processes of a run, on one machine or many, and :func:`joined` lets them find each other; where
somebody has done that before (Ray does), nothing is left to do. Every process calls the functions below alike and at
the same place, and for one process they do nothing of note: so the rooms above read the same for one as for many.

Not here: gradients and weights, which torch carries (parallel.py).
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

T = TypeVar("T")

CPU = torch.device("cpu")
WAIT = timedelta(minutes=10)
"""For the other processes to be started."""
PATIENCE = 5.0
"""Seconds, at most, for a thread of torch to let go of a tensor that it has long carried."""


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if _many() else 0


def world() -> int:
    """How many processes the run has."""
    return dist.get_world_size() if _many() else 1


def first() -> bool:
    """Whether this is the process that writes, shows and decides."""
    return rank() == 0


def local() -> int:
    """The number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", rank())) if _many() else 0


def asked() -> int:
    """How many processes whoever started this one speaks of, joined yet or not."""
    return int(os.environ.get("WORLD_SIZE", 1))


def restarts() -> bool:
    """Whether torchrun starts the processes again after a failure (``--max-restarts``), or has done so.

    Which of the two nobody knows: each machine counts for itself.
    """
    return int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", 0)) > 0


def total(values: Sequence[float]) -> list[float]:
    """The sums of each value over all processes: on CPUs they pass around a ring, which takes long among many."""
    if not _many():
        return list(values)
    sums = torch.tensor(values, dtype=torch.float64)
    dist.all_reduce(sums)
    return sums.tolist()


def anyone(flag: bool) -> bool:
    """Whether ``flag`` is true on any process."""
    return total([float(flag)])[0] > 0


def told(values: Sequence[float]) -> list[float]:
    """The first process's numbers, on every process: they pass through a tree, so that many hear them soon."""
    if not _many():
        return list(values)
    numbers = torch.tensor(values, dtype=torch.float64)
    dist.broadcast(numbers, src=0)
    return numbers.tolist()


def part() -> None:
    """Waits for all processes, and until the thread that carried their last word has let go of it.

    Torch keeps its threads to the end of the process where a DistributedDataParallel was ever made, and a collective
    returns before its thread has freed the tensor. One that does so while Python ends takes the process down with it
    (SIGABRT), and torchrun calls a finished run failed.
    """
    if not _many():
        return
    word = torch.zeros(1)
    held, latest = weakref.ref(word), time.monotonic() + PATIENCE
    dist.all_reduce(word)
    del word
    while held() is not None and time.monotonic() < latest:
        time.sleep(0.001)


def from_first(call: Callable[[], T]) -> T:
    """What ``call`` gives the first process, on every process. What it raises there is raised on all."""
    if not _many():
        return call()
    answer: list[Any] = [None, None]
    if first():
        try:
            answer[0] = call()
        except Exception as problem:
            answer[1] = problem
    dist.broadcast_object_list(answer, src=0, device=CPU)
    if answer[1] is not None:
        raise answer[1]
    return answer[0]


def each(value: T) -> list[T]:
    """What every process has, by their numbers, on all of them. For little: it passes around a ring."""
    values = [value] * world()
    if _many():
        dist.all_gather_object(values, value)
    return values


def machine_by_machine(call: Callable[[], T]) -> T:
    """What ``call`` gives, called by one process of each machine before the others, who find its files made."""
    if not _many():
        return call()
    made = [call()] if local() == 0 else []
    total([0.0])
    return made[0] if made else call()


def share(count: int) -> slice:
    """This process's part of ``count`` things in a row; the parts of any two differ by one at most."""
    return slice(count * rank() // world(), count * (rank() + 1) // world())


@contextlib.contextmanager
def joined() -> Iterator[None]:
    """Finds the other processes of the run for as long as the block lasts; for one process, or a second time, nothing.

    Where a process fails the others end too, and one of them says why: it alone raises its exception, the others leave
    with SystemExit. Raises ValueError where the surroundings do not say how to find each other, or where a process
    is gone without a word.
    """
    if _many() and "gloo" not in dist.get_backend_config():
        raise ValueError("processes agree by gloo: let the group be made with backend 'cpu:gloo,cuda:nccl'")
    if asked() == 1 or _many():
        yield
        return
    common, number, count = next(dist.rendezvous("env://", timeout=WAIT))
    store = _of_this_start(common, number, count)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count)
    try:
        yield
        part()  # nobody leaves while another may still ask
    except BaseException as problem:
        if not _speaks(store):
            raise SystemExit(2) from None
        if isinstance(problem, RuntimeError) and ("gloo" in str(problem) or isinstance(problem, dist.DistError)):
            raise ValueError(LOST) from problem
        raise
    dist.destroy_process_group()


LOST = (
    "another process of this run is gone: killed, out of memory, or its machine lost.\n"
    "Give the same command with --resume to go on from the last checkpoint; torchrun --max-restarts does so by itself"
)


def _many() -> bool:
    return dist.is_available() and dist.is_initialized()


def _of_this_start(store: dist.Store, number: int, count: int) -> dist.Store:
    """The part of the store that belongs to this start of the processes.

    Torchrun keeps one store over restarts, and a process would call the dead at the addresses they left there. So each
    asks the first, under a name never used before, what the name of this start is.
    """
    if number:
        asks = uuid.uuid4().hex
        store.set(f"asks/{number}", asks)
        name = store.get(f"answer/{asks}").decode()
        store.add(f"{name}/here", 1)
        return dist.PrefixStore(name, store)
    name, latest = uuid.uuid4().hex, time.monotonic() + WAIT.total_seconds()
    while (here := 1 + store.add(f"{name}/here", 0)) < count:
        if time.monotonic() > latest:
            raise ValueError(f"{here} of {count} processes have come: look at the others, or start fewer")
        for other in range(1, count):
            if store.check([f"asks/{other}"]):
                store.set(f"answer/{store.get(f'asks/{other}').decode()}", name)
        time.sleep(0.01)
    return dist.PrefixStore(name, store)


def _speaks(store: dist.Store) -> bool:
    """Whether this process is the first to fail, and so knows the cause."""
    try:
        return store.add("failed", 1) == 1
    except RuntimeError:  # the keeper of the store has gone, so it has spoken
        return False
