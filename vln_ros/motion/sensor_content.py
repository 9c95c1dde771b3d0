"""Judges whether depth images and scans say anything of the robot's way.

Pure, no clock. A judgement names the fault, or is None. docs/design/executor.md gives the reasons for the
limits.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from vln_ros.config import SafetyConfig
from vln_ros.datatypes import CameraModel, Float64Array, Pose, RangeScan, wrap_angle
from vln_ros.geometry.frame_checks import NEAREST_OF_ANY_M
from vln_ros.motion.obstacles import back_project, image_stride
from vln_ros.motion.safety import Fault

_WAY_AHEAD_M = (0.5, 1.0, 2.0)
"""Before the robot's edge: where the way is looked at."""
_SECTOR_AT_M = 1.0
"""A scan must cover the width of the robot at this distance."""
_AT_THE_SCANNER_M = 0.01
_RAYS_APART_RAD = math.radians(5.0)
"""The outermost ray of the sector may be this far inside it, or one increment."""
MOVED_M, MOVED_RAD = 0.05, math.radians(3.0)
"""So far from where it stood, a robot sees something else."""

LANES = 3
"""Of the way: left, middle and right. Each must be seen, so that half a blind image is no good one."""

LaneArray = npt.NDArray[np.int8]


class _Lane:
    """What the pixels of one lane say: shares of them.

    Attributes:
        far, near: beyond or before what a camera can measure.
        none: no reading.
        usable: the rest.
    """

    def __init__(self, seen_m: npt.NDArray[np.float32], safety: SafetyConfig) -> None:
        said = seen_m > 0.0
        self.none = 1.0 - float(said.mean())
        self.far = float((seen_m > safety.max_depth_m).mean())
        self.near = float((said & (seen_m <= safety.min_depth_m)).mean())
        self.usable = max(0.0, 1.0 - self.none - self.far - self.near)
        self._nearest_m = float(np.median(seen_m[said])) if said.any() else math.inf

    def fault(self, min_readings: float) -> Fault | None:
        """By what most of the pixels say, where too few of them are usable."""
        if self.usable > 1e-9 and self.usable >= min_readings:
            return None
        if self.far >= max(self.near, self.none):
            return Fault.DEPTH_UNIT
        if self.near >= self.none:
            return Fault.DEPTH_UNIT if self._nearest_m < NEAREST_OF_ANY_M else Fault.DEPTH_COVERED
        return Fault.DEPTH_BLIND


class DepthJudge:
    """Judges depth images of one camera; keeps which pixels look where the robot drives.

    Attributes:
        share: of those pixels, how many said something in the newest image, in the worst lane of the way.
    """

    def __init__(self) -> None:
        self.share = 1.0
        self._way: tuple[object, LaneArray] | None = None

    def judge(
        self,
        depth_m: npt.NDArray[np.float32],
        camera: CameraModel,
        base_from_optical: Pose,
        safety: SafetyConfig,
    ) -> Fault | None:
        """Of an image ``[H, W]`` in metres, 0 where there is no reading."""
        stride = image_stride(camera)
        way = self._looks_ahead(camera, base_from_optical, safety)
        seen_m, lane = depth_m[::stride, ::stride][way > 0], way[way > 0]
        if not seen_m.size:
            self.share = 0.0
            return Fault.DEPTH_ASIDE
        lanes = [_Lane(seen_m[lane == i], safety) for i in range(1, LANES + 1) if (lane == i).any()]
        worst = min(lanes, key=lambda lane: lane.usable)
        self.share = worst.usable
        return worst.fault(safety.min_readings)

    def _looks_ahead(self, camera: CameraModel, base_from_optical: Pose, safety: SafetyConfig) -> LaneArray:
        """As :func:`looks_ahead`, computed anew only when something of it has changed."""
        heights_m = safety.min_height_m, safety.max_height_m
        key = (
            camera,
            *base_from_optical.position.tolist(),
            *base_from_optical.orientation.tolist(),
            safety.robot_radius_m,
            *heights_m,
        )
        if self._way is None or self._way[0] != key:
            self._way = key, looks_ahead(camera, base_from_optical, safety.robot_radius_m, heights_m)
        return self._way[1]


BLIND_WITHIN_M = 0.5
"""Depth cameras begin to measure between 0.1 and this: what is nearer may be no reading."""


