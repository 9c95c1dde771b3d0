"""Makes demonstrations in worker processes ahead of their use."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from vln_ros.evaluation.workers.pool import interrupts_held_back
from vln_ros.training.batch import Collator, Conversation
from vln_ros.training.demonstrations import (
    Demonstration,
    Rules,
    Task,
    demonstrate,
)
from vln_ros.training.rollout import run_alone

_WORKER_NICENESS = 5  # where cores are few, the steps come first


@dataclass(frozen=True)
class Source:
    """What demonstrations are made by. ``own``: folder of the weights, one checkpoint per step."""

    rules: Rules
    own: Path
    profile: str

    def make(self, task: Task) -> Demonstration:
        if task.policy is not None and task.executed is None:
            task = run_alone(task, self.rules, str(self.own / str(task.policy)), self.profile)
        return demonstrate(task, self.rules)


def _begin_work() -> None:
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # a semaphore would be left behind by a worker that is ended
    os.nice(_WORKER_NICENESS)
    trainer = parent_process()
    assert trainer is not None

    def end_with_it() -> None:
        # A pool whose owner is killed waits for orders for ever.
        trainer.join()
        os._exit(1)

    threading.Thread(target=end_with_it, daemon=True).start()


class Loader:
    """Makes demonstrations, ahead of their use if there are workers. A context manager."""

    def __init__(self, source: Source, workers: int) -> None:
        self._source = source
        self._executor = (
            ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin_work)
            if workers
            else None
        )

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def order(self, task: Task) -> Future[Demonstration]:
        if self._executor is not None:
            with interrupts_held_back():
                return self._executor.submit(self._source.make, task)
        made: Future[Demonstration] = Future()
        made.set_result(self._source.make(task))
        return made


class PoolItem:
    """A demonstration on order.

    One growing chat is written once, when it is first drawn. Of a run that is asked question by question
    other ones are drawn each time.

    Attributes:
        task: what was ordered; once an own run of the policy is made, with what the policy did.
    """

    def __init__(self, task: Task, ordered: Future[Demonstration]) -> None:
        self.task = task
        self._ordered: Future[Demonstration] | None = ordered
        self._made: Demonstration | None = None
        self._written: list[Conversation] = []

    def conversations(
        self, collator: Collator, questions: int, rng: np.random.Generator
    ) -> list[Conversation]:
        """What is learnt from it now; of a run that is asked question by question, ``questions`` at most."""
        if self._written:
            return self._written
        if self._made is None:
            assert self._ordered is not None
            self._made, self._ordered = self._ordered.result(), None
            if self.task.policy is not None:
                self.task = replace(self.task, executed=tuple(d.executed for d in self._made.decisions))
        if collator.profile.context.strategy == "append":
            self._written, self._made = collator.write(self._made), None
            return self._written
        count = len(self._made.decisions)
        asked = rng.choice(count, min(questions, count), replace=False)
        return collator.write(self._made, sorted(int(k) for k in asked))
