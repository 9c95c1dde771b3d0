"""The KV cache: addressable slots that can be appended to, rolled back, evicted and reused.

Slots are preallocated in blocks. New tokens are appended, or scattered into given slots; the cache
is truncated by a number, compacted by a gather, and keys are moved to other positions by rotating
them by the difference of their mRoPE positions. Nothing of the model is patched: ``update`` is all
that the attention layers call.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import Qwen2_5_VLConfig
from transformers.cache_utils import Cache, CacheLayerMixin

from vln_ros.profiling.spans import span


class TornStreamError(RuntimeError):
    """Moving tokens was interrupted midway: what the slots hold is no stream any more. Begin anew."""


class _Target(NamedTuple):
    slots: Tensor
    visible: int


class SlotLayer(CacheLayerMixin):
    """Keys and values of one decoder layer: ``[batch, kv_heads, capacity, head_dim]``."""

    keys: Tensor
    values: Tensor

    def __init__(self, block_tokens: int, keep_original_keys: bool) -> None:
        super().__init__()
        self.block_tokens = block_tokens
        self.keep_original_keys = keep_original_keys
        self.original_keys: Tensor | None = None
        self.length = 0
        self.target: _Target | None = None

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys = key_states.new_empty(*key_states.shape[:2], 0, key_states.shape[-1])
        self.values = value_states.new_empty(*value_states.shape[:2], 0, value_states.shape[-1])
        self.original_keys = self.keys if self.keep_original_keys else None
        self.is_initialized = True

    def buffers(self) -> list[Tensor]:
        """Keys, values and originals ``[batch, kv_heads, capacity, head_dim]``, slot by slot."""
        kept = [self.keys, self.values]
        return kept if self.original_keys is None else [*kept, self.original_keys]

    @property
    def capacity(self) -> int:
        """Slots that there is memory for."""
        return self.keys.shape[2] if self.is_initialized else 0

    def storage(self) -> list[Tensor]:
        """:meth:`buffers` as they lie in memory: a slot is at its :meth:`rows` in dimension 2."""
        return self.buffers()

    def rows(self, slots: Tensor) -> Tensor:
        """``[n]`` where the slots ``[n]`` lie in :meth:`storage`, on its device."""
        return slots.to(self.device)

    def runs(self, length: int) -> list[tuple[Tensor, Tensor]]:
        """Keys and values ``[batch, kv_heads, n, head_dim]`` of the first slots, piece by piece, uncopied."""
        return [(self.keys[:, :, :length], self.values[:, :, :length])] if length else []

    def append(self, key_states: Tensor, value_states: Tensor) -> None:
        """Write the next tokens behind the last slot."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start, end = self.length, self.length + key_states.shape[2]
        if end > self.capacity:
            self.resize(end)
        self.write(start, [key_states, value_states, key_states])
        self.length = end

    def write(self, start: int, states: list[Tensor]) -> None:
        """Put ``states`` ``[batch, kv_heads, n, head_dim]`` into slots of the first so many buffers."""
        for buffer, new in zip(self.buffers(), states, strict=False):
            buffer[:, :, start : start + new.shape[2]] = new

    def resize(self, tokens: int) -> None:
        """Reallocate to the smallest number of whole blocks that holds ``tokens``."""
        capacity = -(-tokens // self.block_tokens) * self.block_tokens

        def moved(old: Tensor) -> Tensor:
            # Zeros, not empty: attention multiplies masked slots by 0, and 0 * NaN is NaN.
            new = old.new_zeros(*old.shape[:2], capacity, old.shape[-1])
            new[:, :, : old.shape[2]] = old[:, :, :capacity]  # loose slots behind the last one, too
            return new

        with span("cache allocation"):
            # All of them, or none: memory may run out between two.
            keys, values = moved(self.keys), moved(self.values)
            originals = None if self.original_keys is None else moved(self.original_keys)
        self.keys, self.values, self.original_keys = keys, values, originals

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if self.target is None:
            self.append(key_states, value_states)
            end = self.length
        else:
            if not self.is_initialized:
                self.lazy_initialization(key_states, value_states)
            slots, end = self.target
            if end > self.capacity:
                self.resize(end)
            rows = self.rows(slots)
            for buffer, states in zip(self.storage(), [key_states, value_states, key_states], strict=False):
                buffer.index_copy_(2, rows, states)
            self.length = max(self.length, end)
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.length + query_length, 0

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """One stream's keys and values, with the position of every slot.

    Every token that is written gets a serial number of its own, which follows it to other slots.
    Slots behind the last one keep what was in them until they are written again: :meth:`find` finds
    it there.

    Args:
        config: of the network; gives the number of layers and the rotary sections.
        inv_freq: ``[head_dim / 2]`` rotary frequencies of the network.
        block_tokens: slots are allocated in multiples of this.
        keep_original_keys: keep each key as it was first computed, beside the one in use. Keys that
            are moved again and again are then rotated once, from the original, instead of step by
            step, which drifts in bfloat16. Costs half as much memory again.
    """

    layers: list[SlotLayer]  # type: ignore[assignment]
    paged = False
    """Slots may lie in several pieces: read where they are, by ``run_ragged``, nothing is copied."""

    def __init__(
        self, config: Qwen2_5_VLConfig, inv_freq: Tensor, block_tokens: int, keep_original_keys: bool = False
    ) -> None:
        if block_tokens < 1:
            raise ValueError(f"block_tokens = {block_tokens}: must be at least 1")
        text: Any = config.text_config
        layers: list[Any] = [
            SlotLayer(block_tokens, keep_original_keys) for _ in range(text.num_hidden_layers)
        ]
        super().__init__(layers=layers)
        self._inv_freq = inv_freq
        self._sections = list(text.rope_parameters["mrope_section"])
        self.block_tokens = block_tokens
        self.keep_original_keys = keep_original_keys
        self._config = config
        self._positions = torch.zeros(3, 0, dtype=torch.long)
        self._original_positions = torch.zeros(3, 0, dtype=torch.long)
        self._serials = torch.zeros(0, dtype=torch.long)  # 0: holds no token
        self._written = 0
        self._torn = False

    @property
    def serials(self) -> Tensor:
        """``[length]`` int64, the number of the token in each slot."""
        return self._serials[: self.length]

    @property
    def positions(self) -> Tensor:
        """``[3, length]`` int64, the position that each slot's key is rotated to."""
        return self._positions[:, : self.length]

    @property
    def original_positions(self) -> Tensor:
        """``[3, length]`` int64, the position that each slot's *original* key is rotated to."""
        return self._original_positions[:, : self.length]

    @property
    def length(self) -> int:
        return self.layers[0].length

    @property
    def used_bytes(self) -> int:
        """Bytes of the slots that hold tokens."""
        return sum(layer.length * self._slot_bytes(layer) for layer in self.layers)

    @property
    def allocated_bytes(self) -> int:
        return sum(layer.capacity * self._slot_bytes(layer) for layer in self.layers)

    def reserve(self, tokens: int, like: Tensor) -> None:
        """Make room for ``tokens`` in every layer, of the device and type of ``like``."""
        text: Any = self._config.text_config
        heads, width = text.num_key_value_heads, text.hidden_size // text.num_attention_heads
        for layer in self.layers:
            if not layer.is_initialized:
                nothing = like.new_empty(1, heads, 0, width)
                layer.lazy_initialization(nothing, nothing)
            if tokens > layer.capacity:
                layer.resize(tokens)

    def _slot_bytes(self, layer: SlotLayer) -> int:
        return sum(t.nbytes // max(t.shape[2], 1) for t in self._tensors(layer))

    def buffers(self) -> list[list[Tensor]]:
        """Of each layer keys, values and, if they are kept, original keys, with room for :attr:`capacity`."""
        return [layer.buffers() for layer in self.layers]

    def spare_slot(self, end: int, like: Tensor) -> int:
        """The last slot, far enough behind ``end``: it may be written to, and holds no token."""
        self.reserve(end + 1, like)
        spare = self.capacity - 1
        self._serials[spare:] = 0
        return spare

    def blank(self) -> None:
        """Nothing is left of what was ever written."""
        for layer in self.layers:
            for buffer in self._tensors(layer):
                buffer.zero_()
        self._serials.zero_()

    def extend(self, end: int) -> None:
        """All slots before ``end`` have been written, right in the :meth:`buffers`."""
        for layer in self.layers:
            layer.length = end

    @property
    def capacity(self) -> int:
        """Slots that there is room for."""
        return self.layers[0].capacity

    @staticmethod
    def _tensors(layer: SlotLayer) -> list[Tensor]:
        return layer.storage() if layer.is_initialized else []

    def record(self, positions: Tensor, slots: Tensor | None = None) -> None:
        """Note where the tokens that a forward has just written were rotated to, ``[3, n]``.

        Without ``slots`` they are the last ``n`` of the cache.
        """
        n = positions.shape[1]
        missing = self.length - self._positions.shape[1]
        if missing > 0:
            room = torch.zeros(3, -(-missing // self.block_tokens) * self.block_tokens, dtype=torch.long)
            grown = (
                torch.cat([self._positions, room], 1),
                torch.cat([self._original_positions, room], 1),
                torch.cat([self._serials, room[0]]),
            )
            self._positions, self._original_positions, self._serials = grown
        where = torch.arange(self.length - n, self.length) if slots is None else slots.cpu()
        self._positions[:, where] = positions
        self._original_positions[:, where] = positions
        self._serials[where] = torch.arange(self._written + 1, self._written + 1 + n)
        self._written += n

    def find(self, serials: Tensor) -> Tensor:
        """``[n]`` the slots in which those tokens are, -1 where one is not there any more."""
        ordered, slots = self._serials.sort()
        if not len(ordered):
            return torch.full_like(serials, -1)
        at = torch.searchsorted(ordered, serials).clamp(max=len(ordered) - 1)
        return torch.where((ordered[at] == serials) & (serials > 0), slots[at], -1)

    def holds(self, slots: Tensor) -> Tensor:
        """``[n]`` bool: is there a token in each of these slots, in the stream or behind it?"""
        known = (slots >= 0) & (slots < len(self._serials))
        known[known.clone()] = self._serials[slots[known]] > 0
        return known

    def own(self, slots: Tensor, layers: Tensor) -> None:
        """Tokens that were computed in their first ``layers`` ``[n]`` layers and copied to the rest.

        A slot has one original position for all layers: from here on it is the present one.
        """
        for index, layer in enumerate(self.layers):
            if self.keep_original_keys:
                keys, _, originals = layer.storage()
                where = layer.rows(slots[layers <= index])
                originals[:, :, where] = keys[:, :, where]

    def forget_loose(self) -> None:
        """What is behind the last slot is no token any more."""
        self._serials[self.length :] = 0

    @contextmanager
    def scatter(self, slots: Tensor, visible: int) -> Iterator[None]:
        """Within this context a forward's tokens go to ``slots`` ``[n]`` and see slots ``< visible``.

        Which of those each query sees is the business of the attention mask. Slots of tokens that
        are not computed keep their content.
        """
        if slots.numel() and (int(slots.min()) < 0 or int(slots.max()) >= visible):
            raise ValueError(f"slots must be in [0, {visible}), got {int(slots.min())} to {int(slots.max())}")
        for layer in self.layers:
            layer.target = _Target(slots, visible)
        try:
            yield
        finally:
            for layer in self.layers:
                layer.target = None

    def truncate(self, length: int) -> None:
        """Drop all slots from ``length`` on."""
        for layer in self.layers:
            layer.length = min(layer.length, length)
        if self._torn and length == 0:  # of what was torn nothing is left
            self.forget_loose()
            self._torn = False

    def check(self) -> None:
        """Raises TornStreamError: an earlier :meth:`keep` was interrupted, and nothing was dropped since."""
        if self._torn:
            raise TornStreamError("the cache was interrupted while it moved tokens: its stream is lost")

    def keep(self, slots: Tensor, start: int = 0) -> None:
        """Of the slots from ``start`` on keep only ``slots`` ``[n]``, moved together in that order.

        Positions stay with their tokens. All memory that it takes is asked for before anything is moved: if
        there is none, nothing has changed. Whatever else interrupts it leaves the cache torn, and
        :meth:`check` says so until it is empty.
        """
        self.check()
        n = slots.numel()
        end = start + n
        records = [t[..., slots] for t in (self._positions, self._original_positions, self._serials)]
        wheres: dict[torch.device, tuple[Tensor, Tensor]] = {}
        scratch: dict[tuple[torch.device, torch.dtype, torch.Size], Tensor] = {}
        for layer in self.layers:
            for buffer in self._tensors(layer):
                if buffer.device not in wheres:
                    wheres[buffer.device] = layer.rows(slots), layer.rows(torch.arange(start, end))
                shape = torch.Size((*buffer.shape[:2], n, buffer.shape[3]))
                key = buffer.device, buffer.dtype, shape
                if key not in scratch:
                    scratch[key] = buffer.new_empty(shape)
        self._torn = True
        for layer in self.layers:
            for buffer in self._tensors(layer):
                shape = torch.Size((*buffer.shape[:2], n, buffer.shape[3]))
                gathered = scratch[buffer.device, buffer.dtype, shape]
                source, target = wheres[buffer.device]
                torch.index_select(buffer, 2, source, out=gathered)
                buffer.index_copy_(2, target, gathered)
            layer.length = end
        for old, new in zip((self._positions, self._original_positions, self._serials), records, strict=True):
            old[..., start:end].copy_(new)
        self._torn = False

    def turn_to(self, positions: Tensor) -> None:
        """Rotate all keys to new ``positions`` ``[3, length]``. All of them, or none if that fails."""
        self.check()
        n = self.length
        delta = positions - self.original_positions
        turned: list[Tensor] = []
        for layer in self.layers:
            if layer.is_initialized:
                source = layer.storage()[2 if self.keep_original_keys else 0]
                turned.append(self.rotated(source[:, :, layer.rows(torch.arange(n))], delta))
        moved = self._positions.clone()
        moved[:, :n] = positions
        origin = self._original_positions if self.keep_original_keys else moved.clone()
        serials = self._serials.clone()
        serials[:n] = torch.arange(self._written + 1, self._written + 1 + n)
        self._torn = True  # from here on nothing takes memory
        for layer, keys in zip((la for la in self.layers if la.is_initialized), turned, strict=True):
            layer.write(0, [keys])
        self._torn = False
        self._positions, self._original_positions, self._serials = moved, origin, serials
        self._written += n

    def set_block(self, tokens: int) -> None:
        """From now on slots are allocated, and given back, in multiples of ``tokens``."""
        self.block_tokens = tokens
        for layer in self.layers:
            layer.block_tokens = tokens

    def trim(self) -> None:
        """Give back blocks that hold nothing."""
        for layer in self.layers:
            if layer.is_initialized and layer.capacity - layer.length >= layer.block_tokens:
                self.forget_loose()  # first: a layer may lose what is behind before memory runs out
                layer.resize(layer.length)

    def rotated(self, keys: Tensor, delta: Tensor) -> Tensor:
        """``keys`` ``[..., n, head_dim]`` turned from their positions to ``delta`` ``[3, n]`` further on.

        Exact: each pair of dimensions turns about one of the three axes, and rotations add up.
        Computed in float32, returned in the dtype of ``keys``.
        """
        inv_freq = self._inv_freq.to(keys.device, torch.float32)
        angles = delta.to(keys.device).float()[..., None] * inv_freq
        parts = angles.split(self._sections, -1)
        angle = torch.cat([part[axis % 3] for axis, part in enumerate(parts)], -1)
        cos, sin = torch.cat([angle.cos()] * 2, -1), torch.cat([angle.sin()] * 2, -1)
        x = keys.float()
        low, high = x.chunk(2, -1)
        return (x * cos + torch.cat([-high, low], -1) * sin).to(keys.dtype)

    def copy_rotated(self, source: Tensor, target: Tensor, positions: Tensor) -> None:
        """Copy the tokens at slots ``source`` ``[n]`` to slots ``target``, at new ``positions`` ``[3, n]``.

        Keys are rotated from their originals where those are kept. Target slots must exist or
        follow directly on the last one; a source slot may be a target, too.
        """
        end = max(self.length, int(target.max()) + 1) if target.numel() else self.length
        origin = self._original_positions[:, source]
        delta = positions - origin
        for layer in self.layers:
            if end > layer.capacity:
                layer.resize(end)
            layer.length = end
            src, dst = layer.rows(source), layer.rows(target)
            keys, values, *kept = layer.storage()
            originals = (kept[0] if kept else keys)[:, :, src]
            values[:, :, dst] = values[:, :, src]
            keys[:, :, dst] = self.rotated(originals, delta) if bool(delta.any()) else originals
            if kept:
                kept[0][:, :, dst] = originals
        self.record(positions, target)
        if self.keep_original_keys:
            self._original_positions[:, target] = origin

    def fork(self) -> SlotCache:
        """An independent copy, as large as what is used."""
        other = SlotCache(self._config, self._inv_freq, self.block_tokens, self.keep_original_keys)
        for mine, copy in zip(self.layers, other.layers, strict=True):
            if mine.is_initialized:
                copy.lazy_initialization(mine.keys, mine.values)
                copy.length = mine.length
                copy.keys, copy.values = mine.keys, mine.values
                copy.original_keys = mine.original_keys
                copy.resize(mine.length)
        self._copy_records(other)
        return other

    def _copy_records(self, other: SlotCache) -> None:
        """Of the tokens, but none of what lies behind the last slot."""
        other._positions, other._original_positions = (
            self._positions.clone(),
            self._original_positions.clone(),
        )
        other._serials, other._written = self._serials.clone(), self._written
        other.forget_loose()

    def discard(self) -> None:
        """Free everything."""
        self.layers = [SlotLayer(self.block_tokens, self.keep_original_keys) for _ in self.layers]
        self._serials.zero_()
        self._torn = False
