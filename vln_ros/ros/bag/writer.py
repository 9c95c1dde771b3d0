"""Writes rosbag2 recordings in MCAP or SQLite without ROS's own bag library.

What is older than :data:`FLUSH_S` is on the disk, whatever becomes of process and power: a recording is
looked at above all when something went wrong.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rosbags.interfaces import (
    Connection,
    Qos,
    QosDurability,
    QosHistory,
    QosLiveliness,
    QosReliability,
    QosTime,
)
from rosbags.rosbag2 import StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer
from rosbags.typesys import Stores, get_typestore

from vln_ros.config import ConfigError

STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
FLUSH_S = 0.5
"""At least so often what has come is written to the disk."""
_FOREVER = QosTime(2147483647, 4294967295)


class BagWriter:
    """A new bag in a folder of its own. A thread writes; what waits for it is bounded.

    Args:
        folder: must not exist; its parents are made.
        storage: a key of :data:`STORAGE`.
        queue_bytes: what comes while so much is waiting is dropped and counted.

    Attributes:
        written, bytes: messages on disk, and their size.
        dropped: messages that came while the queue was full.
        failure: why writing has ended early.

    Raises:
        ConfigError: the folder cannot be written to.
    """

    def __init__(self, folder: Path, storage: str, queue_bytes: int) -> None:
        self._store = get_typestore(Stores.ROS2_JAZZY)
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._writer = Writer(folder, version=9, storage_plugin=STORAGE[storage])
            self._writer.open()
        except (OSError, WriterError, sqlite3.Error) as error:
            raise ConfigError(f"cannot record to {folder}: {error}") from error
        if isinstance(self._writer.storage, Sqlite3Writer):
            # Opened again for use in two threads: topics are added in one and messages in the other.
            self._writer.storage.conn.close()
            self._writer.storage.conn = sqlite3.connect(self._writer.storage.path, check_same_thread=False)
            self._writer.storage.cursor = self._writer.storage.conn.cursor()
        self._limit_bytes = queue_bytes
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._flushed_s = time.monotonic()
        self._waiting: deque[tuple[Connection, int, bytes]] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self.written = 0
        self.bytes = 0
        self.dropped = 0
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._write, name="bag writer", daemon=True)
        self._thread.start()

    def topic(self, name: str, type_: Any, profile: QoSProfile) -> Callable[[int, bytes], None]:
        """A new topic of message class ``type_``; returns what takes its messages: (time_ns, CDR)."""
        package = type_.__module__.split(".")[0]
        with self._writing:
            connection = self._writer.add_connection(
                name,
                f"{package}/msg/{type_.__name__}",
                typestore=self._store,
                offered_qos_profiles=[_qos(profile)],
            )

        def add(time_ns: int, data: bytes) -> None:
            with self._changed:
                if self.failure is not None or self._waiting_bytes + len(data) > self._limit_bytes:
                    self.dropped += 1
                    return
                self._waiting.append((connection, time_ns, bytes(data)))
                self._waiting_bytes += len(data)
                self._changed.notify()

        return add

    def _write(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._closing, FLUSH_S)
                item = self._waiting.popleft() if self._waiting else None
                if item is not None:
                    self._waiting_bytes -= len(item[2])
                elif self._closing:
                    return
            try:
                with self._writing:
                    if item is not None:
                        self._writer.write(*item)
                    if time.monotonic() - self._flushed_s >= FLUSH_S:
                        self._flush()
            except (OSError, WriterError, sqlite3.Error) as error:
                self._fail(error)
                return
            if item is not None:
                self.written += 1
                self.bytes += len(item[2])

    def _flush(self) -> None:
        """Everything that was written is on the disk; in an MCAP as a chunk of its own."""
        storage = self._writer.storage
        if isinstance(storage, McapWriter):
            if storage.chunk.msgs:
                storage.close_chunk()
            storage.bio.flush()
            os.fsync(storage.bio.fileno())
        elif isinstance(storage, Sqlite3Writer):
            storage.conn.commit()
        self._flushed_s = time.monotonic()

    def _fail(self, error: Exception) -> None:
        with self._changed:
            self.failure = str(error)
            self.dropped += len(self._waiting)
            self._waiting.clear()

    def close(self) -> None:
        """Write what is waiting, and finish the file; a failure is in :attr:`failure`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        try:
            self._writer.close()
        except (OSError, WriterError, sqlite3.Error) as error:
            self._fail(error)


def _qos(profile: QoSProfile) -> Qos:
    """For players: how to offer the topic again."""
    latched = profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
    reliable = latched or profile.reliability == ReliabilityPolicy.RELIABLE
    return Qos(
        QosHistory.KEEP_LAST,
        profile.depth,
        QosReliability.RELIABLE if reliable else QosReliability.BEST_EFFORT,
        QosDurability.TRANSIENT_LOCAL if latched else QosDurability.VOLATILE,
        _FOREVER,
        _FOREVER,
        QosLiveliness.AUTOMATIC,
        _FOREVER,
        False,
    )
