"""One driver at a time: who may tell the robot where to go. Pure; times are of one steady clock."""

from __future__ import annotations


class DriverSeat:
    """Held by one viewer, by its identity; others may take it over, and then it is theirs.

    A page that is loaded again, or loses its connection for a moment, keeps the seat: for ``grace_s`` after
    its connection ended the seat is still its.

    Attributes:
        holder: identity of the driver; empty: nobody drives.
    """

    def __init__(self, grace_s: float) -> None:
        self._grace_s = grace_s
        self._left_s: float | None = None
        self.holder = ""

    def take(self, who: str, *, take_over: bool) -> bool:
        """Become the driver. False: somebody else is, and is not to be replaced."""
        if self.holder not in ("", who) and not take_over:
            return False
        self.holder, self._left_s = who, None
        return True

    def give_up(self, who: str) -> bool:
        """Be the driver no more. False: it was somebody else."""
        if not who or self.holder != who:
            return False
        self.holder, self._left_s = "", None
        return True

    def connected(self, who: str) -> None:
        """A viewer is there, perhaps again."""
        if self.holder == who:
            self._left_s = None

    def gone(self, who: str, now_s: float) -> None:
        """The connection of a viewer has ended."""
        if self.holder == who:
            self._left_s = now_s

    def expire(self, now_s: float) -> bool:
        """Whether the driver has been gone for too long; then nobody drives. True once."""
        if self._left_s is None or now_s - self._left_s < self._grace_s:
            return False
        self.holder, self._left_s = "", None
        return True
