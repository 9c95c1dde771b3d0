"""Converts between REP 103 axes and those of cameras, Habitat and GLB; no other module knows these.

* ROS (everywhere else): x forward, y left, z up.
* Optical: z forward, x right, y down.
* Habitat and glTF: y up, -z forward, x right.
"""

from __future__ import annotations

import math

import numpy as np

from vln_ros.config import ExtrinsicsConfig
from vln_ros.datatypes import Float64Array, Pose

ROS_FROM_HABITAT: Float64Array = np.array([[0.0, 0.0, -1.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
"""``[3, 3]``; Habitat's -z (forward) becomes +x, its x (right) -y, its y (up) z."""

BODY_FROM_OPTICAL = Pose(np.zeros(3), np.array([-0.5, 0.5, -0.5, 0.5]))
"""Rotation between a camera frame with body axes and its optical frame (REP 103)."""


def ros_from_habitat_points(points: Float64Array) -> Float64Array:
    """``[..., 3]`` points or vectors, Habitat axes to ROS axes."""
    return np.asarray(points, np.float64) @ ROS_FROM_HABITAT.T


def habitat_from_ros_points(points: Float64Array) -> Float64Array:
    """``[..., 3]`` points or vectors, ROS axes to Habitat axes (also glTF's)."""
    return np.asarray(points, np.float64) @ ROS_FROM_HABITAT


def pose_from_habitat(position: Float64Array, rotation_xyzw: Float64Array) -> Pose:
    """A Habitat agent state as a ROS pose of the same body.

    Args:
        position: ``[3]`` metres, Habitat axes.
        rotation_xyzw: ``[4]`` quaternion with the scalar *last*, as in episode files. A simulator
            state holds it scalar first; reorder before calling.
    """
    q = np.asarray(rotation_xyzw, np.float64)
    return Pose(ros_from_habitat_points(position), np.concatenate([ROS_FROM_HABITAT @ q[:3], q[3:]]))


def habitat_from_pose(pose: Pose) -> tuple[Float64Array, Float64Array]:
    """The inverse of :func:`pose_from_habitat`: position ``[3]`` and quaternion xyzw ``[4]``."""
    q = pose.orientation
    return habitat_from_ros_points(pose.position), np.concatenate([ROS_FROM_HABITAT.T @ q[:3], q[3:]])


def base_from_optical(
    x_m: float,
    y_m: float,
    z_m: float,
    roll_rad: float = 0.0,
    pitch_down_rad: float = 0.0,
    yaw_rad: float = 0.0,
) -> Pose:
    """Extrinsics of a camera: position in base_link, then yaw, downward tilt and roll of its body axes."""
    half = (roll_rad / 2.0, pitch_down_rad / 2.0, yaw_rad / 2.0)
    axes = np.eye(3)
    turned = Pose(np.array([x_m, y_m, z_m]), np.array([0.0, 0.0, 0.0, 1.0]))
    for i in (2, 1, 0):
        turned = turned @ Pose(np.zeros(3), np.append(axes[i] * math.sin(half[i]), math.cos(half[i])))
    return turned @ BODY_FROM_OPTICAL


def extrinsics_of(config: ExtrinsicsConfig) -> Pose:
    """``base_from_optical`` of the six parameters."""
    return base_from_optical(
        config.camera_x_m,
        config.camera_y_m,
        config.camera_z_m,
        math.radians(config.camera_roll_deg),
        math.radians(config.camera_pitch_down_deg),
        math.radians(config.camera_yaw_deg),
    )


def extrinsics_from_optical(pose: Pose) -> tuple[float, float, float, float, float, float]:
    """The arguments of :func:`base_from_optical` that give ``pose``; roll is 0 when looking straight down."""
    r = (pose @ BODY_FROM_OPTICAL.inverse()).rotation
    x, y, z = (float(v) for v in pose.position)
    pitch = math.asin(max(-1.0, min(1.0, -r[2, 0])))
    if abs(r[2, 0]) > 1.0 - 1e-9:
        return x, y, z, 0.0, pitch, math.atan2(-r[0, 1], r[1, 1])
    return x, y, z, math.atan2(r[2, 1], r[2, 2]), pitch, math.atan2(r[1, 0], r[0, 0])
