"""Lets one frame through a real navigator and executor, and prints which functions of the package it passed.

A program of its own: it profiles every call of its process. Prints JSON: for each function that was called
``{"path.py Class.method": {"first": n, "last": n, "below": [functions that were under way]}}``, where ``n``
counts the calls of all threads in order; and ``"speeds"``, what the base was told.
"""

from __future__ import annotations

import ast
import json
import math
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import vln_ros
from vln_ros.ros.environment import prepare_environment

PACKAGE = Path(vln_ros.__file__).parent
DEADLINE_S = 60.0
PARAMETERS = (
    "navigator:engine:=qwen",
    "navigator:qwen.checkpoint:=shipped:tiny",
    "navigator:qwen.device:=cpu",
    "navigator:extrinsics:=parameters",
    "navigator:diagnostics_hz:=10.0",
    "navigator:reliability:=reliable",
    "executor:extrinsics:=parameters",
    "executor:safety.obstacles:=none",
    "executor:safety.frame_timeout_s:=10.0",
    "executor:safety.odometry_timeout_s:=10.0",
    "executor:safety.heartbeat_timeout_s:=10.0",
)


def qualified_names(tree: ast.AST) -> dict[int, str]:
    """Of every function, by the line that its code begins with: ``Class.method``."""
    names: dict[int, str] = {}

    def walk(node: ast.AST, outer: str) -> None:
        for child in ast.iter_child_nodes(node):
            inner = outer
            if isinstance(child, ast.FunctionDef | ast.ClassDef):
                inner = f"{outer}.{child.name}" if outer else child.name
                if isinstance(child, ast.FunctionDef):
                    names[min([child.lineno, *(d.lineno for d in child.decorator_list)])] = inner
            walk(child, inner)

    walk(tree, "")
    return names


@cache
def _names_of(path: str) -> dict[int, str]:
    return qualified_names(ast.parse(Path(path).read_text("utf-8")))


@cache
def name_of(code: CodeType) -> str | None:
    """``path.py Class.method`` of a function of the package; None of any other."""
    path = Path(code.co_filename)
    if not path.is_relative_to(PACKAGE):
        return None
    name = _names_of(code.co_filename).get(code.co_firstlineno)
    return None if name is None else f"{path.relative_to(PACKAGE).as_posix()} {name}"


class Calls:
    """Every call of a function of the package, in every thread, once ``listening``."""

    def __init__(self) -> None:
        self.listening = False
        self.seen: dict[str, dict[str, Any]] = {}
        self._count = 0
        self._lock = threading.Lock()

    def __call__(self, frame: FrameType, event: str, _: object) -> None:
        if not self.listening or event != "call" or (name := name_of(frame.f_code)) is None:
            return
        below = set()
        outer = frame.f_back
        while outer is not None:
            below.add(name_of(outer.f_code))
            outer = outer.f_back
        with self._lock:
            self._count += 1
            call = self.seen.setdefault(name, {"first": self._count, "below": set()})
            call["last"] = self._count
            call["below"] |= below - {None}


