"""One forward for chunks of several streams, side by side in one row without padding.

What a layer computes token by token (projections, norms, the feed-forward part) runs once for all; attention
runs for each stream over its own slots, where they lie. The released layers are called as they are: only the
function that they hand queries, keys and values to is another, as transformers lets one register it.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, Qwen2_5_VLForConditionalGeneration
from transformers.cache_utils import Cache, CacheLayerMixin

from vln_ros.engine.stream.forward import Prefill, tree_visibility
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.layers.partial_attention import attend

_ATTENTION = "vln_ros_ragged"


@dataclass(frozen=True, eq=False)
class Chunk:
    """The next tokens of one stream.

    Attributes:
        cache: they are appended to it.
        embeddings: ``[n, hidden]``.
        positions: ``[3, n]``.
        own_visible: ``[n, n]`` bool, which of them each sees; None: all before it and itself. What the cache
            holds already, all of them see.
    """

    cache: SlotCache
    embeddings: Tensor
    positions: Tensor
    own_visible: Tensor | None

    @staticmethod
    def of(cache: SlotCache, prefill: Prefill, start: int = 0, end: int | None = None) -> Chunk:
        """The tokens ``[start, end)`` of a prefill, all of a tree among them or none; None: all to its end.

        Those before ``start`` are in the cache.
        """
        n = len(prefill.embeddings)
        end = n if end is None else end
        own_visible = None
        if len(prefill.tree) and end == n:
            device = prefill.embeddings.device
            own_visible = tree_visibility(prefill.tree, 0, prefill.prompt - start, device)
        return Chunk(cache, prefill.embeddings[start:end], prefill.positions[:, start:end], own_visible)

    def __len__(self) -> int:
        return len(self.embeddings)


def run_ragged(network: Qwen2_5_VLForConditionalGeneration, chunks: Sequence[Chunk]) -> list[Tensor]:
    """Last hidden states ``[n, hidden]`` of each chunk; their keys and values are in their caches then.

    If it fails, caches may have been written to behind their last slot in some layers: truncate them.
    """
    decoder: Any = network.model.language_model
    streams = [_Stream(chunk, chunk.cache.length) for chunk in chunks]
    joined: list[Any] = [_JoinedLayer(chunks, index) for index in range(len(decoder.layers))]
    cache = Cache(layers=joined)
    states = torch.cat([chunk.embeddings for chunk in chunks])[None]
    positions = torch.cat([chunk.positions for chunk in chunks], 1)[:, None].to(states.device)
    turn = decoder.rotary_emb(states, positions)
    for layer in _ragged_layers(decoder):
        states = layer(
            states, attention_mask=None, position_embeddings=turn, past_key_values=cache, streams=streams
        )
    return list(decoder.norm(states)[0].split([len(chunk) for chunk in chunks]))


@dataclass(frozen=True, eq=False)
class _Stream:
    """A chunk, and how many slots were before it when the forward began."""

    chunk: Chunk
    before: int


class _JoinedLayer(CacheLayerMixin):
    """The same layer of several caches: each appends its own tokens."""

    def __init__(self, chunks: Sequence[Chunk], index: int) -> None:
        super().__init__()
        self._layers = [chunk.cache.layers[index] for chunk in chunks]
        self._counts = [len(chunk) for chunk in chunks]

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Each stream's layer does so on its own."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """The new tokens' keys and values; what the caches hold is read where it lies."""
        keys, values = key_states.split(self._counts, 2), value_states.split(self._counts, 2)
        for layer, own_keys, own_values in zip(self._layers, keys, values, strict=True):
            layer.append(own_keys, own_values)
        return key_states, value_states

    def get_seq_length(self) -> int:
        return max(layer.length for layer in self._layers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


def _ragged_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    streams: Sequence[_Stream],
    **kwargs: Any,
) -> tuple[Tensor, None]:
    counts = [len(stream.chunk) for stream in streams]
    parts = zip(*(states[0].split(counts, 1) for states in (query, key, value)), strict=True)
    read = [
        attend(
            queries,
            stream.chunk.cache.layers[module.layer_idx].runs(stream.before),
            (keys, values),
            stream.chunk.own_visible,
            scaling,
        )
        for stream, (queries, keys, values) in zip(streams, parts, strict=True)
    ]
    return torch.cat(read, 1).transpose(0, 1)[None], None


AttentionInterface.register(_ATTENTION, _ragged_attention)

_LAYERS: WeakKeyDictionary[nn.Module, list[nn.Module]] = WeakKeyDictionary()


def _ragged_layers(decoder: Any) -> list[nn.Module]:
    """The decoder's layers with that attention: the same weights, hooks and code under another setting."""
    if decoder not in _LAYERS:
        config = copy.copy(decoder.config)
        config._attn_implementation = _ATTENTION
        layers = []
        for released in decoder.layers:
            attention = copy.copy(released.self_attn)
            attention.config = config
            layer = copy.copy(released)  # shares everything with the released layer ...
            layer._modules = {**released._modules, "self_attn": attention}  # ... but this
            layers.append(layer)
        _LAYERS[decoder] = layers
    return _LAYERS[decoder]
