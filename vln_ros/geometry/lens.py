"""Bends rays as lenses do, and makes images what a pinhole would have taken.

Directions are ``x / z, y / z`` in the optical frame, of what lies before the camera.
"""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import CameraModel, Float64Array
from vln_ros.lenses import Lens, LensModel

_WIDEST = 20.0
"""Tangent of the widest angle that is looked at: 87 degrees from the axis."""
_RADII = np.linspace(0.0, _WIDEST, 20001)
_ROUNDS = 6
_CLOSE = 1e-6
_SMALL = 1e-7
_OUTSIDE_PX = -1e4


def distort(lens: Lens, directions: Float64Array) -> Float64Array:
    """Where directions ``[..., 2]`` come out behind the lens, as directions; exact within its reach."""
    x, y = directions[..., 0], directions[..., 1]
    if lens.model is LensModel.EQUIDISTANT:
        radius = np.hypot(x, y)
        angle = np.arctan(radius)
        bent: Float64Array = angle * np.polynomial.polynomial.polyval(angle**2, (1.0, *lens.coefficients))
        scale: Float64Array = np.divide(bent, radius, out=np.ones_like(radius), where=radius > 0.0)
        bent_directions: Float64Array = directions * scale[..., None]
        return bent_directions
    k1, k2, p1, p2, k3, k4, k5, k6, s1, s2, s3, s4 = (*lens.coefficients, *[0.0] * 12)[:12]
    r2 = x * x + y * y
    radial = (1.0 + r2 * (k1 + r2 * (k2 + r2 * k3))) / (1.0 + r2 * (k4 + r2 * (k5 + r2 * k6)))
    bent_x = x * radial + 2.0 * p1 * x * y + p2 * (r2 + 2.0 * x * x) + r2 * (s1 + r2 * s2)
    bent_y = y * radial + p1 * (r2 + 2.0 * y * y) + 2.0 * p2 * x * y + r2 * (s3 + r2 * s4)
    return np.stack([bent_x, bent_y], -1)


@lru_cache(maxsize=8)
def reach(lens: Lens) -> float:
    """Tangent of the angle from the axis up to which the formula bends rays one to one.

    Beyond it a polynomial folds back: the picture there is of somewhere else.
    """
    folds = ~(np.diff(_bent_radii(lens)) > 0.0)  # where it is no number, too
    return float(_RADII[int(folds.argmax())]) if folds.any() else _WIDEST


def _bent_radii(lens: Lens) -> Float64Array:
    """What becomes of :data:`_RADII` behind a lens that sits straight."""
    k = lens.coefficients
    if lens.model is LensModel.BROWN:
        k = (*k[:2], *([0.0] * len(k[2:4])), *k[4:8])
    straight = Lens(lens.camera, lens.model, k)
    with np.errstate(divide="ignore", invalid="ignore"):
        return distort(straight, np.stack([_RADII, np.zeros_like(_RADII)], -1))[..., 0]


def undistort(lens: Lens, bent: Float64Array) -> Float64Array:
    """The inverse of :func:`distort` for ``[..., 2]``; NaN where nothing within reach comes out there."""
    within = int((reach(lens) >= _RADII).sum())
    radius = np.hypot(bent[..., 0], bent[..., 1])
    straight = np.interp(radius, _bent_radii(lens)[:within], _RADII[:within])
    guess = bent * np.divide(straight, radius, out=np.ones_like(radius), where=radius > 0.0)[..., None]
    right, down = np.array([_SMALL, 0.0]), np.array([0.0, _SMALL])
    with np.errstate(all="ignore"):
        for _ in range(_ROUNDS):  # Newton's, from where a lens that sits straight would have it
            off = distort(lens, guess) - bent
            by_x = (distort(lens, guess + right) - bent - off) / _SMALL
            by_y = (distort(lens, guess + down) - bent - off) / _SMALL
            determinant = by_x[..., 0] * by_y[..., 1] - by_x[..., 1] * by_y[..., 0]
            step_x = (off[..., 0] * by_y[..., 1] - off[..., 1] * by_y[..., 0]) / determinant
            step_y = (off[..., 1] * by_x[..., 0] - off[..., 0] * by_x[..., 1]) / determinant
            guess = guess - np.stack([step_x, step_y], -1)
        off = np.abs(distort(lens, guess) - bent).max(-1)
        good = (off < _CLOSE) & (np.hypot(guess[..., 0], guess[..., 1]) <= reach(lens))
    guess[~good] = np.nan
    return guess


def directions_of(camera: CameraModel) -> Float64Array:
    """``[H, W, 2]`` directions of the pixels of a pinhole."""
    u, v = np.meshgrid(np.arange(camera.width), np.arange(camera.height))
    return np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy], -1)


@lru_cache(maxsize=8)
def pixel_directions(lens: Lens) -> Float64Array:
    """``[H, W, 2]`` undistorted directions of the pixels of a camera as it is; NaN where there is none."""
    directions = directions_of(lens.camera)
    if not lens.is_ideal:
        directions = undistort(lens, directions)
    directions.setflags(write=False)
    return directions


class Undistortion:
    """Images of a camera as it is to those of ``lens.camera``, the pinhole of the same size.

    What the pinhole sees and the lens does not is black, and has no depth.
    """

    def __init__(self, lens: Lens) -> None:
        camera = lens.camera
        self._shape = (camera.height, camera.width)
        directions = directions_of(camera)
        seen = np.hypot(directions[..., 0], directions[..., 1]) <= reach(lens)
        with np.errstate(all="ignore"):
            bent = distort(lens, directions)
        u, v = bent[..., 0] * camera.fx + camera.cx, bent[..., 1] * camera.fy + camera.cy
        column, row = np.rint(np.where(seen, u, -1.0)), np.rint(np.where(seen, v, -1.0))
        inside = (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
        # cv2 wants them so; beyond the border it takes the border's value
        self._u = np.where(inside, u, _OUTSIDE_PX).astype(np.float32)
        self._v = np.where(inside, v, _OUTSIDE_PX).astype(np.float32)
        self._nearest = np.where(inside, row * camera.width + column, 0).astype(np.int64)
        self._unseen = ~inside

    def color(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """``[H, W, 3]``, between its pixels by their distance. Raises ValueError for another size."""
        self._check(rgb.shape)
        return np.asarray(cv2.remap(rgb, self._u, self._v, cv2.INTER_LINEAR), np.uint8)

    def depth(self, depth_m: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``[H, W]``; each pixel has the reading that is nearest, and none is made of two.

        Planar depth stays what it was. Raises ValueError for another size.
        """
        self._check(depth_m.shape)
        straight = depth_m.ravel()[self._nearest]
        straight[self._unseen] = 0.0
        return straight

    def _check(self, shape: tuple[int, ...]) -> None:
        if shape[:2] != self._shape:
            raise ValueError(f"an image of {shape[:2]} is not one of a camera of {self._shape}")


@lru_cache(maxsize=4)
def undistortion(lens: Lens) -> Undistortion:
    """The one of this lens, made once."""
    return Undistortion(lens)
