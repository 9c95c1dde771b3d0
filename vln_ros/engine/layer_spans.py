"""Tells the profiler what only the engine knows: GPU time, layers, bytes of weights and cache."""

from __future__ import annotations

from typing import Any

import torch
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.finite import stored_parts
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.profiling import spans
from vln_ros.profiling.report import CACHE_ALLOCATED, CACHE_USED, DEVICE_MEMORY, STREAM_FILL, WEIGHTS


class CudaClock:
    """CUDA events: marks in the stream of work; reading them waits for nothing."""

    def mark(self) -> object:
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between_ms(self, begin: object, end: object) -> float | None:
        assert isinstance(begin, torch.cuda.Event)
        assert isinstance(end, torch.cuda.Event)
        return begin.elapsed_time(end) if end.query() else None


def watch_network(network: Qwen2_5_VLForConditionalGeneration) -> None:
    """Let the recorder, if there is one, know of the weights, the device and, where asked for, the layers."""
    recorder = spans.active()
    if recorder is None:
        return
    named = [*network.named_parameters(), *network.named_buffers()]
    tensors = [part for one in named for _, part in stored_parts(*one)]
    # Tied weights are one tensor under two names.
    spans.gauge(WEIGHTS, sum({t.data_ptr(): t.nbytes for t in tensors}.values()))
    if network.device.type == "cuda":
        recorder.device_clock = CudaClock()
    if recorder.config.level == "layers":
        parts: Any = network.model
        for i, block in enumerate(parts.visual.blocks):
            _watch_layer(block.attn.qkv, block.mlp, f"vision block {i:02d}")
        for i, layer in enumerate(parts.language_model.layers):
            _watch_layer(layer.self_attn.q_proj, layer.mlp, f"layer {i:02d}")


def _watch_layer(first: torch.nn.Module, last: torch.nn.Module, name: str) -> None:
    """From where ``first`` begins to where ``last`` ends: a layer's modules are called, not the layer."""
    opened: list[Any] = []

    def before(_module: Any, _args: Any) -> None:
        opened[:] = [spans.span(name, device=True)]  # one that a failure has left open is forgotten
        opened[0].__enter__()

    def after(_module: Any, _args: Any, _output: Any) -> None:
        opened.pop().__exit__(None, None, None)

    first.register_forward_pre_hook(before)
    last.register_forward_hook(after)


def note_memory(cache: SlotCache, tokens: int, budget: int) -> None:
    """The levels after a decision."""
    if spans.active() is None:
        return
    spans.gauge(CACHE_USED, cache.used_bytes)
    spans.gauge(CACHE_ALLOCATED, cache.allocated_bytes)
    spans.gauge(STREAM_FILL, 100.0 * tokens / budget)
    if torch.cuda.is_initialized():
        spans.gauge(DEVICE_MEMORY, torch.cuda.memory_allocated())
        spans.gauge(DEVICE_MEMORY, torch.cuda.max_memory_allocated())
