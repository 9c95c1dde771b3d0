"""Runs the vision tower: features of a frame, which depend on no text and no other frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec
from vln_ros.engine.inputs.preprocess import fit, stack_video
from vln_ros.engine.inputs.tower import Encode, RecordedTower, encode_pictures, tower_of
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.layers.decoder import RunChunk, run_chunk
from vln_ros.engine.stream.partial_tower import PartialTower, TowerStates, keep_states, states_of
from vln_ros.engine.stream.plug import NewFrame, VisionPlan
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


class VisionPlanner(Protocol):
    """Whoever says, before the tower is run, how much of a frame it must compute."""

    def before_vision(self, new: NewFrame) -> VisionPlan | None:
        """None: all of it, and nothing is to be kept."""

    def after_vision(self, image_id: int, states: TowerStates | None, *, spared: bool) -> None:
        """What became of it; ``spared``: it is equal to the one before, and nothing was computed."""


@dataclass(frozen=True)
class Forwards:
    """Whose forwards an engine runs where nothing is recorded.

    Attributes:
        tower: gives a model's vision tower.
        run_chunk: runs a chunk through the decoder.
    """

    tower: Callable[[LoadedModel], Encode]
    run_chunk: RunChunk


FIXED_SHAPES = Forwards(lambda model: tower_of(model.network, model.pixels), run_chunk)
"""This package's."""


@dataclass(frozen=True, eq=False)
class _Look:
    """A picture that was seen: as it came, and at the size of the model."""

    rgb: npt.NDArray[np.uint8]
    picture: npt.NDArray[np.uint8]
    max_pixels: int | None
    image: Image
    states: TowerStates | None

    def serves(self, plan: VisionPlan | None) -> bool:
        """All of it was computed, and what is to be kept of it is there."""
        return plan is None if self.states is None else self.states.is_fresh


class VisionEncoder:
    """Frames to vision features, at the size that a profile asks for.

    A frame equal to the one before, pixel by pixel, gets the same features, the very tensor.

    Args:
        planner: asked about each frame; None: all of each is computed.
        accelerator: how the tower's forward is recorded; None: it is run anew each time.
        forwards: whose tower that is; what an accelerator records is always this package's.
    """

    def __init__(
        self,
        model: LoadedModel,
        size: ImageSpec,
        planner: VisionPlanner | None = None,
        accelerator: Accelerator | None = None,
        forwards: Forwards = FIXED_SHAPES,
    ) -> None:
        self._model = model
        self._eager_tower = self._tower = forwards.tower(model)
        own = tower_of(model.network, model.pixels)
        if accelerator is not None:
            self._tower = RecordedTower(own, accelerator)
        self._size = size
        self._planner = planner
        self._partial = PartialTower(own.released, own.embedding)
        self.max_pixels = size.max_pixels
        """Bound on the pixels of a frame; None leaves it to the checkpoint. May be lowered."""
        self._looks = 0
        self._last: _Look | None = None

    def encode_picture(self, rgb: npt.NDArray[np.uint8]) -> Image:
        """A picture, ``[H, W, 3]``, under an image id of its own."""
        last = self._equal(rgb)
        if last is not None:
            return self._take(rgb, last.picture, last.image, last.states)
        with span("preprocess"):
            picture = self._fit(rgb)
        return self._take(rgb, picture, *self._whole(picture, keep=False))

    def encode(self, frame: Frame) -> Image:
        """A frame of a run, under an image id of its own. The planner may have parts of it passed over.

        Their features are those of the tokens that they are taken over from.
        """
        if self._planner is None:
            return self.encode_picture(frame.rgb)
        last, image_id = self._equal(frame.rgb), self._looks + 1
        with span("preprocess"):
            picture = self._fit(frame.rgb) if last is None else last.picture
            rows, columns = (side // self._model.pixels.token_side for side in picture.shape[:2])
            plan = self._planner.before_vision(NewFrame(frame, image_id, rows, columns, picture))
            part = None if plan is None else plan.part
            spared = last is not None and last.serves(plan)
        if last is not None and spared:
            image, states = last.image, last.states
        elif part is not None:
            with span("vision encode", device=True):
                there = torch.tensor(picture).to(self._model.network.device, non_blocking=True)
                states = self._partial.encode(there, part)
            image = Image(states.features, rows, columns)
        else:
            image, states = self._whole(picture, keep=plan is not None)
        self._planner.after_vision(image_id, states, spared=spared)
        return self._take(frame.rgb, picture, image, states)

    def _fit(self, rgb: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        return fit(rgb, self._model.pixels, self.max_pixels, self._size.resize)

    def _whole(self, picture: npt.NDArray[np.uint8], *, keep: bool) -> tuple[Image, TowerStates | None]:
        """Where states are kept no recorded forward runs: they are noted while its blocks do."""
        network, token_side = self._model.network, self._model.pixels.token_side
        rows, columns = (side // token_side for side in picture.shape[:2])
        with span("vision encode", device=True):
            if not keep:
                (features,) = encode_pictures(self._tower, [picture])
                return Image(features, rows, columns), None
            with keep_states(network) as noted:
                (features,) = encode_pictures(self._eager_tower, [picture])
            return Image(features, rows, columns), states_of(network, noted, features, (rows, columns))

    def _equal(self, rgb: npt.NDArray[np.uint8]) -> _Look | None:
        """The picture before, if this one is equal to it."""
        last = self._last
        if last is None or last.max_pixels != self.max_pixels or not np.array_equal(last.rgb, rgb):
            return None
        return last

    def _take(
        self,
        rgb: npt.NDArray[np.uint8],
        picture: npt.NDArray[np.uint8],
        image: Image,
        states: TowerStates | None,
    ) -> Image:
        self._looks += 1
        image = replace(image, image_id=self._looks)
        # A copy: what is compared with the next picture must not become it. Resampling may be the identity.
        own = rgb.copy()
        self._last = _Look(own, own if picture is rgb else picture, self.max_pixels, image, states)
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
