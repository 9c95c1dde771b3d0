"""Writes rosbag2 recordings in MCAP or SQLite without ROS's own bag library.

What is older than :data:`FLUSH_S` is on the disk, whatever becomes of process and power: a recording is
looked at above all when something went wrong.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import yaml
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
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer, WriterError
from rosbags.rosbag2.storage_mcap import McapWriter
from rosbags.rosbag2.storage_sqlite3 import Sqlite3Writer
from rosbags.typesys import Stores, get_typestore

from vln_ros.config import ConfigError

STORAGE = {"mcap": StoragePlugin.MCAP, "sqlite3": StoragePlugin.SQLITE3}
FLUSH_S = 0.5
"""At least so often what has come is written to the disk."""
_PART_METADATA = ".part.yaml"
_FOREVER = QosTime(2147483647, 4294967295)


class EncodeError(ValueError):
    """A message that cannot be brought to the form in which it is to be recorded."""


Encode: TypeAlias = Callable[[bytes], bytes]
"""CDR to CDR, of another type. Raises :class:`EncodeError`. Called in the writer's thread."""


@dataclass(frozen=True, kw_only=True)
class BagLimits:
    """What a recording may take.

    Attributes:
        part_bytes, part_s: a file is followed by the next one when it holds so much, or has gone on for so
            long; 0: never.
        free_bytes: recording ends when the disk has less left.
        zstd: compress by zstd.
    """

    part_bytes: int = 0
    part_s: float = 0.0
    free_bytes: int = 0
    zstd: bool = False


@dataclass
class _Channel:
    """One topic, in whatever file is open."""

    name: str
    type_name: str
    profile: QoSProfile
    encode: Encode | None
    connection: Connection | None = None


