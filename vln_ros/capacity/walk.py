"""Makes frames to measure with: a circle through a synthetic texture, the same on every machine."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vln_ros.axes import base_from_optical
from vln_ros.datatypes import CameraModel, Frame, Pose

_SCENE_FRAMES = 16
_TEXTURE_JUMP = 997
_CIRCLE_M = 5.0
_STEP_M = 0.25


def walk(count: int, size: tuple[int, int], *, robot: int = 0) -> Iterator[Frame]:
    """Frames of a robot that walks in a circle; its surroundings change every 16 frames."""
    width, height = size
    camera = CameraModel.from_hfov(width, height, math.radians(79.0))
    extrinsics = base_from_optical(0.0, 0.0, 1.25)
    for i in range(count):
        angle = i * _STEP_M / _CIRCLE_M
        pose = Pose.planar(_CIRCLE_M * math.cos(angle), _CIRCLE_M * math.sin(angle), angle + math.pi / 2)
        texture = i + _TEXTURE_JUMP * (i // _SCENE_FRAMES) + 31 * robot
        yield Frame(i, (i + 1) * 10**8, make_frame(texture, *size), None, camera, pose, pose @ extrinsics)


def make_frame(index: int, width: int, height: int) -> npt.NDArray[np.uint8]:
    """``[H, W, 3]``: a smooth texture that moves by a few pixels a frame, the same on every machine."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    x += 9.0 * index
    planes = [
        127 + 80 * np.sin(x / (17 + 6 * c)) + 47 * np.cos(y / (11 + 5 * c) + 0.1 * index) for c in range(3)
    ]
    return np.stack(planes, -1).clip(0, 255).astype(np.uint8)
