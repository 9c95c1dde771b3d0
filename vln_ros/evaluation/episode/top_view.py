"""Draws the map beside a video's pictures: the way so far, the robot and the goal, from above."""

from __future__ import annotations

import math
from typing import Protocol

import cv2
import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array

UInt8Array = npt.NDArray[np.uint8]

_MARGIN_M = 1.0
_LEAST_M = 4.0
"""Side of the smallest view."""
_WHOLE_M = 16.0
"""A plan whose longer side is not longer is shown whole."""
_PAPER, _GRID = (246, 247, 249), (224, 228, 234)
_TRAIL, _REFERENCE, _ROBOT, _RIM, _GOAL = (43, 125, 233), (214, 37, 140), (28, 36, 48), (255, 255, 255), (
    26, 143, 75,
)  # fmt: skip
_DART = ((1.0, 0.0), (-0.8, 0.65), (-0.45, 0.0), (-0.8, -0.65))
"""Corners of the robot: ahead, and to the left."""
_IN_VIEW = 0.95
"""The share of the view in which the robot is seen whole."""
_SHIFT = 4
"""Binary digits of a pixel's fraction, for smooth lines."""


class Plan(Protocol):
    """A top-down picture of a scene (``vln_ros.sim.embedded.plan.PlanImage`` is one)."""

    @property
    def image(self) -> UInt8Array:
        """``[H, W, 3]``."""

    def to_pixel(self, xy: Float64Array) -> Float64Array:
        """``[..., 2]`` metres to ``[..., 2]`` pixels (column, row)."""


