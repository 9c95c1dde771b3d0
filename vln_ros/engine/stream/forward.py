"""Calls the released decoder, for one stream or for several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration
from transformers.cache_utils import Cache

from vln_ros.engine.checkpoint.options import attention_takes_mask
from vln_ros.engine.stream.timeline import Segment, Snapshot
from vln_ros.engine.stream.tree import TokenTree


@dataclass(frozen=True)
class Work:
    """What the decoder has been asked to compute so far."""

    forwards: int = 0
    tokens: int = 0
    flops: float = 0.0

    def __add__(self, more: Work) -> Work:
        return Work(self.forwards + more.forwards, self.tokens + more.tokens, self.flops + more.flops)

    def __sub__(self, earlier: Work) -> Work:
        return Work(
            self.forwards - earlier.forwards, self.tokens - earlier.tokens, self.flops - earlier.flops
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Prefill:
    """Tokens that have a place in the timeline and are about to be computed.

    Attributes:
        before: the timeline without them.
        segments: what they became in it; behind their tokens may stand those of a tree.
        tree: its tokens come last.
        embeddings: ``[n, hidden]``.
        positions: ``[3, n]``.
        capacity: slots that there are.
        numbers: what the device needs to know, in one copy: positions, slots, lengths, ids of text.
    """

    before: Snapshot
    segments: tuple[Segment, ...]
    tree: TokenTree
    embeddings: Tensor
    positions: Tensor
    capacity: int
    numbers: Tensor

    @property
    def prompt(self) -> int:
        """How many of its tokens are in the timeline."""
        return len(self.embeddings) - len(self.tree)

    @property
    def last(self) -> int:
        """Index of the token behind which an answer would begin."""
        return self.prompt - 1

    @cached_property
    def visible(self) -> Tensor | None:
        """``[n, slots]`` bool on the device, which slots each token sees; None: all before it and itself."""
        if not len(self.tree):
            return None
        return tree_visibility(self.tree, self.before.tokens, self.prompt, self.embeddings.device)

    @property
    def device_positions(self) -> Tensor:
        """:attr:`positions`, on the device."""
        n = len(self.embeddings)
        return self.numbers[: 3 * n].view(3, n)

    @property
    def slots(self) -> Tensor:
        """``[n]`` where keys and values go, on the device."""
        n = len(self.embeddings)
        return self.numbers[3 * n : 4 * n]

    @property
    def lengths(self) -> Tensor:
        """``[2, 5]`` of the prompt and of the tree, on the device: 0 and its tokens; 0 and all slots that are
        there; how many slots come before the tree.
        """
        n = len(self.embeddings)
        return self.numbers[4 * n : 4 * n + 10].view(2, 5)


def pack_numbers(
    positions: Tensor, base: int, tree: int, capacity: int, ids: Sequence[int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """:attr:`Prefill.numbers` of a chunk behind ``base`` slots, and the ids ``[text]`` in it, on the device.

    Args:
        positions: ``[3, n]`` of all tokens, those of the tree last.
        tree: how many these are.
        capacity: slots that there are.
        ids: of its text, in order.
    """
    n = positions.shape[1]
    prompt = n - tree
    told = [
        *range(base, base + n),
        0,
        prompt,
        0,
        capacity,
        base + prompt,
        0,
        tree,
        0,
        capacity,
        base + prompt,
    ]
    numbers = torch.cat([positions.flatten(), torch.tensor([*told, *ids], dtype=torch.long)]).to(device)
    return numbers, numbers[4 * n + 10 :]


def run_decoder(
    network: Qwen2_5_VLForConditionalGeneration,
    cache: Cache,
    embeddings: Tensor,
    positions: Tensor,
    visible: Tensor | None,
) -> Tensor:
    """Last hidden states ``[batch, n, hidden]``.

    Args:
        embeddings: ``[batch, n, hidden]``.
        positions: ``[3, batch, n]`` mRoPE positions.
        visible: ``[batch, n, slots]`` bool, which slots each token sees; None: all before it and itself.

    Raises:
        ValueError: the attention implementation takes no such mask.
    """
    decoder: Any = network.model.language_model
    mask = None
    if visible is not None:
        mask = {"full_attention": attention_mask(network, visible)}
    output = decoder(
        inputs_embeds=embeddings,
        position_ids=positions.to(embeddings.device),
        past_key_values=cache,
        attention_mask=mask,
    )
    states: Tensor = output.last_hidden_state
    return states


def tree_visibility(tree: TokenTree, base: int, prompt: int, device: torch.device) -> Tensor:
    """``[prompt + nodes, base + prompt + nodes]``: a prompt behind ``base`` slots, and a tree behind it."""
    start, n = base + prompt, len(tree)
    visible = torch.ones(prompt + n, start + n, dtype=torch.bool, device=device).tril(base)
    visible[prompt:, start:] = tree.ancestors_on(device)
    return visible


def takes_mask(network: Qwen2_5_VLForConditionalGeneration) -> bool:
    """Can the attention implementation restrict what a token sees beyond causality?"""
    config: Any = network.config
    return attention_takes_mask(config.text_config._attn_implementation)


def attention_mask(network: Qwen2_5_VLForConditionalGeneration, visible: Tensor) -> Tensor:
    """``visible`` in the form that the attention implementation takes, ``[batch, 1, n, slots]``."""
    config: Any = network.config
    kind = config.text_config._attn_implementation
    if kind == "sdpa":
        return visible[:, None]
    if kind == "eager":
        scores = torch.zeros(visible.shape, dtype=network.dtype, device=visible.device)
        return scores.masked_fill(~visible, torch.finfo(network.dtype).min)[:, None]
    raise ValueError(
        f"attention implementation {kind!r} takes no mask: load the model with sdpa or eager, or decode "
        "token by token"
    )
