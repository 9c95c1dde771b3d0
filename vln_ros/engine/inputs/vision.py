"""Runs the vision tower: features of a frame, which depend on no text and no other frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec
from vln_ros.engine.inputs.preprocess import fit, stack_video
from vln_ros.engine.inputs.tower import RecordedTower, encode_pictures, tower_of
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.segments import Image, Video
from vln_ros.profiling.spans import span


class Patches(Protocol):
    """A picture cut into patches: ``[grid_h * grid_w, values]``, and the grid in patches."""

    @property
    def patches(self) -> Tensor: ...
    @property
    def grid_h(self) -> int: ...
    @property
    def grid_w(self) -> int: ...


@torch.no_grad()
def encode_images(network: Qwen2_5_VLForConditionalGeneration, images: Sequence[Patches]) -> list[Image]:
    """Features of several pictures, of any mix of sizes, by the released forward: what others must equal."""
    if not images:
        return []
    config: Any = network.config
    merge = config.vision_config.spatial_merge_size
    pixels = torch.cat([i.patches for i in images]).to(network.device, network.dtype)
    grids = torch.tensor([[1, i.grid_h, i.grid_w] for i in images], device=network.device)
    features = network.model.get_image_features(pixels, grids).pooler_output
    return [Image(f, i.grid_h // merge, i.grid_w // merge) for f, i in zip(features, images, strict=True)]


@torch.no_grad()
def encode_video(
    network: Qwen2_5_VLForConditionalGeneration,
    patches: Tensor,
    grid: tuple[int, int, int],
    *,
    seconds_per_grid: float,
    first_grid: int = 0,
) -> Video:
    """Features of a video, or of a chunk of one.

    Args:
        patches: ``[t * h * w, values]`` with ``grid = (t, h, w)`` in patches.
    """
    config: Any = network.config
    merge = config.vision_config.spatial_merge_size
    pixels = patches.to(network.device, network.dtype)
    thw = torch.tensor([grid], device=network.device)
    features = torch.cat(list(network.model.get_video_features(pixels, thw).pooler_output))
    return Video(features, grid[0], grid[1] // merge, grid[2] // merge, seconds_per_grid, first_grid)


@dataclass(frozen=True, eq=False)
class _Look:
    rgb: npt.NDArray[np.uint8]
    max_pixels: int | None
    image: Image


class VisionEncoder:
    """Frames to vision features, at the size that a profile asks for.

    A frame equal to the one before, pixel by pixel, gets the same features, the very tensor.

    Args:
        accelerator: how the tower's forward is recorded; None: it is run anew each time.
    """

    def __init__(self, model: LoadedModel, size: ImageSpec, accelerator: Accelerator | None = None) -> None:
        self._model = model
        tower = tower_of(model.network, model.pixels)
        self._tower = tower if accelerator is None else RecordedTower(tower, accelerator)
        self._size = size
        self.max_pixels = size.max_pixels
        """Bound on the pixels of a frame; None leaves it to the checkpoint. May be lowered."""
        self._looks = 0
        self._last: _Look | None = None

    def encode(self, rgb: npt.NDArray[np.uint8]) -> Image:
        """One frame, ``[H, W, 3]``, under an image id of its own."""
        last = self._last
        if last is not None and last.max_pixels == self.max_pixels and np.array_equal(last.rgb, rgb):
            image = last.image
        else:
            with span("preprocess"):
                picture = fit(rgb, self._model.pixels, self.max_pixels, self._size.resize)
            with span("vision encode", device=True):
                (features,) = encode_pictures(self._tower, [picture])
            side = self._model.pixels.token_side
            image = Image(features, picture.shape[0] // side, picture.shape[1] // side)
        self._looks += 1
        image = replace(image, image_id=self._looks)
        # A copy: what is compared with the next picture must not become it.
        self._last = _Look(rgb.copy(), self.max_pixels, image)
        return image

    def encode_video(self, frames: Sequence[npt.NDArray[np.uint8]], frame_interval_s: float) -> Video:
        """Several frames of one size as a video."""
        with span("preprocess"):
            clip = stack_video(frames, self._model.pixels, self.max_pixels, self._size.resize)
        with span("vision encode", device=True):
            return encode_video(
                self._model.network,
                clip.patches,
                (clip.grid_t, clip.grid_h, clip.grid_w),
                seconds_per_grid=frame_interval_s * self._model.pixels.temporal_patch_size,
            )
