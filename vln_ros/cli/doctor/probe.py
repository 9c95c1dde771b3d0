"""Two small nodes, each in a process, by which the doctor finds out whether nodes hear each other."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

from vln_ros.config import NavigatorConfig

CLOCK = "/clock"
SENSORS = (
    NavigatorConfig.color_topic, NavigatorConfig.depth_topic, NavigatorConfig.camera_info_topic, "odom",
)  # fmt: skip
"""What the navigator would subscribe to."""
HEARD_IN_S = 15.0
_HELLO = "vln_ros_doctor/hello"
_SPEAKS_FOR_S = 120.0
_PERIOD_S = 0.1


@dataclass(frozen=True)
class HeardTopic:
    """A topic that somebody has named.

    Attributes:
        messages: how many came.
        quality: of its publishers, reliability and durability, each once.
    """

    name: str
    messages: int
    rate_hz: float
    quality: tuple[str, ...]


@dataclass(frozen=True)
class Heard:
    """What a listener heard.

    Attributes:
        after_s: when the speaker was heard first, from the listener's own start; None: never.
        topics: of :data:`SENSORS` and the clock, those that are there, by name.
    """

    after_s: float | None
    topics: tuple[HeardTopic, ...]


def heard_from_output(text: str) -> Heard | None:
    """What :func:`listen` printed, maybe among ROS's own lines; None: nothing."""
    lines = [line for line in text.splitlines() if line.startswith("{")]
    if not lines:
        return None
    tree = json.loads(lines[-1])
    topics = (HeardTopic(t["name"], t["messages"], t["rate_hz"], tuple(t["quality"])) for t in tree["topics"])
    return Heard(tree["after_s"], tuple(topics))


def speak(token: str) -> None:
    """Say the token again and again; whoever started this ends it."""
    import rclpy
    from std_msgs.msg import String

    rclpy.init()
    node = rclpy.create_node("vln_ros_doctor_speaks")
    publisher = node.create_publisher(String, _HELLO, 1)
    node.create_timer(_PERIOD_S, lambda: publisher.publish(String(data=token)))
    until_s = time.monotonic() + _SPEAKS_FOR_S
    while time.monotonic() < until_s:
        rclpy.spin_once(node, timeout_sec=_PERIOD_S)


def listen(token: str, listen_s: float) -> None:
    """Print, as JSON, what :class:`Heard` holds."""
    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image
    from std_msgs.msg import String

    classes = {
        f"{c.__module__.split('.')[0]}/msg/{c.__name__}": c
        for c in (Clock, CameraInfo, CompressedImage, Image, Odometry)
    }
    rclpy.init()
    node = rclpy.create_node("vln_ros_doctor")
    heard_s: list[float] = []

    def hear(msg: Any) -> None:
        if msg.data == token:
            heard_s.append(time.monotonic())

    node.create_subscription(String, _HELLO, hear, 10)
    arrivals: dict[str, list[float]] = {}
    quality = QoSProfile(
        depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT, durability=QoSDurabilityPolicy.VOLATILE
    )
    begun_s = time.monotonic()
    while (passed_s := time.monotonic() - begun_s) < listen_s or (not heard_s and passed_s < HEARD_IN_S):
        for name, types in node.get_topic_names_and_types():
            known = any(name.lstrip("/").startswith(w) for w in (*SENSORS, CLOCK[1:]))
            if name in arrivals or not known or types[0] not in classes:
                continue
            arrivals[name] = []
            note = partial(_note, arrivals[name])
            node.create_subscription(classes[types[0]], name, note, quality, raw=True)
        rclpy.spin_once(node, timeout_sec=0.05)
    topics = []
    for name in sorted(arrivals):
        times = arrivals[name]
        rate_hz = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        profiles = [i.qos_profile for i in node.get_publishers_info_by_topic(name)]
        quality_texts = {f"{p.reliability.name.lower()}, {p.durability.name.lower()}" for p in profiles}
        topics.append(HeardTopic(name, len(times), rate_hz, tuple(sorted(quality_texts))))
    node.destroy_node()
    rclpy.shutdown()
    after_s = heard_s[0] - begun_s if heard_s else None
    print(json.dumps(asdict(Heard(after_s, tuple(topics)))))


def _note(times: list[float], _: bytes) -> None:
    times.append(time.monotonic())


if __name__ == "__main__":
    if sys.argv[1] == "speak":
        speak(sys.argv[2])
    else:
        listen(sys.argv[2], float(sys.argv[3]))
