"""Runs the vision tower for many frames of one size at once.

The released code runs its attention window by window and frame by frame; that is most of its time
for small pictures. Here all frames go through a window together. The numbers are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def encode_frames(visual: Any, patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """Features ``[frames, tokens, hidden]``, as ``get_image_features`` would give them.

    Args:
        visual: the vision tower of a ``Qwen2_5_VLForConditionalGeneration``.
        patches: ``[frames, patches, values]`` of single images: both halves of a temporal patch are equal.
        grid: rows and columns of tokens of a frame.
    """
    config = visual.config
    merge = config.spatial_merge_size
    order, bounds = _windows(grid, config.window_size // merge // config.patch_size)
    order = order.to(patches.device)
    kernel = visual.patch_embed.proj.weight
    frames, count = patches.shape[:2]
    pixels = patches.reshape(frames, count, *kernel.shape[1:])[:, :, :, 0]
    # Both halves hold the same picture, so the sum of the kernels over time does with one.
    x = (pixels.flatten(2) @ kernel.sum(2).flatten(1).T).float()

    def windowed(values: Tensor) -> Tensor:
        """``[..., patches, n]`` from the processor's order to the windows'."""
        blocks = values.reshape(*values.shape[:-2], -1, merge * merge, values.shape[-1])
        return blocks.index_select(-3, order).reshape(values.shape)

    cos, sin = visual.rotary_pos_emb(x, _patch_positions(grid, merge).to(patches.device))
    cos, sin = windowed(cos)[:, None], windowed(sin)[:, None]
    x = windowed(x)
    whole = [(0, count)]
    parts = [(a * merge**2, b * merge**2) for a, b in bounds]
    for number, block in enumerate(visual.blocks):
        attention = block.attn
        qkv = attention.qkv(block.norm1(x)).reshape(frames, count, 3, attention.num_heads, -1)
        query, key, value = qkv.unbind(2)
        query, key = _rotate(query, cos, sin), _rotate(key, cos, sin)
        query, key, value = (t.transpose(1, 2).float() for t in (query, key, value))
        # Never in bfloat16: for windows this small its gradient takes four times as long on a CPU.
        with torch.autocast(x.device.type, enabled=False):
            seen = [
                scaled_dot_product_attention(query[:, :, a:b], key[:, :, a:b], value[:, :, a:b])
                for a, b in (whole if number in visual.fullatt_block_indexes else parts)
            ]
        x = x + attention.proj(torch.cat(seen, 2).transpose(1, 2).reshape(frames, count, -1))
        x = x + block.mlp(block.norm2(x))
    merged = visual.merger(x.reshape(frames * count, -1)).reshape(frames, count // merge**2, -1)
    features: Tensor = merged[:, order.argsort()]
    return features


def _windows(grid: tuple[int, int], side: int) -> tuple[Tensor, list[tuple[int, int]]]:
    """Tokens in the order of their windows ``side`` wide, and the range of each window in it."""
    numbers = torch.arange(grid[0] * grid[1]).reshape(grid)
    cells = [cell.flatten() for row in numbers.split(side) for cell in row.split(side, 1)]
    ends = torch.tensor([len(c) for c in cells]).cumsum(0).tolist()
    return torch.cat(cells), list(zip([0, *ends[:-1]], ends, strict=True))


def _patch_positions(grid: tuple[int, int], merge: int) -> Tensor:
    """``[patches, 2]`` row and column of each patch, in the processor's order."""
    rows, columns = torch.meshgrid(
        torch.arange(grid[0] * merge), torch.arange(grid[1] * merge), indexing="ij"
    )
    both = torch.stack([rows, columns], -1).reshape(grid[0], merge, grid[1], merge, 2)
    return both.transpose(1, 2).reshape(-1, 2)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat([-b, a], -1) * sin
