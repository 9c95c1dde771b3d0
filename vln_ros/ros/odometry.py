"""Brings odometry of any frame on the robot to the pose of its base."""

from __future__ import annotations

import math
from typing import Protocol

from nav_msgs.msg import Odometry

from vln_ros.config import ExtrinsicsConfig
from vln_ros.datatypes import OdometryPose, Pose
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError
from vln_ros.ros.extrinsics import turned

UPRIGHT = math.cos(math.radians(60.0))
"""A base that leans farther has fallen over, or its odometry has other axes than REP 103's."""


class RigidFrames(Protocol):
    """Knows where frames sit on the base: :class:`vln_ros.ros.extrinsics.TfExtrinsics`, or a recording."""

    def newest(self, frame_id: str) -> Pose | None:
        """``base_from_frame``; None where it is not known."""


class BaseOdometry:
    """Reads odometry messages.

    Args:
        config: base_frame, and where the odometry's child frame sits on it.
        odom_frame: expected ``frame_id``; empty accepts any.
        tf: where TF is to tell the place of the child frame; None where the parameters do, or TF cannot be
            asked.
    """

    def __init__(self, config: ExtrinsicsConfig, odom_frame: str, tf: RigidFrames | None) -> None:
        self._base_frame = config.base_frame.lstrip("/")
        self._odom_frame = odom_frame.lstrip("/")
        self._options = o = config.odometry
        self._by_parameters = (config.extrinsics if o.extrinsics == "same" else o.extrinsics) == "parameters"
        self._child_from_base = turned(
            (o.x_m, o.y_m, o.z_m), (o.roll_deg, o.pitch_down_deg, o.yaw_deg)
        ).inverse()
        self._tf = tf

    def base_pose(self, msg: Odometry) -> Pose:
        """``odom_from_base``.

        Errors: those of :func:`vln_ros.ros.convert.pose_from_odometry`; ``odometry_frame`` and
        ``odometry_child`` (frames that cannot be brought to the base), ``odometry_tilted``.
        """
        pose = self._of_base(convert.pose_from_odometry(msg))
        if pose.rotation[2, 2] < UPRIGHT:
            leans_deg = math.degrees(math.acos(max(-1.0, pose.rotation[2, 2])))
            raise MessageError(
                "odometry_tilted",
                f"odometry has the z axis of {self._base_frame} {leans_deg:.0f} degrees from upright: its "
                "axes are not those of REP 103 (z up), or it is that of a camera",
            )
        return pose

    def _of_base(self, pose: OdometryPose) -> Pose:
        if self._odom_frame and pose.frame_id != self._odom_frame:
            raise MessageError(
                "odometry_frame",
                f"odometry is in {pose.frame_id or 'a frame without name'}, not in {self._odom_frame}: the "
                "frame of a map jumps; remap odom to continuous odometry, or set odom_frame",
            )
        child = pose.child_frame_id or self._options.child_frame.lstrip("/")
        if not child:
            raise MessageError(
                "odometry_child",
                "odometry does not say of which frame it is (no child_frame_id): set odometry.child_frame, "
                f"to {self._base_frame} if it is of the base",
            )
        if child == self._base_frame:
            return Pose(pose.position, pose.orientation)
        if (found := self._child_to_base(child, pose)) is not None:
            return pose @ found
        where = f"odometry is of {child}, not of {self._base_frame}"
        if self._by_parameters:
            raise MessageError(
                "odometry_child",
                f"{where}: say where that sits by odometry.child_frame:={child} and odometry.x_m ... "
                "odometry.yaw_deg, or set odometry.extrinsics:=tf",
            )
        raise MessageError(
            "odometry_child",
            f"{where}, and /tf has no transform between the two: publish it, or say where that sits by "
            f"odometry.extrinsics:=parameters, odometry.child_frame:={child} and odometry.x_m ... "
            "odometry.yaw_deg",
        )

    def _child_to_base(self, child: str, pose: OdometryPose) -> Pose | None:
        """``child_from_base``; None where nobody says."""
        if self._by_parameters:
            if child == self._options.child_frame.lstrip("/"):
                return self._child_from_base
        elif self._tf is not None and (extrinsics := self._tf.newest(child)) is not None:
            return extrinsics.inverse()
        return Pose.identity() if pose.is_of(self._base_frame) else None
