"""The inspector in its own process: what it shows, and that it does nothing while nobody looks."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path as FilePath

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry, Path
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from ros_endings import gone_afterwards
from sensor_msgs.msg import Image
from std_msgs.msg import Float64, String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.datatypes import STOP, Action, ActionChunk, Instruction, Pose
from vln_ros.motion.instruction_status import InstructionStatus
from vln_ros.nodes.navigator.instructions import status_message
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC
from vln_ros.nodes.tools.inspecting import topic_name
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 40.0
RGB = np.full((48, 64, 3), 200, np.uint8)
DEPTH = np.full((48, 64), 2.0, np.float32)
CHUNK = ActionChunk(3, 1, 10**9, (Action(forward_m=0.25), Action(turn_rad=0.26), STOP))


class Robot(Node):
    """Everything that the inspector listens to."""

    def __init__(self, context: Context) -> None:
        super().__init__("robot", context=context)
        sensor, command = qos.sensor("reliable", 5), qos.commands()
        self.color = self.create_publisher(Image, COLOR_TOPIC, sensor)
        self.depth = self.create_publisher(Image, DEPTH_TOPIC, sensor)
        self.odom = self.create_publisher(Odometry, "odom", sensor)
        self.text = self.create_publisher(String, "instruction", qos.latched())
        self.queue = self.create_publisher(JointTrajectory, "action_queue", command)
        self.path = self.create_publisher(Path, "predicted_path", qos.diagnostics())
        self.diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        for name, value in (("robot_radius_m", 0.3), ("stop_distance_m", 0.2), ("slow_distance_m", 0.7)):
            self.declare_parameter(f"safety.{name}", value)
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self.stamp_ns = 10**9

    def publish(self) -> None:
        """One round of everything, 10 cm further on."""
        self.stamp_ns += 10**8
        stamp = self.stamp_ns
        pose = Pose.planar((stamp - 10**9) / 1e9, 0.0, 0.0)
        self.odom.publish(convert.odometry_from_pose(pose, stamp, "odom", "base_link", 0.0, 0.0))
        self.queue.publish(convert.trajectory_from_chunk(CHUNK, "base_link", 1.0, 1.0))
        self.path.publish(convert.path_from_chunk(CHUNK, pose, "odom"))
        self.color.publish(convert.image_from_rgb(RGB, stamp, "optical"))
        self.depth.publish(convert.image_from_depth(DEPTH, stamp, "optical"))
        health = Health(Level.OK, "fine", (("decide p50 [ms]", 12.5), ("action", "none")))
        self.diagnostics.publish(diagnostics_from_health(health, "vln_ros: navigator", "", stamp))

    def until(self, condition: Callable[[], bool], what: str) -> None:
        deadline_s = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline_s, what
            self.publish()
            for _ in range(10):
                self._executor.spin_once(0.01)


@pytest.fixture(scope="module")
def robot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Robot]:
    folder: FilePath = tmp_path_factory.mktemp("inspector")
    context = Context()
    # Under the executor's name, so that the inspector asks it for the zones.
    context.init(args=["--ros-args", "-r", "__node:=executor"])
    node = Robot(context)
    with gone_afterwards(context, node), Graph(folder, graph_environment()) as graph:
        graph.start(NodeSpec("inspector", {"rate_hz": 20.0}))
        node.text.publish(String(data="go to the door"))

        def up() -> bool:
            graph.check()
            return node.odom.get_subscription_count() > 0

        node.until(up, "the inspector did not come up")
        yield node
        graph.check()


def test_images_are_taken_only_while_somebody_looks(robot: Robot) -> None:
    assert robot.color.get_subscription_count() == 0
    shown: list[Image] = []
    look = robot.create_subscription(
        Image, "inspector/annotated_image", shown.append, qos.sensor("reliable", 1)
    )
    robot.until(lambda: len(shown) > 1, "no annotated image")
    pixels = convert.rgb_from_image(shown[-1])
    assert pixels.shape[0] > 400
    assert len(np.unique(pixels.reshape(-1, 3), axis=0)) > 50  # text, icons, colours
    assert shown[-1].header.frame_id == "optical"
    robot.destroy_subscription(look)
    robot.until(lambda: robot.color.get_subscription_count() == 0, "it still takes images")


def test_markers_show_zones_goal_and_instruction(robot: Robot) -> None:
    seen: list[MarkerArray] = []
    look = robot.create_subscription(MarkerArray, "inspector/markers", seen.append, qos.diagnostics())
    wanted = {"footprint", "stop zone", "slow zone", "goal", "instruction"}
    robot.until(lambda: bool(seen) and {m.ns for m in seen[-1].markers} == wanted, "markers are missing")
    found = {m.ns: m for m in seen[-1].markers}
    assert found["instruction"].text == "go to the door"
    assert max(p.x for p in found["stop zone"].points) == pytest.approx(0.3 + 0.2)
    assert max(p.x for p in found["slow zone"].points) == pytest.approx(0.3 + 0.7)
    assert found["footprint"].header.frame_id == "base_link"
    goal = found["goal"]
    assert goal.header.frame_id == "odom"
    robot.destroy_subscription(look)


def test_an_instruction_by_the_action_is_shown_too(robot: Robot) -> None:
    told = robot.create_publisher(DiagnosticArray, "instruction_status", qos.latched())
    instruction = Instruction(2, "go to the window")
    status = InstructionStatus(epoch=1, instruction=instruction)
    told.publish(status_message((status,), "", robot.stamp_ns))
    seen: list[MarkerArray] = []
    look = robot.create_subscription(MarkerArray, "inspector/markers", seen.append, qos.diagnostics())

    def shown() -> bool:
        return any(
            m.ns == "instruction" and m.text == "go to the window" for a in seen[-1:] for m in a.markers
        )

    robot.until(shown, "it still shows the instruction by topic")
    robot.destroy_subscription(look)
    robot.destroy_publisher(told)


def test_the_trail_follows_and_numbers_can_be_plotted(robot: Robot) -> None:
    trails: list[Path] = []
    numbers: list[Float64] = []
    robot.create_subscription(Path, "inspector/trail", trails.append, qos.diagnostics())
    topic = f"inspector/plot/navigator/{topic_name('decide p50 [ms]')}"
    robot.create_subscription(Float64, topic, numbers.append, qos.diagnostics())
    robot.until(
        lambda: bool(trails and len(trails[-1].poses) > 3 and numbers), "no trail of four, or nothing to plot"
    )
    assert numbers[-1].data == 12.5
    xs = [p.pose.position.x for p in trails[-1].poses]
    assert xs == sorted(xs)


@pytest.mark.parametrize(
    ("key", "name"),
    [("decide p50 [ms]", "decide_p50_ms"), ("age: odometry [s]", "age_odometry_s"), ("99th", "n_99th")],
)
def test_topic_names_are_legal(key: str, name: str) -> None:
    assert topic_name(key) == name
