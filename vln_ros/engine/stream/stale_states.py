"""Lets tokens of whole conversations take over keys and values of earlier ones, as reuse does."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from vln_ros.engine.stream.kv_cache import SlotCache


class StaleStates(Cache):
    """Handed to the released decoder as its cache: stale tokens get keys and values of their origins.

    The keys are turned to the stale token's own position, as :meth:`SlotCache.copy_rotated` does.

    Args:
        own, origin: ``[stale]`` places in ``[b * n]`` of the stale tokens, and of those that they take over.
        positions: ``[3, b * n]`` rotary positions.
    """

    def __init__(self, network: Any, own: Tensor, origin: Tensor, positions: Tensor) -> None:
        slots = SlotCache(network.config, network.model.language_model.rotary_emb.inv_freq, 1)
        delta = positions[:, own] - positions[:, origin]
        layers: list[Any] = [_StaleLayer(slots, own, origin, delta) for _ in slots.layers]
        super().__init__(layers=layers)


class _StaleLayer(CacheLayerMixin):
    """``own`` and ``origin`` are places in ``[b * n]``, ``delta`` ``[3, stale]`` between their positions."""

    def __init__(self, slots: SlotCache, own: Tensor, origin: Tensor, delta: Tensor) -> None:
        super().__init__()
        self._slots, self._own, self._origin, self._delta = slots, own, origin, delta

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Nothing is kept."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        def turned(rows: Tensor) -> Tensor:
            return self._slots.rotated(rows.transpose(0, 1), self._delta).transpose(0, 1)

        keys, values = key_states.transpose(1, 2), value_states.transpose(1, 2)
        flat = keys.flatten(0, 1)
        flat = flat.index_put((self._own,), turned(flat[self._origin]))
        of_value = values.flatten(0, 1)
        of_value = of_value.index_put((self._own,), of_value[self._origin])
        return flat.view(keys.shape).transpose(1, 2), of_value.view(values.shape).transpose(1, 2)

    def get_seq_length(self) -> int:
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return query_length, 0

    def get_max_length(self) -> int:
        return -1
