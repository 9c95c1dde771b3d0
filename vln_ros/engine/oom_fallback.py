"""Gives up memory step by step when a device runs out of it, and records each step."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TypeVar

import torch

from vln_ros.engine.stream.kv_cache import TornStreamError

T = TypeVar("T")

logger = logging.getLogger(__name__)

FallbackStep = Callable[[], str | None]
"""Gives something up and says what; None if it has nothing to give."""

_SAID = (
    "out of memory",  # CUDA, HIP, MPS, XPU, and "CUDA error: out of memory"
    "allocate memory",  # DefaultCPUAllocator: can't allocate memory; Cannot allocate memory
    "not enough memory",  # DefaultCPUAllocator on other systems
    "bad_alloc",
    "alloc_failed",  # CUBLAS_STATUS_, CUDNN_STATUS_, CUSOLVER_STATUS_ALLOC_FAILED, CUFFT_ALLOC_FAILED
    "allocation_failed",  # CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED
    "cudaerrormemoryallocation",
    "cuda_error_out_of_memory",
    "hiperroroutofmemory",
    "insufficient_resources",  # CUSPARSE_STATUS_
)
"""How libraries say it in a plain RuntimeError, in small letters."""


def is_out_of_memory(error: BaseException) -> bool:
    """Torch raises a type of its own for its own allocator on a GPU, and RuntimeErrors for all others."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if not isinstance(error, RuntimeError) or isinstance(error, TornStreamError):
        return False
    text = str(error).lower()
    # While CUDA's allocator makes up its message, it asks NVML how much is free, and may fail at that.
    return any(said in text for said in _SAID) or ("nvml" in text and "cudacachingallocator" in text)


class OomFallback:
    """Runs work; where memory runs out, gives something up and runs it again.

    Args:
        steps: in the order in which to take them, each once a run; a step may occur several times.
        last: what remains when they are used up, once for each piece of work; also where the stream was
            torn (:class:`TornStreamError`).
    """

    def __init__(self, steps: Sequence[FallbackStep], last: FallbackStep) -> None:
        self._all = tuple(steps)
        self._last = last
        self.begin()

    def begin(self) -> None:
        """A new run: nothing is given up. Whoever made the steps takes back what they did."""
        self._rungs = iter(self._all)
        self.steps: list[str] = []
        """What was given up in this run, in order."""

    def run(self, work: Callable[[], T]) -> T:
        """The result of ``work``.

        Raises:
            whatever ``work`` raises that is not a lack of memory, or that when nothing is left.
        """
        last = iter([self._last])
        while True:
            torn = False
            try:
                return work()
            except (MemoryError, RuntimeError, OSError) as error:
                torn = isinstance(error, TornStreamError)
                if not torn and not is_out_of_memory(error):
                    raise
                # Without its traceback, which would hold the tensors of the failed forward.
                failure = error.with_traceback(None)
            step = _give_up(last if torn else chain(self._rungs, last))
            if step is None:
                raise failure
            logger.warning("%s: going on with %s", "stream torn" if torn else "out of memory", step)
            self.steps.append(step)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def _give_up(steps: Iterable[FallbackStep]) -> str | None:
    """The first that has something to give, and can: giving needs some memory, too."""
    for give_up in steps:
        try:
            step = give_up()
        except (MemoryError, RuntimeError, OSError) as error:
            if not isinstance(error, TornStreamError) and not is_out_of_memory(error):
                raise
            logger.warning("out of memory while giving something up")
            continue
        if step is not None:
            return step
    return None
