"""From a pixel that a model points at to a place on the floor where the robot can stand."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from vln_ros.config import ConfigError, PlaceConfig
from vln_ros.datatypes import CameraModel, Float64Array, Frame, PixelGoal, PlaceGoal, PlaceSource, Pose

_WINDOW_SHARE = 0.005
"""Half the side of the window around the pixel whose readings count, as a share of the picture's width."""
_WIDER = (2, 4, 8, 16)
"""A hole is filled from windows so many times as large, as far as those."""
_LEAST_MEASURED = 0.2
_FLOOR_AROUND_HOLE = 0.25
"""A hole shows floor unless what is measured around it is nearer than the floor there by this share."""
_COLUMNS = 80
_CELL_M = 0.05
_READINGS = 2
"""A cell with fewer readings is noise."""
_AT_ONCE = 256
_ASIDE_M = 1.0
"""A free place is not farther from the vertical plane of the ray."""
_STEP_M = 0.05
_SAME_PLACE = 0.03
"""What is measured as far away as the floor is the floor, within this share."""
_UPRIGHT_M = 0.05
"""A surface that is upright is as far away in one row as in the row above."""


class PlaceRefusal(Enum):
    """Why a pixel goal is no place, in the words of the counters and of what the robot says."""

    OUTSIDE = "the pixel is not in the picture"
    NO_FLOOR = "no depth at the pixel, and no floor within range in its direction"
    NOTHING_FREE = "no free place before what the pixel shows"


class PixelDepth(Enum):
    """What the depth image says at the pixel, in the words of the counters."""

    MEASURED = "measured"
    AROUND = "hole, measured around it"
    HOLE = "hole"
    BEYOND = "beyond range"
    NO_CAMERA = "no depth image"


@dataclass(frozen=True, kw_only=True)
class PixelGoalRules:
    """What counts as floor and as free. Heights are above the base.

    Attributes:
        robot_radius_m: radius of the circle that holds the robot.
        floor_height_m: where the floor is.
        min_height_m, max_height_m: what lies between these heights is an obstacle. What is lower is floor, if
            it is not as much below the floor as the lower of them is above: that is a drop.
        max_range_m: depth readings beyond this say nothing, and no place is farther from the camera.
    """

    robot_radius_m: float
    min_height_m: float
    max_height_m: float
    max_range_m: float
    floor_height_m: float = 0.0

    def __post_init__(self) -> None:
        if not self.floor_height_m < self.min_height_m < self.max_height_m:
            raise ValueError(
                f"floor_height_m = {self.floor_height_m}, min_height_m = {self.min_height_m} and "
                f"max_height_m = {self.max_height_m} must increase: obstacles stand on the floor"
            )
        if not (self.robot_radius_m > 0.0 and 0.0 < self.max_range_m < math.inf):
            raise ValueError(
                f"robot_radius_m = {self.robot_radius_m}, max_range_m = {self.max_range_m}: "
                "both must be positive"
            )

    @staticmethod
    def of(config: PlaceConfig) -> PixelGoalRules:
        """As the options say.

        Raises:
            ConfigError: they contradict each other.
        """
        try:
            return PixelGoalRules(
                robot_radius_m=config.robot_radius_m,
                min_height_m=config.min_height_m,
                max_height_m=config.max_height_m,
                max_range_m=config.max_depth_m,
                floor_height_m=config.floor_height_m,
            )
        except ValueError as e:
            raise ConfigError(f"place: {e}") from e

    def is_floor(self, heights_m: Float64Array) -> npt.NDArray[np.bool_]:
        return np.asarray(np.abs(heights_m - self.floor_height_m) < self.min_height_m - self.floor_height_m)

    def is_obstacle(self, heights_m: Float64Array) -> npt.NDArray[np.bool_]:
        """A drop is one, too."""
        low = 2.0 * self.floor_height_m - self.min_height_m
        return np.asarray(
            ((heights_m >= self.min_height_m) & (heights_m < self.max_height_m)) | (heights_m <= low)
        )


