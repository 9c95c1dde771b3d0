"""Keeps what a training run that is resumed goes on with, besides tensors."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np

from vln_ros.datatypes import ActionKind
from vln_ros.training.demonstrations import Task


@dataclass(kw_only=True)
class Progress:
    """Everything that a resumed run goes on with, besides tensors.

    Attributes:
        numbers: next train episode of each kind of flat.
        pool: the tasks whose demonstrations batches are drawn from, oldest first.
        policy: step whose weights make the own runs that are ordered now; None for none yet.
        best: number of kinds and mean success of the best validation.
    """

    step: int
    seconds: float
    numbers: dict[str, int]
    pool: list[Task]
    policy: int | None
    rng: np.random.Generator
    best: tuple[int, float]


def plain_of(task: Task) -> dict[str, Any]:
    """A task as numbers and texts."""
    executed = None if task.executed is None else [[int(a) for a in queue] for queue in task.executed]
    return {**dataclasses.asdict(task), "executed": executed}


def task_of(plain: dict[str, Any]) -> Task:
    """The inverse of :func:`plain_of`."""
    executed = plain["executed"]
    if executed is not None:
        executed = tuple(tuple(ActionKind(a) for a in queue) for queue in executed)
    return Task(**{**plain, "executed": executed})
