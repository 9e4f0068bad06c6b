"""Many questions at once for a worker that answers groups faster than singles: a bounded queue with deadlines.

The worker runs in one thread of its own. Whenever it is free it takes everything that waits, up to a limit: a lone
question never waits for company, and under load the groups grow by themselves. Nothing here knows about pictures.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Q = TypeVar("Q")
A = TypeVar("A")

PATIENCE = 3.0
"""Seconds that the group which is being answered gets once the batcher is told to stop."""


class Full(Exception):
    """There is no place for another question now."""


class Late(Exception):
    """The deadline passed before the question was answered."""


@dataclass(eq=False)
class _Waiting(Generic[Q, A]):
    question: Q
    answer: asyncio.Future[A]
    deadline: float


class Batcher(Generic[Q, A]):
    """Groups questions for ``work``, which gives an answer, or the exception that stands for one, to each in order.

    capacity: places; whoever has none is refused at once. batch: most questions in a group.
    """

    def __init__(self, work: Callable[[Sequence[Q]], Sequence[A | Exception]], capacity: int, batch: int) -> None:
        for name, value in (("capacity", capacity), ("batch", batch)):
            if value < 1:
                raise ValueError(f"{name} is {value}: it must be at least 1")
        self._work = work
        self.capacity = capacity
        self.batch = batch
        self.inside = 0
        """Places taken now."""
        self.groups: Callable[[int], None] = lambda size: None
        """Told the size of every group."""
        self._waiting: deque[_Waiting[Q, A]] = deque()
        self._arrived = asyncio.Event()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._group: Future[Sequence[A | Exception]] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to answer; call it in the event loop that asks."""
        self._task = asyncio.get_running_loop().create_task(self._answer_for_ever())

    @property
    def busy(self) -> bool:
        """Whether a group is being answered, as one can be even after ``stop``."""
        return self._group is not None and not self._group.done()

    async def stop(self) -> None:
        """End. Whoever still waits is told by a cancelled future.

        A thread cannot be stopped: a group that takes longer than PATIENCE is left behind, and ``busy`` says so.
        """
        if self._task:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for each in self._waiting:
            each.answer.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._group and self.busy:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE):
                    await asyncio.wrap_future(self._group)
        if not self.busy:
            self._thread.shutdown()

    @contextmanager
    def place(self) -> Iterator[None]:
        """Hold a place, from before a question is read until it is answered. Raises Full where there is none.

        Places bound the memory that questions take: all that is read and decoded belongs to somebody inside.
        """
        if self.inside >= self.capacity:
            raise Full(f"all {self.capacity} places are taken")
        self.inside += 1
        try:
            yield
        finally:
            self.inside -= 1

    async def ask(self, question: Q, deadline: float) -> A:
        """The answer to one question; ``deadline`` is on the clock of ``time.monotonic()``.

        Raises Late once that has passed, Full where more wait than there are places, and what ``work`` gave for it.
        """
        if len(self._waiting) >= self.capacity:
            raise Full(f"{self.capacity} questions wait already")
        waiting: _Waiting[Q, A] = _Waiting(question, asyncio.get_running_loop().create_future(), deadline)
        self._waiting.append(waiting)
        self._arrived.set()
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return await waiting.answer
        except TimeoutError:
            with suppress(ValueError):  # no longer there if it is being answered
                self._waiting.remove(waiting)
            raise Late("the deadline has passed") from None

    def _take(self) -> list[_Waiting[Q, A]]:
        """The next group, without those that gave up."""
        group: list[_Waiting[Q, A]] = []
        now = time.monotonic()
        while self._waiting and len(group) < self.batch:
            each = self._waiting.popleft()
            if not each.answer.done() and each.deadline > now:
                group.append(each)
        return group

    async def _answer_for_ever(self) -> None:
        while True:
            await self._arrived.wait()
            group = self._take()
            if not group:
                self._arrived.clear()
                continue
            self.groups(len(group))
            questions = [each.question for each in group]
            try:
                self._group = self._thread.submit(self._together_or_alone, questions)
                answers = await asyncio.wrap_future(self._group)
            except asyncio.CancelledError:
                for each in group:
                    each.answer.cancel()
                raise
            for each, answer in zip(group, answers, strict=True):
                if each.answer.done():
                    continue
                if isinstance(answer, Exception):
                    each.answer.set_exception(answer)
                else:
                    each.answer.set_result(answer)

    def _together_or_alone(self, questions: list[Q]) -> Sequence[A | Exception]:
        """A group that fails as a whole is asked again one by one, so that only the guilty question fails."""
        try:
            return self._work(questions)
        except Exception as problem:
            if len(questions) == 1:
                return [problem]
        return [self._together_or_alone([question])[0] for question in questions]
