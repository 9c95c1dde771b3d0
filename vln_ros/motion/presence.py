"""Tells two nodes of one kind from one that was started again, by their life signs."""

from __future__ import annotations

from vln_ros.config import ExecutorConfig
from vln_ros.motion.safety import Fault

MEMORY_S = 60.0
"""How long a navigator is known by its queues: it may think for long."""
ALTERNATION_S = 3.0
"""How long two navigators are believed in after a queue of the first has followed one of the second."""


class Presence:
    """The senders of a stream of life signs, by what they call themselves.

    Who is registered tells nothing: a process that was killed stays so for the time of its lease (20 s), and
    meanwhile its successor must work. Life signs do: of a sender and its successor the first one falls
    silent before the second one is heard; two that live at the same time are heard in turns.

    ``now_s`` is always of one steady clock; a sender that is silent for ``timeout_s`` is gone.
    """

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        self._last = ""
        self._in_turns = False

    def heard(self, sender: str, now_s: float, timeout_s: float) -> None:
        """A life sign."""
        self._forget(now_s, timeout_s)
        self._in_turns |= sender != self._last and sender in self._heard_s
        self._heard_s[sender] = now_s
        self._last = sender

    def doubles(self, now_s: float, timeout_s: float) -> tuple[str, ...]:
        """All that are alive if they are more than one; empty if not."""
        self._forget(now_s, timeout_s)
        return tuple(sorted(self._heard_s)) if self._in_turns else ()

    def _forget(self, now_s: float, timeout_s: float) -> None:
        if any(now_s - at_s > timeout_s for at_s in self._heard_s.values()):
            self._heard_s = {who: at_s for who, at_s in self._heard_s.items() if now_s - at_s <= timeout_s}
        if len(self._heard_s) < 2:
            self._in_turns = False


class Doubles:
    """What the executor knows of second navigators and second executors.

    Navigators send heartbeats. Where only their queues reach this executor (two namespaces, one queue), they
    are told by the epochs in them: a successor's epoch replaces the one before, and that never comes back.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self.config = config
        self._navigators, self._executors, self._queues = Presence(), Presence(), Presence()
        self._alternated_s: float | None = None
        self._alternating: tuple[str, ...] = ()

    def navigator(self, sender: str, now_s: float) -> None:
        """A heartbeat of the navigator that calls itself so."""
        self._navigators.heard(sender, now_s, self._timeout_s)

    def executor(self, sender: str, now_s: float) -> None:
        """A heartbeat of an executor, this one included."""
        self._executors.heard(sender, now_s, self._timeout_s)

    def queue(self, epoch: int, now_s: float) -> None:
        """A queue with actions; an ``epoch`` of 0 says nothing of who has sent it."""
        if epoch == 0:
            return
        self._queues.heard(f"epoch {epoch}", now_s, MEMORY_S)
        if doubles := self._queues.doubles(now_s, MEMORY_S):
            self._alternating, self._alternated_s = doubles, now_s
            self._queues = Presence()  # what comes now is judged anew
            self._queues.heard(f"epoch {epoch}", now_s, MEMORY_S)

    def found(self, now_s: float) -> dict[Fault, str]:
        """The faults that there are, and whom they are about."""
        found = {}
        navigators = self._navigators.doubles(now_s, self._timeout_s)
        if self._alternated_s is not None and now_s - self._alternated_s > ALTERNATION_S:
            self._alternated_s, self._alternating = None, ()
        if navigators or self._alternating:
            found[Fault.TWO_NAVIGATORS] = " and ".join(navigators or self._alternating)
        if executors := self._executors.doubles(now_s, self._timeout_s):
            found[Fault.TWO_EXECUTORS] = " and ".join(executors)
        return found

    @property
    def _timeout_s(self) -> float:
        return self.config.safety.heartbeat_timeout_s