def follow(calls: Calls) -> list[float]:
    """One instruction, one frame, until the base has been told to move. Returns the speeds it was told."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from geometry_msgs.msg import Twist
    from nav_msgs.msg import Odometry
    from rclpy.executors import SingleThreadedExecutor
    from sensor_msgs.msg import CameraInfo, Image
    from std_msgs.msg import Header, String
    from trajectory_msgs.msg import JointTrajectory

    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel
    from vln_ros.nodes.executor.node import ExecutorNode
    from vln_ros.nodes.navigator.node import Navigator
    from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
    from vln_ros.ros import convert, qos
    from vln_ros.sim.embedded.world import EmbeddedWorld
    from vln_ros.sim.splits import make_episodes

    (episode,) = make_episodes("val_unseen", 1, "room")
    camera = CameraModel.from_hfov(160, 120, math.radians(79.0))
    world = EmbeddedWorld(camera, base_from_optical(0.0, 0.0, 1.25))
    world.load(episode.scene_id)
    world.place(episode.start)
    rgb, depth_m = world.render()

    rclpy.init(args=["--ros-args", *(word for p in PARAMETERS for word in ("-p", p))])
    navigator, executor, robot = Navigator(), ExecutorNode(), rclpy.create_node("robot")
    threading.setprofile(calls)  # from now on: the engine's thread is yet to come
    assert navigator.start(), navigator.failure
    assert executor.start(), executor.failure
    sensor = qos.sensor("reliable", 10)
    odometry = robot.create_publisher(Odometry, "odom", sensor)
    depth = robot.create_publisher(Image, DEPTH_TOPIC, sensor)
    info = robot.create_publisher(CameraInfo, INFO_TOPIC, sensor)
    color = robot.create_publisher(Image, COLOR_TOPIC, sensor)
    instruction = robot.create_publisher(String, "instruction", qos.latched())

    speeds: list[float] = []
    processed: list[Header] = []
    holds: list[JointTrajectory] = []
    values: dict[str, str] = {}

    def on_velocity(msg: Twist) -> None:
        speeds.append(abs(msg.linear.x) + abs(msg.angular.z))

    def on_diagnostics(msg: DiagnosticArray) -> None:
        values.update({v.key: v.value for status in msg.status for v in status.values})

    robot.create_subscription(Twist, "cmd_vel", on_velocity, qos.sensor("reliable", 50))
    robot.create_subscription(JointTrajectory, "action_queue", holds.append, qos.sensor("reliable", 50))
    robot.create_subscription(Header, "frame_processed", processed.append, qos.sensor("reliable", 50))
    robot.create_subscription(DiagnosticArray, "/diagnostics", on_diagnostics, qos.diagnostics())
    spinner = SingleThreadedExecutor()
    for node in (navigator, executor, robot):
        spinner.add_node(node)

    def spin_until(condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, what
            spinner.spin_once(0.05)

    def show_all_but_colour() -> int:
        stamp_ns = int(navigator.get_clock().now().nanoseconds)
        info.publish(convert.info_from_camera(camera, stamp_ns, "optical"))
        depth.publish(convert.image_from_depth(depth_m, stamp_ns, "optical"))
        odometry.publish(convert.odometry_from_pose(world.pose, stamp_ns, "odom", "base_link", 0.0, 0.0))
        return stamp_ns

    topics = (odometry, depth, info, color, instruction)
    spin_until(lambda: all(t.get_subscription_count() for t in topics) and bool(speeds), "nobody listens")
    # Without an instruction nothing is done with a frame; but now the navigator has heard of everything.
    color.publish(convert.image_from_rgb(rgb, show_all_but_colour(), "optical"))
    spin_until(lambda: bool(processed), "the navigator hears no frame")
    holds.clear()
    instruction.publish(convert.string_from_instruction(episode.instruction))
    spin_until(lambda: bool(holds), "the instruction was not taken")
    stamp_ns = show_all_but_colour()
    spin_until(
        lambda: [values.get(f"sync: received_{name}") for name in ("depth", "odometry")] == ["2", "2"],
        "the sensors were not heard",
    )
    speeds.clear()
    sys.setprofile(calls)
    calls.listening = True
    color.publish(convert.image_from_rgb(rgb, stamp_ns, "optical"))
    spin_until(lambda: any(speeds), "the base was not told to move")
    calls.listening = False
    sys.setprofile(None)
    for node in (navigator, executor):
        node.close()
    for node in (navigator, executor, robot):
        node.destroy_node()
    rclpy.shutdown()
    return speeds


def main() -> None:
    """Print what :func:`follow` saw."""
    prepare_environment()
    calls = Calls()
    speeds = follow(calls)
    functions = {name: {**call, "below": sorted(call["below"])} for name, call in calls.seen.items()}
    print(json.dumps({"speeds": speeds, "functions": functions}))


if __name__ == "__main__":
    main()
