"""Remembers where obstacles are, and how far a round robot can go before it touches one.

Pure geometry, no clock.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import CameraModel, Float64Array, Pose, Velocity

VOXEL_M = 0.1
"""Readings are gathered in cubes of this size, and the nearest of each counts."""
READINGS = 2
"""A cube with fewer readings is noise."""
RANGE_M = 3.0
"""What is farther away is neither taken in nor remembered."""
COLUMNS = 80
"""Depth images are read at about this many columns."""
_SEEN_THROUGH_M, _SEEN_THROUGH_SHARE = 0.05, 0.02
"""So much behind a point, and this share of its depth, must be seen: a floor is soon behind a low point."""
_STRAIGHT_RAD_M = 1e-3
_HEIGHT_BITS = 21


def clearance_m(points: Float64Array, velocity: Velocity, radius_m: float) -> float:
    """Length of the way, metres, until a disc around the base's origin touches a point; inf if never.

    The way is the arc (or line) along which the base goes when it holds ``velocity``. What is touched
    already counts only where the motion goes further into it. Turning in place touches nothing.

    Args:
        points: ``[N, 2]`` in the base frame.
    """
    speed = math.hypot(velocity.linear_m_s, velocity.lateral_m_s)
    if speed == 0.0 or not len(points):
        return math.inf
    direction = np.array([velocity.linear_m_s, velocity.lateral_m_s]) / speed
    ahead = points @ direction
    touching = (points**2).sum(1) < radius_m**2
    if (touching & (ahead > 0.0)).any():
        return 0.0
    points, ahead = points[~touching], ahead[~touching]
    left = np.array([-direction[1], direction[0]])
    beside = points @ left
    curvature = velocity.angular_rad_s / speed
    if abs(curvature) < _STRAIGHT_RAD_M:
        met = (np.abs(beside) < radius_m) & (ahead > 0.0)
        ways = ahead[met] - np.sqrt(radius_m**2 - beside[met] ** 2)
    else:
        turn = abs(1.0 / curvature)
        across = turn - math.copysign(1.0, curvature) * beside  # from the centre of the turn, outwards
        distance = np.hypot(ahead, across)
        met = (np.abs(turn - distance) < radius_m) & (distance > 0.0)
        angle = np.arctan2(ahead[met], across[met])
        cosine = (turn**2 + distance[met] ** 2 - radius_m**2) / (2.0 * turn * distance[met])
        contact = (angle - np.arccos(cosine.clip(-1.0, 1.0))) % (2.0 * math.pi)
        ways = turn * contact
    return float(ways.min(initial=math.inf))


class ObstacleMemory:
    """Obstacles around the robot, in the odometry frame.

    Depth cameras do not see what is right in front of the robot and low, so what was seen is kept until
    it is out of range or the camera looks through the place where it was, or through a place right above
    or below: who has gone has gone with his feet. A scan replaces the one before.

    Args:
        min_height_m, max_height_m: obstacles lie between these heights above the base. They may change in
            :attr:`heights_m`; what was seen before stays.
    """

    def __init__(self, min_height_m: float, max_height_m: float) -> None:
        self.heights_m = (min_height_m, max_height_m)
        self._seen: Float64Array = np.zeros((0, 3))
        self._scanned: Float64Array = np.zeros((0, 3))

    def clear(self) -> None:
        self._seen = self._scanned = np.zeros((0, 3))

    def see(
        self,
        depth_m: npt.NDArray[np.float32],
        camera: CameraModel,
        odom_from_optical: Pose,
        odom_from_base: Pose,
    ) -> None:
        """Take in a depth image ``[H, W]`` (metres along the optical axis, 0 where there is no reading)."""
        through = _seen_through(self._seen, depth_m, camera, odom_from_optical)
        voxels = _voxels(self._seen)
        columns = voxels >> _HEIGHT_BITS
        stays = ~np.isin(columns, columns[through])
        points = odom_from_optical.transform(back_project(depth_m, camera))
        in_base = odom_from_base.inverse().transform(points)
        distance = np.hypot(in_base[:, 0], in_base[:, 1])
        low, high = self.heights_m
        near = (distance < RANGE_M) & (in_base[:, 2] > low) & (in_base[:, 2] < high)
        order = np.argsort(distance[near], kind="stable")
        fresh = points[near][order]
        _, first, count = np.unique(_voxels(fresh), return_index=True, return_counts=True)
        fresh = fresh[first[count >= READINGS]]
        stays &= ~np.isin(voxels, _voxels(fresh))
        every = np.concatenate([fresh, self._seen[stays]])
        self._seen = every[np.linalg.norm(every[:, :2] - odom_from_base.position[:2], axis=1) < RANGE_M]

    def scan(self, points: Float64Array, odom_from_scanner: Pose) -> None:
        """Take in a scan ``[N, 2]`` in the scanner's frame."""
        near = points[np.hypot(points[:, 0], points[:, 1]) < RANGE_M]
        self._scanned = odom_from_scanner.transform(np.concatenate([near, np.zeros((len(near), 1))], 1))

    def around(self, odom_from_base: Pose) -> Float64Array:
        """``[N, 2]`` obstacles in the base frame."""
        every = np.concatenate([self._seen, self._scanned])
        return odom_from_base.inverse().transform(every)[:, :2]


def _voxels(points: Float64Array) -> npt.NDArray[np.int64]:
    """``[N]``: the cube that each point is in; shifted right by ``_HEIGHT_BITS``, its column."""
    cells = np.floor(points / VOXEL_M).astype(np.int64) + (1 << (_HEIGHT_BITS - 1))
    return np.asarray((cells[:, 0] << (2 * _HEIGHT_BITS)) | (cells[:, 1] << _HEIGHT_BITS) | cells[:, 2])


def image_stride(camera: CameraModel) -> int:
    """Of depth images every so manyth pixel is read, in both directions."""
    return max(1, camera.width // COLUMNS)


def back_project(depth_m: npt.NDArray[np.float32], camera: CameraModel) -> Float64Array:
    """``[N, 3]`` in the optical frame, of every so manyth pixel that has a reading."""
    stride = image_stride(camera)
    z = depth_m[::stride, ::stride].astype(np.float64)
    v, u = np.nonzero(z > 0.0)
    z = z[v, u]
    return np.stack(
        [(u * stride - camera.cx) / camera.fx * z, (v * stride - camera.cy) / camera.fy * z, z], 1
    )


def _seen_through(
    points: Float64Array, depth_m: npt.NDArray[np.float32], camera: CameraModel, odom_from_optical: Pose
) -> npt.NDArray[np.bool_]:
    """``[N]``: the camera looks at the place of the point and sees something well behind it."""
    optical = odom_from_optical.inverse().transform(points)
    x, y, z = optical.T
    through = z > 0.01
    z = np.where(through, z, 1.0)
    u, v = np.rint(x / z * camera.fx + camera.cx), np.rint(y / z * camera.fy + camera.cy)
    through &= (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
    u, v = np.where(through, u, 0).astype(int), np.where(through, v, 0).astype(int)
    behind = z * (1.0 + _SEEN_THROUGH_SHARE) + _SEEN_THROUGH_M
    return np.asarray(through & (depth_m[v, u] > behind))
