"""Adds the errors of a depth camera to the exact depth of a world."""

from __future__ import annotations

import zlib

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Pose

_PATCHES = 16
"""Errors of one patch are alike, as those of stereo matching are; so many patches lie across a picture."""


def with_depth_noise(depth_m: npt.NDArray[np.float32], share: float, pose: Pose) -> npt.NDArray[np.float32]:
    """A copy of ``[H, W]`` depths with normally distributed errors whose deviation is a share of the depth.

    The errors change smoothly between patches. They follow from the pose of the robot alone: a robot that
    stands sees the same, and a run can be repeated.
    """
    if share == 0.0:
        return depth_m
    height, width = depth_m.shape
    shape = (max(2, round(_PATCHES * height / width)), _PATCHES)
    seed = zlib.crc32(np.round(np.concatenate([pose.position, pose.orientation]), 6).tobytes())
    errors = np.random.default_rng(seed).normal(0.0, share, shape).clip(-0.9, None)
    return np.asarray(depth_m * (1.0 + _smoothly(errors, (height, width))), np.float32)


def _smoothly(values: npt.NDArray[np.float64], shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Between the values, linearly."""
    rows, columns = (np.linspace(0.0, n - 1.0, size) for n, size in zip(values.shape, shape, strict=True))
    first = np.array([np.interp(columns, np.arange(values.shape[1]), row) for row in values])
    whole = np.floor(rows).astype(int).clip(0, values.shape[0] - 2)
    part = (rows - whole)[:, None]
    return np.asarray(first[whole] * (1.0 - part) + first[whole + 1] * part, np.float32)
