"""Hands the newest frame from the callbacks to the engine's thread: one slot."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class MailboxCounts:
    """``received == replaced + taken + (1 if one is waiting)`` until the mailbox is closed."""

    received: int
    replaced: int
    """Overwritten by a newer one before anybody took them."""
    taken: int


class LatestMailbox(Generic[T]):
    """A slot between threads. Whoever takes gets the newest item; older ones are counted and gone.

    Thread-safe. ``put`` never waits for the one who takes.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._slot: tuple[T] | None = None
        self._closed = False
        self._received = self._replaced = self._taken = 0

    @property
    def counts(self) -> MailboxCounts:
        """A snapshot."""
        with self._condition:
            return MailboxCounts(self._received, self._replaced, self._taken)

    @property
    def closed(self) -> bool:
        with self._condition:
            return self._closed

    @property
    def waiting(self) -> bool:
        """An item is there to be taken."""
        with self._condition:
            return self._slot is not None

    def put(self, item: T) -> bool:
        """Offer an item. Returns False, and forgets the item, once the mailbox is closed."""
        with self._condition:
            if self._closed:
                return False
            self._received += 1
            self._replaced += self._slot is not None
            self._slot = (item,)
            self._condition.notify()
            return True

    def take(self, timeout_s: float | None = None) -> T | None:
        """The newest item, waiting for one if need be; None after ``timeout_s`` or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: self._slot is not None or self._closed, timeout_s)
            if self._slot is None or self._closed:
                return None
            (item,) = self._slot
            self._slot = None
            self._taken += 1
            return item

    def clear(self) -> None:
        """Forget the waiting item, if any; it counts as replaced."""
        with self._condition:
            self._replaced += self._slot is not None
            self._slot = None

    def close(self) -> None:
        """Wake up everybody who waits; from now on nothing goes in or out."""
        with self._condition:
            self._closed = True
            self._slot = None
            self._condition.notify_all()
