"""Runs the forwards of several robots' sessions as one, on one model.

Each session keeps its own cache; a shared forward reads them side by side, padded to the longest.
The weights, which are what a small forward mostly reads, are then read once for all. A session whose
part fails is left as it was and gets its own error; the others do not notice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.engine.decode.decode import Decoding, Push
from vln_ros.engine.oom_fallback import is_out_of_memory
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.forward import Prefill, run_decoder
from vln_ros.engine.stream.kv_cache import SlotLayer
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.tree import NO_TREE
from vln_ros.profiling.spans import span

T = TypeVar("T")


class _JoinedLayer(CacheLayerMixin):
    """The same layer of several caches: each row is appended to its own, all are read padded."""

    def __init__(self, layers: Sequence[SlotLayer], counts: Sequence[int]) -> None:
        super().__init__()
        self._layers, self._counts = layers, counts

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Each session's layer does so on its own."""

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        rows = [
            layer.update(key_states[i : i + 1, :, :n], value_states[i : i + 1, :, :n])
            for i, (layer, n) in enumerate(zip(self._layers, self._counts, strict=True))
        ]
        longest = max(keys.shape[2] for keys, _ in rows)
        shape = (len(rows), key_states.shape[1], longest, key_states.shape[3])
        all_keys, all_values = key_states.new_zeros(shape), value_states.new_zeros(shape)
        for i, (keys, values) in enumerate(rows):
            all_keys[i, :, : keys.shape[2]] = keys[0]
            all_values[i, :, : values.shape[2]] = values[0]
        return all_keys, all_values

    def get_seq_length(self) -> int:
        return max(layer.length for layer in self._layers)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0

    def get_max_length(self) -> int:
        return -1


@torch.no_grad()
def push_batch(sessions: Sequence[Session], pushes: Sequence[Push]) -> list[Tensor | Exception]:
    """One forward for several sessions of one network.

    Returns:
        Per session ``[1 + nodes, vocabulary]`` scores, as :class:`Push` is answered; or the error
        that its part met, and then the session is as it was.

    Raises:
        ValueError: the sessions are of different networks, or one occurs twice.
    """
    if len({id(s) for s in sessions}) != len(sessions) or len({id(s.network) for s in sessions}) > 1:
        raise ValueError("a batch needs different sessions of one network")
    results: list[Tensor | Exception] = [RuntimeError("not computed")] * len(sessions)
    prefills: dict[int, Prefill] = {}
    for i, (session, push) in enumerate(zip(sessions, pushes, strict=True)):
        try:
            prefills[i] = session.prepare(push.pieces, push.tree)
        except Exception as error:  # it is this session's result
            results[i] = error
    if not prefills:
        return results
    taking_part = [sessions[i] for i in prefills]
    try:
        states = _joined_forward(taking_part, list(prefills.values()))
        wanted: list[Tensor] = []
        for row, (i, prefill) in zip(states, prefills.items(), strict=True):
            sessions[i].complete(prefill)
            n = prefill.embeddings.shape[0]
            wanted.append(row[n - len(pushes[i].tree) - 1 : n])
        # One product with the vocabulary for all; counted where it belongs.
        scores = taking_part[0].network.lm_head(torch.cat(wanted)).float()
    except Exception as error:
        for i, prefill in prefills.items():
            sessions[i].abandon(prefill)
        if len(prefills) == 1:
            results[next(iter(prefills))] = error
            return results
        # Together it was too much, or one of them is to blame: each on its own tells which.
        for i in prefills:
            results[i] = push_batch([sessions[i]], [pushes[i]])[0]
        return results
    for i, part in zip(prefills, scores.split([w.shape[0] for w in wanted]), strict=True):
        sessions[i].count_logits(part.shape[0])
        results[i] = part
    return results


