"""What a stream must hold: the conversation that a profile renders, in one forward."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from engine_models import eager

from vln_ros.config import StreamConfig
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ContextSpec, Profile, load_profile
from vln_ros.engine.inputs import prompt
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Item, Pixels, one_shot


def frame(index: int, width: int = 56, height: int = 56) -> Frame:
    generator = np.random.default_rng(index)
    coarse = generator.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    rgb = np.ascontiguousarray(np.kron(coarse, np.ones((height // 4, width // 4, 1), np.uint8)))
    camera = CameraModel.from_hfov(width, height, 1.2)
    pose = Pose.planar(0.25 * index, 0.0, 0.1 * index)
    return Frame(index, index * 100_000_000, rgb, None, camera, pose, pose)


def profile(name: str = "tiny", **context: Any) -> Profile:
    base = load_profile(name)
    if name == "tiny":
        base = replace(base, context=replace(base.context, unasked_frames="keep"))
    size = replace(base.image, resize=(56, 56))
    spec = ContextSpec(**context) if context else base.context
    return replace(base, image=size, context=spec)


def engine(model: LoadedModel, profile: Profile, *, prefill: bool = True, **options: Any) -> QwenEngine:
    robot = QwenEngine(model, profile, temperature=0.0, seed=0, stream=StreamConfig(**options))
    return eager(robot) if prefill else robot


def conversation(
    model: LoadedModel,
    profile: Profile,
    instruction: str,
    turns: Sequence[prompt.Turn],
    frames: Iterable[Frame],
) -> list[Item]:
    """What the profile's own rendering of the whole conversation is, and its pictures."""
    items: list[Item] = []
    ids: list[int] = []
    pictures = iter(frames)
    for piece in prompt.render(profile, instruction, turns):
        if isinstance(piece, str):
            ids += model.tokenizer(piece, add_special_tokens=False).input_ids
            continue
        patches = patchify(next(pictures).rgb, model.pixels, profile.image.max_pixels, profile.image.resize)
        items += [(*ids, model.tokens.vision_start)]
        items += [Pixels(patches.patches, 1, patches.grid_h, patches.grid_w)]
        ids = [model.tokens.vision_end]
    assert next(pictures, None) is None
    return [*items, tuple(ids)]


def assert_stream_is(engine: QwenEngine, model: LoadedModel, items: Sequence[Item]) -> None:
    """Token for token, place for place, and in what the model says next."""
    stream, merge = engine.session, model.pixels.merge_size
    pads = []
    for item in items:
        if isinstance(item, Pixels):
            pad = model.tokens.image_pad if item.seconds_per_grid is None else model.tokens.video_pad
            pads += [pad] * (item.grid_t * item.grid_h * item.grid_w // merge**2)
        else:
            pads += item
    assert [i for s in stream.timeline.segments for i in s.ids] == pads
    expected = one_shot(model.network, items)
    assert torch.equal(stream.timeline.positions(), expected.positions)
    last = stream.timeline.segments[-1].ids[-1]
    before = stream.snapshot()
    # The last token again, behind the same past: its logits tell whether the whole cache is right.
    probe = one_shot(model.network, [*items, (last,)]).logits[-1]
    score = stream.ask_choice([last], [[t] for t in range(60)])
    stream.rollback(before)
    assert (score - probe.log_softmax(-1)[:60]).abs().max() <= 1e-4


def windowed() -> Profile:
    own = profile(
        strategy="window_reset",
        unasked_frames="drop",
        reset_steps=6,
        history_frames=3,
        history_choice="uniform_round",
    )
    return replace(own, first_turn="{history} Instruction: {instruction}\n{image}")
