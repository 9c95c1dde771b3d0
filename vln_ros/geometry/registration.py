"""Registers depth of another camera, or of another resolution, to the colour camera."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import CameraModel, Pose
from vln_ros.geometry.lens import pixel_directions
from vln_ros.lenses import Lens

DepthM = npt.NDArray[np.float32]
Float32Array = npt.NDArray[np.float32]
BoolArray = npt.NDArray[np.bool_]

NEAREST_M = 0.02
SAME_SURFACE = 0.05
"""Readings side by side that differ by no more than this share of the nearer one are of one surface."""
_WIDEST_CELL = 32


def register_depth(depth_m: DepthM, depth_lens: Lens, color: CameraModel, color_from_depth: Pose) -> DepthM:
    """``[H, W]`` of ``color``: planar depth in the colour camera's frame, 0 where nothing was measured.

    Each reading stands for the patch of surface around it, half way to its neighbours on the same surface
    and as wide as its own pixel where there is none. A colour pixel whose middle is in the picture of such
    a patch has its depth, the nearest one where several are. So a surface stays closed, whatever the two
    resolutions, and what the depth camera did not see (shadows beside edges, holes) stays without a
    reading.

    Args:
        depth_m: ``[h, w]`` metres along the depth camera's axis, 0 where there is no reading.
        depth_lens: of the depth camera; what its lens cannot have seen is left out.
        color: pinhole of the (undistorted) colour image.
        color_from_depth: where the depth camera's optical frame is in the colour camera's.

    Raises:
        ValueError: the image is not of the size of ``depth_lens``.
    """
    camera = depth_lens.camera
    if depth_m.shape != (camera.height, camera.width):
        raise ValueError(
            f"depth is {depth_m.shape}, its camera has {camera.height} rows and {camera.width} columns"
        )
    directions = pixel_directions(depth_lens)
    rotation, offset = color_from_depth.rotation, color_from_depth.position
    # one row of the rotation at a time, and no more precision than a depth image has
    x, y, z = (
        ((directions[..., 0] * r[0] + directions[..., 1] * r[1] + r[2]).astype(np.float32) * depth_m)
        + np.float32(t)
        for r, t in zip(rotation, offset, strict=True)
    )
    there = (depth_m > 0.0) & (z > NEAREST_M)  # false for NaN, too
    safe = np.where(there, z, np.float32(1.0))
    u = np.asarray(np.where(there, x, 0.0) / safe * color.fx + color.cx, np.float32)
    v = np.asarray(np.where(there, y, 0.0) / safe * color.fy + color.cy, np.float32)
    size = np.asarray(np.where(there, depth_m, 0.0) / safe, np.float32)
    left, right = _edges(u, size * np.float32(color.fx / camera.fx / 2.0), depth_m, there)
    top, bottom = (
        e.T for e in _edges(v.T, size.T * np.float32(color.fy / camera.fy / 2.0), depth_m.T, there.T)
    )
    first_u, columns = _middles(left, right, color.width)
    first_v, rows = _middles(top, bottom, color.height)
    seen = there & (columns > 0) & (rows > 0)
    first_u, columns, first_v, rows, z = (a[seen] for a in (first_u, columns, first_v, rows, z))
    registered = np.full(color.height * color.width, np.inf, np.float32)
    first = first_v.astype(np.int64) * color.width + first_u
    for dv in range(int(rows.max(initial=0))):
        for du in range(int(columns.max(initial=0))):
            inside = (columns > du) & (rows > dv)
            _put_nearest(registered, first[inside] + (dv * color.width + du), z[inside])
    registered[np.isinf(registered)] = 0.0
    return registered.reshape(color.height, color.width)


def _edges(
    u: Float32Array, half: Float32Array, depth_m: DepthM, there: BoolArray
) -> tuple[Float32Array, Float32Array]:
    """Where the patch of each reading begins and ends, along the last axis."""
    left, right = u - half, u + half
    near, far = np.minimum(depth_m[:, 1:], depth_m[:, :-1]), np.maximum(depth_m[:, 1:], depth_m[:, :-1])
    one = there[:, 1:] & there[:, :-1] & (far - near <= near * np.float32(SAME_SURFACE))
    one &= u[:, 1:] > u[:, :-1]
    between = (u[:, 1:] + u[:, :-1]) * np.float32(0.5)
    np.copyto(left[:, 1:], between, where=one)
    np.copyto(right[:, :-1], between, where=one)
    return left, right


def _middles(
    begin: Float32Array, end: Float32Array, count: int
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The first of the pixels ``0 ... count - 1`` whose middle is in ``[begin, end)``, and how many are."""
    first = np.ceil(begin).clip(0, count).astype(np.int32)
    behind = np.ceil(end).clip(0, count).astype(np.int32)
    return first, np.minimum(behind - first, _WIDEST_CELL)


def _put_nearest(out: DepthM, at: npt.NDArray[np.int64], z: DepthM) -> None:
    """The least of what comes to each place, and of what is there."""
    while len(at):
        nearer = z < out[at]
        at, z = at[nearer], z[nearer]
        out[at] = z  # of several the last; who is nearer than that one comes again