def run_batch(sessions: Sequence[Session], decodings: Sequence[Decoding[T]]) -> list[T | Exception]:
    """The results of several decodings, their forwards run together; or each one's own error."""
    results: dict[int, T | Exception] = {}
    waiting: dict[int, Push] = {}
    answers: dict[int, Tensor | None] = dict.fromkeys(range(len(sessions)))
    stage = "prefill"
    while answers:
        for i, answer in answers.items():
            try:
                with span("grammar"):  # on a GPU it waits for the scores
                    waiting[i] = next(decodings[i]) if answer is None else decodings[i].send(answer)
            except StopIteration as stop:
                results[i] = stop.value
            except Exception as error:  # it is this robot's result
                results[i] = error
        answers = {}
        if waiting:
            with span(stage, device=True):
                rows = push_batch([sessions[i] for i in waiting], list(waiting.values()))
            stage = "decode"
            for i, row in zip(waiting, rows, strict=True):
                if isinstance(row, Exception):
                    decodings[i].close()
                    results[i] = row
                else:
                    answers[i] = row
            waiting = {}
    return [results[i] for i in range(len(sessions))]


def observe_together(engines: Sequence[QwenEngine], frames: Sequence[Frame]) -> list[Exception | None]:
    """Each engine takes in its frame; or each one's own error."""
    errors: list[Exception | None] = [None] * len(engines)
    for i, (engine, frame) in enumerate(zip(engines, frames, strict=True)):
        try:
            engine.observe(frame)
        except Exception as error:  # it is this robot's result
            errors[i] = error
    return errors


def work_ahead_together(engines: Sequence[QwenEngine]) -> list[Exception | None]:
    """What each engine can prefill before it is asked, in one forward; or each one's own error."""
    errors: list[Exception | None] = [None] * len(engines)
    pieces = {i: p for i, e in enumerate(engines) if (p := e.ahead())}
    with span("prefill", device=True):
        rows = push_batch([engines[i].session for i in pieces], [Push(p, NO_TREE) for p in pieces.values()])
    for i, row in zip(pieces, rows, strict=True):
        if not isinstance(row, Exception):
            engines[i].context.prefilled()
            continue
        try:
            if not is_out_of_memory(row):
                raise row
            engines[i].prefill()  # on its own, where it gives up what it can
        except Exception as error:  # it is this robot's result
            errors[i] = error
    return errors


def decide_together(engines: Sequence[QwenEngine], queues: Sequence[int]) -> list[ActionChunk | Exception]:
    """The decisions of several robots on one model, in shared forwards; or each one's own error.

    A robot for which memory ran out is asked again on its own, where it gives up what it can.
    """
    results: dict[int, ActionChunk | Exception] = {}
    for i, engine in enumerate(engines):
        try:
            engine.ready()
        except Exception as error:  # it is this robot's result
            results[i] = error
    able = [i for i in range(len(engines)) if i not in results]
    prefills = run_batch([engines[i].session for i in able], [engines[i].deciding(queues[i]) for i in able])
    for i, prefill in zip(able, prefills, strict=True):
        results[i] = prefill
        if isinstance(prefill, Exception) and is_out_of_memory(prefill):
            try:
                results[i] = engines[i].decide(queues[i])
            except Exception as error:  # it is this robot's result
                results[i] = error
    return [results[i] for i in range(len(engines))]


def _joined_forward(sessions: Sequence[Session], prefills: Sequence[Prefill]) -> Tensor:
    """States ``[batch, longest chunk, hidden]``; rows beyond a chunk's own tokens mean nothing."""
    counts = [c.embeddings.shape[0] for c in prefills]
    lengths = [s.cache.length + n for s, n in zip(sessions, counts, strict=True)]
    batch, n, slots = len(prefills), max(counts), max(lengths)
    embeddings = prefills[0].embeddings.new_zeros(batch, n, prefills[0].embeddings.shape[1])
    device = embeddings.device
    positions = torch.zeros(3, batch, n, dtype=torch.long)
    visible = torch.zeros(batch, n, slots, dtype=torch.bool, device=device)
    visible[:, :, 0] = True  # a padding row must see something, or its softmax is not a number
    for i, (prefill, count, length) in enumerate(zip(prefills, counts, lengths, strict=True)):
        embeddings[i, :count] = prefill.embeddings
        positions[:, i, :count] = prefill.positions
        own = prefill.visible
        if own is None:
            own = torch.ones(count, length, dtype=torch.bool, device=device).tril(length - count)
        visible[i, :count, :length] = own
    layers: list[Any] = [
        _JoinedLayer([s.cache.layers[i] for s in sessions], counts)
        for i in range(len(sessions[0].cache.layers))
    ]
    return run_decoder(sessions[0].network, Cache(layers=layers), embeddings, positions, visible)
