"""Measures where the time of a decision goes (vision, prefill, decode, head), against the roofline.

The shapes of the released 3B and 7B models are made with random weights right on the device: times
depend on shapes, not on what the weights say.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import torch
from tqdm import tqdm
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.capacity.roofline import PUBLISHED, Cost, Peak, Roofline
from vln_ros.config import StreamConfig
from vln_ros.datatypes import Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.inputs.preprocess import fit
from vln_ros.engine.inputs.tower import tower_of
from vln_ros.engine.qwen import QwenEngine

SHAPES: dict[str, dict[str, Any]] = {
    "3B": {
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
    "7B": {
        "vocab_size": 152064,
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
    },
}
"""Decoders as in the released ``config.json`` of Qwen2.5-VL-3B and -7B-Instruct."""

_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}


@dataclass(frozen=True)
class Part:
    """One stage of one decision.

    Attributes:
        forwards: how often it ran.
        least_s: roofline.
        bound: what limits it there: ``compute`` or ``memory``.
    """

    seconds: float
    forwards: int
    cost: Cost
    least_s: float
    bound: str


@dataclass(frozen=True)
class StagedDecision:
    """One frame taken in and decided on.

    Attributes:
        total_s: from the frame in memory to the queue.
        context_tokens: in the cache, the new frame and question included.
        stages: ``preprocess``, ``vision``, ``prefill`` (frame, question and, by tree, all queues),
            ``decode`` (all later forwards), ``head`` and ``rest`` (what the sum lacks to the total).
    """

    total_s: float
    context_tokens: int
    actions: int
    stages: dict[str, Part]


def published_config(shape: str) -> Qwen2_5_VLConfig:
    """The configuration of a released model; transformers' default token ids are the released ones."""
    text = {
        **SHAPES[shape],
        "max_position_embeddings": 128000,
        "rms_norm_eps": 1e-6,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [16, 24, 24]},
    }
    vision = {**_VISION, "out_hidden_size": text["hidden_size"]}
    return Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, tie_word_embeddings=text["tie_word_embeddings"]
    )


def narrowed(config: Qwen2_5_VLConfig) -> Qwen2_5_VLConfig:
    """As many heads and words, but heads of eight dimensions and two layers: to try what is meant for it."""
    text: Any = config.text_config
    small = {
        "hidden_size": 8 * text.num_attention_heads,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "layer_types": None,
        "rope_parameters": {**text.rope_parameters, "mrope_section": [2, 1, 1]},
    }
    vision = {
        "depth": 2,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_heads": 2,
        "fullatt_block_indexes": [1],
    }
    return Qwen2_5_VLConfig(
        text_config={**text.to_dict(), **small},
        vision_config={**_VISION, **vision, "out_hidden_size": small["hidden_size"]},
        tie_word_embeddings=config.tie_word_embeddings,
    )


def random_model(base: LoadedModel, config: Qwen2_5_VLConfig, device: str, dtype: torch.dtype) -> LoadedModel:
    """A network of random weights made on ``device``, with the tokenizer and image settings of ``base``."""
    target = torch.device(device)
    make: Any = Qwen2_5_VLForConditionalGeneration._from_config
    with target:  # nothing is copied from the host
        network: Qwen2_5_VLForConditionalGeneration = make(config, dtype=dtype, attn_implementation="sdpa")
    network.eval().requires_grad_(False)
    return replace(base, network=network, device=target, dtype=dtype, fingerprint="random")


Clock = Callable[[], float]
"""Seconds. ``time.process_time`` on one thread of a CPU is hardly disturbed by other programs."""