class BagWriter:
    """A new bag in a folder of its own. A thread encodes and writes; what waits for it is bounded.

    The files are ``NAME_0``, ``NAME_1`` and so on, as rosbag2 splits a recording. ``metadata.yaml`` is
    written at the end: until then, or where the end never comes, the files are found without it.

    Args:
        folder: must not exist; its parents are made.
        storage: a key of :data:`STORAGE`.
        queue_bytes: what comes while so much is waiting is dropped and counted.
        limits: of a file, and of the disk.

    Attributes:
        written, bytes: messages on disk, and their size.
        dropped: messages that came while the queue was full.
        refused: messages that could not be encoded.
        parts: files so far.
        failure: why writing has ended early.

    Raises:
        ConfigError: the folder cannot be written to, or the disk has too little left.
    """

    def __init__(self, folder: Path, storage: str, queue_bytes: int, limits: BagLimits | None = None) -> None:
        self._folder, self._storage, self._limits = folder, storage, limits or BagLimits()
        self._store = get_typestore(Stores.ROS2_JAZZY)
        self._channels: list[_Channel] = []
        self._finished: list[dict[str, Any]] = []
        self.parts = 0
        try:
            folder.mkdir(parents=True)
            if (why := self._disk_full()) is not None:
                folder.rmdir()
                raise ConfigError(f"cannot record to {folder}: {why}")
            self._open_part()
        except (OSError, WriterError, sqlite3.Error) as error:
            raise ConfigError(f"cannot record to {folder}: {error}") from error
        self._limit_bytes = queue_bytes
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._flushed_s = time.monotonic()
        self._waiting: deque[tuple[_Channel, int, bytes]] = deque()
        self._waiting_bytes = 0
        self._closing = False
        self.written = 0
        self.bytes = 0
        self.dropped = 0
        self.refused = 0
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._write, name="bag writer", daemon=True)
        self._thread.start()

    @property
    def free_bytes(self) -> int:
        """What the disk has left for it; none where it has gone."""
        try:
            return max(0, shutil.disk_usage(self._folder).free - self._limits.free_bytes)
        except OSError:
            return 0

    def topic(
        self, name: str, type_: Any, profile: QoSProfile, encode: Encode | None = None
    ) -> Callable[[int, bytes], None]:
        """A new topic of message class ``type_``; returns what takes its messages: (time_ns, CDR).

        Args:
            type_: of what is written, and of what is taken where nothing is encoded.
            encode: brings what is taken to ``type_``.
        """
        channel = _Channel(name, f"{type_.__module__.split('.')[0]}/msg/{type_.__name__}", profile, encode)
        with self._writing:
            self._channels.append(channel)
            self._connect(channel)

        def add(time_ns: int, data: bytes) -> None:
            with self._changed:
                if self.failure is not None or self._waiting_bytes + len(data) > self._limit_bytes:
                    self.dropped += 1
                    return
                self._waiting.append((channel, time_ns, bytes(data)))
                self._waiting_bytes += len(data)
                self._changed.notify()

        return add

    # ------------------------------------------------------------------ files

    def _open_part(self) -> None:
        """The next file. rosbags makes a folder for each: it is moved out of that."""
        made = self._folder / ".part"
        self._writer = Writer(made, version=9, storage_plugin=STORAGE[self._storage])
        if self._limits.zstd:
            in_chunks = self._storage == "mcap"
            mode = CompressionMode.STORAGE if in_chunks else CompressionMode.MESSAGE
            self._writer.set_compression(mode, CompressionFormat.ZSTD)
        self._writer.open()
        storage = self._writer.storage
        assert isinstance(storage, McapWriter | Sqlite3Writer)
        path = self._folder / f"{self._folder.name}_{self.parts}{storage.path.suffix}"
        if isinstance(storage, Sqlite3Writer):
            # Opened again for use in two threads: topics are added in one and messages in the other.
            storage.conn.close()
            storage.path.rename(path)
            storage.conn = sqlite3.connect(path, check_same_thread=False)
            storage.cursor = storage.conn.cursor()
        else:
            storage.path.rename(path)
        storage.path = path
        made.rmdir()
        self._writer.metapath = self._folder / _PART_METADATA
        self.parts += 1
        self._part_bytes, self._part_begun_s = 0, time.monotonic()
        for channel in self._channels:
            self._connect(channel)

    def _connect(self, channel: _Channel) -> None:
        channel.connection = self._writer.add_connection(
            channel.name,
            channel.type_name,
            typestore=self._store,
            offered_qos_profiles=[_qos(channel.profile)],
        )

    def _close_part(self) -> None:
        self._writer.close()
        metadata = self._folder / _PART_METADATA
        self._finished.append(yaml.safe_load(metadata.read_text("utf-8"))["rosbag2_bagfile_information"])
        metadata.unlink()

    def _part_is_full(self) -> bool:
        limits = self._limits
        by_size = 0 < limits.part_bytes <= self._part_bytes
        return by_size or 0.0 < limits.part_s <= time.monotonic() - self._part_begun_s

    def _disk_full(self) -> str | None:
        if shutil.disk_usage(self._folder).free >= self._limits.free_bytes:
            return None
        return f"the disk has less than {self._limits.free_bytes / 2**20:g} MB left, which is kept free"

    # ------------------------------------------------------------------ the writer's thread

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
                self._write_item(item)
            except (OSError, WriterError, sqlite3.Error) as error:
                self._fail(error)
                return

    def _write_item(self, item: tuple[_Channel, int, bytes] | None) -> None:
        data: bytes | None = None
        if item is not None:
            channel, time_ns, data = item
            if channel.encode is not None:
                try:
                    data = channel.encode(data)
                except EncodeError:
                    self.refused += 1
                    data = None
        with self._writing:
            if item is not None and data is not None:
                if self._part_is_full():
                    self._close_part()
                    self._open_part()
                assert channel.connection is not None
                self._writer.write(channel.connection, time_ns, data)
                self._part_bytes += len(data)
                self.written += 1
                self.bytes += len(data)
            if time.monotonic() - self._flushed_s >= FLUSH_S:
                self._flush()
                if (why := self._disk_full()) is not None:
                    raise WriterError(why)

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
        """Write what is waiting, and finish the files; a failure is in :attr:`failure`."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()
        metadata = self._folder / "metadata.yaml"
        try:
            self._close_part()
            whole = {"rosbag2_bagfile_information": _together(self._finished)}
            metadata.write_text(yaml.safe_dump(whole, sort_keys=False), "utf-8")
        except (OSError, WriterError, sqlite3.Error) as error:
            self._fail(error)
            with contextlib.suppress(OSError):  # the files are found without it, and not with half of it
                metadata.unlink()


def _together(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The metadata of a recording of these files."""
    full = [p for p in parts if p["message_count"]] or parts[:1]
    begin = min(p["starting_time"]["nanoseconds_since_epoch"] for p in full)
    end = max(p["starting_time"]["nanoseconds_since_epoch"] + p["duration"]["nanoseconds"] for p in full)
    topics: dict[str, dict[str, Any]] = {}
    for part in parts:
        for topic in part["topics_with_message_count"]:
            name = topic["topic_metadata"]["name"]
            if name in topics:
                topics[name]["message_count"] += topic["message_count"]
            else:
                topics[name] = {**topic}
    return {
        **parts[0],
        "relative_file_paths": [name for p in parts for name in p["relative_file_paths"]],
        "duration": {"nanoseconds": end - begin},
        "starting_time": {"nanoseconds_since_epoch": begin},
        "message_count": sum(p["message_count"] for p in parts),
        "topics_with_message_count": list(topics.values()),
        "files": [file for p in parts for file in p["files"]],
    }


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
