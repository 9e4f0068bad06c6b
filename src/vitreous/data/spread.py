"""Work on many portions at once: in processes or threads, in bounded memory, results in order.

Pillow lets go of Python's lock in the codec alone, and for small pictures most of the time is spent outside it: there
only processes help. They are forked, since a fresh interpreter would first run the user's script again; where that
cannot be (not Linux, or inside a worker already) threads do the work.
"""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing.connection import wait
from typing import Any, TypeVar

T = TypeVar("T")
_MOST = 16  # processes or threads


def processors() -> int:
    """How many this process may use, at most 16."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
    return min(count, _MOST)


def in_order(task: Callable[..., T], items: Iterable[tuple[Any, ...]], kind: str) -> Iterator[T]:
    """task(*item) for every item. kind: "processes", "threads" or "here".

    At most two items a worker are taken ahead. An exception of the task is raised here, and ends the work.
    """
    workers = processors()
    if kind == "here" or workers == 1:
        for item in items:
            yield task(*item)
        return
    pool = _pool(workers, kind)
    waiting: deque[Future[T]] = deque()
    try:
        for item in items:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*multi-threaded.*fork")  # the child uses none of them
                waiting.append(pool.submit(task, *item))
            if len(waiting) >= 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenExecutor:
        raise ValueError(
            "a process that was decoding pictures was killed, perhaps for lack of memory: close other programs and "
            "try again"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _pool(workers: int, kind: str) -> Executor:
    if kind == "processes" and sys.platform == "linux" and not multiprocessing.current_process().daemon:
        with contextlib.suppress(
            ImportError, NotImplementedError, OSError
        ):  # no shared semaphores, as in some sandboxes
            return ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), initializer=_begin)
    return ThreadPoolExecutor(workers)


def _begin() -> None:
    """In a new worker: Ctrl-C is the parent's to answer, and a parent that was killed takes the worker with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    gc.freeze()  # or a collection would copy the pages that hold the parent's objects
    threading.Thread(target=_follow_parent, daemon=True).start()


def _follow_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
