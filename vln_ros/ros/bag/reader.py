"""Reads rosbag2 recordings in SQLite or MCAP without ROS's own bag library."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from vln_ros.config import ConfigError
from vln_ros.datatypes import Pose
from vln_ros.ros.bag.storage import BagFiles, Topic

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED = "sensor_msgs/msg/CompressedImage"
_STILL = 2e-3
"""A transform on /tf that changes by no more, in metres and in its rotation matrix, stands still."""


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


@dataclass(frozen=True)
class BagFrames:
    """The frames that the recording's own messages name, without leading slashes; empty where they name "
    "none."""

    camera: str
    odometry: str
    base: str


class Bag:
    """An open recording. Use as a context.

    Args:
        path: folder of a rosbag2, or its .db3 or .mcap file.
        topics: which topic is which.

    Attributes:
        lost: what of the recording cannot be read, and how to repair it; empty if nothing.

    Raises:
        ConfigError: not a readable bag, or a stream is missing or ambiguous; the message lists the topics.
    """

    def __init__(self, path: Path, topics: BagTopics) -> None:
        self.path = path
        self._files = BagFiles(path)
        self.lost = self._files.lost
        self._types = get_typestore(Stores.ROS2_JAZZY)
        try:
            self.connections = self._choose(topics)
        except ConfigError:
            self._files.close()
            raise

    def _choose(self, topics: BagTopics) -> dict[Stream, Topic]:
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
    ) -> Topic:
        typed = [t for t in self._files.topics if t.msgtype in types and t.count > 0]
        if name:
            found = [t for t in typed if t.topic == name]
        else:
            found = [
                t
                for t in typed
                if any(w in t.topic.lower() for w in words) and not any(w in t.topic.lower() for w in without)
            ]
        if len(found) == 1:
            return found[0]
        known = ", ".join(sorted(f"{t.topic} ({t.msgtype}, {t.count})" for t in self._files.topics))
        what = f"no topic {name!r}" if name else "no topic" if not found else "more than one topic"
        lost = f" ({self.lost})" if self.lost else ""
        raise ConfigError(f"{self.path} has {what} for --{option}; name one of: {known}{lost}")

    def count(self, stream: Stream) -> int:
        """Messages of a stream that can be read."""
        return self.connections[stream].count

    def is_compressed(self, stream: Stream) -> bool:
        return self.connections[stream].msgtype == COMPRESSED

    @property
    def duration_s(self) -> float:
        return max(0, self._files.last_ns - self._files.first_ns) / 1e9

    def messages(self) -> Iterator[BagMessage]:
        """All messages of the four streams in the order of their recording.

        Raises:
            ConfigError: the bag is damaged further on.
        """
        streams = {topic: stream for stream, topic in self.connections.items()}
        for time_ns, topic, data in self._files.messages(streams):
            yield BagMessage(time_ns, streams[topic], data)

    def frames(self) -> BagFrames:
        """From the first message of each stream that can be read. Raises ConfigError for a damaged bag."""
        camera = odometry = base = ""
        for _, topic, data in self._files.messages([self.connections[Stream.COLOR]]):
            message = self._message(data, topic.msgtype)
            camera = message.header.frame_id if message is not None else ""
            if camera:
                break
        for _, topic, data in self._files.messages([self.connections[Stream.ODOMETRY]]):
            message = self._message(data, topic.msgtype)
            if message is not None:
                odometry = message.header.frame_id
                base = message.child_frame_id
                break
        return BagFrames(camera, odometry, base)

    def _message(self, data: bytes, type_: str) -> Any:
        """The message; None for bytes that are none."""
        try:
            return self._types.deserialize_cdr(data, type_)
        except Exception:  # struct's, codecs' and index errors: there is no list of them
            return None

    def others(self, name: str, msgtype: str) -> Iterator[tuple[int, bytes]]:
        """Time and data (CDR) of all messages of a topic that ends with ``name``, in any namespace.

        Raises:
            ConfigError: the bag is damaged, or has no such topic, or more than one.
        """
        found = [t for t in self._ending_with(name) if t.msgtype == msgtype]
        if len(found) != 1:
            raise ConfigError(f"{self.path} has {len(found)} topics {name} ({msgtype}), not one")
        for time_ns, _, data in self._files.messages(found):
            yield time_ns, data

    def _ending_with(self, name: str) -> list[Topic]:
        return [t for t in self._files.topics if f"/{t.topic.lstrip('/')}".endswith(f"/{name}")]

    def static_frames(self) -> list[bytes]:
        """The messages of /tf_static (CDR), in any namespace. Raises ConfigError for a damaged bag."""
        return [data for _, _, data in self._files.messages(self._ending_with("tf_static"))]

    def static_transform(self, parent: str, child: str) -> Pose | None:
        """``parent_from_child`` along /tf_static, whichever of the two is above the other; None if "
        "unconnected.

        A part of the way may be on /tf, where it stands still over the whole recording.

        Raises:
            ConfigError: the bag is damaged, or a transform is none.
        """
        parent, child = parent.lstrip("/"), child.lstrip("/")
        above = self._edges("tf_static")
        root_from_child, child_root = _climb(above, child)
        root_from_parent, parent_root = _climb(above, parent)
        if child_root != parent_root:
            above = self._edges("tf") | above
            root_from_child, child_root = _climb(above, child)
            root_from_parent, parent_root = _climb(above, parent)
        return root_from_parent.inverse() @ root_from_child if child_root == parent_root else None

    def static_root(self, frame: str) -> str:
        """The frame at the top of the tree on /tf_static that ``frame`` belongs to. Raises ConfigError."""
        return _climb(self._edges("tf_static"), frame.lstrip("/"))[1]

    def _edges(self, topic: str) -> dict[str, tuple[str, Pose]]:
        """Child frame to its parent and ``parent_from_child``, of what does not move."""
        above: dict[str, tuple[str, Pose]] = {}
        moving: set[str] = set()
        found = self._ending_with(topic)
        for _, type_, data in self._files.messages(found):
            message = self._message(data, type_.msgtype)
            for stamped in message.transforms if message is not None else ():
                t, q = stamped.transform.translation, stamped.transform.rotation
                parent, child = stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/")
                try:
                    pose = Pose(np.array([t.x, t.y, t.z]), np.array([q.x, q.y, q.z, q.w]))
                except ValueError as error:
                    raise ConfigError(
                        f"bag {self.path}: the transform from {parent} to {child} on {type_.topic} is "
                        f"none: {error}"
                    ) from error
                before = above.setdefault(child, (parent, pose))
                if before[0] != parent or not _alike(before[1], pose):
                    moving.add(child)
        if topic == "tf_static":  # latched: the last one counts, as for TF's own listeners
            return above
        return {child: edge for child, edge in above.items() if child not in moving}

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _climb(above: dict[str, tuple[str, Pose]], frame: str) -> tuple[Pose, str]:
    """``root_from_frame`` and the root of the tree that ``frame`` belongs to."""
    found, seen = Pose.identity(), {frame}
    while frame in above:
        frame, pose = above[frame]
        if frame in seen:  # a loop, as two recordings merged into one have
            break
        seen.add(frame)
        found = pose @ found
    return found, frame


def _alike(a: Pose, b: Pose) -> bool:
    return bool(np.allclose(a.matrix, b.matrix, rtol=0.0, atol=_STILL))
