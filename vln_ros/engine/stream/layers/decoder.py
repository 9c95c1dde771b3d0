"""Runs the released decoder layers for one stream, right on its slots.

The modules and weights are the released ones; what is left out is what their forward does for any cache and
any mask. Positions, slots and lengths come in one copy, keys and values are written where they belong, and
nothing waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.stream.forward import Prefill, run_decoder
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.layers.arithmetic import normalise, rotate
from vln_ros.engine.stream.layers.attention import (
    Attention,
    FusedAttention,
    MaskedAttention,
    ProcessorAttention,
    flash_fault,
)

RunChunk = Callable[[Qwen2_5_VLForConditionalGeneration, SlotCache, Prefill], Tensor]
"""As :func:`run_chunk`, which is one."""


def attention_for(network: Qwen2_5_VLForConditionalGeneration, prefill: Prefill) -> Attention:
    """How this device reads the cache best for this chunk."""
    if reads_by_flash(network):
        return FusedAttention.of(prefill)(prefill)
    if prefill.embeddings.device.type == "cpu":
        return ProcessorAttention(prefill)
    return MaskedAttention.of(prefill, prefill.before.tokens + len(prefill.embeddings))(prefill)


def run_chunk(
    network: Qwen2_5_VLForConditionalGeneration,
    cache: SlotCache,
    prefill: Prefill,
    read: Callable[[Qwen2_5_VLForConditionalGeneration, Prefill], Attention] = attention_for,
) -> Tensor:
    """Last hidden states ``[n, hidden]`` of a prepared chunk; its slots must be reserved.

    With attention ``sdpa`` on slots, with any other by the released forward.

    Args:
        read: chooses how the cache is read.
    """
    if not runs_on_slots(network):
        return run_released(network, cache, prefill)
    states = run_layers(network.model.language_model, prefill, read(network, prefill), cache.buffers())
    cache.extend(prefill.before.tokens + len(prefill.embeddings))
    return states


def run_released(network: Qwen2_5_VLForConditionalGeneration, cache: SlotCache, prefill: Prefill) -> Tensor:
    """As :func:`run_chunk`, by the released forward: what that must equal."""
    visible = None if prefill.visible is None else prefill.visible[None]
    return run_decoder(network, cache, prefill.embeddings[None], prefill.positions[:, None], visible)[0]


def run_layers(
    decoder: Any, prefill: Prefill, attend: Attention, buffers: Sequence[Sequence[Tensor]]
) -> Tensor:
    """``[n, hidden]`` behind all layers and the last norm. It only reads and writes tensors.

    Args:
        buffers: of each layer keys, values and, where they are kept, original keys, ``[1, kv_heads, capacity,
            width]``: the chunk's are written to its slots.
    """
    states, slots = prefill.embeddings[None], prefill.slots
    n, heads = states.shape[1], decoder.config.num_attention_heads
    cos, sin = decoder.rotary_emb(states, prefill.device_positions[:, None])
    low, high = sin.chunk(2, -1)
    cos, sin = cos[:, :, None], torch.cat([-low, high], -1)[:, :, None]
    for layer, stored in zip(decoder.layers, buffers, strict=True):
        own = layer.self_attn
        x = normalise(layer.input_layernorm, states)
        queries, keys, values = own.q_proj(x), own.k_proj(x), own.v_proj(x)
        turned = rotate(torch.cat([queries, keys], -1).view(1, n, -1, own.head_dim), cos, sin)
        keys, values = turned[:, :, heads:], values.view(1, n, -1, own.head_dim)
        for buffer, new in zip(stored, (keys, values, keys), strict=False):
            buffer.index_copy_(2, slots, new.transpose(1, 2))
        seen = attend(turned[:, :, :heads], stored[0], stored[1])
        states = states + own.o_proj(seen.reshape(1, n, -1))
        states = states + layer.mlp(normalise(layer.post_attention_layernorm, states))
    result: Tensor = decoder.norm(states)[0]
    return result


def runs_on_slots(network: Qwen2_5_VLForConditionalGeneration) -> bool:
    """Whether :func:`run_chunk` runs the layers itself."""
    decoder: Any = network.model.language_model
    return decoder.config._attn_implementation == "sdpa" and not decoder.has_sliding_layers


def reads_by_flash(network: Qwen2_5_VLForConditionalGeneration) -> bool:
    """Whether flash attention serves this network on its device."""
    config: Any = network.model.language_model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    width = config.hidden_size // heads
    return flash_fault(network.device, network.dtype, heads, kv_heads, width) is None
