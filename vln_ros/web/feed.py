"""The newest of everything that is shown: written by one thread, read by the server's."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from vln_ros.web.messages import Message, Note, encode, kind_of, picture_bytes

NOTES_KEPT = 200


@dataclass(frozen=True)
class Entry:
    """The newest content of one subject.

    Attributes:
        subject: a kind of message, or a view.
        version: of all contents of all subjects this one is the so manyth.
        payload: text for a message, bytes for a picture.
    """

    subject: str
    version: int
    payload: str | bytes


class Feed:
    """Keeps the newest message of each kind, the newest picture of each view, and the log.

    Who is slow misses what was replaced meanwhile; of the log nothing. Thread-safe. Everything is encoded
    once, by the thread that brings it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[str, Entry] = {}
        self._notes: deque[tuple[int, str]] = deque(maxlen=NOTES_KEPT)
        self._version = self._noted = 0
        self._changed: Callable[[], None] = lambda: None

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call ``changed`` after every change, in the thread that makes it; it must not wait."""
        self._changed = changed

    def put(self, message: Message) -> None:
        """This is how things are now."""
        payload = encode(message)
        subject = kind_of(type(message))
        with self._lock:
            before = self._entries.get(subject)
            if before is not None and before.payload == payload:
                return
            self._version += 1
            self._entries[subject] = Entry(subject, self._version, payload)
        self._changed()

    def put_picture(self, view: str, stamp_ns: int, jpeg: bytes, scale: float = 1.0) -> None:
        """``view`` is one of :data:`vln_ros.web.messages.VIEWS`, or ``GOAL_PICTURE``; ``scale``: see
        :func:`picture_bytes`."""
        with self._lock:
            self._version += 1
            payload = picture_bytes(view, self._version, stamp_ns, scale, jpeg)
            self._entries[view] = Entry(view, self._version, payload)
        self._changed()

    def note(self, what: str, text: str) -> None:
        """Write a line into the log; see :class:`vln_ros.web.messages.Note`."""
        with self._lock:
            self._noted += 1
            self._notes.append((self._noted, encode(Note(self._noted, time.time(), what, text))))
        self._changed()

    def newer(self, seen: Mapping[str, int]) -> list[Entry]:
        """What has changed since the versions ``seen``, by subject; oldest first."""
        with self._lock:
            entries = [e for e in self._entries.values() if e.version > seen.get(e.subject, 0)]
        return sorted(entries, key=lambda e: e.version)

    def notes_after(self, number: int) -> list[tuple[int, str]]:
        """Number and text of the lines of the log after that one, of those that are kept."""
        with self._lock:
            return [note for note in self._notes if note[0] > number]
