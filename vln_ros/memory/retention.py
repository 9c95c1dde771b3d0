"""Chooses the past frames that stay because they differ most from each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Float64Array, Pose


def pose_distances(poses: Sequence[Pose], *, distance_m: float, angle_rad: float) -> Float64Array:
    """``[n, n]`` how far apart views are: 1 is ``distance_m`` of way, or ``angle_rad`` of heading."""
    positions = np.array([p.position for p in poses]).reshape(-1, 3)
    way = np.linalg.norm(positions[:, None] - positions[None], axis=-1) / distance_m
    yaws = np.array([p.yaw_rad for p in poses])
    turn = np.abs((yaws[:, None] - yaws[None] + np.pi) % (2.0 * np.pi) - np.pi)
    return np.asarray(np.hypot(way, turn / angle_rad), np.float64)


def appearance_distances(features: npt.NDArray[np.float32], *, scale: float) -> Float64Array:
    """``[n, n]`` how different frames look: 1 is a cosine distance of ``scale``.

    Args:
        features: ``[n, d]``, one mean vision feature per frame.
    """
    unit = features / np.maximum(np.linalg.norm(features, axis=-1, keepdims=True), 1e-12)
    return np.asarray((1.0 - unit @ unit.T).clip(0.0) / scale, np.float64)


def choose_evictions(
    tokens: Sequence[int], distances: Float64Array, *, recent: int, budget: int
) -> tuple[int, ...]:
    """Which of ``n`` frames, oldest first, to evict: none while all are within ``budget`` tokens.

    Over it the last ``recent`` stay as they are, and of the older ones the least novel goes first: the one
    nearest to any other frame that stays (of a pair, the older one). When none of these is left, the
    oldest of the recent ones; the newest always stays.

    Args:
        tokens: of each frame.
        distances: ``[n, n]``, symmetric.

    Returns:
        Indices, increasing.
    """
    n = len(tokens)
    window = list(range(max(0, n - max(recent, 1)), n))
    older = list(range(n - len(window)))
    used = sum(tokens)
    if used > budget and older:
        apart = np.array(distances, np.float64)
        np.fill_diagonal(apart, np.inf)
        nearest = apart[older].min(-1)
        while used > budget and older:
            at = int(nearest.argmin())
            gone = older.pop(at)
            used -= tokens[gone]
            apart[:, gone] = np.inf
            nearest = apart[older].min(-1) if older else nearest
    while used > budget and len(window) > 1:
        used -= tokens[window.pop(0)]
    return tuple(sorted(set(range(n)) - set(older) - set(window)))
