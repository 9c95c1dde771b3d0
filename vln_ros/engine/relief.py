"""What to give up when memory runs out, step by step; each step is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain
from typing import TypeVar

import torch

T = TypeVar("T")

logger = logging.getLogger(__name__)

Rung = Callable[[], str | None]
"""Gives something up and says what; None if it has nothing to give."""


def is_out_of_memory(error: BaseException) -> bool:
    """Torch raises a type of its own on a GPU, but a plain RuntimeError from the CPU's allocator."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


class ReliefLadder:
    """Runs work; where memory runs out, gives something up and runs it again.

    Args:
        rungs: in the order in which to take them, each once; a rung may occur several times.
        last: what remains when they are used up, once for each piece of work.
    """

    def __init__(self, rungs: list[Rung], last: Rung) -> None:
        self._rungs: Iterator[Rung] = iter(rungs)
        self._last = last
        self.steps: list[str] = []
        """What was given up so far, in order."""

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``.

        Raises:
            whatever ``work`` raises that is not a lack of memory, or that when nothing is left.
        """
        rungs = chain(self._rungs, [self._last])
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                # Without its traceback, which would hold the tensors of the failed forward.
                failure = error.with_traceback(None)
            step = next(filter(None, (rung() for rung in rungs)), None)
            if step is None:
                raise failure
            logger.warning("out of memory: going on with %s", step)
            self.steps.append(step)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
