"""Poses at places that are held in arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Pose


def standing(place: npt.NDArray[np.floating[Any]], yaw_rad: float, z_m: float = 0.0) -> Pose:
    """Upright at ``place``, of which the first two numbers are x and y in metres."""
    return Pose.planar(float(place[0]), float(place[1]), yaw_rad, z_m)
