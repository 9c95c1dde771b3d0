"""What the executor makes of sensor messages: which fault, for which reason, and the way back.

tf2_ros is not on PyPI: where TF is asked, the module of test_ros_mounting.py stands in for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from nav_msgs.msg import Odometry
from rclpy.context import Context
from rclpy.impl.logging_severity import LoggingSeverity
from rclpy.node import Node
from ros_callbacks import callbacks
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from transform_fakes import Buffer, tf2_ros

from vln_ros.config import ConfigError, ExecutorConfig, Scalar, from_flat
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Pose, Velocity
from vln_ros.motion.executor import Executor, ExecutorState
from vln_ros.motion.safety import Fault
from vln_ros.nodes.executor.inputs import ExecutorInput
from vln_ros.ros import convert

pytestmark = pytest.mark.ros
__all__ = ["tf2_ros"]

CAMERA = CameraModel.from_hfov(64, 48, math.radians(79.0))
PERIOD_S = 0.05


@pytest.fixture(scope="module")
def node() -> Iterator[Node]:
    context = Context()
    context.init()
    made = rclpy.create_node("heard", context=context)
    made.get_logger().set_level(LoggingSeverity.FATAL)
    yield made
    made.destroy_node()
    context.shutdown()


class Heard:
    """An executor's input with the state machine behind it, and a clock that is turned by hand."""

    def __init__(self, node: Node, **options: Scalar) -> None:
        flat = {name.replace("__", "."): value for name, value in options.items()}
        config = from_flat(ExecutorConfig, {"extrinsics": "parameters", "camera_z_m": 0.5, **flat})
        self.now_s = 0.0
        self.core = Executor(config)
        self.sent: list[Velocity] = []
        self.velocity = Velocity()
        self.input = ExecutorInput(node, config, self.core, lambda: self.now_s, self._check, lambda: None)
        self._topics, self._config = callbacks(node), config
        self.scans = config.safety.obstacles in ("scan", "both")
        self.depths = config.safety.obstacles in ("depth", "both")

    def _check(self) -> None:
        output = self.core.check(self.now_s)
        if output is not None:
            self.sent.append(output.velocity)

    @property
    def stamp_ns(self) -> int:
        return 10**9 + round(self.now_s * 1e9)

    def odometry(self, child: str = "base_link", frame: str = "odom") -> Odometry:
        return convert.odometry_from_pose(Pose.identity(), self.stamp_ns, frame, child, 0.0, 0.0)

    def depth(self, value_m: float = 2.0, frame: str = "optical", shape: tuple[int, int] = (48, 64)) -> Image:
        return convert.image_from_depth(np.full(shape, value_m, np.float32), self.stamp_ns, frame)

    def info(self, frame: str = "optical", **changes: Any) -> CameraInfo:
        msg = convert.info_from_camera(CAMERA, self.stamp_ns, frame)
        for name, value in changes.items():
            setattr(msg, name, value)
        return msg

    def scan(self, value_m: float = 2.0, frame: str = "laser", **changes: Any) -> LaserScan:
        msg = LaserScan(
            angle_min=-1.0, angle_max=1.0, angle_increment=0.02, range_min=0.1, range_max=10.0,
            ranges=[value_m] * 101,
        )  # fmt: skip
        msg.header.frame_id = frame
        msg.header.stamp = convert.time_from_stamp_ns(self.stamp_ns)
        for name, value in changes.items():
            setattr(msg, name, value)
        return msg

    def period(self, *, odometry: Odometry | None = None, **messages: Any) -> tuple[Fault, ...]:
        """One control period in which everything comes; what is named is what comes instead."""
        self.hear(odometry=odometry, **messages)
        output = self.core.update(self.now_s)
        self.velocity = output.velocity
        if output.faults:
            assert output.velocity == Velocity()
            assert output.state is ExecutorState.STOPPED
        return output.faults

    def hear(self, *, odometry: Odometry | None = None, **messages: Any) -> None:
        self.now_s += PERIOD_S
        self.on_odometry(odometry or self.odometry())
        self.core.heartbeat(self.stamp_ns, self.now_s)
        if self.depths:
            self.on_camera_info(messages.get("info") or self.info())
            self.on_depth(messages.get("depth") or self.depth())
        if self.scans:
            self._topics["scan"](messages.get("scan") or self.scan())

    def on_odometry(self, msg: Odometry) -> None:
        self._topics["odom"](msg)

    def on_camera_info(self, msg: CameraInfo) -> None:
        self._topics[self._config.camera_info_topic](msg)

    def on_depth(self, msg: Image) -> None:
        self._topics[self._config.depth_topic](msg)


