"""Finds the extrinsics of the sensors, from TF or from parameters; never assumes them."""

from __future__ import annotations

import importlib.util
import math
from typing import Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time

from vln_ros.axes import BODY_FROM_OPTICAL, base_from_optical
from vln_ros.axes import extrinsics_of as extrinsics_of
from vln_ros.config import CameraExtrinsics, ConfigError, Extrinsics, ExtrinsicsConfig, SafetyConfig
from vln_ros.datatypes import Pose
from vln_ros.ros.convert import MessageError, pose_from_transform

LEVEL = math.cos(math.radians(15.0))
"""A scanner that leans farther does not scan along the floor."""
LOOKS_UP = 0.9
"""An optical axis with more upward share than this is a body frame's z axis, taken for an optical frame's."""


class ExtrinsicsSource(Protocol):
    """Gives the pose of a camera's optical frame in the base."""

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """``base_from_optical`` for an image of this frame and stamp; None while it is not known (yet).

        Raises:
            MessageError: it will never be known for this image.
        """


def turned(position_m: tuple[float, float, float], angles_deg: tuple[float, float, float]) -> Pose:
    """``base_from_body`` of a body frame: its position, and roll, downward pitch and yaw in degrees."""
    roll_rad, pitch_rad, yaw_rad = (math.radians(angle) for angle in angles_deg)
    return base_from_optical(*position_m, roll_rad, pitch_rad, yaw_rad) @ BODY_FROM_OPTICAL.inverse()


def depth_extrinsics_of(config: ExtrinsicsConfig) -> Pose:
    """``base_from_optical`` of a depth camera of its own, whose place at the colour camera is given."""
    d = config.depth_camera
    angles_deg = (d.roll_deg, d.pitch_down_deg, d.yaw_deg)
    at_color = base_from_optical(d.x_m, d.y_m, d.z_m, *(math.radians(angle) for angle in angles_deg))
    return extrinsics_of(config) @ BODY_FROM_OPTICAL.inverse() @ at_color


class FixedExtrinsics:
    """By parameters, whatever the frames are called."""

    def __init__(self, base_from_optical: Pose) -> None:
        self._pose = base_from_optical

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        return self._pose


class TfExtrinsics:
    """TF, at the stamp of each image: a camera on a moving neck is where it was then.

    Args:
        node: gets the subscriptions to /tf and /tf_static.
        base_frame: the parent.
    """

    def __init__(self, node: Node, base_frame: str) -> None:
        import tf2_ros

        self._errors: type[Exception] = tf2_ros.TransformException
        self._base_frame = base_frame.lstrip("/")
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """Errors: ``no_frame_id``, ``not_optical`` and those of the transform."""
        if not frame_id:
            raise MessageError("no_frame_id", "an image has no frame_id: its place on the robot is unknown")
        pose = self._look_up(frame_id, Time(nanoseconds=stamp_ns))
        if pose is not None and pose.rotation[2, 2] > LOOKS_UP:
            raise MessageError(
                "not_optical",
                f"the z axis of {frame_id} points up: images belong to an optical frame (REP 103: z forward)",
            )
        return pose

    def newest(self, frame_id: str) -> Pose | None:
        """The newest ``base_from_frame``, of what sits rigidly on the robot; None while it is not known."""
        return self._look_up(frame_id, Time())

    def _look_up(self, frame_id: str, time: Time) -> Pose | None:
        try:
            message: TransformStamped = self._buffer.lookup_transform(
                self._base_frame, frame_id.lstrip("/"), time
            )
        except self._errors:
            return None
        return pose_from_transform(message.transform)


class TfScanExtrinsics:
    """TF, of a scanner that sits rigidly on the robot. It may hang upside down."""

    def __init__(self, tf: TfExtrinsics) -> None:
        self._tf = tf

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """``base_from_scanner``. Errors: ``no_frame_id``, ``scanner_not_level``."""
        if not frame_id:
            raise MessageError("no_frame_id", "a scan has no frame_id: its place on the robot is unknown")
        pose = self._tf.newest(frame_id)
        if pose is not None and not _is_level(pose):
            raise MessageError(
                "scanner_not_level", f"{frame_id} leans: the scanner does not scan along the floor"
            )
        return pose


