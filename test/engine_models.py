"""A small random Qwen2.5-VL with the true structure, and pictures for it."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.config import TinyConfig
from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny

IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD = 1, 2, 3, 4, 5, 6
FIRST_WORD = 10
VOCABULARY = 320
PATCH = 4


def tiny_network(attention: str = "sdpa") -> Qwen2_5_VLForConditionalGeneration:
    """3 layers, grouped-query attention, windowed vision; one and the same network every time."""
    return _tiny_network(attention)


@cache
def _tiny_network(attention: str) -> Qwen2_5_VLForConditionalGeneration:
    init = 0.15  # large enough that errors show
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "bos_token_id": None,
            "eos_token_id": None,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 32768,
            "initializer_range": init,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_heads": 2,
            "out_hidden_size": 64,
            "patch_size": PATCH,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "tokens_per_second": 2,
            "window_size": 16,
            "fullatt_block_indexes": [1],
            "initializer_range": init,
        },
        image_token_id=IMAGE_PAD,
        video_token_id=VIDEO_PAD,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
    )
    network: Qwen2_5_VLForConditionalGeneration = Qwen2_5_VLForConditionalGeneration(config).eval()
    network.set_attn_implementation(attention)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 1 and parameter.numel() and not bool(parameter.any()):
            parameter.normal_(std=init)  # biases start at zero, which would hide a missing one
    return network


def build_small(folder: Path) -> Path:
    """A checkpoint with a tokenizer, as small as the tests of an engine want it."""
    build_tiny(folder, TinyConfig(hidden=96, layers=2, heads=6, intermediate=128, vision_depth=2))
    return folder


def load_small(folder: Path | str, dtype: str = "float32") -> LoadedModel:
    """A checkpoint, on the processor and in one thread."""
    torch.set_num_threads(1)
    return load_model(str(folder), device="cpu", dtype=dtype, attention="sdpa", quantisation="none")


def eager(robot: QwenEngine) -> QwenEngine:
    """``robot``, made to see and prefill every frame when it comes, asked about or not."""
    observe = robot.observe

    def observe_and_prefill(frame: Frame) -> None:
        observe(frame)
        robot.prefill()

    robot.observe = observe_and_prefill  # type: ignore[method-assign]
    return robot


def random_patches(grid_t: int, grid_h: int, grid_w: int, seed: int) -> torch.Tensor:
    """Patches of a picture; ``grid_h`` and ``grid_w`` in patches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(grid_t * grid_h * grid_w, 3 * 2 * PATCH * PATCH, generator=generator)


def words(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(FIRST_WORD, VOCABULARY, (count,), generator=generator).tolist())
