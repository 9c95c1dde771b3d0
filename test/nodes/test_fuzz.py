"""Ten thousand messages of nonsense for every topic: nothing escapes, nothing moves faster than allowed."""

from __future__ import annotations

import array
import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from geometry_msgs.msg import Twist
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.node import Node
from ros_callbacks import callbacks
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, LaserScan
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from vln_ros.config import ExecutorConfig, NavigatorConfig, from_flat
from vln_ros.datatypes import Action, ActionChunk, Pose, Velocity
from vln_ros.motion.executor import Executor
from vln_ros.motion.safety import Fault
from vln_ros.nodes.executor.inputs import ExecutorInput
from vln_ros.nodes.navigator.sensors import SensorInput
from vln_ros.ros import convert

pytestmark = pytest.mark.ros

MESSAGES = 10_000
ODD = (0.0, 1.0, -1.0, 0.25, 1e-9, 1e300, -1e300, math.inf, -math.inf, math.nan, 0.5, 2.0**53, 7.5)

TEXTS = ("", "odom", "base_link", "\x00", "rgb8", "16UC1", "32FC1", "mono8", "jpeg", "16UC1; compressedDepth",
         "a" * 300, "\u202e")  # fmt: skip


class Odd:
    """Draws values that somebody may send."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def number(self) -> float:
        if self.random.random() < 0.3:
            return float(self.random.normal())
        return ODD[self.random.integers(len(ODD))]

    def numbers(self, longest: int) -> list[float]:
        return [self.number() for _ in range(self.random.integers(longest + 1))]

    def whole(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def header(self) -> Header:
        header = Header(frame_id=self.text())
        header.stamp.sec = int(self.random.choice([0, 1, -1, 100, 2**31 - 1, self.whole(0, 200)]))
        header.stamp.nanosec = self.whole(0, 2**32)
        return header

    def text(self) -> str:
        return str(self.random.choice(TEXTS))

    def data(self) -> array.array[int]:
        return array.array("B", self.random.bytes(int(self.random.choice([0, 1, 7, 48, 64, 1000]))))

    def odometry(self) -> Odometry:
        msg = Odometry(header=self.header())
        p, q = msg.pose.pose.position, msg.pose.pose.orientation
        p.x, p.y, p.z = self.number(), self.number(), self.number()
        if self.random.random() < 0.5:
            q.x, q.y, q.z, q.w = (self.number() for _ in range(4))
        return msg

    def queue(self) -> JointTrajectory:
        names = list(convert.CHUNK_JOINTS)
        if self.random.random() < 0.2:
            names = names[: self.whole(0, 7)]
        msg = JointTrajectory(header=self.header(), joint_names=names)
        size = len(names) if self.random.random() < 0.9 else self.whole(0, 9)
        msg.points = [
            JointTrajectoryPoint(positions=[self.number() for _ in range(size)])
            for _ in range(self.whole(0, 4))
        ]
        return msg

    def good_queue(self, queue: int) -> JointTrajectory:
        actions = tuple(
            Action(forward_m=float(10.0 ** self.random.uniform(-6, 3)))
            if self.random.random() < 0.5
            else Action(turn_rad=float(self.random.choice([-1, 1]) * 10.0 ** self.random.uniform(-6, 3)))
            for _ in range(self.whole(1, 5))
        )
        return convert.trajectory_from_chunk(ActionChunk(queue, 1, 0, actions), "base_link", 0.5, 1.0)

    def image(self) -> Image:
        return Image(
            header=self.header(), height=self.whole(0, 9), width=self.whole(0, 9), encoding=self.text(),
            is_bigendian=self.whole(0, 2), step=self.whole(0, 40), data=self.data(),
        )  # fmt: skip

    def compressed(self) -> CompressedImage:
        return CompressedImage(header=self.header(), format=self.text(), data=self.data())

    def info(self) -> CameraInfo:
        return CameraInfo(
            header=self.header(), height=self.whole(0, 9), width=self.whole(0, 9), d=self.numbers(6),
            k=[self.number() for _ in range(9)], distortion_model=self.text(),
        )  # fmt: skip

    def scan(self) -> LaserScan:
        def narrow() -> float:
            value = self.number()
            return value if abs(value) < 3e38 or not math.isfinite(value) else 0.0

        return LaserScan(
            header=self.header(), angle_min=narrow(), angle_increment=narrow(), range_min=narrow(),
            range_max=narrow(), ranges=[narrow() for _ in range(self.whole(0, 9))],
        )  # fmt: skip

    def twist(self) -> Twist:
        msg = Twist()
        msg.linear.x, msg.linear.y, msg.angular.z = self.number(), self.number(), self.number()
        return msg


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    context = Context()
    context.init()
    node = rclpy.create_node("fuzzed", context=context, cli_args=["--ros-args", "--log-level", "fatal"])
    node.get_logger().set_level(LoggingSeverity.FATAL)
    yield node
    node.destroy_node()
    context.shutdown()


def test_the_executor_survives_and_keeps_its_limits(node: Node) -> None:
    config = from_flat(ExecutorConfig, {"extrinsics": "parameters", "safety.obstacles": "both"})
    core, clock = Executor(config), itertools.count()
    now_s = [0.0]

    def check() -> None:
        output = core.check(now_s[0])
        assert output is None or output.velocity == Velocity()

    heard = ExecutorInput(node, config, core, lambda: now_s[0], check, lambda: None)
    odd, topics = Odd(1), callbacks(node)
    inputs: dict[str, Callable[[], Any]] = {
        "odom": odd.odometry,
        "action_queue": odd.queue,
        "navigator_heartbeat": odd.header,
        config.depth_topic: odd.image,
        config.camera_info_topic: odd.info,
        "scan": odd.scan,
    }
    step_s = 1.0 / config.rate_hz
    sent, moved = Velocity(), 0
    for topic, make in inputs.items():
        for n in range(MESSAGES):
            topics[topic](make())
            if n % 10:
                continue
            # In between the robot is kept alive, and busy: otherwise it would only ever stand.
            now_s[0] += step_s
            stamp_ns = 10**18 + next(clock) * round(step_s * 1e9)
            core.odometry(stamp_ns, Pose.identity(), now_s[0])
            core.heartbeat(stamp_ns, now_s[0])
            core.watch.came(Fault.NO_DEPTH, stamp_ns, now_s[0])
            core.watch.came(Fault.NO_SCAN, stamp_ns, now_s[0])
            core.pause(False)
            core.queue.reset()
            topics["action_queue"](odd.good_queue(n + 1))
            output = core.update(now_s[0])
            v = output.velocity
            moved += v != Velocity()
            assert 0.0 <= v.linear_m_s <= config.max_linear_m_s
            assert abs(v.angular_rad_s) <= config.max_angular_rad_s
            assert v.lateral_m_s == 0.0
            if v != Velocity():
                assert v.linear_m_s - sent.linear_m_s <= config.max_linear_accel_m_s2 * step_s + 1e-9
            sent = v
    assert heard.refused > MESSAGES  # most of it was nonsense
    assert moved > 100  # and the rest was obeyed


def test_the_navigators_sensors_survive(node: Node) -> None:
    options = {"extrinsics": "parameters", "reliability": "reliable", "sync.odom_frame": ""}
    delivered: list[Any] = []
    config = from_flat(NavigatorConfig, options)
    sensors = SensorInput(node, config, delivered.append)
    odd, topics = Odd(2), callbacks(node)
    for topic, make in (
        ("odom", odd.odometry),
        (config.color_topic, odd.image),
        (config.color_topic, odd.compressed),
        (config.depth_topic, odd.image),
        (config.camera_info_topic, odd.info),
    ):
        for _ in range(MESSAGES):
            topics[topic](make())
    for raw in delivered:
        with pytest.raises(convert.MessageError):
            sensors.decode(raw, 0)


@pytest.mark.parametrize(
    ("read", "make"),
    [
        (convert.rgb_from_image, "image"),
        (convert.depth_from_image, "image"),
        (convert.rgb_from_compressed, "compressed"),
        (convert.depth_from_compressed, "compressed"),
        (convert.velocity_from_twist, "twist"),
    ],
)
def test_what_cannot_be_read_is_a_message_error(read: Callable[[Any], Any], make: str) -> None:
    odd, refused = Odd(3), 0
    for _ in range(MESSAGES):
        try:
            read(getattr(odd, make)())
        except convert.MessageError:
            refused += 1
    assert refused > MESSAGES // 10


def test_instructions() -> None:
    odd = Odd(4)
    for _ in range(MESSAGES):
        text = odd.random.bytes(odd.whole(0, 50)).decode("utf-8", "replace")
        try:
            assert convert.instruction_from_string(String(data=text))
        except convert.MessageError as error:
            assert error.reason
