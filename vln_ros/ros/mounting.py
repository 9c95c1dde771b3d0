"""Where the camera sits on the robot: from TF, or from parameters; never assumed."""

from __future__ import annotations

import importlib.util
import math
from typing import Protocol

from geometry_msgs.msg import TransformStamped
from rclpy.node import Node
from rclpy.time import Time

from vln_ros.axes import base_from_optical
from vln_ros.config import ConfigError, MountConfig
from vln_ros.datatypes import Pose
from vln_ros.ros.convert import MessageError, pose_from_transform

LOOKS_UP = 0.9
"""An optical axis with more upward share than this is a body frame's z axis, taken for an optical frame's."""


class Mounting(Protocol):
    """Gives the pose of a camera's optical frame in the base."""

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """``base_from_optical`` for an image of this frame and stamp; None while it is not known (yet).

        Raises:
            MessageError: it will never be known for this image.
        """


def mount_of(config: MountConfig) -> Pose:
    """``base_from_optical`` of the six parameters."""
    return base_from_optical(
        config.camera_x_m,
        config.camera_y_m,
        config.camera_z_m,
        math.radians(config.camera_roll_deg),
        math.radians(config.camera_pitch_down_deg),
        math.radians(config.camera_yaw_deg),
    )


class FixedMounting:
    """The six parameters."""

    def __init__(self, config: MountConfig) -> None:
        self._pose = mount_of(config)

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        return self._pose


class TfMounting:
    """TF, at the stamp of each image: a camera on a moving neck is where it was then.

    Args:
        node: gets the subscriptions to /tf and /tf_static.
        base_frame: the parent.
    """

    def __init__(self, node: Node, base_frame: str) -> None:
        import tf2_ros

        self._errors: type[Exception] = tf2_ros.TransformException
        self._base_frame = base_frame
        self._buffer = tf2_ros.Buffer(node=node)
        self._listener = tf2_ros.TransformListener(self._buffer, node)

    def at(self, frame_id: str, stamp_ns: int) -> Pose | None:
        """Errors: ``no_frame_id``, ``not_optical`` and those of the transform."""
        if not frame_id:
            raise MessageError("no_frame_id", "an image has no frame_id: its place on the robot is unknown")
        try:
            message: TransformStamped = self._buffer.lookup_transform(
                self._base_frame, frame_id, Time(nanoseconds=stamp_ns)
            )
        except self._errors:
            return None
        pose = pose_from_transform(message.transform)
        if pose.rotation[2, 2] > LOOKS_UP:
            raise MessageError(
                "not_optical",
                f"the z axis of {frame_id} points up: images belong to an optical frame (REP 103: z forward)",
            )
        return pose


def make_mounting(node: Node, config: MountConfig) -> Mounting:
    """What ``extrinsics`` says.

    Raises:
        ConfigError: TF is asked for and tf2_ros is not there.
    """
    if config.extrinsics == "parameters":
        return FixedMounting(config)
    if importlib.util.find_spec("tf2_ros") is None:
        raise ConfigError(
            "extrinsics = 'tf': tf2_ros cannot be imported. Install ros-jazzy-tf2-ros and source ROS, or "
            "measure where the camera sits and give extrinsics:=parameters with camera_x_m ... camera_yaw_deg"
        )
    return TfMounting(node, config.base_frame)
