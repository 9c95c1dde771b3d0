"""Opens the files of a rosbag2: MCAP or SQLite, compressed or not, whole or cut off by a crash.

Only topics, types and bytes are read. Definitions are not, so that a damaged one of a topic that nobody
asks for does no harm, and the qualities of service in metadata.yaml may have been edited.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import yaml
import zstandard
from mcap.reader import SeekingReader
from mcap.records import Channel, Message, Schema
from mcap.stream_reader import StreamReader

from vln_ros.config import ConfigError

_METADATA = "metadata.yaml"
_SUFFIXES = (".mcap", ".db3")
_ZSTD_SUFFIX = ".zstd"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ROS1_MAGIC = b"#ROSBAG"
_MCAP_MAGIC = b"\x89MCAP0\r\n"
_CDR = "cdr"
_FILL = b"\xa5"
"""Stands for what a file was cut off: no page number, and a message that ends in it is left out."""


@dataclass(frozen=True)
class Topic:
    """A topic of one type in a recording.

    Attributes:
        count: messages that can be read.
        serialization: ``cdr`` unless something other than ROS wrote it.
    """

    topic: str
    msgtype: str
    count: int
    serialization: str = _CDR


@dataclass
class _Contents:
    """What a file holds, as far as it can be read."""

    counts: dict[tuple[str, str, str], int] = field(default_factory=dict)
    first_ns: int = 2**63 - 1
    last_ns: int = 0
    lost: str = ""

    def add(self, key: tuple[str, str, str], count: int, first_ns: int, last_ns: int) -> None:
        self.counts[key] = self.counts.get(key, 0) + count
        if count:
            self.first_ns, self.last_ns = min(self.first_ns, first_ns), max(self.last_ns, last_ns)


class _File(Protocol):
    contents: _Contents

    def messages(self, topics: Iterable[Topic]) -> Iterator[tuple[int, Topic, bytes]]:
        """Time, topic and serialized message, in the order of time."""


class BagFiles:
    """All files of a recording as one.

    Args:
        path: folder of a rosbag2, or its .db3 or .mcap file.

    Attributes:
        topics: that it holds.
        first_ns, last_ns: times of the first and last message.
        lost: what of it cannot be read and how to repair it; empty for a whole recording.

    Raises:
        ConfigError: nothing of it can be read; a ROS 1 bag.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stack = ExitStack()
        try:
            paths, notes = _storage_files(path)
            with readable(path, "cannot be opened"):
                self._files = [self._open(p) for p in paths]
        except BaseException:
            self._stack.close()
            raise
        total: dict[tuple[str, str, str], int] = {}
        for file in self._files:
            for key, count in file.contents.counts.items():
                total[key] = total.get(key, 0) + count
            notes += [file.contents.lost] if file.contents.lost else []
        self.topics = tuple(Topic(name, type_, n, form) for (name, type_, form), n in sorted(total.items()))
        self.first_ns = min(f.contents.first_ns for f in self._files)
        self.last_ns = max(f.contents.last_ns for f in self._files)
        self.lost = "; ".join(notes)

    def _open(self, path: Path) -> _File:
        with path.open("rb") as f:
            magic = f.read(len(_MCAP_MAGIC))
        if path.suffix == _ZSTD_SUFFIX:
            folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="vln_ros-bag-"))
            whole = Path(folder) / path.stem
            with path.open("rb") as source, whole.open("wb") as target:
                zstandard.ZstdDecompressor().copy_stream(source, target)
            return self._open(whole)
        if path.suffix == ".mcap" or magic == _MCAP_MAGIC:
            return _McapFile(path)
        return _SqliteFile(path, self._stack)

    def messages(self, topics: Iterable[Topic]) -> Iterator[tuple[int, Topic, bytes]]:
        """Time in nanoseconds, topic and CDR bytes, file by file, in the order of time within each.

        Raises:
            ConfigError: the recording is damaged further on.
        """
        wanted = list(topics)
        for topic in wanted:
            if topic.serialization != _CDR:
                raise ConfigError(
                    f"bag {self.path}: {topic.topic} is serialized as {topic.serialization}, not CDR"
                )
        with readable(self.path, "is damaged or truncated"):
            for file in self._files:
                for time_ns, topic, data in file.messages(wanted):
                    whole = data
                    if (
                        data[: len(_ZSTD_MAGIC)] == _ZSTD_MAGIC
                    ):  # compressed message by message; CDR begins with 0
                        whole = zstandard.ZstdDecompressor().decompress(data)
                    yield time_ns, topic, whole

    def close(self) -> None:
        self._stack.close()


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Whatever a reader meets in a broken file becomes a ConfigError.

    A damaged length or index makes it fail in any way: SQLite's, struct's and codecs' errors,
    OverflowError, KeyError, failed assertions. There is no list of them to rely on.
    """
    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"bag {path} {what}: {error or type(error).__name__}") from error


def _storage_files(path: Path) -> tuple[list[Path], list[str]]:
    """The files in their order, and what is to be said of how they were found."""
    if not path.exists():
        raise ConfigError(f"bag {path} does not exist")
    if path.is_file():
        _refuse_ros1(path)
        return [path], []
    index = path / _METADATA
    if not index.exists():
        found = sorted(
            (p for p in path.iterdir() if p.suffix in _SUFFIXES or p.suffixes[-1:] == [_ZSTD_SUFFIX]),
            key=lambda p: [int(t) if t.isdigit() else t for t in re.split(r"(\d+)", p.name)],
        )
        if not found:
            for other in sorted(path.glob("*.bag")):
                _refuse_ros1(other)
            raise ConfigError(f"bag {path} cannot be opened: no {_METADATA} and no .mcap or .db3 file in it")
        return found, [f"{_METADATA} is missing; `ros2 bag reindex {path}` makes it anew"]
    with readable(path, "cannot be opened"):
        try:
            names = yaml.safe_load(index.read_text("utf-8"))["rosbag2_bagfile_information"][
                "relative_file_paths"
            ]
            files = [path / Path(name).name for name in names]
        except (yaml.YAMLError, KeyError, TypeError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"bag {path} cannot be opened: {_METADATA} cannot be read ({' '.join(str(error).split())}); "
                f"`ros2 bag reindex {path}` makes it anew"
            ) from error
    if missing := [f.name for f in files if not f.exists()] or not files:
        raise ConfigError(
            f"bag {path} cannot be opened: {_METADATA} names files that are not there: {missing}"
        )
    return files, []


def _refuse_ros1(path: Path) -> None:
    with path.open("rb") as f:
        ros1 = f.read(len(_ROS1_MAGIC)) == _ROS1_MAGIC
    if ros1 or path.suffix == ".bag":
        raise ConfigError(
            f"bag {path} cannot be opened: it is a ROS 1 bag. `rosbags-convert --src {path} --dst "
            f"{path.with_suffix('')}` (it comes with this package) makes a rosbag2 of it"
        )


class _McapFile:
    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as f:
            try:
                self.contents = self._from_summary(f)
                self._indexed = True
            except Exception as error:  # no list of what a cut file makes the reader raise
                self._indexed = False
                self.contents = self._from_scan(error)

    @staticmethod
    def _from_summary(f: Any) -> _Contents:
        summary = SeekingReader(f).get_summary()
        if summary is None or summary.statistics is None:
            raise ValueError("no summary")
        s = summary.statistics
        contents = _Contents()
        for key, count in s.channel_message_counts.items():
            contents.add(
                _key(summary.channels[key], summary.schemas), count, s.message_start_time, s.message_end_time
            )
        for number, channel in summary.channels.items():
            if number not in s.channel_message_counts:
                contents.add(_key(channel, summary.schemas), 0, 0, 0)
        return contents

    def _from_scan(self, reason: Exception) -> _Contents:
        contents = _Contents()
        ended = False
        for item in self._scan():
            if isinstance(item, Exception):
                ended = True
                reason = item
            else:
                key, message = item
                contents.add(key, 1, message.log_time, message.log_time)
        if not contents.counts:
            why = str(reason) or type(reason).__name__
            raise ValueError(f"nothing of {self._path.name} can be read ({why})")
        if ended:
            seconds = (contents.last_ns - contents.first_ns) / 1e9
            contents.lost = (
                f"{self._path.name} is cut off: {sum(contents.counts.values())} messages over "
                f"{seconds:.1f} s can be "
                f"read, what came after them is lost; `mcap recover {self._path} -o whole.mcap` writes a "
                f"whole file"
            )
        return contents

    def _scan(self) -> Iterator[tuple[tuple[str, str, str], Message] | Exception]:
        """Every message as far as the file can be read, then the error that ended it, if one did."""
        schemas: dict[int, Schema] = {}
        channels: dict[int, Channel] = {}
        with self._path.open("rb") as f:
            try:
                for record in StreamReader(f, record_size_limit=self._path.stat().st_size).records:
                    if isinstance(record, Schema):
                        schemas[record.id] = record
                    elif isinstance(record, Channel):
                        channels[record.id] = record
                    elif isinstance(record, Message):
                        yield _key(channels[record.channel_id], schemas), record
            except Exception as error:
                yield error

    def messages(self, topics: Iterable[Topic]) -> Iterator[tuple[int, Topic, bytes]]:
        wanted = {(t.topic, t.msgtype, t.serialization): t for t in topics}
        if not self._indexed:
            for item in self._scan():
                if not isinstance(item, Exception) and item[0] in wanted:
                    yield item[1].log_time, wanted[item[0]], item[1].data
            return
        with self._path.open("rb") as f:
            names = {t.topic for t in wanted.values()}
            for schema, channel, message in SeekingReader(f).iter_messages(topics=names):
                schemas = {schema.id: schema} if schema is not None else {}
                topic = wanted.get(_key(channel, schemas))
                if topic is not None:
                    yield message.log_time, topic, message.data


def _stated_bytes(path: Path) -> int:
    """How long the file is by its own header (page size at byte 16, number of pages at byte 28)."""
    with path.open("rb") as f:
        header = f.read(32)
    if len(header) < 32 or not header.startswith(b"SQLite format 3"):
        return 0
    page = int.from_bytes(header[16:18], "big")
    return (65536 if page == 1 else page) * int.from_bytes(header[28:32], "big")


def _key(channel: Channel, schemas: dict[int, Schema]) -> tuple[str, str, str]:
    schema = schemas.get(channel.schema_id)
    return channel.topic, schema.name if schema is not None else "", channel.message_encoding


class _SqliteFile:
    def __init__(self, path: Path, stack: ExitStack) -> None:
        self._path = path
        self._database = stack.enter_context(closing(self._connect(path, stack)))
        self._names = {
            number: (name, type_, form)
            for number, name, type_, form in self._database.execute(
                "SELECT id, name, type, serialization_format FROM topics"
            )
        }
        self.contents = _Contents()
        for key in self._names.values():
            self.contents.add(key, 0, 0, 0)
        try:
            for number, count, first_ns, last_ns in self._database.execute(
                "SELECT topic_id, COUNT(*), MIN(timestamp), MAX(timestamp) FROM messages GROUP BY topic_id"
            ):
                self.contents.add(self._names[number], count, first_ns, last_ns)
            self._whole = True
        except sqlite3.DatabaseError as error:
            self._whole = False
            self._scan(error)

    def _scan(self, reason: Exception) -> None:
        for time_ns, key, _ in self._rows():
            self.contents.add(key, 1, time_ns, time_ns)
        count = sum(self.contents.counts.values())
        if not count:
            raise reason
        seconds = (self.contents.last_ns - self.contents.first_ns) / 1e9
        self.contents.lost = (
            f"{self._path.name} is damaged ({reason}): {count} messages over {seconds:.1f} s can be read; "
            f"`sqlite3 {self._path} .recover | sqlite3 whole.db3` writes what more there is"
        )

    @staticmethod
    def _connect(path: Path, stack: ExitStack) -> sqlite3.Connection:
        """Read-only. What a killed writer left in -wal or -journal is part of the recording: a copy takes "
        "it in."""
        beside = [path.with_name(path.name + end) for end in ("-wal", "-journal")]
        left = [p for p in beside if p.exists() and p.stat().st_size]
        whole_bytes = _stated_bytes(path)
        if not left and path.stat().st_size >= whole_bytes:
            return sqlite3.connect(f"file:{quote(str(path))}?immutable=1", uri=True, check_same_thread=False)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="vln_ros-bag-")))
        for source in (path, *left):
            shutil.copy(source, folder)
        copy = folder / path.name
        if (
            copy.stat().st_size < whole_bytes
        ):  # SQLite reads nothing of a file that is too short: zeros instead
            with copy.open("r+b") as f:
                f.truncate(whole_bytes)
        return sqlite3.connect(copy, check_same_thread=False)

    def _rows(self) -> Iterator[tuple[int, tuple[str, str, str], bytes]]:
        """In the order of writing, up to where the file is damaged."""
        try:
            for number, time_ns, data in self._database.execute(
                "SELECT topic_id, timestamp, data FROM messages ORDER BY id"
            ):
                if data[-1:] != _FILL:  # its last page may be beyond the end of the file
                    yield time_ns, self._names[number], data
        except sqlite3.DatabaseError:
            return

    def messages(self, topics: Iterable[Topic]) -> Iterator[tuple[int, Topic, bytes]]:
        wanted = {(t.topic, t.msgtype, t.serialization): t for t in topics}
        if not self._whole:
            for time_ns, key, data in self._rows():
                if key in wanted:
                    yield time_ns, wanted[key], data
            return
        numbers = [number for number, key in self._names.items() if key in wanted]
        marks = ",".join("?" * len(numbers))
        query = (
            f"SELECT topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp"
        )
        for number, time_ns, data in self._database.execute(query, numbers):
            yield time_ns, wanted[self._names[number]], data
