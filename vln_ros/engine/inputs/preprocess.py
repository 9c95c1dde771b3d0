"""Turns pictures into pixels or patches for the vision tower, equal to the released processor's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from vln_ros.engine.checkpoint.settings import PixelSpec

MAX_ASPECT = 200
"""Longer images are refused, as by the released processor."""


@dataclass(frozen=True, eq=False)
class ImagePatches:
    """One image, or one video, as the vision tower takes it.

    Attributes:
        patches: ``[grid_t * grid_h * grid_w, 3 * temporal_patch_size * patch_size ** 2]`` float32,
            in the order of the released processor: merge windows row by row, the patches of a
            window together.
        grid_h, grid_w: rows and columns of *patches* (tokens: divide by ``merge_size``).
        grid_t: temporal patches; 1 for an image.
    """

    patches: torch.Tensor
    grid_h: int
    grid_w: int
    grid_t: int = 1

    @property
    def grid_thw(self) -> torch.Tensor:
        """``[1, 3]`` int64: the ``image_grid_thw`` row of this image."""
        return torch.tensor([[self.grid_t, self.grid_h, self.grid_w]])


def smart_resize(
    height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Height and width, multiples of ``factor``, near the given ratio, with their product in bounds.

    Raises:
        ValueError: empty image, or one side more than 200 times the other.
    """
    if height < 1 or width < 1:
        raise ValueError(f"cannot resize an empty image of {width}x{height}")
    if max(height, width) / min(height, width) > MAX_ASPECT:
        raise ValueError(f"image of {width}x{height}: one side may be at most {MAX_ASPECT} times the other")
    h, w = round(height / factor) * factor, round(width / factor) * factor
    if h * w > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        h = max(factor, math.floor(height / shrink / factor) * factor)
        w = max(factor, math.floor(width / shrink / factor) * factor)
    elif h * w < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        h = math.ceil(height * grow / factor) * factor
        w = math.ceil(width * grow / factor) * factor
    return h, w


def fit(
    rgb: npt.NDArray[np.uint8], spec: PixelSpec, max_pixels: int | None, size: tuple[int, int] | None
) -> npt.NDArray[np.uint8]:
    """One image resampled to sides that are multiples of a token's, ``[height, width, 3]``.

    Arguments and errors as in :func:`patchify`.
    """
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3:
        raise ValueError(f"rgb must be uint8 [H, W, 3], got {rgb.dtype} {list(rgb.shape)}")
    image = rgb
    if size is not None:
        image = _bicubic(image, *size)
    height, width = smart_resize(
        image.shape[0],
        image.shape[1],
        factor=spec.token_side,
        min_pixels=spec.min_pixels,
        max_pixels=spec.max_pixels if max_pixels is None else max_pixels,
    )
    return _bicubic(image, width, height)


def patchify(
    rgb: npt.NDArray[np.uint8], spec: PixelSpec, max_pixels: int | None, size: tuple[int, int] | None
) -> ImagePatches:
    """Patches of one image.

    Args:
        rgb: ``[H, W, 3]`` uint8.
        spec: the checkpoint's image settings.
        max_pixels: bound on width x height that replaces the checkpoint's; None keeps it.
        size: ``(width, height)`` in pixels to resample to before anything else, for checkpoints
            whose released scripts do so; None for none.

    Raises:
        ValueError: not such an image.
    """
    return cut(fit(rgb, spec, max_pixels, size), spec)


def cut(picture: npt.NDArray[np.uint8], spec: PixelSpec) -> ImagePatches:
    """Patches of a picture that :func:`fit` made."""
    return _to_patches(picture[None].repeat(spec.temporal_patch_size, axis=0), spec)


def stack_video(
    frames: Sequence[npt.NDArray[np.uint8]],
    spec: PixelSpec,
    max_pixels: int | None,
    size: tuple[int, int] | None,
) -> ImagePatches:
    """Patches of a video: consecutive frames share a temporal patch, the last one is repeated to fill it.

    Arguments and errors as in :func:`patchify`; all frames have one size.
    """
    if not frames:
        raise ValueError("a video needs at least one frame")
    if len({f.shape for f in frames}) != 1:
        raise ValueError(f"the frames of a video differ in shape: {sorted({f.shape for f in frames})}")
    pixels = np.stack([fit(f, spec, max_pixels, size) for f in frames])
    missing = -len(frames) % spec.temporal_patch_size
    if missing:
        pixels = np.concatenate([pixels, pixels[-1:].repeat(missing, axis=0)])
    return _to_patches(pixels, spec)


def _bicubic(rgb: npt.NDArray[np.uint8], width: int, height: int) -> npt.NDArray[np.uint8]:
    if rgb.shape[:2] == (height, width):
        return rgb  # PIL's resampling to the same size is the identity
    return np.asarray(Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC))


def _to_patches(frames: npt.NDArray[np.uint8], spec: PixelSpec) -> ImagePatches:
    """``[T, H, W, 3]`` uint8, T a multiple of the temporal patch, H and W of the token side."""
    p, m, t = spec.patch_size, spec.merge_size, spec.temporal_patch_size
    grid_t, grid_h, grid_w = frames.shape[0] // t, frames.shape[1] // p, frames.shape[2] // p
    std = np.asarray(spec.std, np.float64)
    scale = (1.0 / (255.0 * std)).astype(np.float32)
    shift = (-np.asarray(spec.mean, np.float64) / std).astype(np.float32)
    values = frames.astype(np.float32) * scale + shift
    #                       0       1  2            3  4  5            6  7  8
    blocks = values.reshape(grid_t, t, grid_h // m, m, p, grid_w // m, m, p, 3)
    ordered = blocks.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7)  # grids, patch of the window, channel, time, y, x
    patches = np.ascontiguousarray(ordered).reshape(grid_t * grid_h * grid_w, 3 * t * p * p)
    return ImagePatches(torch.from_numpy(patches), grid_h, grid_w, grid_t)
