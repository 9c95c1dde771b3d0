"""What each section of ``vln_ros bench engine`` measures: figures as they go into its record."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.config import TinyConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.measure.unsynchronised import Variant
    from vln_ros.capacity.stages import StagedDecision
    from vln_ros.engine.checkpoint.model import LoadedModel

TINY_SEED = 6
"""Of the random checkpoint: with it, many of the queues that are said have four actions."""
QUEUE_TOKENS = 8
"""Four words, three commas and the end: what free text takes for four actions."""


@dataclass(frozen=True)
class Sizes:
    """How much of everything is measured."""

    robots: int
    rounds: int
    repeats: int
    decisions: int
    temperature: float
    context_stream: int
    stage_context: int
    stage_decisions: int
    stage_size: tuple[int, int]
    way_decisions: int
    wide_layers: int
    """Of the decoder for many robots; 0: as loaded."""
    crowd_rounds: int
    newcomer_frames: int
    narrow: bool
    """The released shapes are narrowed, so that any device tries every path of the stages."""


FULL = Sizes(8, 12, 3, 60, 0.3, 96, 32, 12, (640, 480), 40, 2, 2, 16, False)
QUICK = Sizes(2, 2, 1, 6, 0.3, 8, 2, 3, (84, 56), 4, 0, 2, 4, True)


@dataclass(frozen=True)
class Setup:
    """What all sections share."""

    options: argparse.Namespace
    sizes: Sizes
    model: LoadedModel
    folder: Path


def describe_network(model: LoadedModel, checkpoint: str | None) -> str:
    import torch

    return (
        f"Checkpoint {checkpoint or f'tiny, random weights, seed {TINY_SEED}'}: "
        f"{sum(p.numel() for p in model.network.parameters()) / 1e6:.1f} M parameters, "
        f"{str(model.dtype).removeprefix('torch.')}, {model.device}, {torch.get_num_threads()} threads"
    )


def spread(values: Sequence[float]) -> dict[str, float]:
    from benchmarks.measure.engine import Spread

    return asdict(Spread.of(values))


FLAT_LISTS = {
    "frame_s": ("frame, wall clock [ms]", 1e3),
    "cpu_s": ("frame, processor time [ms]", 1e3),
    "resident_bytes": ("resident memory [MB]", 1e-6),
    "cache_bytes": ("of it cache, allocated [MB]", 1e-6),
}
DRAWN_FRAMES = 200


def flat(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_flat
    from vln_ros.engine.checkpoint.profile import load_profile

    frames = setup.options.frames
    flat = measure_flat(setup.model, load_profile("tiny"), frames, setup.options.token_budget)
    part, every = min(100, frames // 3), -(-frames // DRAWN_FRAMES)
    rows = {}
    for name, (label, _) in FLAT_LISTS.items():
        values = getattr(flat, name)
        early, late = spread(values[part : 2 * part]), spread(values[-part:])
        rows[name] = {"label": label, "early": early, "late": late, "ratio": flat.ratio(name)}
    turns = {"early": spread(flat.young_s), "late": spread(flat.old_s), "ratio": flat.paired_ratio}
    return {
        "frames": frames,
        "part": part,
        "token_budget": flat.token_budget,
        "evicted": flat.evicted,
        "rows": rows,
        "by_turns": turns,
        "every": every,
        "drawn": {name: [float(f"{v:.4g}") for v in getattr(flat, name)[::every]] for name in FLAT_LISTS},
    }


def batch(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_batch
    from vln_ros.engine.checkpoint.profile import load_profile

    sizes = setup.sizes
    batch = measure_batch(setup.model, load_profile("tiny"), sizes.robots, sizes.rounds, sizes.repeats)
    gain = [a / b for a, b in zip(batch.separate_s, batch.together_s, strict=True)]
    return {**asdict(batch), "rounds": sizes.rounds, "repeats": sizes.repeats, "gain": spread(gain)}


def forwards(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import DECODE_MODES, measure_decoding
    from vln_ros.engine.checkpoint.profile import load_profile

    sizes, profile = setup.sizes, load_profile("tiny")
    measure_decoding(setup.model, profile, "tree", 2, 0.0, QUEUE_TOKENS)  # warm up
    costs = {
        way: measure_decoding(setup.model, profile, way, sizes.decisions, sizes.temperature, QUEUE_TOKENS)
        for way in DECODE_MODES
    }
    slow = costs["tokens"]
    fours = [i for i, queue in enumerate(slow.queues) if len(queue) == 4]
    same = {w: c.queues == slow.queues for w, c in costs.items() if w != "free"}
    apart = max(
        abs(a - b)
        for way in same
        for x, y in zip(costs[way].probabilities, slow.probabilities, strict=True)
        for a, b in zip(x, y, strict=False)
    )
    rows = []
    for way, cost in costs.items():
        # What a random model says freely is no queue: its cost is that of as many tokens.
        groups = {"four actions": fours, "all": list(range(sizes.decisions))}
        for label, some in ({f"{QUEUE_TOKENS} tokens": groups["all"]} if way == "free" else groups).items():
            if not some:
                continue
            seconds = [cost.seconds[i] for i in some]
            counts = {
                k: float(np.mean([getattr(cost, k)[i] for i in some]))
                for k in ("forwards", "tokens", "flops")
            }
            rows.append({"way": way, "decisions": label, **counts, "seconds": seconds})
    return {
        "decisions": sizes.decisions,
        "temperature": sizes.temperature,
        "four_actions": len(fours),
        "different_queues": len(set(slow.queues)),
        "same_queues": same,
        "probability_difference": apart,
        "rows": rows,
    }


ROBOTS = (1, 2, 4, 8, 16)


def robots(setup: Setup) -> dict[str, Any]:
    import torch

    from benchmarks.measure.robots import (
        BY_TURNS,
        TOGETHER,
        few_layers,
        measure_crowd,
        measure_newcomer,
    )
    from vln_ros.capacity.stages import random_model
    from vln_ros.engine.checkpoint.profile import load_profile

    sizes, profile, model = setup.sizes, load_profile("tiny"), setup.model
    shape = "as loaded"
    if sizes.wide_layers:
        shape = f"3B-shaped decoder, {sizes.wide_layers} layers"
        config = few_layers("3B", sizes.wide_layers, model.network.config)
        model = random_model(model, config, str(model.device), model.dtype)
    rows, same = [], True
    for decode in ("tokens", "tree"):
        for count in ROBOTS if sizes.wide_layers else ROBOTS[:2]:
            ways = [
                measure_crowd(model, profile, robots=count, rounds=sizes.crowd_rounds, decode=decode, way=way)
                for way in (TOGETHER, BY_TURNS)
            ]
            same = same and ways[0].queues == ways[1].queues
            rows += [
                {
                    "decode": decode,
                    "robots": c.robots,
                    "way": c.way,
                    "per_s": c.per_s,
                    "latency_s": spread(c.latency_s),
                    "fairness": c.fairness,
                    "cache_bytes": c.cache_bytes,
                }
                for c in ways
            ]
    newcomers = [
        measure_newcomer(
            model, profile, robots=sizes.robots, frames=sizes.newcomer_frames, chunk_tokens=tokens
        )
        for tokens in (NEWCOMER_CHUNK, 65536)
    ]
    if model is not setup.model:
        del model
        torch.cuda.empty_cache()
    return {
        "shape": shape,
        "rounds": sizes.crowd_rounds,
        "rows": rows,
        "same_queues": same,
        "newcomer": {
            "robots": sizes.robots,
            "frames": sizes.newcomer_frames,
            "rows": [
                {
                    "chunk_tokens": n.chunk_tokens,
                    "gap_s": spread(n.gap_s),
                    "longest_gap_s": max(n.gap_s),
                    "alone_gap_s": spread(n.alone_gap_s),
                    "took_s": n.took_s,
                }
                for n in newcomers
            ],
        },
    }


NEWCOMER_CHUNK = 32
"""Tokens of the newcomer's chat in each shared forward: on a processor a forward's time grows with them."""
ASKED = (4, 1)
"""Frames per decision."""


def contexts(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import STRATEGIES, ContextCost, measure_context
    from vln_ros.capacity.walk import walk
    from vln_ros.engine.checkpoint.profile import ImageSpec, load_profile

    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    frames = list(walk(setup.sizes.context_stream, (224, 224)))
    measure_context(setup.model, profile, "append", frames[:4], 1)  # warm up

    def row(cost: ContextCost) -> dict[str, Any]:
        kept = ("strategy", "every", "tokens", "flops", "patches", "cached_tokens", "compression")
        return {
            **{name: getattr(cost, name) for name in kept},
            "observe_s": spread(cost.observe_s),
            "decide_s": [float(f"{s:.4g}") for s in cost.decide_s],
            "total_s": sum(cost.observe_s) + sum(cost.decide_s),
        }

    rows = [
        row(measure_context(setup.model, profile, s, frames, every)) for every in ASKED for s in STRATEGIES
    ]
    return {"frames": len(frames), "rows": rows}


COUNTED = ("tiny", "navida")
"""Profiles of which a decision is counted: a growing chat, and a history with a repetition penalty."""


def counts(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.counts import measure_counts, measure_shapes, shape_without_numbers
    from benchmarks.measure.released import measure_ways
    from vln_ros.capacity.stages import published_config
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.checkpoint.profile import load_profile

    rows = []
    for shape in setup.options.shapes:
        model = shape_without_numbers(setup.model, published_config(shape))
        for name in COUNTED:
            found = measure_counts(model, load_profile(name), setup.sizes.stage_size, "tree")
            rows.append(
                {
                    "shape": shape,
                    "profile": name,
                    "frame": dict(found.frame.kernels),
                    "decision": dict(found.decision.kernels),
                    "copies": dict(found.frame.copies + found.decision.copies),
                }
            )
    shipped = load_model("shipped:tiny", device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    quick = setup.sizes is QUICK
    sizes = [(112, 112)] if quick else [(112, 112), (640, 480)]
    profile, ways = load_profile("tiny"), []
    for size in sizes:
        # Compiling takes minutes for each size: once shows what it brings.
        compiled = not quick and size == sizes[0]
        decisions = setup.sizes.way_decisions // len(sizes)
        ways += [asdict(w) for w in measure_ways(shipped, profile, size, decisions, compiled=compiled)]
    return {
        "size": list(setup.sizes.stage_size),
        "rows": rows,
        "recorded": [] if quick else measure_shapes(setup.model, load_profile("tiny")),
        "ways": ways,
    }


def stages(setup: Setup) -> dict[str, Any]:
    import torch

    deadline = Deadline(setup.options.time_limit_s)
    shapes = [_measure_shape(setup, "as loaded", setup.model, deadline)]
    skipped: list[str] = []
    if not (torch.cuda.is_available() or setup.sizes.narrow):
        skipped = list(setup.options.shapes)
    else:
        for name, model in _released_shapes(setup):
            shapes.append(_measure_shape(setup, name, model, deadline))
        # Compilers take minutes: after everything else.
        for found, (name, model) in zip(shapes[1:], _released_shapes(setup), strict=True):
            late = len(deadline.skipped)
            found["undisturbed"] += _measure_compiled(setup, name, model, deadline)
            found["too_late"] += deadline.skipped[late:]
    return {"size": list(setup.sizes.stage_size), "shapes": shapes, "skipped": skipped}


def _released_shapes(setup: Setup) -> Iterator[tuple[str, LoadedModel]]:
    """The shapes asked for, with weights made on the device, one at a time; narrowed where they are."""
    import torch

    from vln_ros.capacity.stages import narrowed, published_config, random_model
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.tiny import build_tiny

    folder = setup.folder / "true-ids"
    if not folder.exists():
        build_tiny(folder, TinyConfig(true_ids=True))
    base = load_model(str(folder), device="cpu", dtype="bfloat16", attention="sdpa", quantisation="none")
    on_gpu = torch.cuda.is_available()
    # Many processors compute bfloat16 ten times as slowly as float32.
    device, dtype = ("cuda", torch.bfloat16) if on_gpu else ("cpu", torch.float32)
    for shape in setup.options.shapes:
        config, name = published_config(shape), shape
        if setup.sizes.narrow:
            config, name = narrowed(config), f"{shape} narrowed"
        yield name, random_model(base, config, device, dtype)
        if on_gpu:
            torch.cuda.empty_cache()


class Deadline:
    """So long measurements are begun; what is under way ends."""

    def __init__(self, limit_s: float) -> None:
        self._end_s = time.monotonic() + limit_s
        self.skipped: list[str] = []

    def allows(self, name: str, takes_s: float = 0.0) -> bool:
        """Whether what ``takes_s`` so long is to be measured; if not, it is noted."""
        if time.monotonic() + takes_s < self._end_s:
            return True
        self.skipped.append(name)
        return False


def _measure_shape(setup: Setup, name: str, model: LoadedModel, deadline: Deadline) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_generate
    from benchmarks.measure.unsynchronised import VARIANTS
    from vln_ros.capacity.stages import measure_peak, measure_stages
    from vln_ros.capacity.walk import walk
    from vln_ros.engine.checkpoint.profile import ImageSpec, load_profile

    sizes, skipped = setup.sizes, len(deadline.skipped)
    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    peak = measure_peak(model.device, model.dtype)
    # The context grows by a frame per decision: half of them come before it has its size.
    context = sizes.stage_context - sizes.stage_decisions // 2
    undisturbed = [
        _undisturbed(setup, model, variant)
        for variant in VARIANTS
        if deadline.allows(f"{name}: {variant.name}")
    ]
    frames = list(walk(context + 1 + sizes.stage_decisions, sizes.stage_size))
    ways = {
        way: _staged(measure_stages(model, profile, frames, context_frames=context, decode=way, peak=peak))
        for way in ("tree", "tokens")
        if deadline.allows(f"{name}: stages of {way}")
    }
    generate = None
    if deadline.allows(f"{name}: generate"):
        native = measure_generate(
            model,
            frames=sizes.stage_context + 1,
            size=sizes.stage_size,
            new_tokens=QUEUE_TOKENS,
            repeats=sizes.repeats,
        )
        generate = {
            "total": spread([n.total_s for n in native]),
            "context_tokens": native[0].context_tokens,
            "new_tokens": native[0].new_tokens,
        }
    return {
        "name": name,
        "peak": asdict(peak),
        "undisturbed": undisturbed,
        "ways": ways,
        "generate": generate,
        "too_late": deadline.skipped[skipped:],
    }


COMPILE_S = 150.0
"""What the compiler takes at most, for the shapes of one variant with 36 layers."""


def _measure_compiled(
    setup: Setup, name: str, model: LoadedModel, deadline: Deadline
) -> list[dict[str, Any]]:
    from benchmarks.measure.unsynchronised import COMPILED

    takes_s = 0.0 if setup.sizes.narrow else COMPILE_S
    return [
        _undisturbed(setup, model, variant)
        for variant in COMPILED
        if deadline.allows(f"{name}: {variant.name}", takes_s)
    ]


def _undisturbed(setup: Setup, model: LoadedModel, variant: Variant) -> dict[str, Any]:
    from benchmarks.measure.unsynchronised import measure_undisturbed

    sizes = setup.sizes
    found = measure_undisturbed(
        model,
        variant,
        size=sizes.stage_size,
        context_frames=sizes.stage_context - sizes.stage_decisions // 2,
        decisions=sizes.stage_decisions,
        compiler="aot_eager" if sizes.narrow else "inductor",  # to try: it makes no code
    )
    return {**asdict(found), "total_s": spread(found.total_s)}


def _staged(decisions: Sequence[StagedDecision]) -> dict[str, Any]:
    """One way's decisions: medians of each stage, its roofline and what bounds that."""
    stages = {}
    for name in decisions[0].stages:
        parts = [d.stages[name] for d in decisions]
        stages[name] = {
            "seconds": spread([p.seconds for p in parts]),
            "forwards": float(np.mean([p.forwards for p in parts])),
            "flops": float(np.median([p.cost.flops for p in parts])),
            "bytes": float(np.median([p.cost.bytes for p in parts])),
            "least_s": float(np.median([p.least_s for p in parts])),
            "bound": parts[0].bound,
        }
    return {
        "stages": stages,
        "total": spread([d.total_s for d in decisions]),
        "least_s": float(np.median([sum(p.least_s for p in d.stages.values()) for d in decisions])),
        "context_tokens": float(np.median([d.context_tokens for d in decisions])),
        "actions": float(np.mean([d.actions for d in decisions])),
    }
