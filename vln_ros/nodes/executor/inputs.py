"""Subscribes the executor, hands values to the state machine, counts what is refused."""

from __future__ import annotations

from collections import Counter
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
from vln_ros.motion.safety import Fault
from vln_ros.nodes.heartbeat import commands_heartbeat
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.ros import convert, qos
from vln_ros.ros.calibration import CALIBRATION_REASONS, CameraCalibration
from vln_ros.ros.extrinsics import ExtrinsicsSource, ExtrinsicsSources
from vln_ros.ros.odometry import BaseOdometry

NO_TRANSFORM = "no_transform"
"""May only be late: the age of the stream judges."""
FRAME_REASONS = frozenset({"odometry_frame", "odometry_child", "odometry_tilted"})
"""Of :class:`vln_ros.ros.odometry.BaseOdometry`: a pose, but not the base's."""


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
        self.refusals: Counter[str] = Counter()
        """Messages that could not be used, by the reason of :class:`vln_ros.ros.convert.MessageError`."""
        self._last_reason = ""
        self._calibration = CameraCalibration(
            config.camera_info_topic, config.depth_topic, config.calibration
        )
        safety = config.safety
        sources = ExtrinsicsSources(node, config)
        self._odometry = BaseOdometry(config, config.odom_frame, sources.odometry_tf())
        sensor = qos.sensor("best_effort", 1)
        node.create_subscription(Odometry, "odom", self._on_odometry, qos.sensor("best_effort", 20))
        node.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        # Not the latched one of the run that is already going on.
        hear_instructions(node, self._on_instruction, InstructionFilter(), latched=False)
        node.create_subscription(Header, "navigator_heartbeat", self._on_heartbeat, sensor)
        node.create_subscription(
            Header, commands_heartbeat(node), self._on_own_kind, qos.sensor("best_effort", 10)
        )
        if safety.uses_depth:
            self._camera_extrinsics = sources.camera()
            node.create_subscription(Image, config.depth_topic, self._on_depth, sensor)
            node.create_subscription(CameraInfo, config.camera_info_topic, self._on_camera_info, sensor)
        if safety.uses_scan:
            self._scan_extrinsics = sources.scanner(safety)
            node.create_subscription(LaserScan, "scan", self._on_scan, sensor)

    def _on_odometry(self, msg: Odometry) -> None:
        try:
            pose = self._odometry.base_pose(msg)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
        except convert.MessageError as error:
            self._refuse(error)
            framed = error.reason in FRAME_REASONS
            self._core.bad_odometry(Fault.ODOMETRY_FRAME if framed else Fault.BAD_ODOMETRY)
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
            depth_m = convert.depth_from_image(msg, self._core.config.safety.min_depth_m)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
            camera = self._calibration.of_depth(msg.header.frame_id, depth_m.shape)
            extrinsics = self._place_of(self._camera_extrinsics, msg.header.frame_id, stamp_ns)
        except convert.MessageError as error:
            self._refuse(error)
            if error.reason != NO_TRANSFORM:
                uncalibrated = error.reason in CALIBRATION_REASONS
                self._core.bad_depth(Fault.NO_CALIBRATION if uncalibrated else Fault.BAD_DEPTH)
                self._check()
            return
        self._core.depth(stamp_ns, depth_m, camera, extrinsics, self._now_s())
        self._check()

    def _on_camera_info(self, msg: CameraInfo) -> None:
        try:
            for suspicion in self._calibration.take(msg):
                self._refuse(suspicion)
        except convert.MessageError as error:
            self._refuse(error)
            self._core.bad_depth(Fault.NO_CALIBRATION)  # so will be every image that comes
            self._check()

    def _on_scan(self, msg: LaserScan) -> None:
        try:
            scan = convert.points_from_scan(msg, self._config.safety.scan_no_return)
            stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
            extrinsics = self._place_of(self._scan_extrinsics, msg.header.frame_id, stamp_ns)
        except convert.MessageError as error:
            self._refuse(error)
            if error.reason != NO_TRANSFORM:
                self._core.bad_scan()
                self._check()
            return
        self._core.scan(stamp_ns, scan, extrinsics, self._now_s())
        self._check()

    def _place_of(self, source: ExtrinsicsSource, frame_id: str, stamp_ns: int) -> Pose:
        extrinsics = source.at(frame_id, stamp_ns)
        if extrinsics is None:
            frames = f"{self._config.base_frame} to {frame_id}"
            raise convert.MessageError(NO_TRANSFORM, f"no transform from {frames} on /tf")
        return extrinsics

    @property
    def camera(self) -> CameraModel | None:
        """The depth camera, of its newest camera_info that can be used; None before the first."""
        return self._calibration.camera

    @property
    def refused(self) -> int:
        """Messages that could not be used."""
        return self.refusals.total()

    def values(self) -> list[tuple[str, str | int | float | bool]]:
        """For /diagnostics: what came and could not be used, why, and how much of the way depth tells of."""
        told: list[tuple[str, str | int | float | bool]] = []
        if self._config.safety.uses_depth:
            told.append(("depth readings on the way [%]", 100.0 * self._core.depth_judge.share))
        told += [(f"refused: {reason}", count) for reason, count in sorted(self.refusals.items())]
        if self._last_reason:
            told.append(("refused last", self._last_reason))
        return told

    def _refuse(self, error: convert.MessageError) -> None:
        self.refusals[error.reason] += 1
        self._last_reason = str(error)
        self._node.get_logger().warning(str(error), throttle_duration_sec=2.0)
