"""Measures robots on one model that are all asked again as soon as they have been answered.

Each robot's next frame is there when its last queue is: the load is as high as so many robots can make it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tqdm import tqdm
from transformers import Qwen2_5_VLConfig

from benchmarks.measure.engine import INSTRUCTION, now_s
from vln_ros.capacity.stages import published_config
from vln_ros.capacity.walk import walk
from vln_ros.config import ReuseConfig, StreamConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.batch import SharedDecisions
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.cache_memory import build_pool

TOGETHER, BY_TURNS = "together", "by turns"
PAST_FRAMES = (0, 2, 4, 8)
"""Frames in the stream of every fourth robot."""


@dataclass(frozen=True, kw_only=True)
class Crowd:
    """So many robots, one way.

    Attributes:
        way: ``together`` in shared forwards and one pool, or ``by turns`` each on its own.
        per_s: decisions per second, of all.
        latency_s: per decision, from the frame in memory to the queue.
        fairness: Jain's index of the decisions that each had taken when the first one had all of its own: 1
            where all had equally many, ``1 / robots`` where one had them all.
        cache_bytes: allocated for keys and values at the end.
        queues: what each robot said.
    """

    robots: int
    way: str
    per_s: float
    latency_s: tuple[float, ...]
    fairness: float
    cache_bytes: int
    queues: tuple[tuple[tuple[str, ...], ...], ...]


def few_layers(shape: str, layers: int, like: Any) -> Qwen2_5_VLConfig:
    """A released decoder's width with fewer layers; vocabulary and vision tower are those of ``like``."""
    released: Any = published_config(shape)
    text = {**released.text_config.to_dict(), "vocab_size": like.text_config.vocab_size}
    text |= {"num_hidden_layers": layers, "layer_types": None}
    text |= {key: getattr(like.text_config, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    vision = {**like.vision_config.to_dict(), "out_hidden_size": text["hidden_size"]}
    ids = {k: v for k, v in like.to_dict().items() if k.endswith("_token_id") and v is not None}
    return Qwen2_5_VLConfig(text_config=text, vision_config=vision, tie_word_embeddings=True, **ids)


def measure_crowd(
    model: LoadedModel, profile: Profile, *, robots: int, rounds: int, decode: str, way: str
) -> Crowd:
    """``rounds`` decisions of each robot; some of them have a longer past than others."""
    past = [PAST_FRAMES[r % len(PAST_FRAMES)] for r in range(robots)]
    frames = [walk(rounds + 1 + n, (112, 112), robot=r) for r, n in enumerate(past)]
    engines = _engines(model, profile, robots, StreamConfig(decode=decode, min_allowed=0.0))
    for r, engine in enumerate(engines):
        for _ in range(past[r]):
            engine.observe(next(frames[r]))
            engine.prefill()
        engine.observe(next(frames[r]))
        engine.decide(0)  # warms up, and closes the turn of what was seen so far
    run = _together if way == TOGETHER else _by_turns
    latencies: list[float] = []
    counts = [0] * robots
    queues: list[list[tuple[str, ...]]] = [[] for _ in range(robots)]
    begun = now_s(model)
    took_s, at_first_end = 0.0, counts
    for r, latency_s, chunk in tqdm(
        run(model, engines, frames, rounds),
        desc=f"{robots} robots, {way}, {decode}", total=robots * rounds, disable=None,
    ):  # fmt: skip
        counts[r] += 1
        latencies.append(latency_s)
        queues[r].append(tuple(str(a) for a in chunk.actions))
        if counts[r] == rounds and not took_s:
            took_s, at_first_end = now_s(model) - begun, list(counts)
    held = sum(engine.report().allocated_bytes for engine in engines)
    for engine in engines:
        engine.close()
    return Crowd(
        robots=robots,
        way=way,
        per_s=sum(at_first_end) / took_s,
        latency_s=tuple(latencies),
        fairness=jain(at_first_end),
        cache_bytes=held,
        queues=tuple(tuple(q) for q in queues),
    )


def jain(shares: Sequence[float]) -> float:
    """Jain's fairness index."""
    return sum(shares) ** 2 / (len(shares) * sum(s * s for s in shares))


@dataclass(frozen=True)
class Newcomer:
    """A robot joins with a long chat to prefill, while others decode.

    Attributes:
        chunk_tokens: of its prompt, in each shared forward.
        gap_s: per shared forward while it is prefilled, how long the others waited for their next token.
        alone_gap_s: the same before it came.
        took_s: from its joining to its queue.
    """

    chunk_tokens: int
    gap_s: tuple[float, ...]
    alone_gap_s: tuple[float, ...]
    took_s: float


def measure_newcomer(
    model: LoadedModel, profile: Profile, *, robots: int, frames: int, chunk_tokens: int
) -> Newcomer:
    """``robots - 1`` robots are asked again and again; then one comes with ``frames`` frames to prefill."""
    options = StreamConfig(decode="tokens", min_allowed=0.0, chunk_tokens=chunk_tokens)
    # Nothing is prefilled before it is asked: all of its frames are in its first question.
    late = replace(profile, context=replace(profile.context, unasked_frames="keep"))
    *others, newcomer = _engines(model, late, robots, options)
    streams = [walk(10_000, (112, 112), robot=r) for r in range(robots)]
    decisions, number = SharedDecisions(), {id(e): r for r, e in enumerate(others)}

    def ask(r: int) -> None:
        others[r].observe(next(streams[r]))
        decisions.ask(others[r], 0)

    def step() -> tuple[float, bool]:
        start = now_s(model)
        ended = decisions.step()
        gap_s = now_s(model) - start
        for engine, chunk in ended:
            if isinstance(chunk, Exception):
                raise chunk
            if engine is not newcomer:
                ask(number[id(engine)])
        return gap_s, any(engine is newcomer for engine, _ in ended)

    for r in range(robots - 1):
        ask(r)
    for _ in range(4):  # warm up, and past the first prefills
        step()
    alone = [step()[0] for _ in range(12)]
    for _ in range(frames):
        newcomer.observe(next(streams[-1]))
    begun, gaps = now_s(model), []
    decisions.ask(newcomer, 0)
    ended = False
    while not ended:
        gap_s, ended = step()
        gaps.append(gap_s)
    took_s = now_s(model) - begun
    for engine in (*others, newcomer):
        engine.close()
    return Newcomer(chunk_tokens, tuple(gaps), tuple(alone), took_s)


_Answers = Iterator[tuple[int, float, ActionChunk]]
"""Which robot, after how long, what."""


def _together(
    model: LoadedModel, engines: Sequence[QwenEngine], frames: Sequence[Iterator[Frame]], rounds: int
) -> _Answers:
    decisions, asked_s, left = SharedDecisions(), [0.0] * len(engines), [rounds] * len(engines)
    number = {id(engine): r for r, engine in enumerate(engines)}

    def ask(r: int) -> None:
        if left[r]:
            left[r] -= 1
            asked_s[r] = now_s(model)
            engines[r].observe(next(frames[r]))
            decisions.ask(engines[r], rounds - left[r])

    for r in range(len(engines)):
        ask(r)
    while len(decisions):
        for engine, chunk in decisions.step():
            if isinstance(chunk, Exception):
                raise chunk
            r = number[id(engine)]
            yield r, now_s(model) - asked_s[r], chunk
            ask(r)


def _by_turns(
    model: LoadedModel, engines: Sequence[QwenEngine], frames: Sequence[Iterator[Frame]], rounds: int
) -> _Answers:
    asked_s = [now_s(model)] * len(engines)
    for i in range(rounds):
        for r, engine in enumerate(engines):
            engine.observe(next(frames[r]))
            chunk = engine.decide(i + 1)
            end_s = now_s(model)
            yield r, end_s - asked_s[r], chunk
            asked_s[r] = end_s


def _engines(model: LoadedModel, profile: Profile, count: int, options: StreamConfig) -> list[QwenEngine]:
    """In one pool of what all of them may hold."""
    options = replace(options, token_budget=1024, cache_block_tokens=256, pool_tokens=count * 2048)
    pool = build_pool(model, options, ReuseConfig())
    engines = [
        QwenEngine(model, profile, temperature=0.0, seed=0, stream=options, pool=pool) for _ in range(count)
    ]
    for r, engine in enumerate(engines):
        engine.start(Instruction(r + 1, f"{INSTRUCTION} You are robot {r}."))
    return engines
