"""Finds where the tokens of a new frame were seen before, by depth and pose."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import CameraModel, Float64Array, Frame
from vln_ros.geometry.fallback_reason import FallbackReason

IntArray = npt.NDArray[np.int64]

_NEAREST_M = 0.05
_SAMPLES = 5
_LEAST_MEASURED = _SAMPLES**2 // 5
_FROM_MIDDLE = np.hypot(*(np.indices((_SAMPLES, _SAMPLES)) - _SAMPLES // 2)).ravel()


@dataclass(frozen=True)
class TokenGrid:
    """Rows and columns of the visual tokens that a whole image becomes, numbered row by row."""

    rows: int
    columns: int

    def __post_init__(self) -> None:
        if self.rows < 1 or self.columns < 1:
            raise ValueError(f"a token grid needs rows and columns, got {self.rows} x {self.columns}")

    @property
    def count(self) -> int:
        return self.rows * self.columns

    def per_pixel(self, camera: CameraModel) -> Float64Array:
        """``[2]`` tokens per pixel, to the right and down."""
        return np.array([self.columns / camera.width, self.rows / camera.height])

    def middles(self) -> Float64Array:
        """``[count, 2]`` the middle of each token, in tokens to the right and down, row by row."""
        row, column = np.divmod(np.arange(self.count), self.columns)
        return np.stack([column + 0.5, row + 0.5], 1)


class Fate(IntEnum):
    """How far a token got on its way into a source frame."""

    HOLE = 0
    """Too little depth in the middle of the token."""
    OUT_OF_VIEW = 1
    NO_READING = 2
    """The source has no depth where the point should be."""
    OCCLUDED = 3
    """Something nearer stands before it in the source."""
    ABSENT = 4
    """The source sees past the place: what is there now was not there, or the poses are wrong."""
    FOUND = 5


@dataclass(frozen=True, eq=False)
class Anchors:
    """The point of a surface that stands for each token; arrays of ``[tokens]``.

    Attributes:
        pixel: ``[tokens, 2]`` float64 (u, v), a pixel that was measured, near the token's middle.
        depth_m: float64, its planar depth; 0 where there is no such point.
    """

    pixel: Float64Array
    depth_m: Float64Array


@dataclass(frozen=True, eq=False)
class Correspondence:
    """For each token of a new frame where the same place was seen; arrays of ``[tokens]``.

    Attributes:
        grid: of the new frame and of all sources.
        anchors: the points that were looked for.
        source: int64, index of the source frame, or -1.
        token: int64, the source's token that shows the content of the new one, or -1.
        offset: ``[tokens, 2]`` float64, from the middle of that token to where the content is, in tokens
            to the right and down; each in [-0.5, 0.5]. NaN where there is none.
        scale: float64, how much larger the place appears in the source. NaN where there is none.
        fate: :class:`Fate` as int64, of the source in which the token came furthest.
        depth_ratio: per source, median of measured over expected depth where both are; NaN without any.
            Far from 1 the depths, their unit or the poses are wrong.
        agreement: per source, share of the points with a reading where the source measured what was
            expected; NaN without any. Low where much is hidden, or the poses are wrong.
    """

    grid: TokenGrid
    anchors: Anchors
    source: IntArray
    token: IntArray
    offset: Float64Array
    scale: Float64Array
    fate: IntArray
    depth_ratio: tuple[float, ...]
    agreement: tuple[float, ...]

    @property
    def found(self) -> npt.NDArray[np.bool_]:
        return self.source >= 0

    def counts(self) -> dict[Fate, int]:
        """How many tokens met each fate."""
        found = np.bincount(self.fate, minlength=len(Fate))
        return {fate: int(found[fate]) for fate in Fate}


def token_anchors(depth_m: npt.NDArray[np.float32], grid: TokenGrid, depth_tolerance: float) -> Anchors:
    """The surface that each token mostly shows, and a point on it.

    Of 5 x 5 readings in the token's middle half the median is taken (the lower of the middle two:
    always one that was measured). The point is the pixel nearest to the middle whose reading lies
    within ``depth_tolerance`` of it. A fifth of the readings must be there.
    """
    height, width = depth_m.shape
    within = (np.arange(_SAMPLES) + 0.5) / _SAMPLES * 0.5 + 0.25
    v = ((np.arange(grid.rows)[:, None] + within) * height / grid.rows).astype(np.int64)
    u = ((np.arange(grid.columns)[:, None] + within) * width / grid.columns).astype(np.int64)
    samples = depth_m[v.ravel()[:, None], u.ravel()].reshape(grid.rows, _SAMPLES, grid.columns, _SAMPLES)
    samples = samples.transpose(0, 2, 1, 3).reshape(grid.count, -1)
    present = (samples > 0) & np.isfinite(samples)
    ordered = np.sort(np.where(present, samples, np.float32(np.inf)), 1)
    measured = present.sum(1)
    every = np.arange(grid.count)
    median = ordered[every, (measured - 1).clip(0) // 2]
    with np.errstate(invalid="ignore"):  # inf - inf: no reading at all
        agreeing = present & (np.abs(samples - median[:, None]) <= depth_tolerance * median[:, None])
    nearest = np.where(agreeing, _FROM_MIDDLE, np.inf).argmin(1)
    row, column = np.divmod(every, grid.columns)
    pixel = np.stack([u[column, nearest % _SAMPLES], v[row, nearest // _SAMPLES]], 1).astype(np.float64)
    certain = measured >= _LEAST_MEASURED
    return Anchors(pixel, np.where(certain, samples[every, nearest], 0.0).astype(np.float64))


def fallback_reason(frame: Frame, source: Frame) -> FallbackReason | None:
    """Why these two frames cannot be compared; None if they can."""
    if frame.depth_m is None or source.depth_m is None:
        return FallbackReason.NO_DEPTH
    if frame.camera != source.camera:
        return FallbackReason.CAMERA_CHANGED
    return None


def correspond(
    frame: Frame, sources: Sequence[Frame], grid: TokenGrid, *, depth_tolerance: float
) -> Correspondence:
    """Find every token of ``frame`` in the best of ``sources``.

    A point of the token (:func:`token_anchors`) is back-projected, moved into the source camera and
    projected there. The four readings around that place decide: none may be nearer, and one must be
    the expected depth, within ``depth_tolerance`` of it. The token's content is displaced as its point
    is. The best source is the one in which it is displaced least against the source's tokens: offset,
    and half of the change in scale (at the token's edge). Of equals the first in ``sources``.

    Args:
        sources: earlier frames with depth and the camera of ``frame``, preferred ones first.
        grid: how the images of all are cut into tokens.
        depth_tolerance: relative, in (0, 1).

    Raises:
        ValueError: a source for which :func:`refusal` names a reason, or a tolerance out of range.
    """
    if not 0.0 < depth_tolerance < 1.0:
        raise ValueError(f"depth_tolerance = {depth_tolerance}: must be between 0 and 1")
    for source in sources:
        reason = fallback_reason(frame, source)
        if reason is not None:
            raise ValueError(f"frame {frame.index} cannot be compared with {source.index}: {reason.value}")
    if frame.depth_m is None:
        raise ValueError(f"frame {frame.index} has no depth")
    n, camera = grid.count, frame.camera
    anchors = token_anchors(frame.depth_m, grid, depth_tolerance)
    fate = np.where(anchors.depth_m > 0.0, int(Fate.OUT_OF_VIEW), int(Fate.HOLE))
    source_of, token_of = np.full(n, -1), np.full(n, -1)
    offset_of, scale_of = np.full((n, 2), np.nan), np.full(n, np.nan)
    there = np.flatnonzero(anchors.depth_m)
    pixel, depth = anchors.pixel[there], anchors.depth_m[there]
    lens = np.array([camera.fx, camera.fy])
    points = np.concatenate([(pixel - [camera.cx, camera.cy]) / lens * depth[:, None], depth[:, None]], 1)
    cost = np.full(n, np.inf)
    ratios: list[float] = []
    agreements: list[float] = []
    for index, source in enumerate(sources):
        moved = source.odom_from_optical.inverse() @ frame.odom_from_optical
        seen = _look(source, moved.transform(points), depth_tolerance)
        ratios.append(seen.depth_ratio)
        agreements.append(seen.agreement)
        place = grid.middles()[there] + (seen.pixel - pixel) * grid.per_pixel(camera)
        whole = np.floor(place).astype(np.int64)
        inside = ((whole >= 0) & (whole < [grid.columns, grid.rows])).all(1)
        found = np.where(inside, seen.fate, int(Fate.OUT_OF_VIEW))
        fate[there] = np.maximum(fate[there], found)
        offset, scale = place - whole - 0.5, depth / seen.depth_m
        displaced = np.hypot(*offset.T) + np.abs(np.log(scale)) / 2.0
        better = (found == Fate.FOUND) & (displaced < cost[there])
        chosen = there[better]
        cost[chosen] = displaced[better]
        source_of[chosen] = index
        token_of[chosen] = (whole[:, 1] * grid.columns + whole[:, 0])[better]
        offset_of[chosen], scale_of[chosen] = offset[better], scale[better]
    return Correspondence(
        grid,
        anchors,
        source_of,
        token_of,
        offset_of,
        scale_of,
        fate.astype(np.int64),
        tuple(ratios),
        tuple(agreements),
    )


@dataclass(frozen=True, eq=False)
class _Seen:
    """Points in a source: where, how far, what became of them."""

    pixel: Float64Array
    depth_m: Float64Array
    fate: IntArray
    depth_ratio: float
    agreement: float


def _look(source: Frame, points: Float64Array, tolerance: float) -> _Seen:
    """``points`` are ``[n, 3]`` in the source's optical frame."""
    assert source.depth_m is not None
    camera = source.camera
    x, y, z = points.T
    ahead = z > _NEAREST_M
    z = np.where(ahead, z, 1.0)
    u, v = camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy
    inside = ahead & (u >= -0.5) & (u < camera.width - 0.5) & (v >= -0.5) & (v < camera.height - 0.5)
    pixel = np.stack([u, v], 1)
    u, v = np.where(inside, u, 0.0), np.where(inside, v, 0.0)
    left, top = np.floor(u).astype(np.int64), np.floor(v).astype(np.int64)
    columns = np.stack([left, left + 1, left, left + 1]).clip(0, camera.width - 1)
    rows = np.stack([top, top, top + 1, top + 1]).clip(0, camera.height - 1)
    readings = source.depth_m[rows, columns]
    measured = (readings > 0) & np.isfinite(readings)
    nearer = (measured & (readings < z * (1.0 - tolerance))).any(0)
    same = (measured & (np.abs(readings - z) <= z * tolerance)).any(0)
    fate = np.where(same, int(Fate.FOUND), int(Fate.ABSENT))
    fate[nearer] = Fate.OCCLUDED
    fate[~measured.any(0)] = Fate.NO_READING
    fate[~inside] = Fate.OUT_OF_VIEW
    both = inside & measured[0]
    ratio = float(np.median(readings[0][both] / z[both])) if both.any() else math.nan
    judged = inside & measured.any(0)
    agreement = float((fate[judged] == Fate.FOUND).mean()) if judged.any() else math.nan
    return _Seen(pixel, z, fate, ratio, agreement)