class PixelGoalLocator:
    """Finds places and counts how.

    Args:
        rules: they may change while it is used.
    """

    def __init__(self, rules: PixelGoalRules) -> None:
        self.rules = rules
        self._counts: Counter[str] = Counter()

    def begin(self) -> None:
        """A new run: counts begin from nothing."""
        self._counts.clear()

    def locate(self, goal: PixelGoal, frame: Frame) -> PlaceGoal | PlaceRefusal:
        """As :func:`place_of_pixel`."""
        found, depth = _locate(goal, frame, self.rules)
        self._counts["pixel goals"] += 1
        if depth is not None and depth is not PixelDepth.MEASURED:
            self._counts[f"pixel goals, depth: {depth.value}"] += 1
        if isinstance(found, PlaceRefusal):
            self._counts[f"pixel goals refused: {found.value}"] += 1
        else:
            self._counts[f"pixel goals by {found.source.value}"] += 1
            self._counts["pixel goals moved to a free place"] += found.moved_m > 0.0
        return found

    def note_already_there(self) -> None:
        """The place that was found last is where the robot is."""
        self._counts["pixel goals where the robot is already"] += 1

    def figures(self) -> dict[str, float]:
        """Since :meth:`begin`: names and numbers; empty where there was no pixel goal."""
        return {name: count for name, count in self._counts.items() if count}


def place_of_pixel(goal: PixelGoal, frame: Frame, rules: PixelGoalRules) -> PlaceGoal | PlaceRefusal:
    """Where the robot shall stand so that it is where the pixel points.

    The depth around the pixel says what is seen there. Where it says nothing the ray is followed to the
    floor, unless what is measured around the hole stands before that. What is no floor, or has no room for
    the robot, and what is above the horizon or too far, becomes the nearest place before it whose floor was
    seen, in the direction of the pixel, and where the robot fits.

    Args:
        goal: in the picture of ``frame``.
        frame: the picture with its depth, camera and poses; without depth the floor along the ray counts.

    Raises:
        ValueError: the goal is of another frame.
    """
    return _locate(goal, frame, rules)[0]


def _locate(
    goal: PixelGoal, frame: Frame, rules: PixelGoalRules
) -> tuple[PlaceGoal | PlaceRefusal, PixelDepth | None]:
    if goal.stamp_ns != frame.stamp_ns:
        raise ValueError(f"{goal} is of the frame {goal.stamp_ns}, not of {frame.stamp_ns}")
    camera = frame.camera
    if goal.row >= camera.height or goal.column >= camera.width:
        return PlaceRefusal.OUTSIDE, None
    base_from_optical = frame.odom_from_base.inverse() @ frame.odom_from_optical
    origin = base_from_optical.position
    last = camera.height - 1
    ray, *lowest = (
        base_from_optical.rotation
        @ [(goal.column - camera.cx) / camera.fx, (row - camera.cy) / camera.fy, 1.0]
        for row in (goal.row, last, last - _rows_above(camera.height))
    )
    depth_m, how = _depth_at(goal, frame.depth_m, rules.max_range_m)
    floor_m = _floor_depth(origin, ray, rules)
    source = PlaceSource.DEPTH
    hidden = depth_m is not None and (
        how is PixelDepth.MEASURED or (floor_m or math.inf) > depth_m * (1.0 + _FLOOR_AROUND_HOLE)
    )
    if floor_m is not None and not hidden:
        depth_m, source = floor_m, PlaceSource.FLOOR
    shown = None if depth_m is None else origin + depth_m * ray
    place: Float64Array | None
    if frame.depth_m is None:
        place = None if shown is None else shown[:2]
    else:
        across = math.hypot(ray[0], ray[1])
        bearing = ray[:2] / across if across > 1e-6 else np.array([1.0, 0.0])
        places = _Places.of(frame.depth_m, camera, base_from_optical, bearing, rules)
        radius_m = rules.robot_radius_m
        if shown is None:
            source = PlaceSource.VIEW
            place = places.farthest_free(radius_m)
        elif bool(rules.is_floor(shown[2])) and bool(places.is_free(shown[None, :2], radius_m)[0]):
            place = shown[:2]
        else:
            unseen_m = _unseen_m(goal, frame.depth_m, origin, np.array(lowest), rules)
            place = places.nearest_free(shown[:2], origin[:2], unseen_m, radius_m)
    if place is None:
        return (PlaceRefusal.NO_FLOOR if shown is None else PlaceRefusal.NOTHING_FREE), how
    x_m, y_m, _ = frame.odom_from_base.transform(np.append(place, rules.floor_height_m))
    moved_m = 0.0 if shown is None else float(np.hypot(*(place - shown[:2])))
    return PlaceGoal(float(x_m), float(y_m), goal.stamp_ns, source, moved_m), how


