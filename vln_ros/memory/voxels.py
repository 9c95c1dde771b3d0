"""Finds visual tokens that show the same place, by depth and pose, in voxels.

Two ways to use it. Of past frames only the latest token of each voxel and period is kept (StreamVLN,
arXiv 2507.05240, algorithm 1); or a token whose voxel was seen before is not taken in at all.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array, Frame
from vln_ros.geometry.correspondence import TokenGrid, token_anchors

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

UNKNOWN = -1
"""The voxel of a token without depth."""

_BITS = 20
_FARTHEST = 1 << (_BITS - 1)


@dataclass(frozen=True, eq=False)
class Surface:
    """Where the tokens of one frame's picture lie; arrays of ``[tokens]``, row by row.

    Attributes:
        frame: the frame's number in its stream.
        epoch: voxels of different epochs cannot be compared: the poses jumped in between.
        voxel: int64, or :data:`UNKNOWN`.
        depth_m: float64, planar depth of each token; 0 where there is none.
    """

    frame: int
    epoch: int
    voxel: IntArray
    depth_m: Float64Array


def lay_out(
    frame: Frame, grid: TokenGrid, *, epoch: int, voxel_m: float, max_depth_m: float, depth_tolerance: float
) -> Surface:
    """The voxels of a frame's tokens, in its odometry frame.

    A token without depth, or with one beyond ``max_depth_m``, has none.

    Raises:
        ValueError: the frame has no depth.
    """
    if frame.depth_m is None:
        raise ValueError(f"frame {frame.index} has no depth")
    anchors = token_anchors(frame.depth_m, grid, depth_tolerance)
    depth = np.where(anchors.depth_m <= max_depth_m, anchors.depth_m, 0.0)
    camera = frame.camera
    rays = (anchors.pixel - [camera.cx, camera.cy]) / [camera.fx, camera.fy]
    points = frame.odom_from_optical.transform(
        np.concatenate([rays, np.ones((len(rays), 1))], 1) * depth[:, None]
    )
    cells = np.floor(points / voxel_m)
    known = (depth > 0.0) & (np.abs(cells) < _FARTHEST).all(1)
    x, y, z = (np.where(known[:, None], cells, 0.0).astype(np.int64) + _FARTHEST).T
    voxel = np.where(known, (x << (2 * _BITS)) | (y << _BITS) | z, UNKNOWN)
    return Surface(frame.index, epoch, voxel, np.where(known, depth, 0.0))


@dataclass(frozen=True, eq=False)
class Shown:
    """Those tokens of a frame that are there: ``cells`` ``[n]``, increasing numbers within its grid."""

    surface: Surface
    cells: IntArray

    @property
    def voxel(self) -> IntArray:
        return self.surface.voxel[self.cells]

    @property
    def depth_m(self) -> Float64Array:
        return self.surface.depth_m[self.cells]


def latest_tokens(
    shown: Sequence[Shown], *, period_frames: int, whole: int, least_share: float
) -> list[BoolArray]:
    """Per frame, oldest first, which of its tokens to keep: the latest of each voxel and period.

    Tokens without a voxel stay. Within a frame the last one in reading order is the latest. A frame
    that would keep less than ``least_share`` of its whole picture is dropped altogether.

    Args:
        period_frames: tokens of frames in different periods of this many do not replace each other.
        whole: the newest so many frames keep all of their tokens.
    """
    if not shown:
        return []
    counts = [len(s.cells) for s in shown]
    voxel = np.concatenate([s.voxel for s in shown])
    period = np.repeat([s.surface.frame // period_frames for s in shown], counts)
    epoch = np.repeat([s.surface.epoch for s in shown], counts)
    order = np.lexsort((epoch, period, voxel))  # stable: within a group oldest first
    group = np.stack([voxel, period, epoch])[:, order]
    last = np.ones(len(order), np.bool_)
    last[:-1] = (group[:, 1:] != group[:, :-1]).any(0)
    keep = np.empty(len(order), np.bool_)
    keep[order] = last
    keep |= voxel == UNKNOWN
    masks = np.split(keep, np.cumsum(counts)[:-1])
    for i, (mask, one) in enumerate(zip(masks, shown, strict=True)):
        if i >= len(shown) - whole:
            mask[:] = True
        elif mask.sum() < least_share * len(one.surface.voxel):
            mask[:] = False
    return masks


def new_tokens(
    surface: Surface,
    earlier: Sequence[Shown],
    *,
    max_age_frames: int,
    nearer: float,
    least_share: float,
) -> BoolArray:
    """``[tokens]`` which tokens of a frame show what ``earlier`` frames do not.

    A token was seen before if a token of its voxel is there, no older than ``max_age_frames``, and
    was not seen from more than ``nearer`` times as far. Where fewer than ``least_share`` would be new,
    those count as new as well that were seen from farthest, compared to now.
    """
    n = len(surface.voxel)
    new = np.ones(n, np.bool_)
    usable = [
        s
        for s in earlier
        if s.surface.epoch == surface.epoch and 0 <= surface.frame - s.surface.frame <= max_age_frames
    ]
    if not usable:
        return new
    voxel = np.concatenate([s.voxel for s in usable])
    depth = np.concatenate([s.depth_m for s in usable])
    order = np.lexsort((depth, voxel))
    places, first = np.unique(voxel[order], return_index=True)
    at = np.searchsorted(places, surface.voxel).clip(max=len(places) - 1)
    known = (surface.voxel != UNKNOWN) & (places[at] == surface.voxel)
    farther = np.full(n, np.inf)
    farther[known] = depth[order][first][at[known]] / surface.depth_m[known]
    new = farther > nearer
    missing = math.ceil(least_share * n) - int(new.sum())
    if missing > 0:
        seen = np.flatnonzero(~new)
        new[seen[np.argsort(-farther[seen], kind="stable")[:missing]]] = True
    return new
