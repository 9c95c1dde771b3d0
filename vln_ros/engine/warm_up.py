"""Runs a first forward of each kind before anybody waits for one."""

from __future__ import annotations

import numpy as np
import torch

from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.segments import Text
from vln_ros.engine.stream.session import Session

_SIDE_TOKENS = 2


def warm_up(model: LoadedModel) -> None:
    """A small picture through vision tower, decoder and head, in a stream of its own that is forgotten.

    What a device does only once (libraries, kernels, workspaces) is done when this returns, so that the
    first frame takes as long as any other.
    """
    side = _SIDE_TOKENS * model.pixels.token_side
    session = Session(model.network)
    try:
        patches = patchify(np.zeros((side, side, 3), np.uint8), model.pixels, None, None)
        (image,) = encode_images(model.network, [patches])
        hidden = session.push([Text((model.tokens.vision_start,)), image, Text((model.tokens.vision_end,))])
        session.logits(hidden[-1])
        if model.device.type == "cuda":
            torch.cuda.synchronize(model.device)
    finally:
        session.close()
