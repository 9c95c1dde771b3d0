"""Rooms of solid boxes and what a depth camera sees of them, by rays."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Float64Array, Frame, PixelGoal, Pose

Box = tuple[tuple[float, float, float], tuple[float, float, float]]

STAMP_NS = 7
CAMERA = CameraModel.from_hfov(320, 240, math.radians(79))
MOUNT = {"z_m": 0.8, "pitch_down_rad": math.radians(15)}
FLOOR: Box = ((-50, -50, -1), (50, 50, 0))
WALL: Box = ((4.0, -50, 0), (4.2, 50, 2.5))
BOX: Box = ((2.0, -0.4, 0), (2.5, 0.4, 0.6))


def frame_of(*boxes: Box, base: Pose | None = None, camera: CameraModel = CAMERA, **mount: Any) -> Frame:
    """What a camera sees of solid boxes, in the odometry frame; depth 0 where there is nothing."""
    base = base or Pose.identity()
    optical = base @ base_from_optical(**{"x_m": 0.0, "y_m": 0.0, **MOUNT, **mount})
    v, u = np.indices((camera.height, camera.width))
    rays = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones_like(u)], -1)
    rays = rays @ optical.rotation.T
    depth = np.full(u.shape, np.inf)
    for low, high in boxes:
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = ((np.array(c) - optical.position) / rays for c in (low, high))
        enter, leave = np.minimum(a, b).max(-1), np.maximum(a, b).min(-1)
        hit = (enter > 0) & (enter < leave)
        depth = np.where(hit & (enter < depth), enter, depth)
    depth = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    rgb = np.zeros((camera.height, camera.width, 3), np.uint8)
    return Frame(3, STAMP_NS, rgb, depth, camera, base, optical)


def depth_of(frame: Frame) -> Any:
    assert frame.depth_m is not None
    return frame.depth_m


def pixel_of(frame: Frame, *place: float) -> PixelGoal:
    """Where the picture shows a place."""
    x, y, z = frame.odom_from_optical.inverse().transform(np.array(place, float))
    camera = frame.camera
    row, column = round(y / z * camera.fy + camera.cy), round(x / z * camera.fx + camera.cx)
    return PixelGoal(row, column, frame.stamp_ns)


def shown(frame: Frame, goal: PixelGoal) -> Float64Array:
    """The place that the pixel shows."""
    z = float(depth_of(frame)[goal.row, goal.column])
    camera = frame.camera
    point = [(goal.column - camera.cx) / camera.fx * z, (goal.row - camera.cy) / camera.fy * z, z]
    return frame.odom_from_optical.transform(np.array(point))
