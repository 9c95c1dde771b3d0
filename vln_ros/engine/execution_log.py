"""Keeps the list of actions that the robot has completed in a run, from the executor's reports.

No threads, no ROS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vln_ros.datatypes import ActionChunk, Executed

_QUEUES_KEPT = 8


@dataclass(frozen=True)
class Progress:
    """How far the executor is, at ``stamp_ns`` of the sensors' clock.

    A ``queue`` of 0 under the present instruction: the executor could not use the last one
    (:attr:`vln_ros.motion.action_queue.Acceptance.CONTRADICTED`) and stands still.

    Attributes:
        instruction, queue: whose actions are left.
        remaining: how many are left of it.
        executed: the newest primitives that were completed under ``instruction``, oldest first; None where
            the executor does not say so, and they are concluded from ``remaining``.
    """

    instruction: int
    queue: int
    remaining: int
    stamp_ns: int
    executed: tuple[Executed, ...] | None = None


class ExecutionLog:
    """All primitives that were completed since :meth:`begin`, each once, in order.

    Reports may come twice, late, or not at all: each holds the newest primitives, so only what is older
    than all of them can be missed.
    """

    def __init__(self) -> None:
        self._entries: list[Executed] = []
        self._sent: dict[int, tuple[ActionChunk, int]] = {}

    @property
    def entries(self) -> Sequence[Executed]:
        return tuple(self._entries)

    def begin(self) -> None:
        """A new run."""
        self._entries.clear()
        self._sent.clear()

    def sent(self, chunk: ActionChunk) -> None:
        """A queue goes to the executor: a report that only counts is of its actions."""
        before = sum(e.stamp_ns <= chunk.frame_stamp_ns for e in self._entries)
        self._sent[chunk.queue] = chunk, before
        for old in list(self._sent)[:-_QUEUES_KEPT]:
            del self._sent[old]

    def hear(self, report: Progress) -> int:
        """Take in a report of the present run; how many primitives it has added."""
        before = len(self._entries)
        if report.executed is not None:
            self._merge(report.executed)
        elif report.queue in self._sent:
            # A queue is planned from its frame: what was completed since then is its beginning.
            chunk, earlier = self._sent[report.queue]
            done = chunk.actions[before - earlier : len(chunk.actions) - report.remaining]
            self._entries += [Executed(report.stamp_ns, action) for action in done]
        return len(self._entries) - before

    def clock_reset(self, stamp_ns: int) -> None:
        """The sensors' clock has jumped back to ``stamp_ns``: what was completed was so before it."""
        self._entries = [replace(e, stamp_ns=min(e.stamp_ns, stamp_ns - 1)) for e in self._entries]

    def _merge(self, newest: Sequence[Executed]) -> None:
        last_ns = self._entries[-1].stamp_ns if self._entries else -1
        # Several may have been completed at one stamp, and only a part of them be known.
        known = sum(e.stamp_ns == last_ns for e in self._entries)
        same = [e for e in newest if e.stamp_ns == last_ns]
        self._entries += same[known:] + [e for e in newest if e.stamp_ns > last_ns]
