"""Reading a recording: rosbag2 in SQLite or MCAP, without ROS's own bag library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
from rosbags.highlevel import AnyReader
from rosbags.interfaces import Connection
from rosbags.typesys import Stores, get_typestore

from vln_ros.config import ConfigError
from vln_ros.datatypes import Pose

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"


class Stream(Enum):
    """What a navigator needs of a recording."""

    COLOR = "color"
    DEPTH = "depth"
    CAMERA_INFO = "camera_info"
    ODOMETRY = "odometry"


@dataclass(frozen=True)
class BagTopics:
    """Which topic of the bag is which stream; an empty name is chosen by type and name."""

    color: str = ""
    depth: str = ""
    camera_info: str = ""
    odometry: str = ""


@dataclass(frozen=True)
class BagMessage:
    """One message, still serialized (CDR)."""

    time_ns: int
    stream: Stream
    data: bytes


@contextmanager
def _readable(path: Path, what: str) -> Iterator[None]:
    """Whatever the reader meets in a broken file becomes a ConfigError.

    A damaged length or index makes it fail in any way: SQLite's, struct's and codecs' errors,
    OverflowError, KeyError, failed assertions. There is no list of them to rely on.
    """
    try:
        yield
    except Exception as error:
        raise ConfigError(f"bag {path} {what}: {error or type(error).__name__}") from error


class Bag:
    """An open recording. Use as a context.

    Args:
        path: folder of a rosbag2, or its .db3 or .mcap file.
        topics: which topic is which.

    Raises:
        ConfigError: not a readable bag, or a stream is missing or ambiguous; the message lists the topics.
    """

    def __init__(self, path: Path, topics: BagTopics) -> None:
        if not path.exists():
            raise ConfigError(f"bag {path} does not exist")
        with _readable(path, "cannot be opened"):
            self._reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_JAZZY))
            self._reader.open()
        self.path = path
        try:
            self.connections = self._choose(topics)
        except ConfigError:
            self._reader.close()
            raise

    def _choose(self, topics: BagTopics) -> dict[Stream, Connection]:
        images = (IMAGE, COMPRESSED)
        return {
            Stream.COLOR: self._find(
                "color", topics.color, images, ("color", "rgb", "image"), ("depth", "infra")
            ),
            Stream.DEPTH: self._find("depth", topics.depth, images, ("depth",), ()),
            Stream.CAMERA_INFO: self._find(
                "camera-info", topics.camera_info, ("sensor_msgs/msg/CameraInfo",), ("",), ("depth", "infra")
            ),
            Stream.ODOMETRY: self._find("odometry", topics.odometry, ("nav_msgs/msg/Odometry",), ("",), ()),
        }

    def _find(
        self, option: str, name: str, types: tuple[str, ...], words: tuple[str, ...], without: tuple[str, ...]
    ) -> Connection:
        typed = [c for c in self._reader.connections if c.msgtype in types and c.msgcount > 0]
        if name:
            found = [c for c in typed if c.topic == name]
        else:
            found = [
                c
                for c in typed
                if any(w in c.topic.lower() for w in words) and not any(w in c.topic.lower() for w in without)
            ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(sorted(f"{c.topic} ({c.msgtype})" for c in self._reader.connections))
        what = f"no topic {name!r}" if name else "no topic" if not found else "more than one topic"
        raise ConfigError(f"{self.path} has {what} for --{option}; name one of: {known}")

    def count(self, stream: Stream) -> int:
        """Messages of a stream, as the bag's index says."""
        return int(self.connections[stream].msgcount)

    def is_compressed(self, stream: Stream) -> bool:
        return self.connections[stream].msgtype == COMPRESSED

    @property
    def duration_s(self) -> float:
        return float(self._reader.duration) / 1e9

    def messages(self) -> Iterator[BagMessage]:
        """All messages of the four streams in the order of their recording.

        Raises:
            ConfigError: the bag is damaged further on.
        """
        streams = {c.id: s for s, c in self.connections.items()}
        with _readable(self.path, "is damaged or truncated"):
            for connection, time_ns, data in self._reader.messages(list(self.connections.values())):
                yield BagMessage(time_ns, streams[connection.id], bytes(data))

    def others(self, name: str, msgtype: str) -> Iterator[tuple[int, bytes]]:
        """Time and data (CDR) of all messages of a topic that ends with ``name``, in any namespace.

        Raises:
            ConfigError: the bag is damaged, or has no such topic, or more than one.
        """
        found = [
            c
            for c in self._reader.connections
            if f"/{c.topic.lstrip('/')}".endswith(f"/{name}") and c.msgtype == msgtype
        ]
        if len(found) != 1:
            raise ConfigError(f"{self.path} has {len(found)} topics {name} ({msgtype}), not one")
        with _readable(self.path, "is damaged or truncated"):
            for _, time_ns, data in self._reader.messages(found):
                yield time_ns, bytes(data)

    def static_frames(self) -> list[bytes]:
        """The messages of /tf_static (CDR), in any namespace. Raises ConfigError for a damaged bag."""
        connections = [
            c for c in self._reader.connections if f"/{c.topic.lstrip('/')}".endswith("/tf_static")
        ]
        if not connections:
            return []
        with _readable(self.path, "is damaged or truncated"):
            return [bytes(data) for _, _, data in self._reader.messages(connections)]

    def static_transform(self, parent: str, child: str) -> Pose | None:
        """``parent_from_child`` from /tf_static, along the chain of frames from child up to parent.

        Raises:
            ConfigError: the bag is damaged, or a transform is none.
        """
        above: dict[str, tuple[str, Pose]] = {}
        with _readable(self.path, "is damaged or truncated"):
            for data in self.static_frames():
                message = self._reader.deserialize(data, "tf2_msgs/msg/TFMessage")
                for stamped in message.transforms:  # type: ignore[attr-defined]
                    t, q = stamped.transform.translation, stamped.transform.rotation
                    pose = Pose(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
                    above[stamped.child_frame_id] = (stamped.header.frame_id, pose)
        found = Pose.identity()
        while child != parent and child in above:
            child, pose = above.pop(child)  # popped: a loop ends
            found = pose @ found
        return found if child == parent else None

    def close(self) -> None:
        self._reader.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
