"""A small random Qwen2.5-VL with the true structure, and pictures for it."""

from functools import cache

import torch
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

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
        attn_implementation=attention,
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
    network = Qwen2_5_VLForConditionalGeneration(config).eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
        if parameter.ndim == 1 and parameter.numel() and not bool(parameter.any()):
            parameter.normal_(std=init)  # biases start at zero, which would hide a missing one
    return network


def eager(robot):
    """``robot``, made to see and prefill every frame when it comes, asked about or not."""
    observe = robot.observe

    def observe_and_prefill(frame):
        observe(frame)
        robot.prefill()

    robot.observe = observe_and_prefill
    return robot


def random_patches(grid_t: int, grid_h: int, grid_w: int, seed: int) -> torch.Tensor:
    """Patches of a picture; ``grid_h`` and ``grid_w`` in patches."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(grid_t * grid_h * grid_w, 3 * 2 * PATCH * PATCH, generator=generator)


def words(count: int, seed: int) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(FIRST_WORD, VOCABULARY, (count,), generator=generator).tolist())