def _depth_at(
    goal: PixelGoal, depth_m: npt.NDArray[np.float32] | None, max_range_m: float
) -> tuple[float | None, PixelDepth]:
    """The median reading around the pixel, always one that was measured; and where it comes from."""
    if depth_m is None:
        return None, PixelDepth.NO_CAMERA
    half = max(1, round(depth_m.shape[1] * _WINDOW_SHARE))
    for times in (1, *_WIDER):
        reach = half * times
        window = depth_m[
            max(0, goal.row - reach) : goal.row + reach + 1,
            max(0, goal.column - reach) : goal.column + reach + 1,
        ]
        measured = window[np.isfinite(window) & (window > 0.0)]
        if len(measured) < _LEAST_MEASURED * window.size:
            continue
        within = np.sort(measured[measured <= max_range_m])
        if 2 * len(within) < len(measured):
            return None, PixelDepth.BEYOND
        middle = float(within[(len(within) - 1) // 2])
        return middle, PixelDepth.MEASURED if times == 1 else PixelDepth.AROUND
    return None, PixelDepth.HOLE


def _floor_depth(origin: Float64Array, ray: Float64Array, rules: PixelGoalRules) -> float | None:
    """Depth at which a ray from ``origin`` (base frame, of depth 1) meets the floor within range."""
    down = rules.floor_height_m - origin[2]
    if ray[2] * down <= 0.0:
        return None
    depth_m = float(down / ray[2])
    return depth_m if depth_m <= rules.max_range_m else None


def _unseen_m(
    goal: PixelGoal,
    depth_m: npt.NDArray[np.float32],
    origin: Float64Array,
    rays: Float64Array,
    rules: PixelGoalRules,
) -> float:
    """How far from the camera there is free floor below the picture, as far as that can be told.

    Up to where the last row shows floor, or something that stands upright; not before a table or a bed, of
    which the picture shows the farther part.

    Args:
        rays: ``[2, 3]`` of the goal's column in the last row and in one above it (base frame, of depth 1).
    """
    last = depth_m.shape[0] - 1
    floor_m = _floor_depth(origin, rays[0], rules)
    free_m = rules.max_range_m if floor_m is None else floor_m * math.hypot(rays[0, 0], rays[0, 1])
    ways_m = []
    for row, ray in zip((last, last - _rows_above(last + 1)), rays, strict=True):
        reading_m, how = _depth_at(PixelGoal(row, goal.column, goal.stamp_ns), depth_m, rules.max_range_m)
        if reading_m is None or how is not PixelDepth.MEASURED:
            return 0.0
        if row == last and bool(rules.is_floor(origin[2] + reading_m * ray[2])):
            return free_m
        ways_m.append(reading_m * math.hypot(ray[0], ray[1]))
    return min(free_m, ways_m[0]) if abs(ways_m[1] - ways_m[0]) < _UPRIGHT_M else 0.0


def _rows_above(rows: int) -> int:
    return max(2, round(rows * 0.05))


@dataclass(frozen=True, eq=False)
class _Places:
    """Places on the floor in the direction of a pixel, and whether the robot may stand there.

    Attributes:
        places: ``[N, 2]`` in the base frame, in rows and columns along the direction.
        seen: ``[N]``: the depth image shows floor there.
        along_m: ``[N]`` from the camera, in the direction.
        aside_m: ``[N]`` from the vertical plane of the direction.
        obstacles: ``[M, 2]`` what the depth image shows that is no floor, in the base frame.
    """

    places: Float64Array
    seen: npt.NDArray[np.bool_]
    along_m: Float64Array
    aside_m: Float64Array
    obstacles: Float64Array

    @staticmethod
    def of(
        depth_m: npt.NDArray[np.float32],
        camera: CameraModel,
        base_from_optical: Pose,
        bearing: Float64Array,
        rules: PixelGoalRules,
    ) -> _Places:
        origin = base_from_optical.position
        points = base_from_optical.transform(_points(depth_m, camera, rules.max_range_m))
        along = np.arange(_STEP_M, rules.max_range_m, _STEP_M)
        aside = np.arange(-_ASIDE_M, _ASIDE_M + _STEP_M / 2, _STEP_M)
        along_m, aside_m = (x.ravel() for x in np.meshgrid(along, aside))
        left = np.array([-bearing[1], bearing[0]])
        places = origin[:2] + along_m[:, None] * bearing + aside_m[:, None] * left
        floor = np.concatenate([places, np.full((len(places), 1), rules.floor_height_m)], 1)
        x, y, z = base_from_optical.inverse().transform(floor).T
        ahead = z > _STEP_M
        z = np.where(ahead, z, 1.0)
        u, v = np.rint(x / z * camera.fx + camera.cx), np.rint(y / z * camera.fy + camera.cy)
        seen = ahead & (u >= 0) & (u < camera.width) & (v >= 0) & (v < camera.height)
        u, v = (np.where(seen, c, 0).astype(np.int64) for c in (u, v))
        # Not by height alone: the foot of a wall is as high as the floor, and in a row with floor behind it.
        reading = _medians(depth_m, v, u, rules.max_range_m)
        seen &= np.abs(reading - z) <= _SAME_PLACE * z
        obstacles = _thinned(points[rules.is_obstacle(points[:, 2]), :2])
        return _Places(places, seen, along_m, aside_m, obstacles)

    def is_free(self, places: Float64Array, radius_m: float) -> npt.NDArray[np.bool_]:
        """``[N]``: a circle around the place touches no obstacle."""
        if not len(self.obstacles) or not len(places):
            return np.ones(len(places), bool)
        squares = (places**2).sum(1)[:, None] + (self.obstacles**2).sum(1) - 2.0 * places @ self.obstacles.T
        return np.asarray(squares.min(1) >= radius_m**2)

    def nearest_free(
        self, shown: Float64Array, origin: Float64Array, unseen_m: float, radius_m: float
    ) -> Float64Array | None:
        """The free place before ``shown`` that is nearest to it; within ``unseen_m`` also one not seen."""
        reach_m = float(np.hypot(*(shown - origin)))
        unseen = (np.abs(self.aside_m) < _STEP_M / 2) & (self.along_m < unseen_m)
        before = (self.seen | unseen) & (np.hypot(self.along_m, self.aside_m) <= reach_m)
        return self._first_free(before, np.hypot(*(self.places - shown).T), radius_m)

    def farthest_free(self, radius_m: float) -> Float64Array | None:
        """The free place that is farthest in the direction, of those whose floor was seen."""
        return self._first_free(self.seen & (np.abs(self.aside_m) <= radius_m), -self.along_m, radius_m)

    def _first_free(
        self, which: npt.NDArray[np.bool_], cost: Float64Array, radius_m: float
    ) -> Float64Array | None:
        order = np.flatnonzero(which)
        order = order[np.argsort(cost[order], kind="stable")]
        for begin in range(0, len(order), _AT_ONCE):
            some = self.places[order[begin : begin + _AT_ONCE]]
            free = self.is_free(some, radius_m)
            if free.any():
                return np.asarray(some[free.argmax()])
        return None


def _points(depth_m: npt.NDArray[np.float32], camera: CameraModel, max_range_m: float) -> Float64Array:
    """``[N, 3]`` in the optical frame: medians of 3 x 3 readings, at about ``_COLUMNS`` columns."""
    height, width = depth_m.shape
    stride = max(1, width // _COLUMNS)
    v = np.arange(stride // 2, height, stride)
    u = np.arange(stride // 2, width, stride)
    v, u = (c.ravel() for c in np.meshgrid(v, u, indexing="ij"))
    z = _medians(depth_m, v, u, max_range_m)
    there = np.isfinite(z)
    v, u, z = v[there], u[there], z[there]
    return np.stack([(u - camera.cx) / camera.fx * z, (v - camera.cy) / camera.fy * z, z], 1)


def _medians(
    depth_m: npt.NDArray[np.float32],
    v: npt.NDArray[np.int64],
    u: npt.NDArray[np.int64],
    max_range_m: float,
) -> Float64Array:
    """``[N]`` of the 3 x 3 readings around each pixel, one that was measured; NaN where most say nothing."""
    height, width = depth_m.shape
    rows, columns = (x.ravel()[:, None] for x in np.indices((3, 3)) - 1)
    around = depth_m[(rows + v).clip(0, height - 1), (columns + u).clip(0, width - 1)].astype(np.float64)
    there = np.isfinite(around) & (around > 0.0) & (around <= max_range_m)
    ordered = np.sort(np.where(there, around, np.inf), 0)
    count = there.sum(0)
    middle = ordered[(count - 1).clip(0) // 2, np.arange(len(v))]
    return np.where(count > 4, middle, np.nan)


def _thinned(places: Float64Array) -> Float64Array:
    """One of the places in each cell that has at least two."""
    cells = np.floor(places / _CELL_M).astype(np.int64)
    _, first, count = np.unique(cells, axis=0, return_index=True, return_counts=True)
    return places[first[count >= _READINGS]]
