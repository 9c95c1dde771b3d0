"""Measures the engine: cost per frame in a long stream, batches, decode modes, context strategies.

Each drives :class:`QwenEngine` as the worker does, frame by frame. Times are wall clock; what they
measure depends on the shapes of the network only, not on what its weights say.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.measure.stream import Request, measure_native
from vln_ros.capacity.walk import walk
from vln_ros.config import ConfigError, StreamConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.batch import decide_together, observe_together
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ContextSpec, Profile
from vln_ros.engine.context.delayed_batch import DelayedBatchContext
from vln_ros.engine.decode.decode import DecodeMode
from vln_ros.engine.inputs.tower import tower_of
from vln_ros.engine.qwen import QwenEngine

INSTRUCTION = "Walk past the red sofa and stop next to the lamp."
_HUNDRED = 100

STRATEGIES = {
    "append": ContextSpec("append", unasked_frames="keep"),
    "window_reset": ContextSpec(
        "window_reset",
        unasked_frames="keep",
        reset_steps=16,
        history_frames=8,
        history_choice="uniform_round",
    ),
    "history": ContextSpec(
        "history", history_frames=8, history_choice="uniform_round", history_empty="none", history_limit=0
    ),
    "delayed_batch": ContextSpec("delayed_batch", recent_frames=16, important_frames=8, important_score=0.6),
}
"""As in the profiles that use them; but StreamVLN resets every 32 actions, more than a short stream has."""


@dataclass(frozen=True)
class Spread:
    """A figure and how much it varies."""

    median: float
    p5: float
    p95: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        p5, median, p95 = np.percentile(values, [5, 50, 95])
        return Spread(float(median), float(p5), float(p95), len(values))


@dataclass(frozen=True)
class Flat:
    """A long bounded stream; lists have one value per frame (taken in and decided on).

    Attributes:
        frame_s: wall clock.
        cpu_s: processor time of the process, which other programs disturb less.
        old_s, young_s: the stream goes on after its last frame, by turns with a new one that is past its
            first hundred: both are measured in the same minutes, so that the load of the machine is the same.
        resident_bytes: of the process; ``cache_bytes``: allocated for keys and values.
    """

    token_budget: int
    frame_s: tuple[float, ...]
    cpu_s: tuple[float, ...]
    resident_bytes: tuple[int, ...]
    cache_bytes: tuple[int, ...]
    cached_tokens: tuple[int, ...]
    old_s: tuple[float, ...]
    young_s: tuple[float, ...]
    evicted: int
    next_position: int

    @property
    def paired_ratio(self) -> float:
        """Median frame of the old stream over that of the new one."""
        return float(np.median(self.old_s) / np.median(self.young_s))

    def ratio(self, name: str) -> float:
        """Median of the last hundred frames over that of the second hundred, of the list ``name``."""
        values = getattr(self, name)
        part = min(_HUNDRED, len(values) // 3)
        return float(np.median(values[-part:]) / np.median(values[part : 2 * part]))


@dataclass(frozen=True)
class Batch:
    """Robots on one model.

    Attributes:
        together_s, separate_s: per round, in which each robot takes in a frame and decides.
        same_queues: every decision of every robot is the same both ways.
        probability_difference: largest, between the two ways.
    """

    robots: int
    together_s: tuple[float, ...]
    separate_s: tuple[float, ...]
    same_queues: bool
    probability_difference: float


@dataclass(frozen=True)
class DecodingCost:
    """One way to decode on one stream; lists have one value per decision, frame and question included."""

    way: str
    seconds: tuple[float, ...]
    forwards: tuple[int, ...]
    tokens: tuple[int, ...]
    flops: tuple[float, ...]
    queues: tuple[tuple[str, ...], ...]
    probabilities: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class ContextCost:
    """One context strategy on one stream.

    Attributes:
        every: frames per decision.
        observe_s: per frame; ``decide_s``: per decision, from question to queue.
        tokens, flops: of the decoder, in the whole run.
        patches: through the vision tower.
        cached_tokens: most after a decision.
        compression: collected frames per shown frame, for the strategy that selects.
    """

    strategy: str
    every: int
    observe_s: tuple[float, ...]
    decide_s: tuple[float, ...]
    tokens: int
    flops: float
    patches: int
    cached_tokens: int
    compression: float | None


UNHELD = StreamConfig(min_allowed=0.0)
"""What a network of random weights answers is measured, not meant."""


def measure_flat(model: LoadedModel, profile: Profile, frames: int, token_budget: int) -> Flat:
    """One robot for ``frames`` frames, each decided on, within ``token_budget``."""
    config = StreamConfig(token_budget=token_budget, min_allowed=0.0)
    part = min(_HUNDRED, frames // 3)

    def new_engine() -> QwenEngine:
        engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=config)
        engine.start(Instruction(1, INSTRUCTION))
        return engine

    def timed(engine: QwenEngine, frame: Frame) -> tuple[float, float]:
        cpu, start = time.process_time(), now_s(model)
        engine.observe(frame)
        engine.decide(frame.index)
        return now_s(model) - start, time.process_time() - cpu

    rows: list[tuple[float, float, int, int, int]] = []
    stream = walk(frames + part, (112, 112))
    old = new_engine()
    with tqdm(desc="flat", total=frames + 3 * part, unit="frame", disable=None) as bar:
        for frame in islice(stream, frames):
            took = timed(old, frame)
            report = old.report()
            rows.append((*took, _resident_bytes(), report.allocated_bytes, report.cached_tokens))
            bar.update()
        evicted, position = old.report().evicted, old.session.timeline.next_position
        young, pairs = new_engine(), []
        fresh = walk(2 * part, (112, 112))
        for frame in islice(fresh, part):
            timed(young, frame)
            bar.update()
        for late, early in zip(stream, fresh, strict=True):
            pairs.append((timed(old, late)[0], timed(young, early)[0]))
            bar.update(2)
    wall, cpu_s, resident, cache, tokens = zip(*rows, strict=True)
    old_s, young_s = zip(*pairs, strict=True)
    old.close()
    young.close()
    return Flat(token_budget, wall, cpu_s, resident, cache, tokens, old_s, young_s, evicted, position)


def measure_batch(model: LoadedModel, profile: Profile, robots: int, rounds: int, repeats: int) -> Batch:
    """The same robots in shared forwards, and one after the other."""
    frames = [list(walk(rounds, (112, 112), robot=r)) for r in range(robots)]
    together_s: list[float] = []
    separate_s: list[float] = []
    same, difference = True, 0.0
    for _ in tqdm(range(repeats), desc="batch", disable=None):
        shared = [_robot(model, profile, r) for r in range(robots)]
        alone = [_robot(model, profile, r) for r in range(robots)]
        for i in range(rounds):
            start = now_s(model)
            errors = observe_together(shared, [f[i] for f in frames])
            chunks = decide_together(shared, [i] * robots)
            together_s.append(now_s(model) - start)
            start = now_s(model)
            expected = []
            for engine, seen in zip(alone, frames, strict=True):
                engine.observe(seen[i])
                expected.append(engine.decide(i))
            separate_s.append(now_s(model) - start)
            for error, chunk, other in zip(errors, chunks, expected, strict=True):
                if error is not None:
                    raise error
                if isinstance(chunk, Exception):
                    raise chunk
                same = same and _said(chunk) == _said(other)
                pairs = zip(chunk.probabilities, other.probabilities, strict=False)
                difference = max([difference, *(abs(a - b) for a, b in pairs)])
        for engine in (*shared, *alone):
            engine.close()
    return Batch(robots, tuple(together_s), tuple(separate_s), same, difference)


def measure_decoding(
    model: LoadedModel, profile: Profile, way: str, decisions: int, temperature: float, free_tokens: int
) -> DecodingCost:
    """``decisions`` decisions, each with the frame and the question before it.

    Args:
        way: ``tree``, ``tokens`` or ``free``.
        free_tokens: length of free text.
    """
    config = StreamConfig(decode=way, free_tokens=free_tokens, min_allowed=0.0)
    # Where frames that nobody asks about are dropped, not even their vision is done ahead.
    profile = replace(profile, context=replace(profile.context, unasked_frames="keep"))
    engine = QwenEngine(model, profile, temperature=temperature, seed=0, stream=config)
    engine.start(Instruction(1, INSTRUCTION))
    seconds: list[float] = []
    works = []
    chunks: list[ActionChunk] = []
    for frame in tqdm(walk(decisions, (112, 112)), desc=way, total=decisions, disable=None):
        engine.observe(frame)  # vision only, the same for all
        start = now_s(model)
        chunks.append(engine.decide(frame.index))
        seconds.append(now_s(model) - start)
        works.append(engine.report().decision)
    engine.close()
    return DecodingCost(
        way,
        tuple(seconds),
        tuple(w.forwards for w in works),
        tuple(w.tokens for w in works),
        tuple(w.flops for w in works),
        tuple(tuple(str(a) for a in c.actions) for c in chunks),
        tuple(c.probabilities for c in chunks),
    )


DECODE_MODES = (DecodeMode.TREE.value, DecodeMode.TOKENS.value, "free")


def measure_context(
    model: LoadedModel, profile: Profile, strategy: str, frames: Sequence[Frame], every: int
) -> ContextCost:
    """One strategy on ``frames``, asked after each ``every`` of them."""
    spec = STRATEGIES[strategy]
    past = "{history}" if spec.history_frames else ""
    first = f"Instruction: {{instruction}}\n{past}{{image}}"
    later = first if strategy == "history" else "{image}"  # each of its questions is a chat of its own
    profile = replace(profile, context=spec, first_turn=first, next_turn=later)
    engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=UNHELD)
    observe_s: list[float] = []
    decide_s: list[float] = []
    cached = 0
    with _counted_patches(model) as patches:
        engine.start(Instruction(1, INSTRUCTION))
        for frame in tqdm(frames, desc=f"{strategy}, every {every}", unit="frame", disable=None):
            start = now_s(model)
            engine.observe(frame)
            observe_s.append(now_s(model) - start)
            if (frame.index + 1) % every == 0:
                start = now_s(model)
                engine.decide(frame.index)
                decide_s.append(now_s(model) - start)
                cached = max(cached, engine.session.timeline.tokens)
    context = engine.context
    ratio = context.selection.compression_ratio if isinstance(context, DelayedBatchContext) else None
    work = engine.session.work
    engine.close()
    return ContextCost(
        strategy,
        every,
        tuple(observe_s),
        tuple(decide_s),
        work.tokens,
        work.flops,
        sum(patches),
        cached,
        ratio,
    )


@contextmanager
def _counted_patches(model: LoadedModel) -> Iterator[list[int]]:
    """Patches of each call of the vision tower; videos go through the released forward."""
    counts: list[int] = []
    released: Any = model.network.model.visual

    def count_patches(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        counts.append((args[0] if args else kwargs["hidden_states"]).shape[0])

    def count_pixels(_module: Any, args: tuple[Any, ...]) -> None:
        counts.append(args[0].shape[:3].numel() // model.pixels.patch_size**2)

    handles = [
        released.register_forward_pre_hook(count_patches, with_kwargs=True),
        tower_of(model.network, model.pixels).register_forward_pre_hook(count_pixels),
    ]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _robot(model: LoadedModel, profile: Profile, number: int) -> QwenEngine:
    engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=UNHELD)
    engine.start(Instruction(number + 1, f"{INSTRUCTION} You are robot {number}."))
    return engine


def _said(chunk: ActionChunk) -> tuple[object, ...]:
    return chunk.actions, chunk.unconstrained, chunk.instruction, chunk.frame_stamp_ns


def now_s(model: LoadedModel) -> float:
    """When the device has done what it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()


def _resident_bytes() -> int:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError as error:
        raise ConfigError("the flat section reads resident memory from /proc: it needs Linux") from error
    return pages * os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class NativeDecision:
    """The same by ``generate`` over all frames at once.

    Attributes:
        new_tokens: as many as four actions in words take.
    """

    total_s: float
    context_tokens: int
    new_tokens: int


def measure_generate(
    model: LoadedModel, *, frames: int, size: tuple[int, int], new_tokens: int, repeats: int
) -> list[NativeDecision]:
    """``generate`` on a chat with all frames, preprocessing and vision included."""
    request = Request("", str(model.device), str(model.dtype), frames, *size, 1, new_tokens)
    found = []
    for _ in tqdm(range(repeats), desc="stages, generate", disable=None):
        result = measure_native(model, request)
        found.append(NativeDecision(result.total_s, result.context_tokens, new_tokens))
    return found
