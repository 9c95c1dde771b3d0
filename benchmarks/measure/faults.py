"""Everything that can break, one fault of each: how it is put in, and how it is taken out again."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measure.fault_rig import CONTROL, NEAR_M, NEAR_SCAN_M, OPEN_M, WAIT_S, Fault, Rig
from vln_ros.datatypes import Action, ActionChunk, Pose, wrap_angle
from vln_ros.motion.sensor_content import MOVED_M, MOVED_RAD


def make_faults() -> dict[str, Fault]:
    """Every fault of docs/design/executor.md, by name."""
    s = CONTROL.safety

    def silence(stream: str, due_s: float, reason: str) -> Fault:
        def inject(rig: Rig) -> float:
            rig.relay.cut.add(stream)
            return rig.relay.forwarded_s[stream] + due_s

        return Fault(inject, lambda rig: rig.relay.cut.clear(), reason, due_s)

    def corrupt(stream: str, change: Callable[[bytes], bytes], reason: str, resume: bool = False) -> Fault:
        def inject(rig: Rig) -> float:
            before_s = rig.relay.forwarded_s[stream]
            rig.relay.changed[stream] = change
            while rig.relay.forwarded_s[stream] == before_s:  # the fault is there when it has passed
                time.sleep(0.001)
            return rig.relay.forwarded_s[stream]

        def recover(rig: Rig) -> None:
            rig.relay.changed.clear()
            if resume:
                time.sleep(0.2)  # the jump back is a jump
                _go_on(rig)

        return Fault(inject, recover, reason)

    def scan(rig: Rig) -> float:
        rig.relay.scan_m = 0.21
        begun_s = time.monotonic()
        rig.relay.scan()
        return begun_s

    def no_scan(rig: Rig) -> None:
        from benchmarks.measure.fault_relay import FREE_M

        rig.relay.scan_m = FREE_M

    def ended(number: signal.Signals) -> Fault:
        def inject(rig: Rig) -> float:
            begun_s = time.monotonic()
            os.kill(rig.graph.pid("executor"), number)
            return begun_s

        def recover(rig: Rig) -> None:
            rig.graph.wait("executor")
            rig.start("executor")

        return Fault(inject, recover)

    def in_the_open(fault: Fault) -> Fault:
        """Right before a wall a camera may be blind: a robot that sees none there may still turn away."""

        def inject(rig: Rig) -> float:
            rig.drives(lambda: rig.relay.said[-1].free_m > OPEN_M)
            return fault.inject(rig)

        return replace(fault, inject=inject)

    def near_a_wall(fault: Fault) -> Fault:
        """What the scanner sees all the time, so close that a camera may be blind: it may only turn."""

        def inject(rig: Rig) -> float:
            rig.relay.scan_m = NEAR_SCAN_M
            rig.drives(lambda: rig.relay.said[-1].free_m < NEAR_M)
            return fault.inject(rig)

        def recover(rig: Rig) -> None:
            no_scan(rig)
            fault.recover(rig)

        return replace(fault, inject=inject, recover=recover, ahead=True)

    def stands_still(stream: str, reason: str) -> Fault:
        def inject(rig: Rig) -> float:
            """It counts when the robot has left the place where the content was new, for the time-out."""
            relay, frozen = rig.relay, _Frozen(_message_type(stream))
            relay.changed[stream] = frozen
            while not frozen.seen:
                time.sleep(0.001)
            _, place = relay.poses[-1]
            if not relay.wait(lambda: _left(place, relay.poses[-1][1]), WAIT_S):
                raise RuntimeError("the robot does not leave its place")
            return relay.poses[-1][0] + s.obstacle_timeout_s

        return Fault(inject, lambda rig: rig.relay.changed.clear(), reason, s.obstacle_timeout_s)

    def double(name: str) -> Fault:
        return Fault(lambda rig: rig.start_double(name), lambda rig: rig.end_double(name), f"two {name}s")

    return {
        "no odometry": silence("odom", s.odometry_timeout_s, "no odometry"),
        "no colour": silence("color", s.frame_timeout_s, "no frames"),
        "no depth": silence("depth", s.obstacle_timeout_s, "no depth"),
        "no heartbeat": silence("heartbeat", s.heartbeat_timeout_s, "no navigator heartbeat"),
        "clock stands": silence("clock", s.odometry_timeout_s, "the control clock stands"),
        "odometry jumps": corrupt("odom", _jumped, "odometry jumped", resume=True),
        "odometry NaN": corrupt("odom", _nan, "odometry not usable"),
        "odometry of a camera": corrupt("odom", _of_a_camera, "odometry of another frame"),
        "odometry in a map": corrupt("odom", _in_a_map, "odometry of another frame"),
        "queue NaN": Fault(_nan_queue, lambda rig: None, "queue not usable", moves_on=True),
        "obstacle in depth": replace(corrupt("depth", _near, "obstacle"), ahead=True),
        "obstacle in scan": Fault(scan, no_scan, "obstacle", ahead=True),
        "depth of zeros": in_the_open(
            corrupt("depth", partial(_depth, lambda d: 0.0 * d), "depth says nothing")
        ),
        "depth NaN": in_the_open(
            corrupt("depth", partial(_depth, lambda d: math.nan * d), "depth says nothing")
        ),
        "depth NaN near a wall": near_a_wall(
            corrupt("depth", partial(_depth, lambda d: math.nan * d), "depth says nothing")
        ),
        "depth in mm": corrupt("depth", partial(_depth, lambda d: 1e3 * d), "depth in a wrong unit"),
        "depth covered": in_the_open(
            corrupt("depth", partial(_depth, lambda d: 0.0 * d + 0.1), "depth camera covered")
        ),
        "depth unreadable": corrupt("depth", _odd_encoding, "depth not usable"),
        "depth of another size": corrupt(
            "depth", partial(_depth, lambda d: d[::2, ::2]), "depth without calibration"
        ),
        "no calibration": corrupt("info", _no_calibration, "depth without calibration"),
        "depth looks aside": corrupt("info", _aside, "depth camera does not see the way"),
        "depth stands still": stands_still("depth", "depth stands still"),
        "no scan": silence("scan", s.obstacle_timeout_s, "no scan"),
        "scan NaN": corrupt("scan", partial(_scan, math.nan), "scan says nothing"),
        "scan of zeros": corrupt("scan", partial(_scan, 0.0), "scan says nothing"),
        "scan too near": replace(corrupt("scan", partial(_scan, -math.inf), "obstacle"), ahead=True),
        "scan unreadable": corrupt("scan", _contradicting_scan, "scan not usable"),
        "scan looks aside": corrupt("scan", _scan_aside, "scan does not cover the way"),
        "scan stands still": stands_still("scan", "scan stands still"),
        "pause": Fault(partial(_pause, "executor", True), _go_on, "paused"),
        "navigator paused": Fault(
            partial(_pause, "navigator", True), lambda rig: _ignore(_pause("navigator", False, rig)), "idle"
        ),
        "cancel": Fault(_cancel, _tell_again, "idle"),
        "new instruction": Fault(lambda rig: _tell(rig), lambda rig: None, "idle", moves_on=True),
        "deactivate": Fault(_deactivate, _activate),
        "SIGINT": ended(signal.SIGINT),
        "SIGTERM": ended(signal.SIGTERM),
        "navigator killed": Fault(
            _kill_navigator,
            lambda rig: rig.start("navigator"),
            "no navigator heartbeat",
            s.heartbeat_timeout_s,
        ),
        "second navigator": double("navigator"),
        "second executor": double("executor"),
    }


def _ignore(_: object) -> None:
    pass


def _jumped(data: bytes) -> bytes:
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, Odometry)
    msg.pose.pose.position.x += 1.0
    return bytes(serialize_message(msg))


def _nan(data: bytes) -> bytes:
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, Odometry)
    msg.pose.pose.position.y = math.nan
    return bytes(serialize_message(msg))


class _Frozen:
    """Says for ever what the first message said, with the stamps of those that come."""

    def __init__(self, type_: type) -> None:
        self._type = type_
        self._first: Any = None

    @property
    def seen(self) -> bool:
        return self._first is not None

    def __call__(self, data: bytes) -> bytes:
        from rclpy.serialization import deserialize_message, serialize_message

        msg = deserialize_message(data, self._type)
        if self._first is None:
            self._first = msg
            return data
        self._first.header.stamp = msg.header.stamp
        return bytes(serialize_message(self._first))


def _message_type(stream: str) -> type:
    from sensor_msgs.msg import LaserScan

    from benchmarks.measure.fault_relay import STREAMS

    return LaserScan if stream == "scan" else STREAMS[stream][0]


def _left(place: Pose, now: Pose) -> bool:
    moved_m = float(np.linalg.norm(now.position - place.position))
    return moved_m > MOVED_M or abs(wrap_angle(now.yaw_rad - place.yaw_rad)) > MOVED_RAD


def _edited(type_: type, edit: Callable[[Any], None], data: bytes) -> bytes:
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, type_)
    edit(msg)
    return bytes(serialize_message(msg))


def _of_a_camera(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.child_frame_id = "zed_camera_link"

    return _edited(_message_type("odom"), edit, data)


def _in_a_map(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.header.frame_id = "map"

    return _edited(_message_type("odom"), edit, data)


def _depth(change: Callable[[Any], Any], data: bytes) -> bytes:
    from rclpy.serialization import deserialize_message, serialize_message

    from vln_ros.ros import convert

    msg = deserialize_message(data, _message_type("depth"))
    changed = np.ascontiguousarray(change(convert.depth_from_image(msg)), np.float32)
    stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
    return bytes(serialize_message(convert.image_from_depth(changed, stamp_ns, msg.header.frame_id)))


def _odd_encoding(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.encoding = "64FC1"

    return _edited(_message_type("depth"), edit, data)


def _no_calibration(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.k, msg.p = [0.0] * 9, [0.0] * 12

    return _edited(_message_type("info"), edit, data)


def _aside(data: bytes) -> bytes:
    """The calibration of a camera that sees only what is far to the left."""

    def edit(msg: Any) -> None:
        msg.k[2] += 1e4
        msg.p[2] += 1e4

    return _edited(_message_type("info"), edit, data)


def _scan(range_m: float, data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.ranges = [range_m] * len(msg.ranges)

    return _edited(_message_type("scan"), edit, data)


def _contradicting_scan(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.angle_max = 3.0

    return _edited(_message_type("scan"), edit, data)


def _scan_aside(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.angle_min, msg.angle_max = 0.5, 1.1

    return _edited(_message_type("scan"), edit, data)


def _near(data: bytes) -> bytes:
    """Somebody stands right in front."""
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import Image

    from vln_ros.ros import convert

    msg = deserialize_message(data, Image)
    depth_m = convert.depth_from_image(msg).copy()
    rows, columns = depth_m.shape
    depth_m[rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3] = 0.22
    near = convert.image_from_depth(
        depth_m, convert.stamp_ns_from_time(msg.header.stamp), msg.header.frame_id
    )
    return bytes(serialize_message(near))


def _nan_queue(rig: Rig) -> float:
    from vln_ros.ros import convert

    msg = convert.trajectory_from_chunk(ActionChunk(1, 1, 0, (Action(forward_m=1.0),)), "base_link", 0.5, 1.0)
    msg.points[0].positions[0] = math.nan
    begun_s = time.monotonic()
    rig.relay.queue_pub.publish(msg)
    return begun_s


def _pause(node: str, paused: bool, rig: Rig) -> float:
    from std_srvs.srv import SetBool

    return rig.call(f"{node}/pause", SetBool, SetBool.Request(data=paused))


def _go_on(rig: Rig) -> None:
    _pause("executor", False, rig)


def _cancel(rig: Rig) -> float:
    from std_srvs.srv import Trigger

    return rig.call("navigator/cancel", Trigger, Trigger.Request())


def _tell(rig: Rig) -> float:
    from vln_ros.ros import convert

    begun_s = time.monotonic()
    rig.relay.instruction_pub.publish(convert.string_from_instruction(rig.relay.instruction))
    return begun_s


def _tell_again(rig: Rig) -> None:
    _tell(rig)


def _change(rig: Rig, step: int) -> float:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request(transition=Transition(id=step))
    return rig.call("executor/change_state", ChangeState, request)


def _deactivate(rig: Rig) -> float:
    from lifecycle_msgs.msg import Transition

    return _change(rig, Transition.TRANSITION_DEACTIVATE)


def _activate(rig: Rig) -> None:
    from lifecycle_msgs.msg import Transition

    _change(rig, Transition.TRANSITION_ACTIVATE)


def _kill_navigator(rig: Rig) -> float:
    os.kill(rig.graph.pid("navigator"), signal.SIGKILL)
    rig.graph.wait("navigator")
    return rig.relay.forwarded_s["heartbeat"] + CONTROL.safety.heartbeat_timeout_s
