"""Says how much memory the caches of an engine take, and whether several engines share it."""

from __future__ import annotations

import torch

from vln_ros.config import ReuseConfig, StreamConfig
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.stream.kv_pool import KVPool


def build_pool(model: LoadedModel, stream: StreamConfig, reuse: ReuseConfig) -> KVPool | None:
    """The pool that engines with these options share; None where each is to have memory of its own."""
    if not stream.pool_tokens:
        return None
    return KVPool(
        model.network,
        tokens=stream.pool_tokens,
        page_tokens=stream.cache_block_tokens,
        keep_original_keys=keeps_original_keys(model, reuse),
    )


def keeps_original_keys(model: LoadedModel, reuse: ReuseConfig | None) -> bool:
    """Keys that are handed on are turned again and again, which drifts in half precision."""
    return reuse is not None and reuse.enabled and model.dtype is not torch.float32


def most_tokens(config: StreamConfig) -> int:
    """The budget, frames that nobody asks about for half as long again, and what one forward adds."""
    return config.token_budget * 3 // 2 + 2048
