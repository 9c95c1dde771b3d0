"""A navigator in its own process against everything that a robot's drivers get wrong."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from nav_msgs.msg import Odometry
from rclpy.context import Context
from robots import NavigatorsRobot, picture
from ros_endings import gone_afterwards
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool, Trigger

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.datatypes import ActionChunk, CameraModel, Pose
from vln_ros.geometry.frame_checks import depth_unit_suspicion
from vln_ros.ros import convert

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 30.0
STEP_NS = 100_000_000
CAMERA = CameraModel.from_hfov(64, 48, 1.4)
RGB = picture(0, (64, 48))
DEPTH = np.full((48, 64), 2.0, np.float32)


class Robot(NavigatorsRobot):
    """It shows what is right, and what is not."""

    def __init__(self, context: Context) -> None:
        super().__init__(context, deadline_s=DEADLINE_S)
        self.cancel = self.create_client(Trigger, "navigator/cancel")
        self.pause = self.create_client(SetBool, "navigator/pause")

    def count(self, key: str) -> int:
        return int(self.values.get(key, "0"))

    def counted(self, key: str, before: int) -> None:
        self.wait(lambda: self.count(key) > before, f"{key!r} was not counted")

    def show(
        self,
        *,
        color: Image | None = None,
        depth: Image | None = None,
        odometry: Odometry | None = None,
        info: bool = True,
        advance_ns: int = STEP_NS,
    ) -> int:
        """One frame at the next stamp, with whatever is given instead of what is right."""
        self.stamp_ns += advance_ns
        if info:
            self.publish_info(self.stamp_ns)
        if odometry is None:
            self.publish_pose(Pose.identity(), self.stamp_ns)
        else:
            self.odom.publish(odometry)
        self.publish_images(self.stamp_ns, color=color, depth=depth)
        return self.stamp_ns

    def decides(self) -> ActionChunk:
        """It still works: a good frame is answered."""
        return self.decided(self.show())

    def tell_bytes(self, data: bytes) -> None:
        """A string as another client may send it, already serialized."""
        self.instruction.publish(b"\x00\x01\x00\x00" + struct.pack("<I", len(data) + 1) + data + b"\x00")


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    """With a navigator that has found it and knows no camera_info yet."""
    folder: Path = tmp_path_factory.mktemp("navigator")
    context = Context()
    context.init()
    node = Robot(context)
    spec = NodeSpec(
        "navigator",
        {
            "engine": "paced",
            "extrinsics": "parameters",
            "paced.decision_ms": 0.0,
            "decide_on": "frame",
            "reliability": "reliable",
            "image_depth": 50,
            "diagnostics_hz": 10.0,
        },
    )
    with gone_afterwards(context, node), Graph(folder, graph_environment()) as graph:
        graph.start(spec)

        def connected() -> bool:
            graph.check()
            return node.is_heard

        node.wait(connected, "the navigator did not come up")
        yield node
        graph.check()  # it has survived everything


@pytest.fixture(scope="module")
def running(robot: Robot) -> Robot:
    """Following an instruction, with a known camera."""
    for _ in range(9):  # one more than are kept for a camera_info that is late
        robot.show(info=False)
    robot.counted("refused: no_camera_info", 0)
    robot.follow("go to the kitchen")
    robot.decides()
    return robot


def image(**changes: object) -> Image:
    message = convert.image_from_rgb(RGB, 0, "optical")
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def reason_of(check: Callable[[], object]) -> str:
    with pytest.raises(convert.MessageError) as info:
        check()
    return info.value.reason


BAD_COLOR = {
    "unknown encoding": image(encoding="klingon8"),
    "odd step": image(step=64 * 3 - 1),
    "truncated": image(data=b"\x00" * 100),
    "zero-sized": image(width=0, height=0, step=0, data=b""),
    "depth as colour": convert.image_from_depth(DEPTH, 0, "optical"),
}


@pytest.mark.parametrize("name", BAD_COLOR)
def test_bad_colour(running: Robot, name: str) -> None:
    bad = BAD_COLOR[name]
    key = f"refused: {reason_of(lambda: convert.rgb_from_image(bad))}"
    before = running.count(key)
    running.show(color=bad)
    running.counted(key, before)
    running.decides()


def test_a_depth_of_another_size(running: Robot) -> None:
    before = running.count("refused: wrong_size")
    running.show(depth=convert.image_from_depth(DEPTH[:24], 0, "optical"))
    running.counted("refused: wrong_size", before)
    running.decides()


@pytest.mark.parametrize(
    ("color", "depth", "reason"),
    [
        ("optical", "camera_depth_optical_frame", "depth_of_another_frame"),
        ("camera_infra1_optical_frame", "camera_infra1_optical_frame", "camera_info_of_another_frame"),
        ("camera_infra1_optical_frame", "optical", "camera_info_of_another_frame"),
    ],
)
def test_images_of_other_frames(running: Robot, color: str, depth: str, reason: str) -> None:
    before = running.count(f"refused: {reason}")
    running.show(color=convert.image_from_rgb(RGB, 0, color), depth=convert.image_from_depth(DEPTH, 0, depth))
    running.counted(f"refused: {reason}", before)
    running.decides()


def test_names_with_a_slash_before_them(running: Robot) -> None:
    color, depth = convert.image_from_rgb(RGB, 0, "/optical"), convert.image_from_depth(DEPTH, 0, "/optical")
    slashed = odometry(frame="/odom", child="/base_link")
    slashed.header.stamp = convert.time_from_stamp_ns(running.stamp_ns + STEP_NS)
    stamp = running.show(color=color, depth=depth, odometry=slashed)
    running.wait(lambda: any(c.frame_stamp_ns == stamp for c in running.chunks), "a slash was not understood")


def test_metres_in_16uc1(running: Robot) -> None:
    metres = convert.image_from_depth_mm(DEPTH / 1000.0, 0, "optical")
    reason = depth_unit_suspicion(metres.encoding, convert.depth_from_image(metres))
    assert reason is not None
    key = f"refused: {reason}"
    before = running.count(key)
    running.show(depth=metres)
    running.counted(key, before)
    running.decides()


def test_depth_of_nan_and_infinity_is_no_reading_and_no_failure(running: Robot) -> None:
    holes = DEPTH.copy()
    holes[:10], holes[10:20], holes[20:30] = np.nan, np.inf, -1.0
    message = convert.image_from_depth(DEPTH, 0, "optical")
    message.data = holes.tobytes()
    stamp = running.show(depth=message)
    running.wait(lambda: any(c.frame_stamp_ns == stamp for c in running.chunks), "a depth with holes")


def test_a_camera_without_calibration_keeps_the_last_good_one(running: Robot) -> None:
    zeros = convert.info_from_camera(CAMERA, running.stamp_ns, "optical")
    zeros.k = [0.0] * 9
    before = running.count("refused: no_calibration")
    running.info.publish(zeros)
    running.counted("refused: no_calibration", before)
    running.decides()


def test_a_camera_that_changes(running: Robot) -> None:
    before = running.count("refused: camera_info_changed")
    other = CameraModel.from_hfov(32, 24, 1.4)
    running.info.publish(convert.info_from_camera(other, running.stamp_ns, "optical"))
    running.counted("refused: camera_info_changed", before)
    running.decides()  # comes with the right one again


def odometry(
    x: float = 0.0, w: float = 1.0, frame: str = "odom", stamp_ns: int = 0, child: str = "base_link"
) -> Odometry:
    message = convert.odometry_from_pose(Pose.identity(), stamp_ns, frame, child, 0.0, 0.0)
    message.pose.pose.position.x = x
    message.pose.pose.orientation.w = w
    return message


@pytest.mark.parametrize(
    ("bad", "key"),
    [
        (odometry(x=math.nan), "sync: odometry_invalid"),
        (odometry(w=0.0), "sync: odometry_invalid"),
        (odometry(w=3.0), "sync: odometry_invalid"),
        (odometry(frame="map"), "sync: odometry_wrong_frame"),
        (odometry(child="zed_camera_link"), "refused: odometry_child"),
        (odometry(child=""), "refused: odometry_child"),
        (odometry(x=1e4), "sync: odometry_jumps"),
    ],
    ids=["nan", "no quaternion", "unnormalised", "wrong frame", "of a camera", "of nothing", "jump"],
)
def test_bad_odometry(running: Robot, bad: Odometry, key: str) -> None:
    before = running.count(key)
    running.stamp_ns += STEP_NS
    bad.header.stamp = convert.time_from_stamp_ns(running.stamp_ns)
    running.odom.publish(bad)
    running.counted(key, before)
    running.decides()


def test_missing_odometry_is_counted_when_it_is_too_late(running: Robot) -> None:
    running.stamp_ns += STEP_NS
    stamp = running.stamp_ns
    before = running.count("sync: color_odometry_gap") + running.count("sync: color_no_odometry")
    running.depth.publish(convert.image_from_depth(DEPTH, stamp, "optical"))
    running.color.publish(convert.image_from_rgb(RGB, stamp, "optical"))
    running.show(advance_ns=2 * 10**9)
    running.wait(
        lambda: running.count("sync: color_odometry_gap") + running.count("sync: color_no_odometry") > before,
        "the gap was not counted",
    )
    running.decides()


def test_stamps_doubled_late_and_of_another_clock(running: Robot) -> None:
    for key, advance_ns in (("color_duplicate", 0), ("color_late", -STEP_NS // 2)):
        newest, before = running.stamp_ns, running.count(f"sync: {key}")
        running.show(advance_ns=advance_ns)
        running.counted(f"sync: {key}", before)
        running.stamp_ns = newest
        running.decides()
    running.stamp_ns = 5 * 10**9  # the clock was reset
    before = running.count("sync: clock_resets")
    running.decides()
    running.counted("sync: clock_resets", before)
    running.stamp_ns = 10**13  # and here it was set
    running.decides()


def test_negative_stamps(running: Robot) -> None:
    message = convert.image_from_rgb(RGB, 0, "optical")
    message.header.stamp.sec = -1
    before = running.count("refused: negative_stamp")
    running.color.publish(message)
    running.counted("refused: negative_stamp", before)
    running.decides()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty_instruction"),
        (b" \n\t ", "empty_instruction"),
        (b"go " * 350_000, "long_instruction"),
        (b"go \xff\xfe there", "not_utf8"),
        (b"go \x07 there", "control_characters"),
    ],
    ids=["empty", "blank", "1 MB", "not utf-8", "bell"],
)
def test_bad_instructions_do_not_disturb_the_run(running: Robot, data: bytes, reason: str) -> None:
    number = running.decides().instruction
    before = running.count(f"refused: {reason}")
    running.tell_bytes(data)
    running.counted(f"refused: {reason}", before)
    assert running.decides().instruction == number


def test_a_new_instruction_in_mid_run_holds_and_begins_anew(running: Robot) -> None:
    before = running.decides()
    number = running.follow("no, the other way")
    assert number == before.instruction + 1
    hold = next(c for c in running.chunks if c.instruction == number)
    assert hold.actions == ()
    assert hold.queue > before.queue
    assert running.decides().instruction == number
    assert running.follow("no, the other way") == number + 1  # the same words are told anew


def test_a_frame_that_was_there_before_the_instruction_is_taken_when_it_is_shown_again(
    running: Robot,
) -> None:
    """So a bridge shows it to a navigator that was started anew and has heard the instruction late."""
    running.follow("go there")
    before = running.decides()
    doubles = running.count("sync: color_duplicate")
    running.show(advance_ns=0)  # within the same run
    running.counted("sync: color_duplicate", doubles)
    number = running.follow("no, there")
    stamp = running.show(advance_ns=0)
    running.wait(
        lambda: any(c.actions and c.instruction == number for c in running.chunks),
        "it waits for another frame",
    )
    (answer,) = (c for c in running.chunks if c.actions and c.instruction == number)
    assert answer.frame_stamp_ns == stamp == before.frame_stamp_ns


def test_pause_and_cancel(running: Robot) -> None:
    running.follow("go on")
    running.decides()
    assert running.call(running.pause, SetBool.Request(data=True))
    running.wait(lambda: running.chunks[-1].actions == (), "no hold on pause")
    assert running.call(running.pause, SetBool.Request(data=False))
    assert running.decides().actions
    queue = running.chunks[-1].queue
    assert running.call(running.cancel, Trigger.Request())
    running.wait(lambda: running.chunks[-1].queue > queue, "no hold on cancel")
    assert running.chunks[-1].actions == ()
    processed = running.count("frames processed")
    running.show()
    running.counted("frames processed", processed)
    assert running.chunks[-1].actions == ()
    running.follow("again")
    running.decides()


def test_at_the_end_the_books_are_balanced(running: Robot) -> None:
    received = running.count("frames received")
    running.decides()
    running.counted("frames received", received)
    v = running.count
    assert v("frames received") == (
        v("frames aligned") + v("frames dropped before the mailbox") + v("sync: pending")
    )
    assert running.level == b"\x01"  # what happened is not hidden
