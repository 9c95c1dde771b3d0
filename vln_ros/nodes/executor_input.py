"""What the executor hears: subscriptions, and the count of everything refused."""

from __future__ import annotations

import math
from collections.abc import Callable

from nav_msgs.msg import Odometry
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image, LaserScan
from std_msgs.msg import Header, String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.motion.action_queue import Acceptance
from vln_ros.motion.executor import Executor
from vln_ros.nodes.heartbeat import commands_heartbeat
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.ros import convert, qos
from vln_ros.ros.mounting import make_mounting


class ExecutorInput:
    """Hands messages on to the state machine, as values. What cannot be used makes the robot stand.

    Args:
        node: gets the subscriptions.
        config: which topics, and where the sensors sit.
        core: the state machine.
        now_s: the steady clock.
        check: called when the robot may have to stand at once, not only in the next control period.
        accepted: called when a queue has changed what is left to do.
    """

    def __init__(
        self,
        node: Node,
        config: ExecutorConfig,
        core: Executor,
        now_s: Callable[[], float],
        check: Callable[[], None],
        accepted: Callable[[], None],
    ) -> None:
        self._node, self._config, self._core = node, config, core
        self._now_s, self._check, self._accepted = now_s, check, accepted
        self.refused = 0
        """Messages that could not be used."""
        self._camera: CameraModel | None = None
        safety = config.safety
        self._base_from_scanner = Pose.planar(
            safety.scan_x_m, safety.scan_y_m, math.radians(safety.scan_yaw_deg)
        )
        sensor = qos.sensor("best_effort", 1)
        node.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 20))
        node.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        # Not the latched one of the run that is already going on.
        hear_instructions(node, self._on_instruction, InstructionFilter(), latched=False)
        node.create_subscription(Header, "navigator_heartbeat", self._on_heartbeat, sensor)
        node.create_subscription(
            Header, commands_heartbeat(node), self._on_own_kind, qos.sensor("best_effort", 10)
        )
        if safety.obstacles in ("depth", "both"):
            self._mounting = make_mounting(node, config)
            node.create_subscription(Image, config.depth_topic, self._on_depth, sensor)
            node.create_subscription(CameraInfo, config.camera_info_topic, self._on_camera_info, sensor)
        if safety.obstacles in ("scan", "both"):
            node.create_subscription(LaserScan, "scan", self._on_scan, sensor)

    def _on_odometry(self, msg: Odometry) -> None:
        try:
            pose = convert.pose_from_odometry(msg)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
        except convert.MessageError as error:
            self._refuse(error)
            self._core.bad_odometry()
            self._check()
            return
        self._core.odometry(stamp_ns, pose, self._now_s())

    def _on_queue(self, msg: JointTrajectory) -> None:
        try:
            chunk = convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self._refuse(error)
            self._core.bad_queue()
            self._check()
            return
        acceptance = self._core.offer(chunk)
        self._check()
        if acceptance in (Acceptance.ACCEPTED, Acceptance.CONTRADICTED):
            self._accepted()

    def _on_instruction(self, msg: String, _: Info) -> None:
        try:
            convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self._refuse(error)
            return
        self._core.interrupt()
        self._check()

    def _on_heartbeat(self, msg: Header) -> None:
        try:
            self._core.heartbeat(convert.stamp_ns_from_time(msg.stamp), self._now_s(), msg.frame_id)
        except convert.MessageError as error:
            self._refuse(error)
        self._stand_beside_a_double()

    def _on_own_kind(self, msg: Header) -> None:
        self._core.doubles.executor(msg.frame_id, self._now_s())
        self._stand_beside_a_double()

    def _stand_beside_a_double(self) -> None:
        if self._core.doubles.found(self._now_s()).keys() - self._core.reasons.keys():
            self._check()

    def _on_depth(self, msg: Image) -> None:
        try:
            depth_m = convert.depth_from_image(msg)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
            mount = self._mounting.at(msg.header.frame_id, stamp_ns)
            if mount is None:
                frames = f"{self._config.base_frame} to {msg.header.frame_id}"
                raise convert.MessageError("no_transform", f"no transform from {frames} on /tf")
            camera = self._camera
            if camera is None or depth_m.shape != (camera.height, camera.width):
                topic = self._config.camera_info_topic
                raise convert.MessageError("no_camera_info", f"depth without its camera_info on {topic}")
        except convert.MessageError as error:
            self._refuse(error)
            return
        self._core.depth(stamp_ns, depth_m, camera, mount, self._now_s())

    def _on_camera_info(self, msg: CameraInfo) -> None:
        try:
            self._camera = convert.camera_from_info(msg)
        except convert.MessageError as error:
            self._refuse(error)

    def _on_scan(self, msg: LaserScan) -> None:
        try:
            points = convert.points_from_scan(msg)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
        except convert.MessageError as error:
            self._refuse(error)
            return
        self._core.scan(stamp_ns, points, self._base_from_scanner, self._now_s())

    def _refuse(self, error: convert.MessageError) -> None:
        self.refused += 1
        self._node.get_logger().warning(str(error), throttle_duration_sec=2.0)