def looks_ahead(
    camera: CameraModel, base_from_optical: Pose, radius_m: float, heights_m: tuple[float, float]
) -> LaneArray:
    """``[rows, columns]`` of the pixels at which depth is read: the lane of the robot's way, from 1, or 0.

    All are 0 where the image nowhere has the whole width of the way in it.

    Args:
        radius_m: of the robot.
        heights_m: between which it can run into something.
    """
    stride = image_stride(camera)
    shape = -(-camera.height // stride), -(-camera.width // stride)
    ahead = np.zeros(shape, np.bool_)
    whole_width = False
    optical_from_base = base_from_optical.inverse()
    for way_m in _WAY_AHEAD_M:
        levels, sides = np.meshgrid(np.linspace(*heights_m, 9), np.linspace(-radius_m, radius_m, 5))
        face = np.stack([np.full(sides.size, radius_m + way_m), sides.ravel(), levels.ravel()], 1)
        x, y, z = optical_from_base.transform(face).T
        if (z <= 0.01).any():
            continue  # beside or behind the camera
        u, v = x / z * camera.fx + camera.cx, y / z * camera.fy + camera.cy
        inside = (u >= 0.0) & (u < camera.width) & (v >= 0.0) & (v < camera.height)
        whole_width |= bool(inside.reshape(sides.shape).any(1).all())
        first = max(0, math.floor(v.min() / stride)), max(0, math.floor(u.min() / stride))
        last = min(shape[0], math.ceil(v.max() / stride)), min(shape[1], math.ceil(u.max() / stride))
        ahead[first[0] : max(0, last[0]), first[1] : max(0, last[1])] = True
    lanes = np.zeros(shape, np.int8)
    if whole_width:
        v, u = np.nonzero(ahead)
        rays = np.stack(
            [(u * stride - camera.cx) / camera.fx, (v * stride - camera.cy) / camera.fy, np.ones(len(u))], 1
        )
        x, y, _ = (rays @ base_from_optical.rotation.T).T
        lanes[v, u] = _lanes(np.arctan2(y, x))
    return lanes


def _lanes(directions_rad: Float64Array) -> LaneArray:
    """``[N]`` from 1: the same number of directions in each lane, from right to left."""
    limits = np.quantile(directions_rad, np.arange(1, LANES) / LANES)
    return (1 + np.searchsorted(limits, directions_rad)).astype(np.int8)


def judge_scan(scan: RangeScan, base_from_scanner: Pose, safety: SafetyConfig) -> Fault | None:
    """Of a scan: does it look where the robot drives, and do enough of its rays there say anything?"""
    if not len(scan.angles_rad):
        return Fault.SCAN_BLIND
    rays = np.stack([np.cos(scan.angles_rad), np.sin(scan.angles_rad), np.zeros(len(scan.angles_rad))], 1)
    x, y, _ = (rays @ base_from_scanner.rotation.T).T
    directions = np.arctan2(y, x)
    sector = math.atan2(safety.robot_radius_m, _SECTOR_AT_M)
    inside = np.abs(directions) <= sector
    if not inside.any():
        return Fault.SCAN_ASIDE
    apart = _RAYS_APART_RAD
    if len(directions) > 1:
        apart = max(apart, abs(wrap_angle(float(scan.angles_rad[1] - scan.angles_rad[0]))))
    if directions[inside].min() > apart - sector or directions[inside].max() < sector - apart:
        return Fault.SCAN_ASIDE
    says, lanes = ~np.isnan(scan.ranges_m[inside]), _lanes(directions[inside])
    least = min(float(says[lanes == i].mean()) for i in range(1, LANES + 1) if (lanes == i).any())
    return None if least > 0.0 and least >= safety.min_readings else Fault.SCAN_BLIND


def scan_obstacles(scan: RangeScan, base_from_scanner: Pose, radius_m: float) -> Float64Array:
    """``[N, 2]`` in the scanner's frame: what was hit, and what is nearer than can be measured.

    The latter is put at the robot's edge, where its ray leaves the robot: what is inside is the robot
    itself, and a point that deep in it would be behind it a moment later.
    """
    angles_rad = scan.angles_rad[np.isneginf(scan.ranges_m)]
    rays = np.stack([np.cos(angles_rad), np.sin(angles_rad), np.zeros(len(angles_rad))], 1)
    ways = (rays @ base_from_scanner.rotation.T)[:, :2]
    start = base_from_scanner.position[:2]
    along = ways @ start
    inside = radius_m**2 - float(start @ start)
    edge_m = np.sqrt(np.maximum(along**2 + inside, 0.0)) - along if inside > 0.0 else np.zeros(len(ways))
    edge_m = np.maximum(edge_m, _AT_THE_SCANNER_M)
    return np.concatenate([scan.points, rays[:, :2] * edge_m[:, None]])


class Stillness:
    """Tells content that stands still under new stamps from that of a robot that stands still.

    A simulated camera without noise shows a standing robot equal images for ever. So time only counts from
    when the odometry has left the place at which the content was new, and only content counts that must
    change there.
    """

    def __init__(self) -> None:
        self._content = b""
        self._place: Pose | None = None
        self._left_s: float | None = None

    def clear(self) -> None:
        self._content, self._place, self._left_s = b"", None, None

    def came(self, content: bytes, must_change: bool, place: Pose, now_s: float) -> None:
        """A message. ``content`` is empty where it cannot be compared."""
        if not content or not must_change or content != self._content or self._place is None:
            self._content, self._place, self._left_s = content, place, None
        self.moved(place, now_s)

    def moved(self, place: Pose, now_s: float) -> None:
        """The odometry says that the base is here."""
        if self._place is None:
            return
        away_m = float(np.linalg.norm(place.position - self._place.position))
        turned_rad = abs(wrap_angle(place.yaw_rad - self._place.yaw_rad))
        if away_m <= MOVED_M and turned_rad <= MOVED_RAD:
            self._left_s = None
        elif self._left_s is None:
            self._left_s = now_s

    def lasts_s(self, now_s: float) -> float:
        """For how long the same has been said since the robot left; 0 while nothing is wrong."""
        return 0.0 if self._left_s is None else now_s - self._left_s


def depth_content(
    depth_m: npt.NDArray[np.float32], camera: CameraModel, base_from_optical: Pose, safety: SafetyConfig
) -> tuple[bytes, bool]:
    """What of an image is compared with the one before, and whether a moving robot must see it change.

    It need not where there is nothing but floor and ceiling: those look the same from everywhere.
    """
    stride = image_stride(camera)
    sample = np.ascontiguousarray(depth_m[::stride, ::stride])
    heights: Float64Array = base_from_optical.transform(back_project(depth_m, camera))[:, 2]
    upright = (heights > safety.min_height_m) & (heights < safety.max_height_m)
    return sample.tobytes(), bool(upright.any())


def scan_content(scan: RangeScan) -> tuple[bytes, bool]:
    """As :func:`depth_content`. Free rays look the same from everywhere, too."""
    return scan.ranges_m.tobytes(), bool(np.isfinite(scan.ranges_m).any())