class FixedScanExtrinsics:
    """The scan_* parameters."""

    def __init__(self, safety: SafetyConfig) -> None:
        angles_deg = (safety.scan_roll_deg, 0.0, safety.scan_yaw_deg)
        self._pose = turned((safety.scan_x_m, safety.scan_y_m, 0.0), angles_deg)
        if not _is_level(self._pose):
            raise ConfigError(
                f"safety.scan_roll_deg = {safety.scan_roll_deg}: the scanner would not scan along the floor; "
                "0 is upright, 180 upside down"
            )

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """``base_from_scanner``."""
        return self._pose


def _is_level(base_from_scanner: Pose) -> bool:
    return abs(float(base_from_scanner.rotation[2, 2])) >= LEVEL


class ExtrinsicsSources:
    """Makes the sources of a node's sensors, over one tree of TF frames.

    Args:
        node: gets the subscriptions to /tf and /tf_static, if one of the sensors needs them.
        config: what ``extrinsics`` says.
    """

    def __init__(self, node: Node, config: ExtrinsicsConfig) -> None:
        self._node, self._config = node, config
        self._tf: TfExtrinsics | None = None

    def camera(self) -> ExtrinsicsSource:
        """Raises ConfigError: TF is asked for and tf2_ros is not there."""
        if self._config.extrinsics == "parameters":
            return FixedExtrinsics(extrinsics_of(self._config))
        return self._need_tf(
            "extrinsics",
            "measure where the camera sits and give extrinsics:=parameters with camera_x_m ... "
            "camera_yaw_deg",
        )

    def depth_camera(self) -> ExtrinsicsSource:
        """That of depth images: the colour camera's where they are registered. Errors as :meth:`camera`."""
        if self._config.depth_camera_info_topic and self._config.extrinsics == "parameters":
            return FixedExtrinsics(depth_extrinsics_of(self._config))
        return self.camera()

    def scanner(self, safety: SafetyConfig) -> ExtrinsicsSource:
        """Raises ConfigError: as :meth:`camera`, and for a scanner that would not scan along the floor."""
        if self._choice(safety.scan_extrinsics) == "parameters":
            return FixedScanExtrinsics(safety)
        remedy = (
            "measure where the scanner sits and give safety.scan_extrinsics:=parameters with "
            "safety.scan_x_m ... safety.scan_yaw_deg"
        )
        return TfScanExtrinsics(self._need_tf("safety.scan_extrinsics", remedy))

    def odometry_tf(self) -> TfExtrinsics | None:
        """TF for the frame of the odometry; None where the parameters tell it.

        Without tf2_ros it is also None where only ``extrinsics`` says tf: odometry of the base itself, which
        is the rule, does not need it. Raises ConfigError where ``odometry.extrinsics`` says so.
        """
        wanted = self._config.odometry.extrinsics
        if self._choice(wanted) != "tf" or (wanted == "same" and not _has_tf2()):
            return None
        return self._need_tf(
            "odometry.extrinsics",
            "give odometry.extrinsics:=parameters with odometry.x_m ... odometry.yaw_deg",
        )

    def _choice(self, extrinsics: Extrinsics) -> CameraExtrinsics:
        return self._config.extrinsics if extrinsics == "same" else extrinsics

    def _need_tf(self, option: str, remedy: str) -> TfExtrinsics:
        if not _has_tf2():
            raise ConfigError(
                f"{option} = 'tf': tf2_ros cannot be imported. Install ros-jazzy-tf2-ros and source ROS, or "
                f"{remedy}"
            )
        if self._tf is None:
            self._tf = TfExtrinsics(self._node, self._config.base_frame)
        return self._tf


def _has_tf2() -> bool:
    return importlib.util.find_spec("tf2_ros") is not None
