"""Measures what reuse saves of whole decisions, with a network of the released 3B checkpoint's shape."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.config import ReuseConfig, StreamConfig
from vln_ros.datatypes import Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.qwen import QwenEngine

DECODER = {
    "hidden_size": 2048, "intermediate_size": 11008, "num_attention_heads": 16, "num_key_value_heads": 2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
}  # fmt: skip
TOWER = {"hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 2048}
"""Of the released 3B checkpoint."""
LAYERS, BLOCKS = 36, 32


@dataclass(frozen=True, kw_only=True)
class WalkFigures:
    """One motion through the engine with and without reuse, frame by frame in turns; processor time.

    Attributes:
        computed: mean share of the tokens that was computed, of frames computed in part.
        whole_ms, part_ms: from the frame to its action, of those frames, medians.
        gain: ``whole_ms / part_ms`` of each of those frames, the median; ``low`` and ``high`` of all.
        overall: of all frames together, those computed whole included.
        plan_ms: of ``part_ms``, finding out what to take over, mean over all frames.
        refused: frames of which nothing was taken over, by reason.
    """

    motion: str
    frames: int
    parts: int
    computed: float
    whole_ms: float
    part_ms: float
    gain: float
    low: float
    high: float
    overall: float
    plan_ms: float
    refused: dict[str, int]


def random_model(
    model: LoadedModel,
    layers: int,
    blocks: int,
    decoder: dict[str, Any] = DECODER,
    tower: dict[str, Any] = TOWER,
) -> LoadedModel:
    """``model`` with a network of random weights of another shape.

    Args:
        layers, blocks: of the decoder and of the vision tower, whose last block in eight has full attention.
    """
    old: Any = model.network.config
    text = old.text_config.to_dict() | decoder | {"num_hidden_layers": layers}
    del text["layer_types"]
    full = list(range(7, blocks, 8)) or [blocks - 1]
    vision = old.vision_config.to_dict() | tower | {"depth": blocks, "fullatt_block_indexes": full}
    ids = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, **{name: getattr(old, name) for name in ids}
    )
    config._attn_implementation = "sdpa"
    network = Qwen2_5_VLForConditionalGeneration(config).eval().requires_grad_(False)
    return replace(model, network=network, random_weights=True)


def measure_walk(
    model: LoadedModel, profile: Profile, motion: str, frames: Sequence[Frame], reuse: ReuseConfig
) -> WalkFigures:
    """Every frame is asked about. What a network of random weights answers is not meant, so never doubted."""
    stream = StreamConfig(min_allowed=0.0)
    enabled = replace(reuse, enabled=True, window=0, doubt=0.0)
    robots = [
        QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream, reuse=config)
        for config in (ReuseConfig(enabled=False), enabled)
    ]
    for robot in robots:
        robot.start(Instruction(1, "go to the red chair"))
    spent_s, shares = np.zeros((len(frames), 2)), np.ones(len(frames))
    for index, frame in enumerate(frames):
        for k in (0, 1) if index % 2 else (1, 0):  # what is warm for the second one is so by turns
            begun = time.process_time()
            robots[k].observe(frame)
            robots[k].decide(index + 1)
            spent_s[index, k] = time.process_time() - begun
        assert robots[1].reuse is not None
        (plan,) = robots[1].reuse.last_plans.values()
        shares[index] = float((plan.slot < 0).mean())
    stats = robots[1].reuse_stats()
    assert stats is not None
    part = shares < 1.0
    gains = spent_s[part, 0] / spent_s[part, 1] if part.any() else np.ones(1)
    whole_ms, part_ms = np.median(spent_s[part if part.any() else ~part], 0) * 1e3
    return WalkFigures(
        motion=motion,
        frames=len(frames),
        parts=int(part.sum()),
        computed=float(shares[part].mean()) if part.any() else 1.0,
        whole_ms=float(whole_ms),
        part_ms=float(part_ms),
        gain=float(np.median(gains)),
        low=float(gains.min()),
        high=float(gains.max()),
        overall=float(spent_s[1:, 0].sum() / spent_s[1:, 1].sum()),
        plan_ms=stats.overhead_ms / len(frames),
        refused=dict(stats.refused),
    )


def walk_table(figures: dict[str, Any]) -> str:
    """As Markdown."""
    from vln_ros.cli.bench.page import table

    rows = [
        (
            f["motion"], f"{f['parts']} of {f['frames']}", f"{f['computed']:.0%}", f"{f['whole_ms']:.0f}",
            f"{f['part_ms']:.0f}", f"{f['gain']:.2f} ({f['low']:.2f}-{f['high']:.2f})",
            f"{f['overall']:.2f}", f"{f['plan_ms']:.1f}",
        )
        for f in figures["motions"]
    ]  # fmt: skip
    head = ("motion", "frames in part", "computed", "whole ms", "in part ms", "gain", "all frames", "plan ms")
    layers, blocks = figures["depth"]
    return (
        f"From frame to action, 640x480, a network of the 3B shape with {layers} of {LAYERS} decoder layers "
        f"and {blocks} of {BLOCKS} vision blocks, random weights, one core; every frame asked about:\n\n"
        + table(head, rows)
    )