class TopView:
    """A square map that is drawn on as the robot goes; it grows where the robot leaves it.

    Args:
        plan: the scene; None draws a metric grid.
        side_px: of the picture.
        goal: ``[>= 2]`` metres, and its radius; None where there is none.
        reference_path: ``[n, >= 2]`` metres; None where there is none.
    """

    def __init__(
        self,
        plan: Plan | None,
        side_px: int,
        goal: tuple[Float64Array, float] | None,
        reference_path: Float64Array | None,
    ) -> None:
        self._plan, self._side_px, self._goal = plan, side_px, goal
        self._reference = None if reference_path is None else np.asarray(reference_path, np.float64)[:, :2]
        self._way: list[tuple[float, float]] = []
        self._yaw_rad = 0.0
        self._middle, self._side_m = np.zeros(2), _LEAST_M
        self._drawn: UInt8Array | None = None

    def go(self, x_m: float, y_m: float, yaw_rad: float) -> None:
        """The robot is there now."""
        self._yaw_rad = yaw_rad
        if self._way and self._way[-1] == (x_m, y_m):
            return
        self._way.append((x_m, y_m))
        here = np.array(self._way[-2:])
        if self._drawn is not None and self._holds(here):
            self._line(self._drawn, here, _TRAIL, 3)
        else:
            self._drawn = None

    def picture(self) -> UInt8Array:
        """``[side, side, 3]`` uint8, how things are now."""
        if self._drawn is None:
            self._fit()
            self._drawn = self._ground()
            if len(self._way) > 1:
                self._line(self._drawn, np.array(self._way), _TRAIL, 3)
        picture = self._drawn.copy()
        if self._way:
            self._robot(picture)
        return picture

    # ------------------------------------------------------------------ where things are in the picture

    def _holds(self, points: Float64Array) -> bool:
        return bool((np.abs(points - self._middle) < _IN_VIEW * self._side_m / 2).all())

    def _fit(self) -> None:
        """Everything that there is, or the whole plan of a small scene."""
        if self._plan is not None:
            corner, far = self._plan_corners(self._plan)
            if (far - corner).max() <= _WHOLE_M:
                self._middle, self._side_m = (corner + far) / 2, float((far - corner).max())
                if not self._way or self._holds(np.array(self._way)):
                    return
        parts = [np.array(self._way).reshape(-1, 2)]
        if self._goal is not None:
            goal, radius_m = np.asarray(self._goal[0], np.float64)[:2], self._goal[1]
            parts.append(np.stack([goal - radius_m, goal + radius_m]))
        if self._reference is not None:
            parts.append(self._reference)
        points = np.concatenate(parts)
        if not len(points):
            points = np.zeros((1, 2))
        low, high = points.min(axis=0) - _MARGIN_M, points.max(axis=0) + _MARGIN_M
        side_m = max(float((high - low).max()), _LEAST_M)
        # In steps, so that there is room to go on, and it is not drawn anew for every metre.
        self._side_m = _LEAST_M * 2.0 ** (math.ceil(2.0 * math.log2(side_m / _LEAST_M)) / 2.0)
        self._middle = (low + high) / 2

    @staticmethod
    def _plan_corners(plan: Plan) -> tuple[Float64Array, Float64Array]:
        """Lower left and upper right corner of a plan, metres: its map to pixels is affine."""
        zero, x, y = plan.to_pixel(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        to_metres = np.linalg.inv(np.stack([x - zero, y - zero], axis=1))
        height, width = plan.image.shape[:2]
        corners = np.array([[-0.5, -0.5], [width - 0.5, height - 0.5]]) - zero
        metres = corners @ to_metres.T
        return metres.min(axis=0), metres.max(axis=0)

    def _pixels(self, points: Float64Array) -> Float64Array:
        """``[n, 2]`` metres to column and row."""
        away = (points - self._middle) * (self._side_px / self._side_m) * np.array([1.0, -1.0])
        return np.asarray(away + self._side_px / 2, np.float64)

    # ------------------------------------------------------------------ drawing

    def _ground(self) -> UInt8Array:
        """What does not change: scene, reference path, goal."""
        picture = self._grid() if self._plan is None else self._scene(self._plan)
        if self._reference is not None and len(self._reference) > 1:
            self._dashes(picture, self._reference)
        if self._goal is not None:
            goal, radius_m = np.asarray(self._goal[0], np.float64)[None, :2], self._goal[1]
            (centre,) = self._pixels(goal)
            at = (round(centre[0] * 2**_SHIFT), round(centre[1] * 2**_SHIFT))
            ring_px = radius_m * self._side_px / self._side_m
            for radius, thick in ((max(ring_px, 5.0), 2), (4.0, -1)):
                cv2.circle(picture, at, round(radius * 2**_SHIFT), _GOAL, thick, cv2.LINE_AA, _SHIFT)
        return picture

    def _grid(self) -> UInt8Array:
        """A line every metre, or every power of ten of them."""
        picture = np.full((self._side_px, self._side_px, 3), _PAPER, np.uint8)
        step_m = 10.0 ** max(0, math.ceil(math.log10(self._side_m / 30.0)))
        low, high = self._middle - self._side_m / 2, self._middle + self._side_m / 2
        for axis in (0, 1):
            for k in range(math.ceil(low[axis] / step_m), math.floor(high[axis] / step_m) + 1):
                ends = np.stack([low, high])
                ends[:, axis] = k * step_m
                self._line(picture, ends, _GRID, 1)
        return picture

    def _scene(self, plan: Plan) -> UInt8Array:
        """The part of the plan that is in view."""
        half = self._side_m / 2
        corners = plan.to_pixel(np.stack([self._middle - half, self._middle + half]))
        (left, top), (right, bottom) = corners.min(axis=0).round(), corners.max(axis=0).round()
        height, width = plan.image.shape[:2]
        outside = (-top, bottom - height, -left, right - width)
        above, below, before, behind = (round(max(0.0, float(v))) for v in outside)
        seen = plan.image[
            max(0, round(top)) : max(0, round(bottom)), max(0, round(left)) : max(0, round(right))
        ]
        if not seen.size:
            return self._grid()
        padded = cv2.copyMakeBorder(seen, above, below, before, behind, cv2.BORDER_CONSTANT, value=_PAPER)
        shrinks = min(padded.shape[:2]) > self._side_px
        scaled = cv2.resize(
            padded,
            (self._side_px, self._side_px),
            interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR,
        )
        return np.asarray(scaled, np.uint8)

    def _line(
        self, picture: UInt8Array, points: Float64Array, color: tuple[int, int, int], thick: int
    ) -> None:
        pixels = np.rint(self._pixels(points) * 2**_SHIFT).astype(np.int32)
        cv2.polylines(picture, [pixels[:, None]], False, color, thick, cv2.LINE_AA, _SHIFT)

    def _dashes(self, picture: UInt8Array, path: Float64Array) -> None:
        """A dash of a fiftieth of the view, and as much left out."""
        lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(path, axis=0), axis=1))])
        dash_m = self._side_m / 50.0
        for k in range(math.ceil(lengths[-1] / (2 * dash_m))):
            along = np.clip([2 * k * dash_m, (2 * k + 1) * dash_m], 0.0, lengths[-1])
            ends = np.stack([np.interp(along, lengths, path[:, axis]) for axis in (0, 1)], axis=1)
            self._line(picture, ends, _REFERENCE, 2)

    def _robot(self, picture: UInt8Array) -> None:
        """A dart that shows where it looks, of a size that can be seen."""
        (at,) = self._pixels(np.array(self._way[-1:]))
        ahead = np.array([math.cos(self._yaw_rad), -math.sin(self._yaw_rad)])  # rows count downwards
        left = np.array([ahead[1], -ahead[0]])
        size = self._side_px / 32.0
        corners = at + size * (np.array(_DART) @ np.stack([ahead, left]))
        dart = np.rint(corners * 2**_SHIFT).astype(np.int32)[:, None]
        cv2.fillPoly(picture, [dart], _ROBOT, cv2.LINE_AA, _SHIFT)
        cv2.polylines(picture, [dart], True, _RIM, 1, cv2.LINE_AA, _SHIFT)