def with_inf(msg: Image, value: float) -> Image:
    depth_m = np.full((48, 64), value, np.float32)
    return convert.image_from_depth(depth_m, convert.stamp_ns_from_time(msg.header.stamp), "optical")


def millimetres(heard: Heard, value_m: float) -> Image:
    depth_m = np.full((48, 64), value_m, np.float32)
    return convert.image_from_depth_mm(depth_m, heard.stamp_ns, "optical")


def encoded(msg: Image, encoding: str, cut: int = 0) -> Image:
    msg.encoding = encoding
    msg.data = msg.data[cut:]
    return msg


Make = Callable[[Heard], dict[str, Any]]
BAD: dict[str, tuple[Make, Fault, str]] = {
    "zeros": (lambda h: {"depth": h.depth(0.0)}, Fault.DEPTH_BLIND, ""),
    "NaN": (lambda h: {"depth": h.depth(math.nan)}, Fault.DEPTH_BLIND, ""),
    "+inf": (lambda h: {"depth": with_inf(h.depth(), math.inf)}, Fault.DEPTH_BLIND, ""),
    "-inf": (lambda h: {"depth": with_inf(h.depth(), -math.inf)}, Fault.DEPTH_COVERED, ""),
    "negative": (lambda h: {"depth": h.depth(-2.0)}, Fault.DEPTH_BLIND, ""),
    "millimetres": (lambda h: {"depth": h.depth(2000.0)}, Fault.DEPTH_UNIT, ""),
    "metres": (
        lambda h: {"depth": millimetres(h, 0.002)},
        Fault.DEPTH_UNIT,
        "",
    ),
    "covered": (lambda h: {"depth": h.depth(0.11)}, Fault.DEPTH_COVERED, ""),
    "encoding": (lambda h: {"depth": encoded(h.depth(), "64FC1")}, Fault.BAD_DEPTH, "unsupported_encoding"),
    "colour": (
        lambda h: {"depth": convert.image_from_rgb(np.zeros((48, 64, 3), np.uint8), h.stamp_ns, "optical")},
        Fault.BAD_DEPTH,
        "unsupported_encoding",
    ),
    "truncated": (
        lambda h: {"depth": encoded(h.depth(), "16UC1", 64)}, Fault.BAD_DEPTH, "bad_size"
    ),
    "another size": (lambda h: {"depth": h.depth(shape=(24, 32))}, Fault.NO_CALIBRATION, "wrong_size"),
    "another frame": (
        lambda h: {"depth": h.depth(frame="camera_depth_optical_frame")},
        Fault.NO_CALIBRATION,
        "camera_info_of_another_frame",
    ),
    "no K": (
        lambda h: {"info": h.info(k=[0.0] * 9, p=[0.0] * 12)}, Fault.NO_CALIBRATION, "no_calibration"
    ),
    "NaN in K": (lambda h: {"info": h.info(k=[math.nan] * 9)}, Fault.NO_CALIBRATION, "bad_camera_info"),
    "info of another size": (lambda h: {"info": h.info(width=128)}, Fault.NO_CALIBRATION, "wrong_size"),
    "scan NaN": (lambda h: {"scan": h.scan(math.nan)}, Fault.SCAN_BLIND, ""),
    "scan zero": (lambda h: {"scan": h.scan(0.0)}, Fault.SCAN_BLIND, ""),
    "scan -1": (lambda h: {"scan": h.scan(-1.0)}, Fault.SCAN_BLIND, ""),
    "scan below range_min": (lambda h: {"scan": h.scan(0.05)}, Fault.SCAN_BLIND, ""),
    "scan above range_max": (lambda h: {"scan": h.scan(11.0)}, Fault.SCAN_BLIND, ""),
    "scan in millimetres": (lambda h: {"scan": h.scan(2000.0)}, Fault.SCAN_BLIND, ""),
    "scan all in millimetres": (
        lambda h: {"scan": h.scan(2000.0, range_min=100.0, range_max=10000.0)}, Fault.BAD_SCAN, "bad_scan"
    ),
    "scan without ranges": (lambda h: {"scan": h.scan(ranges=[])}, Fault.SCAN_BLIND, ""),
    "scan of too few": (lambda h: {"scan": h.scan(ranges=[2.0] * 50)}, Fault.BAD_SCAN, "bad_scan"),
    "scan in degrees": (
        lambda h: {"scan": h.scan(angle_min=-50.0, angle_max=50.0, angle_increment=1.0)},
        Fault.BAD_SCAN,
        "bad_scan",
    ),
    "scan of the left": (
        lambda h: {"scan": h.scan(angle_min=0.5, angle_max=2.5)}, Fault.SCAN_ASIDE, ""
    ),
    "odometry of a camera": (
        lambda h: {"odometry": h.odometry("zed_camera_link")}, Fault.ODOMETRY_FRAME, "odometry_child"
    ),
    "odometry of nothing": (lambda h: {"odometry": h.odometry("")}, Fault.ODOMETRY_FRAME, "odometry_child"),
    "odometry in a map": (
        lambda h: {"odometry": h.odometry(frame="map")}, Fault.ODOMETRY_FRAME, "odometry_frame"
    ),
    "odometry in no frame": (
        lambda h: {"odometry": h.odometry(frame="")}, Fault.ODOMETRY_FRAME, "odometry_frame"
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_what_comes_and_says_nothing_stops_it_by_name_until_a_good_one_comes(node: Node, name: str) -> None:
    make, fault, reason = BAD[name]
    heard = Heard(node, safety__obstacles="both")
    for _ in range(3):
        heard.period()
    assert heard.period() == ()
    before = heard.input.refused
    heard.now_s += 0.001  # the messages made now are newer than those before
    assert heard.period(**make(heard)) == (fault,)
    assert heard.sent[-1] == Velocity()  # at once, not in the next period only
    assert (heard.input.refused > before) is bool(reason)
    told = dict(heard.input.values())
    if reason:
        assert told[f"refused: {reason}"] == heard.input.refusals[reason] > 0
        assert told["refused last"]
    assert heard.core.stops[fault] == 1
    assert heard.period() == ()  # a good one came


@pytest.mark.parametrize("name", [name for name in BAD if not name.startswith("scan")])
def test_it_stops_a_driving_robot_at_once_before_a_wall_too(node: Node, name: str) -> None:
    """Where the scanner has something right ahead, a camera may be blind; nobody knows what came between."""
    make, fault, _ = BAD[name]
    heard = Heard(node, safety__obstacles="both")

    def drives(action: Action, queue: int) -> Velocity:
        heard.core.offer(ActionChunk(queue, 1, heard.stamp_ns, (action,)))
        for _ in range(5):
            assert heard.period(scan=heard.scan(0.45)) == ()
        return heard.velocity

    heard.period(scan=heard.scan(0.45))
    assert drives(Action(forward_m=1.0), 1).linear_m_s > 0.0
    heard.now_s += 0.001
    heard.sent.clear()
    heard.hear(**{"scan": heard.scan(0.45), **make(heard)})
    assert heard.sent[-1] == Velocity()  # before the next period
    assert heard.core.stops[fault] == 1
    heard.core.offer(ActionChunk(2, 1, heard.stamp_ns, (Action(forward_m=1.0),)))
    for _ in range(8):
        heard.period(**{"scan": heard.scan(0.45), **make(heard)})
        assert heard.velocity.linear_m_s == 0.0
    assert heard.period(scan=heard.scan(0.45)) == ()
    assert drives(Action(forward_m=1.0), 3).linear_m_s > 0.0


def test_the_other_camera_of_a_pair_is_refused(node: Node) -> None:
    heard = Heard(node, calibration="rectified")
    heard.period()
    p = [50.0, 0.0, 31.5, -3.0, 0.0, 50.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    assert heard.period(info=heard.info(p=p)) == (Fault.NO_CALIBRATION,)
    assert heard.input.refusals["right_camera"]
    assert heard.period() == ()


@pytest.mark.parametrize("changes", [{"k": [0.0] * 9, "p": [0.0] * 12}, {"k": [math.nan] * 9}])
def test_a_calibration_that_is_none_stops_it_before_the_next_image(
    node: Node, changes: dict[str, Any]
) -> None:
    heard = Heard(node)
    for _ in range(3):
        heard.period()
    heard.sent.clear()
    heard.on_camera_info(heard.info(**changes))
    assert heard.sent == [Velocity()]
    assert heard.core.stops[Fault.NO_CALIBRATION] == 1
    assert heard.period(info=heard.info(**changes)) == (Fault.NO_CALIBRATION,)
    assert heard.core.stops[Fault.NO_CALIBRATION] == 1
    assert heard.period() == ()


def test_without_camera_info_it_says_so(node: Node) -> None:
    heard = Heard(node)
    heard.now_s += PERIOD_S
    heard.core.update(heard.now_s)
    heard.on_depth(heard.depth())
    output = heard.core.update(heard.now_s)
    assert Fault.NO_CALIBRATION in output.faults
    assert "camera_info" in str(dict(heard.input.values())["refused last"])


def test_p_is_used_where_the_depth_is_rectified(node: Node) -> None:
    p = [40.0, 0.0, 31.5, 0.0, 0.0, 40.0, 23.5, 0.0, 0.0, 0.0, 1.0, 0.0]
    for topic, fx in (("stereo/depth/image_rect", 40.0), ("stereo/depth/image_raw", CAMERA.fx)):
        heard = Heard(node, depth_topic=topic)
        heard.period(info=heard.info(d=[0.1] * 5, p=p))
        camera = heard.input.camera
        assert camera is not None
        assert camera.fx == pytest.approx(fx)


def seen(heard: Heard, scan: LaserScan) -> np.ndarray:
    assert heard.period(scan=scan) == ()
    return heard.core.obstacles.around(Pose.identity())


def one_ray(heard: Heard, angle_rad: float, **changes: Any) -> LaserScan:
    """Free but for one ray."""
    scan = heard.scan(math.inf, **changes)
    scan.ranges[round((angle_rad + 1.0) / 0.02)] = 2.0
    return scan


def test_a_scanner_by_parameters(node: Node) -> None:
    extrinsics: dict[str, Any] = {
        "safety__obstacles": "scan",
        "safety__scan_x_m": 0.3,
        "safety__scan_y_m": -0.1,
    }
    level = Heard(node, **extrinsics)
    expected = [0.3 + 2.0 * math.cos(0.5), -0.1 + 2.0 * math.sin(0.5)]
    assert seen(level, one_ray(level, 0.5)) == pytest.approx(np.array([expected]), abs=1e-6)
    hanging = Heard(node, **extrinsics, safety__scan_roll_deg=180.0)
    mirrored = [0.3 + 2.0 * math.cos(0.5), -0.1 - 2.0 * math.sin(0.5)]
    assert seen(hanging, one_ray(hanging, 0.5)) == pytest.approx(np.array([mirrored]), abs=1e-6)
    turned = Heard(node, **extrinsics, safety__scan_roll_deg=180.0, safety__scan_yaw_deg=30.0)
    angle = math.radians(30.0) - 0.5
    across = [0.3 + 2.0 * math.cos(angle), -0.1 + 2.0 * math.sin(angle)]
    assert seen(turned, one_ray(turned, 0.5)) == pytest.approx(np.array([across]), abs=1e-6)
    with pytest.raises(ConfigError, match=r"safety\.scan_roll_deg = 90"):
        Heard(node, **extrinsics, safety__scan_roll_deg=90.0)


@pytest.mark.usefixtures("tf2_ros")
def test_a_scanner_by_tf(node: Node) -> None:
    heard = Heard(node, safety__obstacles="scan", safety__scan_extrinsics="tf")
    hangs = Pose(np.array([0.3, -0.1, 0.6]), np.array([1.0, 0.0, 0.0, 0.0]))
    lies = Pose(np.zeros(3), np.array([0.0, math.sin(0.5), 0.0, math.cos(0.5)]))
    assert heard.period() == (Fault.NO_SCAN,)  # no transform yet
    assert "no transform from base_link to laser" in str(dict(heard.input.values())["refused last"])
    Buffer.latest.frames = {"laser": (hangs, 0), "lying": (lies, 0)}
    mirrored = [0.3 + 2.0 * math.cos(0.5), -0.1 - 2.0 * math.sin(0.5)]
    for frame in ("laser", "/laser"):
        assert seen(heard, one_ray(heard, 0.5, frame=frame)) == pytest.approx(np.array([mirrored]), abs=1e-6)
    for frame, reason in (("", "no_frame_id"), ("lying", "scanner_not_level")):
        assert heard.period(scan=heard.scan(frame=frame)) == (Fault.BAD_SCAN,)
        assert heard.input.refusals[reason] == 1


@pytest.mark.usefixtures("tf2_ros")
def test_odometry_of_a_camera_by_tf(node: Node) -> None:
    heard = Heard(node, safety__obstacles="none", odometry__extrinsics="tf")
    heard.period()
    msg = heard.odometry("zed_camera_link")
    assert heard.period(odometry=msg) == (Fault.ODOMETRY_FRAME,)
    Buffer.latest.frames = {"zed_camera_link": (Pose.planar(0.4, 0.0, 0.0), 0)}
    heard.now_s += PERIOD_S
    heard.on_odometry(heard.odometry("zed_camera_link"))
    assert heard.core.pose is not None
    assert heard.core.pose.position == pytest.approx([-0.4, 0.0, 0.0])


@pytest.mark.parametrize(
    ("options", "remedy"),
    [
        ({"safety__obstacles": "scan", "extrinsics": "tf"}, r"safety\.scan_extrinsics:=parameters.*scan_x_m"),
        ({"safety__obstacles": "scan", "safety__scan_extrinsics": "tf"}, r"safety\.scan_extrinsics:=param"),
        ({"safety__obstacles": "depth", "extrinsics": "tf"}, r"extrinsics:=parameters.*camera_x_m"),
        ({"safety__obstacles": "none", "odometry__extrinsics": "tf"}, r"odometry\.extrinsics:=parameters"),
    ],
)  # fmt: skip
def test_tf_that_is_asked_for_and_not_there(
    node: Node, monkeypatch: pytest.MonkeyPatch, options: dict[str, Scalar], remedy: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=rf"tf2_ros cannot be imported.*{remedy}"):
        Heard(node, **options)


@pytest.mark.parametrize(
    ("no_return", "value_m", "free"),
    [
        ("inf", math.inf, True),
        ("inf", 0.0, False),
        ("inf", 10.5, False),
        ("zero", 0.0, True),
        ("zero", math.nan, False),
        ("beyond", 10.5, True),
        ("beyond", 0.0, False),
    ],
)
def test_scanners_that_say_no_return_in_their_own_way(
    node: Node, no_return: str, value_m: float, free: bool
) -> None:
    heard = Heard(node, safety__obstacles="scan", safety__scan_no_return=no_return)
    assert heard.period(scan=heard.scan(value_m)) == (() if free else (Fault.SCAN_BLIND,))
