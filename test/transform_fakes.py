"""tf2_ros is not on PyPI; a module with the two classes that are used stands in for it."""

from __future__ import annotations

import sys
import types

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node

from vln_ros.datatypes import Pose
from vln_ros.ros import convert


class TransformError(Exception):
    """As tf2_ros.TransformException: what every failed look-up raises."""


class Buffer:
    """Holds transforms into base_link, each valid from a stamp on."""

    frames: dict[str, tuple[Pose, int]]

    def __init__(self, node: Node | None = None) -> None:
        self.frames = {}
        Buffer.latest = self

    latest: Buffer

    def lookup_transform(self, target: str, source: str, time: object) -> TransformStamped:
        stamp_ns = time.nanoseconds  # type: ignore[attr-defined]
        if target != "base_link" or source not in self.frames or stamp_ns < self.frames[source][1]:
            raise TransformError(f"{target} from {source}")
        return TransformStamped(transform=convert.transform_from_pose(self.frames[source][0]))


@pytest.fixture
def tf2_ros(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("tf2_ros")
    module.__spec__ = types.SimpleNamespace(name="tf2_ros")  # type: ignore[assignment]
    module.Buffer, module.TransformException = Buffer, TransformError  # type: ignore[attr-defined]
    module.TransformListener = lambda buffer, node: None  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tf2_ros", module)
