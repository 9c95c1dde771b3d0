"""Prefills only the tokens that are not taken over from earlier frames (VLN-Cache, arXiv 2603.07080)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.stream.forward import Prefill, attention_mask, run_decoder
from vln_ros.engine.stream.kv_cache import SlotCache


@dataclass(frozen=True, eq=False)
class Sources:
    """Which tokens of a chunk are not computed. They get keys and values of earlier tokens.

    The keys are rotated to their own position: an approximation unless the earlier token stood in the same
    context.

    Attributes:
        slots: ``[n]`` int64, for each token the slot to take over, or -1 to compute it. Slots behind the
            stream may be named as long as they still hold a token.
        layers: ``[n]`` int64, in how many of the first layers a token with a source is computed all the
            same; None for none.
    """

    slots: Tensor
    layers: Tensor | None = None

    def depth(self, layers: int) -> Tensor:
        """``[n]`` in how many of ``layers`` layers each token is computed."""
        depth = torch.full(self.slots.shape, layers)
        reused = self.slots >= 0
        depth[reused] = 0 if self.layers is None else self.layers[reused]
        return depth


def compute_sparse(
    network: Qwen2_5_VLForConditionalGeneration, cache: SlotCache, prefill: Prefill, sources: Sources
) -> Tensor:
    """The forward of a prepared chunk; a tree at its end is always computed.

    Returns:
        ``[n, hidden]`` last hidden states; NaN where the last layer was not computed.

    Raises:
        ValueError: not one source per token, a slot that holds no token, or the last token not computed
            (nothing could be read off it).
    """
    base, n, taken = prefill.before.tokens, len(prefill.embeddings), sources.slots
    if taken.shape != (n,) or int(taken[-1]) >= 0 or not bool(cache.holds(taken[taken >= 0]).all()):
        raise ValueError(
            f"{n} tokens need {n} sources, slots that hold a token or -1, -1 for the last; got {taken}"
        )
    depth = sources.depth(len(cache.layers))
    reused = (taken >= 0).nonzero()[:, 0]
    if reused.numel():
        cache.copy_rotated(taken[reused], base + reused, prefill.positions[:, reused])
    device = prefill.embeddings.device
    rows = (depth > 0).nonzero()[:, 0]
    slots = base + rows.to(device)
    if prefill.visible is None:
        visible = torch.arange(base + n, device=device) <= slots[:, None]
    else:
        visible = prefill.visible[rows.to(device)]
    embeddings, positions = prefill.embeddings[rows.to(device)], prefill.positions[:, rows]
    states = prefill.embeddings.new_full((n, prefill.embeddings.shape[1]), torch.nan)
    if bool((depth[rows] == len(cache.layers)).all()):
        with cache.scatter(slots, visible=base + n):
            computed = run_decoder(network, cache, embeddings[None], positions[:, None], visible[None])
        states[rows.to(device)] = computed[0]
        return states
    last = depth[rows] == len(cache.layers)
    partial = _Rows(embeddings, positions, slots, visible, depth[rows])
    states[rows[last].to(device)] = _run_layers(network, cache, partial, base + n)
    cache.own(base + reused[depth[reused] > 0], depth[reused[depth[reused] > 0]])
    return states


@dataclass(frozen=True, eq=False)
class _Rows:
    """Tokens on their way through the layers; all of ``[rows, ...]`` but positions ``[3, rows]``."""

    embeddings: Tensor
    positions: Tensor
    slots: Tensor
    visible: Tensor
    depth: Tensor


def _run_layers(
    network: Qwen2_5_VLForConditionalGeneration, cache: SlotCache, rows: _Rows, visible: int
) -> Tensor:
    """The released layers one by one, with fewer and fewer rows. States of the rows that reach the end."""
    decoder: Any = network.model.language_model
    states = rows.embeddings[None]
    turn = decoder.rotary_emb(states, rows.positions[:, None].to(states.device))
    slots, mask, depth = rows.slots, rows.visible, rows.depth
    for index, layer in enumerate(decoder.layers):
        stay = depth > index
        if not bool(stay.all()):
            kept = stay.nonzero()[:, 0].to(states.device)
            states, slots, mask, depth = states[:, kept], slots[kept], mask[kept], depth[stay]
            turn = tuple(t[..., kept, :] for t in turn)
        with cache.scatter(slots, visible=visible):
            states = layer(
                states,
                attention_mask=attention_mask(network, mask[None]),
                position_embeddings=turn,
                past_key_values=cache,
            )
    stay = (depth == len(decoder.layers)).nonzero()[:, 0].to(states.device)
    result: Tensor = decoder.norm(states[0, stay])
    return result
