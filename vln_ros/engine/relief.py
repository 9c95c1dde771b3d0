"""What to give up when memory runs out, step by step; each step is recorded."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
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
    """

    def __init__(self, rungs: list[Rung]) -> None:
        self._rungs: Iterator[Rung] = iter(rungs)
        self.steps: list[str] = []
        """What was given up so far, in order."""

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``.

        Raises:
            whatever ``work`` raises that is not a lack of memory, or that when nothing is left.
        """
        while True:
            try:
                return work()
            except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                step = self._descend()
                if step is None:
                    raise
            # Outside the handler: the error's traceback holds the tensors of the failed forward.
            logger.warning("out of memory: going on with %s", step)
            self.steps.append(step)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()

    def _descend(self) -> str | None:
        for rung in self._rungs:
            step = rung()
            if step is not None:
                return step
        return None
