"""Generates tileable textures of surfaces. Every one is ``[TEXTURE_PX, TEXTURE_PX, 3]`` uint8, RGB.

Only numpy makes them, so that one generator state gives the same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

TEXTURE_PX = 512
TEXTURE_M = 2.0
"""One tile of a texture covers this many metres."""

Color = tuple[int, int, int]
Texture = npt.NDArray[np.uint8]
_Float32 = npt.NDArray[np.float32]


def _axis(cells: int, size_px: int) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp], _Float32]:
    position = (np.arange(size_px) + 0.5) * cells / size_px - 0.5
    low = np.floor(position).astype(np.intp)
    fraction = (position - low).astype(np.float32)
    return low % cells, (low + 1) % cells, fraction * fraction * (3 - 2 * fraction)


def _noise(rng: np.random.Generator, rows: int, columns: int, low: float, high: float) -> _Float32:
    """Smooth periodic value noise ``[TEXTURE_PX, TEXTURE_PX]`` with ``rows x columns`` cells per tile."""
    grid = rng.random((rows, columns), np.float32)
    if rows < TEXTURE_PX:
        r0, r1, f = _axis(rows, TEXTURE_PX)
        grid = grid[r0] * (1 - f[:, None]) + grid[r1] * f[:, None]
    if columns < TEXTURE_PX:
        c0, c1, f = _axis(columns, TEXTURE_PX)
        grid = grid[:, c0] * (1 - f) + grid[:, c1] * f
    return np.asarray(np.float32(low) + np.float32(high - low) * grid)


def _paint(color: Color, brightness: _Float32) -> Texture:
    rgb = np.asarray(color, np.float32) * brightness[..., None]
    return np.asarray(np.clip(rgb, 0, 255), np.uint8)


def plaster(rng: np.random.Generator, color: Color) -> Texture:
    return _paint(color, 0.5 * _noise(rng, 128, 128, 0.92, 1.0) + 0.5 * _noise(rng, 12, 12, 0.95, 1.0))


def carpet(rng: np.random.Generator, color: Color) -> Texture:
    pile = _noise(rng, TEXTURE_PX, TEXTURE_PX, 0.78, 1.04)
    return _paint(color, pile * _noise(rng, 8, 8, 0.92, 1.0))


def wood(rng: np.random.Generator, color: Color) -> Texture:
    """Planks along the texture's columns, each with its own shade, grain and one joint."""
    planks = 14
    grain = _noise(rng, 256, 10, 0.84, 1.0) * _noise(rng, TEXTURE_PX, 24, 0.95, 1.0)
    plank = np.arange(TEXTURE_PX) * planks // TEXTURE_PX
    grain *= rng.uniform(0.84, 1.05, planks).astype(np.float32)[plank][:, None]
    edge = np.flatnonzero(np.diff(plank, prepend=-1))
    grain[edge] *= 0.55
    for number, joint in enumerate(rng.integers(TEXTURE_PX, size=planks)):
        grain[plank == number, joint] *= 0.55
    return _paint(color, grain)


def tiles(rng: np.random.Generator, color: Color) -> Texture:
    return _tiles(rng, color, color)


def checker(rng: np.random.Generator, color: Color) -> Texture:
    return _tiles(rng, color, (98, 98, 104))


def _tiles(rng: np.random.Generator, color: Color, other: Color) -> Texture:
    size = TEXTURE_PX // 6  # the last column of tiles is a little wider, which nobody sees
    row, column = np.mgrid[:TEXTURE_PX, :TEXTURE_PX]
    brightness = _noise(rng, 8, 8, 0.93, 1.0)
    number = np.minimum(row // size, 5) * 6 + np.minimum(column // size, 5)
    brightness *= rng.uniform(0.95, 1.0, 36).astype(np.float32)[number]
    odd = ((np.minimum(row // size, 5) + np.minimum(column // size, 5)) % 2).astype(bool)
    rgb = np.where(odd[..., None], np.asarray(other, np.float32), np.asarray(color, np.float32))
    rgb = rgb * brightness[..., None]
    grout = (row % size < 3) & (row // size < 6) | (column % size < 3) & (column // size < 6)
    rgb[grout] = np.asarray(color, np.float32) * 0.62
    return np.asarray(np.clip(rgb, 0, 255), np.uint8)


def brick(rng: np.random.Generator, color: Color) -> Texture:
    rows, per_row = 16, 8
    height, width = TEXTURE_PX // rows, TEXTURE_PX // per_row
    y, x = np.mgrid[:TEXTURE_PX, :TEXTURE_PX]
    row = y // height
    shifted = (x + (row % 2) * width // 2) % TEXTURE_PX
    shade = rng.uniform(0.82, 1.08, (rows, per_row)).astype(np.float32)[row, shifted // width]
    rgb: _Float32 = np.asarray(color, np.float32) * shade[..., None]
    rgb[(y % height < 4) | (shifted % width < 4)] = (190, 184, 176)
    rgb *= _noise(rng, 256, 256, 0.86, 1.0)[..., None]
    return np.asarray(np.clip(rgb, 0, 255), np.uint8)


def stripes(rng: np.random.Generator, color: Color) -> Texture:
    dark = (np.arange(TEXTURE_PX) * 16 // TEXTURE_PX) % 2
    brightness = np.where(dark, np.float32(0.87), np.float32(1.0))[None, :] * _noise(rng, 128, 128, 0.95, 1.0)
    return _paint(color, brightness.astype(np.float32))


PATTERNS: dict[str, Callable[[np.random.Generator, Color], Texture]] = {
    "plaster": plaster,
    "carpet": carpet,
    "wood": wood,
    "tiles": tiles,
    "checker": checker,
    "brick": brick,
    "stripes": stripes,
}
