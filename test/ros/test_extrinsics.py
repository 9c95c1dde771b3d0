"""Where the camera is: from TF at the image's stamp, from parameters, and never assumed.

tf2_ros is not on PyPI; a module with the two classes that are used stands in for it here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image
from transform_fakes import Buffer, tf2_ros  # noqa: F401

from vln_ros.axes import BODY_FROM_OPTICAL, base_from_optical
from vln_ros.config import ConfigError, NavigatorConfig, from_flat
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC, RawFrame, SensorInput
from vln_ros.ros import convert, qos
from vln_ros.ros.extrinsics import ExtrinsicsSources, FixedExtrinsics, TfExtrinsics

pytestmark = pytest.mark.ros

STAMP_NS = 5_000_000_000
EXTRINSICS = base_from_optical(0.2, -0.05, 0.6, 0.05, 0.3, -0.4)
CAMERA = CameraModel.from_hfov(8, 6, 1.4)


@pytest.fixture
def node() -> Iterator[Node]:
    context = Context()
    context.init(args=[])
    made = Node("mounted", context=context)
    yield made
    made.destroy_node()
    context.shutdown()


def close(a: Pose, b: Pose) -> bool:
    return bool(np.allclose(a.matrix, b.matrix, atol=1e-9))


def test_a_transform_survives_the_message() -> None:
    assert close(convert.pose_from_transform(convert.transform_from_pose(EXTRINSICS)), EXTRINSICS)


def test_parameters_are_taken_in_degrees_and_rep_103(node: Node) -> None:
    config = from_flat(
        NavigatorConfig,
        {"extrinsics": "parameters", "camera_x_m": 0.2, "camera_z_m": 0.6, "camera_pitch_down_deg": 30.0},
    )
    source = ExtrinsicsSources(node, config).camera()
    assert isinstance(source, FixedExtrinsics)
    pose = source.at("anything", 0)
    assert pose is not None
    assert close(pose, base_from_optical(0.2, 0.0, 0.6, pitch_down_rad=math.radians(30.0)))
    ahead = pose.transform(np.array([0.0, 0.0, 1.0])) - pose.position
    assert np.allclose(ahead, [math.cos(math.radians(30)), 0.0, -math.sin(math.radians(30))])


def test_without_tf2_the_remedy_is_named(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"tf2_ros cannot be imported.*extrinsics:=parameters.*camera_x_m"):
        ExtrinsicsSources(node, NavigatorConfig()).camera()


@pytest.mark.usefixtures("tf2_ros")
def test_tf_is_asked_at_the_stamp_of_the_image(node: Node) -> None:
    source = TfExtrinsics(node, "base_link")
    Buffer.latest.frames = {
        "optical": (EXTRINSICS, STAMP_NS),
        "body": (EXTRINSICS @ BODY_FROM_OPTICAL.inverse(), 0),
    }
    assert source.at("optical", STAMP_NS - 1) is None
    found = source.at("optical", STAMP_NS)
    assert found is not None
    assert close(found, EXTRINSICS)
    assert source.at("elsewhere", STAMP_NS) is None
    for frame, reason in (("", "no_frame_id"), ("body", "not_optical")):
        with pytest.raises(convert.MessageError) as info:
            source.at(frame, STAMP_NS)
        assert info.value.reason == reason


@pytest.mark.usefixtures("tf2_ros")
def test_frames_wait_for_their_transform_and_then_come_in_order(node: Node) -> None:
    delivered: list[RawFrame] = []
    options = {"reliability": "reliable", "image_depth": 50}
    sensors = SensorInput(node, from_flat(NavigatorConfig, options), delivered.append)
    sensor = qos.sensor("reliable", 50)
    publishers = {
        name: node.create_publisher(kind, name, sensor)
        for name, kind in (
            (COLOR_TOPIC, Image), (DEPTH_TOPIC, Image), (INFO_TOPIC, CameraInfo), ("odom", Odometry)
        )
    }  # fmt: skip
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def move(stamp_ns: int) -> None:
        odometry = convert.odometry_from_pose(Pose.identity(), stamp_ns, "odom", "base_link", 0.0, 0.0)
        publishers["odom"].publish(odometry)

    def show(stamp_ns: int) -> None:
        rgb, depth_m = np.zeros((6, 8, 3), np.uint8), np.ones((6, 8), np.float32)
        publishers[INFO_TOPIC].publish(convert.info_from_camera(CAMERA, stamp_ns, "optical"))
        publishers[DEPTH_TOPIC].publish(convert.image_from_depth(depth_m, stamp_ns, "optical"))
        publishers[COLOR_TOPIC].publish(convert.image_from_rgb(rgb, stamp_ns, "optical"))
        move(stamp_ns)

    def until(condition: Callable[[], bool]) -> None:
        for _ in range(300):
            if condition():
                return
            executor.spin_once(0.1)
        pytest.fail(f"{sensors.counts}")

    stamps = [STAMP_NS + i * 10**8 for i in range(10)]
    for stamp in stamps:
        show(stamp)
    until(lambda: sensors.counts.aligned == 10)
    assert not delivered
    assert sensors.refused["no_transform"] == 2  # only eight are kept waiting
    Buffer.latest.frames = {"optical": (EXTRINSICS, 0)}
    move(STAMP_NS + 10**9)
    until(lambda: len(delivered) == 8)
    assert [raw.aligned.stamp_ns for raw in delivered] == stamps[2:]
    assert close(sensors.decode(delivered[-1], 0).odom_from_optical, EXTRINSICS)
    executor.shutdown()
