"""Runs a first forward of each kind before anybody waits for one."""

from __future__ import annotations

import logging
import math

import numpy as np
import torch

from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.inputs.tower import encode_pictures, tower_of
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session

logger = logging.getLogger(__name__)

_SIDE_TOKENS = 2
_RUNS, _FRAMES = 2, 3
"""What comes again is recorded when it comes the second time: a run's first turn, and the ones behind it."""
_USUAL_SIZE = 640, 480


def rehearse(engine: QwenEngine) -> None:
    """Runs of black frames, of which nothing stays but what an accelerator has recorded.

    Frames have the size that the profile gives them; a camera of another size is recorded when it is seen.
    """
    width, height = engine.profile.image.resize or _USUAL_SIZE
    camera = CameraModel.from_hfov(width, height, math.radians(79.0))
    for _ in range(_RUNS):
        engine.start(Instruction(0, "Walk past the red sofa and stop next to the lamp."))
        for index in range(_FRAMES):
            pose = Pose.planar(0.25 * index, 0.0, 0.0)
            black = np.zeros((height, width, 3), np.uint8)
            engine.observe(Frame(index, (index + 1) * 10**8, black, None, camera, pose, pose))
            engine.work_ahead()
            engine.decide(index)
    engine.report()
    if torch.cuda.is_available():
        logger.info("%.0f MB of the GPU are taken after that", torch.cuda.memory_allocated() / 2**20)


def warm_up(model: LoadedModel) -> None:
    """A small picture through vision tower, decoder and head, in a stream of its own that is forgotten.

    What a device does only once (libraries, kernels, workspaces) is done when this returns, so that the
    first frame takes as long as any other.
    """
    side = _SIDE_TOKENS * model.pixels.token_side
    session = Session(model.network)
    try:
        (features,) = encode_pictures(
            tower_of(model.network, model.pixels), [np.zeros((side, side, 3), np.uint8)]
        )
        image = Image(features, _SIDE_TOKENS, _SIDE_TOKENS)
        hidden = session.push([Text((model.tokens.vision_start,)), image, Text((model.tokens.vision_end,))])
        session.logits(hidden[-1])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
    finally:
        session.close()
