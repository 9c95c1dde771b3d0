"""Holds the actions left to do, and refuses chunks that are stale or of another instruction."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum

from vln_ros.datatypes import Action, ActionChunk, Executed


class Acceptance(Enum):
    """What became of a chunk that was offered to the queue."""

    ACCEPTED = "accepted"
    """It is being executed now; whatever was queued before is gone."""
    STALE = "stale"
    """Older than what the queue already knows, or after the stop that ended its run: dropped."""
    CONTRADICTED = "contradicted"
    """Since its frame was seen, the robot did something else: queue flushed, a new decision is due."""
    REFUSED = "refused"
    """The robot is kept standing by a fault: dropped."""


@dataclass(frozen=True)
class QueueState:
    """What is left to do, and of which queue. Queue and instruction are 0 before the first one.

    After a contradiction or a flush the queue is 0 again: whoever decides learns that the queue it
    counts on is not being executed, and can tell that from one that has been executed to its end.
    """

    instruction: int
    queue: int
    remaining: tuple[Action, ...]
    epoch: int = 0


class ActionQueue:
    """Actions to execute, and those executed lately. Not thread-safe: one thread owns it.

    A chunk answers one frame and is planned from where the robot was in that frame. If the robot
    went on moving while the model thought, the chunk's first actions must be those that it has
    executed meanwhile; they are skipped. If they are not, the chunk contradicts what was done and
    cannot be used. Nor can one whose frame is older than a flush that cut an action short.

    A hold is taken even under the number of the queue that is being executed: it may have been sent in
    haste, beside the one who counts.
    """

    HISTORY = 64

    def __init__(self) -> None:
        self._epoch = 0
        self._instruction = 0
        self._queue = 0
        self._taken = True
        self._flushed_ns = 0
        self._remaining: deque[Action] = deque()
        self._begun_ns: int | None = None
        self._executed: deque[Executed] = deque(maxlen=self.HISTORY)
        self.stale = 0
        self.contradicted = 0

    @property
    def state(self) -> QueueState:
        return QueueState(
            self._instruction, self._queue if self._taken else 0, tuple(self._remaining), self._epoch
        )

    @property
    def executed(self) -> tuple[Executed, ...]:
        """The newest actions that were completed under the present instruction, oldest first."""
        return tuple(self._executed)

    @property
    def current(self) -> Action | None:
        """The action to execute now."""
        return self._remaining[0] if self._remaining else None

    def offer(self, chunk: ActionChunk) -> Acceptance:
        """Take over a new chunk, or say why not."""
        if chunk.epoch != self._epoch:  # the navigator was restarted: its numbers begin anew
            self.reset()
            self._epoch = chunk.epoch
        same_run = chunk.instruction == self._instruction
        stopped = same_run and bool(self._executed) and self._executed[-1].action.stop
        known, offered = (self._instruction, self._queue), (chunk.instruction, chunk.queue)
        hasty = not chunk.actions and offered == known
        if stopped or (offered <= known and not hasty):
            self.stale += 1
            return Acceptance.STALE
        in_progress = self.current if same_run and self._begun_ns is not None else None
        if not same_run:
            self._executed.clear()
        done = [e.action for e in self._executed if e.stamp_ns > chunk.frame_stamp_ns]
        if in_progress is not None and chunk.actions:
            # An action under way is finished first, so it counts as done.
            done.append(in_progress)
        self._instruction, self._queue = chunk.instruction, chunk.queue
        follows = list(chunk.actions[: len(done)]) == done and chunk.frame_stamp_ns >= self._flushed_ns
        self._taken = not chunk.actions or follows
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
        self._executed.append(Executed(stamp_ns, action))
        return action

    def flush(self, stamp_ns: int) -> None:
        """Forget what is queued. The numbers are kept, so that a queue from before stays stale.

        Args:
            stamp_ns: of the newest odometry: queues that answer older frames count on what was flushed.
        """
        if self._remaining:
            self._flushed_ns = stamp_ns
        self.drop()

    def drop(self) -> None:
        """As :meth:`flush`, but the next queue may answer a frame from before: nobody counts on this one."""
        if self._remaining:
            self._taken = False
        self._remaining.clear()
        self._begun_ns = None

    def reset(self) -> None:
        """Forget everything, the numbers too: after a clock reset nothing can be compared with before."""
        self._remaining.clear()
        self._begun_ns = None
        self._executed.clear()
        self._instruction = self._queue = self._flushed_ns = 0
        self._taken = True
