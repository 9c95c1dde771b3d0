"""The queue of actions between the one who decides and the one who moves."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from vln_ros.datatypes import Action, ActionChunk


class Acceptance(Enum):
    """What became of a chunk that was offered to the queue."""

    ACCEPTED = "accepted"
    """It is being executed now; whatever was queued before is gone."""
    STALE = "stale"
    """Older than what the queue already knows, or after the stop that ended its run: dropped."""
    CONTRADICTED = "contradicted"
    """Since its frame was seen, the robot did something else: queue flushed, a new decision is due."""


@dataclass(frozen=True)
class QueueState:
    """What is left to do, and of which queue. Queue and instruction are 0 before the first one.

    After a contradiction the queue is 0 again: whoever decides learns that the queue it counts on
    is not being executed, and can tell that from one that has been executed to its end.
    """

    instruction: int
    queue: int
    remaining: tuple[Action, ...]


class ActionQueue:
    """Actions to execute, and those executed lately. Not thread-safe: one thread owns it.

    A chunk answers one frame and is planned from where the robot was in that frame. If the robot
    went on moving while the model thought, the chunk's first actions must be those that it has
    executed meanwhile; they are skipped. If they are not, the chunk contradicts what was done and
    cannot be used.
    """

    HISTORY = 64

    def __init__(self) -> None:
        self._instruction = 0
        self._queue = 0
        self._taken = True
        self._remaining: deque[Action] = deque()
        self._begun_ns: int | None = None
        self._executed: deque[tuple[int, Action]] = deque(maxlen=self.HISTORY)
        self.stale = 0
        self.contradicted = 0

    @property
    def state(self) -> QueueState:
        return QueueState(self._instruction, self._queue if self._taken else 0, tuple(self._remaining))

    @property
    def current(self) -> Action | None:
        """The action to execute now."""
        return self._remaining[0] if self._remaining else None

    def offer(self, chunk: ActionChunk) -> Acceptance:
        """Take over a new chunk, or say why not."""
        same_run = chunk.instruction == self._instruction
        stopped = same_run and bool(self._executed) and self._executed[-1][1].stop
        if stopped or (chunk.instruction, chunk.queue) <= (self._instruction, self._queue):
            self.stale += 1
            return Acceptance.STALE
        in_progress = self.current if same_run and self._begun_ns is not None else None
        done = [a for stamp, a in self._executed if stamp > chunk.frame_stamp_ns] if same_run else []
        if in_progress is not None and chunk.actions:
            # An action under way is finished first, so it counts as done.
            done.append(in_progress)
        self._instruction, self._queue = chunk.instruction, chunk.queue
        self._taken = not chunk.actions or list(chunk.actions[: len(done)]) == done
        if not self._taken:
            self._remaining.clear()
            self._begun_ns = None
            self.contradicted += 1
            return Acceptance.CONTRADICTED
        self._remaining = deque(chunk.actions[len(done) :])
        if in_progress is not None and chunk.actions:
            self._remaining.appendleft(in_progress)
        else:
            self._begun_ns = None
        if not same_run:
            self._executed.clear()
        return Acceptance.ACCEPTED

    def begin(self, stamp_ns: int) -> None:
        """The current action is being executed from ``stamp_ns`` on."""
        if not self._remaining:
            raise ValueError("no action to begin")
        self._begun_ns = stamp_ns

    def complete(self, stamp_ns: int) -> Action:
        """The current action has ended at ``stamp_ns``."""
        if not self._remaining:
            raise ValueError("no action to complete")
        action = self._remaining.popleft()
        self._begun_ns = None
        self._executed.append((stamp_ns, action))
        return action

    def clear(self) -> None:
        """Flush. The numbers are kept, so that a queue from before the flush stays stale."""
        self._remaining.clear()
        self._begun_ns = None

    def reset(self) -> None:
        """Forget everything, the numbers too: after a clock reset nothing can be compared with before."""
        self.clear()
        self._executed.clear()
        self._instruction = self._queue = 0
        self._taken = True
