"""Vision features of frames. They depend on no text and on no other frame, so they can be kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.pieces import Image, Video


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
    """Features of several pictures, of any mix of sizes, in one pass of the vision tower."""
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
