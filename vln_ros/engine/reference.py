"""Computes a whole conversation in one forward of the released model: slow, and what streaming must equal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration


@dataclass(frozen=True, eq=False)
class Pixels:
    """Patches ``[grids * grid_h * grid_w, channels * temporal * patch * patch]``; grid in patches.

    Attributes:
        seconds_per_grid: makes it a video; None is an image.
    """

    patches: Tensor
    grid_t: int
    grid_h: int
    grid_w: int
    seconds_per_grid: float | None = None


Item = tuple[int, ...] | Pixels
"""Token ids, or a picture in their midst (its vision markers are among the ids around it)."""


@dataclass(frozen=True, eq=False)
class OneShot:
    logits: Tensor
    """``[n, vocabulary]``"""
    positions: Tensor
    """``[3, n]``"""


def trained_positions(
    network: Qwen2_5_VLForConditionalGeneration, conversation: Sequence[Item]
) -> list[tuple[int, int, int]]:
    """Positions token by token, as in the published training code: all that was said above, in loops."""
    config: Any = network.config
    merge = config.vision_config.spatial_merge_size
    rate = config.vision_config.tokens_per_second
    positions: list[tuple[int, int, int]] = []
    start = 0
    for item in conversation:
        placed: list[tuple[int, int, int]] = []
        if not isinstance(item, Pixels):
            placed += [(start + i,) * 3 for i in range(len(item))]
        else:
            spacing = torch.tensor(item.seconds_per_grid or 0.0)
            for t in range(item.grid_t):
                time = int(torch.tensor(t) * spacing * rate)
                for h in range(item.grid_h // merge):
                    for w in range(item.grid_w // merge):
                        placed.append((start + time, start + h, start + w))
        positions += placed
        start = max((max(p) for p in placed), default=start - 1) + 1
    return positions


@torch.no_grad()
def one_shot(
    network: Qwen2_5_VLForConditionalGeneration,
    conversation: Sequence[Item],
    visible: Tensor | None = None,
) -> OneShot:
    """Logits at every token of a conversation.

    Args:
        visible: ``[n, n]`` bool, which keys each query may see; None is the plain causal forward,
            through the whole of the released model and, without videos, with its own positions.
    """
    config: Any = network.config
    merge = config.vision_config.spatial_merge_size
    ids: list[int] = []
    kinds: list[int] = []
    images: list[Pixels] = []
    videos: list[Pixels] = []
    for item in conversation:
        if isinstance(item, Pixels):
            video = item.seconds_per_grid is not None
            n = item.grid_t * (item.grid_h // merge) * (item.grid_w // merge)
            ids += [config.video_token_id if video else config.image_token_id] * n
            kinds += [2 if video else 1] * n
            (videos if video else images).append(item)
        else:
            ids += item
            kinds += [0] * len(item)
    device = network.device
    input_ids = torch.tensor([ids], device=device)
    inputs: dict[str, Tensor] = {}
    for name, grids, some in (
        ("pixel_values", "image_grid_thw", images),
        ("pixel_values_videos", "video_grid_thw", videos),
    ):
        if some:
            inputs[name] = torch.cat([p.patches for p in some]).to(device)
            inputs[grids] = torch.tensor([[p.grid_t, p.grid_h, p.grid_w] for p in some], device=device)
    if videos:
        positions = torch.tensor(trained_positions(network, conversation), device=device).T.contiguous()
    else:
        released, _ = network.model.get_rope_index(
            input_ids,
            torch.tensor([kinds], device=device, dtype=torch.int),
            image_grid_thw=inputs.get("image_grid_thw"),
        )
        positions = released[:, 0]
    mask = None if visible is None else {"full_attention": visible[None, None].to(device)}
    output = network(
        input_ids=input_ids, position_ids=positions[:, None], attention_mask=mask, use_cache=False, **inputs
    )
    return OneShot(output.logits[0].float(), positions.cpu())


def greedy(
    network: Qwen2_5_VLForConditionalGeneration,
    conversation: Sequence[Item],
    *,
    max_tokens: int,
    end_tokens: Sequence[int],
) -> tuple[int, ...]:
    """The greedy continuation, with a whole forward for every token."""
    answer: tuple[int, ...] = ()
    while len(answer) < max_tokens:
        token = int(
            one_shot(network, [*conversation, answer] if answer else conversation).logits[-1].argmax()
        )
        if token in end_tokens:
            break
        answer = (*answer, token)
    return answer
