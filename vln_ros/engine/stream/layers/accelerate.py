"""Runs forwards in a few fixed shapes, each recorded once: as a CUDA graph, or compiled.

A chunk is filled up at its front to one of a few lengths. What fills it up is written to a slot that nobody
reads and its states are dropped, so that it changes nothing. Whatever else differs from one forward to the
next is in tensors that the recorded work reads. What cannot be recorded runs as it does without, and it is
said why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.stream.forward import Prefill
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.layers.attention import FusedAttention, MaskedAttention
from vln_ros.engine.stream.layers.decoder import reads_by_flash, run_layers, runs_on_slots
from vln_ros.engine.stream.tree import TokenTree

logger = logging.getLogger(__name__)

CHUNKS = (16, 64, 128, 256, 512, 1024)
"""Lengths that a chunk's prompt is filled up to; a longer one is not recorded."""
CONTEXTS = (512, 2048, 8192, 32768, 131072)
"""How many slots are read where attention has a mask, so that this is a fixed shape, too."""
_KEPT = 64
"""Most shapes of one session. A chunk of another shape runs as it does without."""

Work = Callable[[], Tensor]
Record = Callable[[Work], Work]
"""Makes of work on given tensors the same work, faster; it may run the work meanwhile."""


def graph_recorder() -> Record:
    """Records CUDA graphs: all kernels of the work are started at once. They share their memory."""
    pool = torch.cuda.graph_pool_handle()

    def record(work: Work) -> Work:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries make their workspaces outside of the graph
            for _ in range(2):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            result = work()

        def replay() -> Tensor:
            graph.replay()
            return result

        return replay

    return record


def record_compiled(work: Work, backend: str = "inductor") -> Work:
    """The work compiled as one graph of exactly these shapes, by a backend of ``torch.compile``."""
    # Every shape is a variant of one function, and the compiler stops at eight of them.
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, _KEPT)
    compiled: Work = torch.compile(work, fullgraph=True, dynamic=False, backend=backend)
    compiled()
    return compiled


class Accelerator:
    """How forwards of one model are recorded, and what came of it; its engines share it.

    Args:
        name: ``graphs`` or ``compile``.
    """

    def __init__(self, name: str, record: Record) -> None:
        self.name, self._record = name, record
        self.recorded = 0
        """How many shapes were recorded, and are held or were given up since."""
        self.reason: str | None = None
        """Why nothing is recorded any more; None while it is."""

    @staticmethod
    def of(name: str, device: torch.device) -> Accelerator | None:
        """As the option says; one that records nothing, with its reason, where this device cannot."""
        if name == "none":
            return None
        if name == "compile":
            return Accelerator(name, record_compiled)
        if device.type == "cuda":
            return Accelerator(name, graph_recorder())
        without = Accelerator(name, lambda work: work)
        without.give_up(f"graphs are for a CUDA device, and this is {device.type}")
        return without

    def __str__(self) -> str:
        shapes = f"{self.name}: {self.recorded} shapes"
        return shapes if self.reason is None else f"{shapes}, none any more ({self.reason})"

    def give_up(self, reason: str) -> None:
        """From now on everything runs as it does without."""
        self.reason = reason
        logger.warning("accelerate = %s: going on without (%s)", self.name, reason)

    def record(self, work: Work, what: str) -> Work | None:
        """The work recorded; None if that failed, and then nothing more is recorded."""
        if self.reason is not None:
            return None
        begun_s = time.monotonic()
        try:
            replay = self._record(work)
        except Exception as error:  # compilers and drivers fail in many types; it runs without, too
            self.give_up(" ".join(str(error).split())[:300] or type(error).__name__)
            return None
        self.recorded += 1
        took_s = time.monotonic() - begun_s
        logger.info("recorded %s (%s, number %d, %.1f s)", what, self.name, self.recorded, took_s)
        return replay


_Shape = tuple[int, TokenTree, int]


@dataclass(frozen=True, eq=False)
class _Chunk:
    """A recorded forward, and what it reads: a chunk that is filled up."""

    replay: Work
    filled: Prefill


class RecordedDecoder:
    """The recorded forwards of one session, on the slots of its cache."""

    def __init__(self, network: Qwen2_5_VLForConditionalGeneration, accelerator: Accelerator) -> None:
        self._network, self._accelerator = network, accelerator
        self._chunks: dict[_Shape, _Chunk] = {}
        self._asked: set[_Shape] = set()
        self._places: tuple[int, ...] = ()

    def run(self, cache: SlotCache, prefill: Prefill) -> Tensor | None:
        """As :func:`.decoder.run_chunk`; None: this chunk is not one for recording."""
        length = next((n for n in CHUNKS if n >= prefill.prompt), None)
        if length is None or self._accelerator.reason is not None or not runs_on_slots(self._network):
            return None
        n, end = len(prefill.embeddings), prefill.before.tokens + len(prefill.embeddings)
        spare = cache.spare_slot(end, prefill.embeddings)
        buffers = cache.buffers()
        places = tuple(t.data_ptr() for layer in buffers for t in layer)
        if places != self._places:  # what is recorded holds the cache as it was before it grew
            self._chunks.clear()
            self._places = places
        columns = min(next((c for c in CONTEXTS if c >= end), cache.capacity), cache.capacity)
        has_flash = reads_by_flash(self._network)
        key = (length, prefill.tree, 0 if has_flash else columns)
        chunk = self._chunks.get(key)
        if chunk is None:
            # What comes once, as the options of one question, is not worth it.
            if key not in self._asked or len(self._chunks) == _KEPT:
                self._asked = {key} if len(self._asked) == _KEPT else self._asked | {key}
                return None
            decoder = self._network.model.language_model
            filled = _empty(prefill, length, cache.capacity)
            _fill(filled, prefill, spare)
            attend = FusedAttention.of(filled) if has_flash else MaskedAttention.of(filled, columns)
            replay = self._accelerator.record(
                lambda: run_layers(decoder, filled, attend(filled), buffers),
                f"{length} tokens and a tree of {len(prefill.tree)}, over at most {columns} slots",
            )
            if replay is None:
                return None
            chunk = self._chunks[key] = _Chunk(replay, filled)
        _fill(chunk.filled, prefill, spare)
        states = chunk.replay()[-n:].clone()  # the next replay writes over them
        cache.extend(end)
        return states

    def forget(self) -> None:
        """What was recorded holds the cache and memory of its own: give it up."""
        self._chunks.clear()
        self._places = ()


def _empty(prefill: Prefill, length: int, capacity: int) -> Prefill:
    """A chunk whose prompt has ``length`` tokens, to be filled."""
    n = length + len(prefill.tree)
    embeddings = prefill.embeddings.new_zeros(n, prefill.embeddings.shape[1])
    numbers = prefill.numbers.new_zeros(4 * n + 10)
    return replace(prefill, embeddings=embeddings, numbers=numbers, capacity=capacity)


def _fill(filled: Prefill, prefill: Prefill, spare: int) -> None:
    """The chunk at the end of ``filled``; what is before it is written to slot ``spare``."""
    n, front = len(prefill.embeddings), filled.prompt - prefill.prompt
    filled.embeddings[:front].zero_()
    filled.embeddings[front:].copy_(prefill.embeddings)
    filled.device_positions[:, front:].copy_(prefill.device_positions)
    filled.slots[:front].fill_(spare)
    filled.slots[-n:].copy_(prefill.slots)
    filled.lengths.copy_(prefill.lengths)
    filled.lengths[0, 1].fill_(filled.prompt)
