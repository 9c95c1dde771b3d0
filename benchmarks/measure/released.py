"""Times a frame and its decision by turns: the released forwards, and this package's on fixed shapes.

The released forwards compute all queues in one tree, as this package did at first. On fixed shapes a
processor computes the likeliest ones; compiled, forwards need one form again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from vln_ros.capacity.walk import walk
from vln_ros.config import StreamConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec, Profile
from vln_ros.engine.inputs.preprocess import cut
from vln_ros.engine.inputs.tower import Encode
from vln_ros.engine.inputs.vision import FIXED_SHAPES, Forwards, encode_images
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.layers.accelerate import Accelerator
from vln_ros.engine.stream.layers.decoder import run_released

WAYS = ("released", "fixed shapes", "compiled")
ALL_QUEUES = 4096
"""Nodes of a tree that has room for every queue of the shipped policy."""
WARM_UP = 4
"""Decisions before the ones that are timed."""


@dataclass(frozen=True, kw_only=True)
class WayTimes:
    """Of one way and one size of frames.

    Attributes:
        seconds: of processor time, of every frame with its decision.
        same: decisions with the released forwards' actions.
        difference: largest of any probability from theirs.
        shapes: that were compiled.
    """

    way: str
    size: tuple[int, int]
    seconds: list[float]
    same: int
    difference: float
    shapes: int


def released_tower(model: LoadedModel) -> Encode:
    """The released vision tower, on the released processor's numbers."""

    def encode(pictures: Tensor) -> Tensor:
        images = encode_images(model.network, [cut(p, model.pixels) for p in pictures.numpy()])
        return torch.stack([image.features for image in images])

    return encode


RELEASED = Forwards(released_tower, run_released)
"""As transformers runs them."""


def measure_ways(
    model: LoadedModel,
    profile: Profile,
    size: tuple[int, int],
    decisions: int,
    *,
    compiled: bool,
    clock: Callable[[], float] = time.process_time,
) -> list[WayTimes]:
    """Every frame with its decision in each way, one after the other.

    Args:
        size: width and height that frames of 640x480 are resampled to.
        compiled: measure that, too; compiling takes minutes.
    """
    profile = replace(profile, image=ImageSpec(None if size == (640, 480) else size, None))
    accelerators = {"compiled": Accelerator.of("compile", model.device)} if compiled else {}
    engines: dict[str, QwenEngine] = {}
    chosen = StreamConfig(min_allowed=0.0, token_budget=4096)
    for way in WAYS[: 2 + compiled]:
        stream = replace(chosen, tree_nodes=ALL_QUEUES) if way == "released" else chosen
        engines[way] = QwenEngine(
            model, profile, temperature=0.0, seed=0, stream=stream, accelerator=accelerators.get(way),
            forwards=RELEASED if way == "released" else FIXED_SHAPES,
        )  # fmt: skip
        engines[way].start(Instruction(1, "Walk past the red sofa and stop next to the lamp."))
    seconds: dict[str, list[float]] = {way: [] for way in engines}
    chunks: dict[str, list[ActionChunk]] = {way: [] for way in engines}
    for index, frame in enumerate(walk(decisions + WARM_UP, (640, 480))):
        for way, engine in engines.items():
            took, chunk = _decide(engine, frame, model, clock)
            if index >= WARM_UP:
                seconds[way].append(took)
                chunks[way].append(chunk)
    found = []
    for way, engine in engines.items():
        pairs = list(zip(chunks[way], chunks["released"], strict=True))
        accelerator = accelerators.get(way)
        found.append(
            WayTimes(
                way=way,
                size=size,
                seconds=seconds[way],
                same=sum(a.actions == b.actions for a, b in pairs),
                difference=max(
                    abs(p - q)
                    for a, b in pairs
                    for p, q in zip(a.probabilities, b.probabilities, strict=False)
                ),
                shapes=0 if accelerator is None else accelerator.recorded,
            )
        )
        engine.close()
    return found


def _decide(
    engine: QwenEngine, frame: Frame, model: LoadedModel, clock: Callable[[], float]
) -> tuple[float, ActionChunk]:
    begun_s = clock()
    engine.observe(frame)
    chunk = engine.decide(frame.index)
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return clock() - begun_s, chunk