def measure_peak(device: torch.device, dtype: torch.dtype, clock: Clock = time.perf_counter) -> Peak:
    """The published figures of a known GPU, else what a large product and a large copy reach here."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        for part, peak in PUBLISHED.items():
            if all(word in name for word in part.split()):
                return peak
    side = 8192 if device.type == "cuda" else 1024
    a = torch.randn(side, side, device=device).to(dtype)
    source = torch.ones(1 << (30 if device.type == "cuda" else 27), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    product_s = _best_s(lambda: a @ a, device, clock)
    copy_s = _best_s(lambda: target.copy_(source), device, clock)
    return Peak(2.0 * side**3 / product_s, 2.0 * source.nbytes / copy_s, "measured: product and copy")


def measure_stages(
    model: LoadedModel,
    profile: Profile,
    frames: Sequence[Frame],
    *,
    context_frames: int,
    decode: str,
    peak: Peak,
    clock: Clock = time.perf_counter,
) -> list[StagedDecision]:
    """Decisions for the frames after ``context_frames``, each with its frame's vision and prefill.

    What the engine does between two decisions is done, and not measured.

    The end of a queue and STOP are struck out of the scores: random weights end a queue anywhere, and what
    is measured is a queue of the profile's full length.

    Args:
        decode: ``tree`` or ``tokens``.
    """
    # A budget beyond what is shown: this measures a given context, not evictions.
    config = StreamConfig(decode=decode, min_allowed=0.0, token_budget=1_000_000)
    if profile.context.strategy == "append":
        profile = replace(profile, context=replace(profile.context, unasked_frames="keep"))
    engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=config)
    engine.start(Instruction(1, "Walk past the red sofa and stop next to the lamp."))
    ends = _end_tokens(model, profile)
    found: list[StagedDecision] = []
    with _StopWatch(model, clock) as watch:
        for i, frame in enumerate(tqdm(frames, desc=f"stages, {decode}", unit="frame", disable=None)):
            if i < context_frames:
                engine.observe(frame)
                engine.prefill()
                continue
            decision = _decide(engine, frame, model, watch, peak, ends)
            engine.work_ahead()  # of a history: what lies between two decisions
            if i > context_frames:  # the first decision warms up, and closes the turn of the context
                found.append(decision)
    engine.close()
    return found


class _StopWatch(AbstractContextManager["_StopWatch"]):
    """Device time by synchronising, and the time spent in the vision tower."""

    def __init__(self, model: LoadedModel, clock: Clock) -> None:
        self._clock = clock
        self._device = model.device
        self._tower = tower_of(model.network, model.pixels)
        self._handles: list[Any] = []
        self._begun = 0.0
        self.vision_s = 0.0

    def now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return self._clock()

    def __enter__(self) -> _StopWatch:
        def before(_module: Any, _args: Any) -> None:
            self._begun = self.now()

        def after(_module: Any, _args: Any, _output: Any) -> None:
            self.vision_s += self.now() - self._begun

        self._handles = [
            self._tower.register_forward_pre_hook(before),
            self._tower.register_forward_hook(after),
        ]
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def _decide(
    engine: QwenEngine,
    frame: Frame,
    model: LoadedModel,
    watch: _StopWatch,
    peak: Peak,
    ends: Sequence[int],
) -> StagedDecision:
    session, image = engine.session, engine.profile.image
    roofline = Roofline(model.network.config, torch.finfo(model.dtype).bits // 8)
    start = watch.now()
    picture = fit(frame.rgb, model.pixels, image.max_pixels, image.resize)
    preprocess_s = watch.now() - start

    watch.vision_s = 0.0
    spent: dict[str, list[tuple[float, Cost]]] = {"prefill": [], "decode": [], "head": []}
    context = 0
    begun = watch.now()
    engine.observe(frame)
    engine.ready()
    decoding = engine.deciding(frame.index)
    stage = "prefill"
    try:
        push = next(decoding)
        while True:
            before, t0 = session.work.tokens, watch.now()
            states, nodes = session.push_tree(push.pieces, push.tree)
            t1 = watch.now()
            wanted = torch.cat([states[-1:], nodes])
            scores = session.logits(wanted)
            t2 = watch.now()
            queries = session.work.tokens - before
            spent[stage].append((t1 - t0, roofline.decoder(queries, session.cache.length)))
            spent["head"].append((t2 - t1, roofline.head(wanted.shape[0])))
            context = context or session.timeline.tokens
            stage = "decode"
            scores[:, ends] = torch.finfo(scores.dtype).min
            push = decoding.send(scores)
    except StopIteration as stop:
        chunk = stop.value
    total_s = watch.now() - begun
    vision_s = watch.vision_s

    def part(seconds: float, forwards: int, cost: Cost, least_s: float) -> Part:
        return Part(seconds, forwards, cost, least_s, peak.bound(cost))

    nothing = Cost(0.0, 0.0)
    side = model.pixels.patch_size
    vision = roofline.vision(picture.shape[0] // side, picture.shape[1] // side)
    stages = {
        "preprocess": Part(preprocess_s, 0, nothing, 0.0, "host"),
        "vision": part(vision_s, 1, vision, peak.least_s(vision)),
    }
    for name, runs in spent.items():
        cost = sum((c for _, c in runs), nothing)
        stages[name] = part(sum(s for s, _ in runs), len(runs), cost, sum(peak.least_s(c) for _, c in runs))
    rest_s = total_s - sum(p.seconds for p in stages.values())
    stages["rest"] = Part(rest_s, 0, nothing, 0.0, "host")
    return StagedDecision(total_s, context, len(chunk.actions), stages)


def _end_tokens(model: LoadedModel, profile: Profile) -> list[int]:
    """Tokens that end a queue and are part of nothing else."""

    def tokens(phrases: Sequence[str]) -> set[int]:
        texts = [t for p in phrases for t in (p, f"{profile.separator}{p}")]
        return {i for t in texts for i in model.tokenizer(t, add_special_tokens=False).input_ids}

    stops = tokens([p.text for p in profile.vocabulary if p.actions[-1].stop])
    others = tokens([p.text for p in profile.vocabulary if not p.actions[-1].stop])
    return sorted(stops - others | set(model.generation.end_tokens))


def _best_s(work: Callable[[], object], device: torch.device, clock: Clock) -> float:
    """Of ten times, or of those that fit into a second: processors without bfloat16 are slow at it."""
    times: list[float] = []
    while len(times) < 10 and sum(times) < 1.0:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        start = clock()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(clock() - start)
    return min(times)
