"""Tells whether a frame shows anything new: a robot that stands sees the same as before, and noise.

Two pictures of a real camera are never equal pixel by pixel. What the noise of this camera is, is measured
on its own frames: between two that were taken at one place, block by block, many of the blocks differ by no
more than noise, whoever walks through the others. What differs by more than that has changed.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.config import StandstillConfig
from vln_ros.datatypes import Float64Array, Frame
from vln_ros.geometry.frame_checks import MotionLimits, pose_jumped

_STRIDE = 2
"""Every such row and column of the picture is looked at."""
_BLOCK = 16
"""Side of a block, in pixels that are looked at: of 32 in the picture, about a visual token."""
_MOST_NOISE = 12.0
"""Grey levels: what differs by more between two frames is not noise."""
_LEAST_PAIRS = 5
"""Before so many pairs are known, nothing is noise: the first ones may all have moved."""
_PAIRS = 30
"""The noise is the least of so many pairs of frames: what moves adds to it, nothing takes from it."""
_LEAST_CHANGE = 2.0
"""Grey levels by which mean and spread of a block may change: compression does that to a still picture."""
_QUIET = 0.4
"""Share of the blocks that show noise alone, whatever moves in the others."""
_SIGMAS = 5.0
_UNEVEN = 2.0
"""Bright blocks are noisier than dark ones, by about this."""


@dataclass(frozen=True, eq=False)
class _Change:
    """How two pictures differ: arrays of ``[blocks, 3]``, in grey levels."""

    mean: Float64Array
    spread: Float64Array

    @property
    def noise(self) -> float:
        return float(np.quantile(self.spread, _QUIET))


class Standstill:
    """The frame that was shown last, and the noise of the camera. Used from one thread."""

    def __init__(self, config: StandstillConfig) -> None:
        self._limits = MotionLimits(step_m=config.max_move_m, step_rad=math.radians(config.max_turn_deg))
        self._whole_every_ns = round(config.whole_every_s * 1e9)
        self._noise: deque[float] = deque(maxlen=_PAIRS)
        self._shown: Frame | None = None
        self._before: Frame | None = None
        self.is_overdue = False
        """The frame asked about last is of the same place as the one shown, and that was too long ago."""

    @property
    def noise(self) -> float | None:
        """Standard deviation of the difference of two pictures of one thing, grey levels; None: unknown."""
        return None if len(self._noise) < _LEAST_PAIRS else min(self._noise)

    @property
    def shown(self) -> Frame | None:
        """What was shown last; None before the first frame of a run."""
        return self._shown

    def begin(self) -> None:
        """A new run: its first frame is shown. The camera stays the same."""
        self._shown = self._before = None
        self.is_overdue = False

    def shows_nothing_new(self, frame: Frame) -> bool:
        """Is it what was shown last, seen again? To be asked of every frame, in order."""
        before, self._before = self._before, frame
        if before is not None and before is not frame and self._is_same_place(before, frame):
            noise = _change(before.rgb, frame.rgb).noise
            if 0.0 < noise <= _MOST_NOISE:  # the very same picture says nothing about noise
                self._noise.append(noise)
        shown, self.is_overdue = self._shown, False
        if shown is None or self.noise is None or not self._is_same_place(shown, frame):
            return False
        age_ns = frame.stamp_ns - shown.stamp_ns
        self.is_overdue = age_ns >= self._whole_every_ns
        if age_ns < 0 or self.is_overdue:
            return False
        return self._is_noise(_change(shown.rgb, frame.rgb), self.noise)

    def show(self, frame: Frame) -> None:
        """The frame is computed as a whole: later ones are compared with it."""
        self._shown = frame

    def _is_same_place(self, before: Frame, after: Frame) -> bool:
        return (
            before.camera == after.camera
            and before.rgb.shape == after.rgb.shape
            and not pose_jumped(before.odom_from_optical, after.odom_from_optical, self._limits)
        )

    def _is_noise(self, change: _Change, noise: float) -> bool:
        of_mean = max(_LEAST_CHANGE, _SIGMAS * noise / _BLOCK)
        of_spread = _UNEVEN * noise + _LEAST_CHANGE
        return bool((np.abs(change.mean) <= of_mean).all() and (change.spread <= of_spread).all())


def _change(before: npt.NDArray[np.uint8], after: npt.NDArray[np.uint8]) -> _Change:
    """Of the whole blocks of two pictures ``[H, W, 3]``; a picture smaller than one is one."""
    a, b = (p[::_STRIDE, ::_STRIDE].astype(np.float32) for p in (before, after))
    difference = b - a
    rows, columns = (max(n // _BLOCK, 1) for n in difference.shape[:2])
    height, width = difference.shape[0] // rows, difference.shape[1] // columns
    # Blocks are a little larger where the picture does not divide, so that nothing is overlooked but a rest.
    whole = difference[: rows * height, : columns * width].reshape(rows, height, columns, width, 3)
    mean = whole.mean((1, 3))
    square = np.square(whole).mean((1, 3))
    spread = np.sqrt(np.maximum(square - np.square(mean), 0.0))
    return _Change(mean.reshape(-1, 3).astype(np.float64), spread.reshape(-1, 3).astype(np.float64))
