"""``vln_ros bench engine``: what a decision costs, how that grows, and what of it could be saved."""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.config import ConfigError, TinyConfig

if TYPE_CHECKING:
    from vln_ros.engine.engine_bench import Batch, ContextCost, DecodingCost, Flat
    from vln_ros.engine.model import LoadedModel
    from vln_ros.engine.roofline import Peak
    from vln_ros.engine.stage_bench import NativeDecision, StagedDecision

HELP = "the engine's figures: flat cost, batches, ways to decode, context strategies, stages and roofline"
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


FULL = Sizes(8, 12, 3, 60, 0.3, 96, 32, 12, (640, 480))
QUICK = Sizes(2, 2, 1, 6, 0.3, 8, 2, 3, (84, 56))


@dataclass(frozen=True)
class Setup:
    """What all sections share."""

    options: argparse.Namespace
    sizes: Sizes
    model: LoadedModel
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """A section's result.

    Attributes:
        text: for people; ``figures``: for JSON; ``plot``: draws into a folder.
    """

    text: str
    figures: object
    plot: Callable[[Path], None] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (all)")
    parser.add_argument("--checkpoint", help="folder or hub name (default: a small random one, made anew)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: %(default)s)")
    parser.add_argument(
        "--dtype", default="auto", help="auto, float32, bfloat16, float16 (default: %(default)s)"
    )
    parser.add_argument(
        "--frames", type=int, default=2000, help="flat: length of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--token-budget", type=int, default=768, help="flat: budget of the stream (default: %(default)s)"
    )
    parser.add_argument(
        "--shapes",
        nargs="*",
        choices=("3B", "7B"),
        default=["3B", "7B"],
        help="stages: released shapes with random weights, where there is a CUDA device (default: 3B 7B)",
    )
    parser.add_argument("--quick", action="store_true", help="to try the command: too small to mean anything")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write plots (PNG)")


def run(args: argparse.Namespace) -> int:
    for name, least in (("frames", 6), ("token_budget", 64)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} = {getattr(args, name)}: must be at least {least}")
    from vln_ros.engine.model import load_model
    from vln_ros.engine.tiny import build_tiny

    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checkpoint = args.checkpoint
        if checkpoint is None:
            build_tiny(folder / "tiny", TinyConfig(seed=TINY_SEED))
            checkpoint = str(folder / "tiny")
        model = load_model(
            checkpoint, device=args.device, dtype=args.dtype, attention="sdpa", quantisation="none"
        )
        machine = _machine(model, args.checkpoint)
        print("\n".join(f"{key}: {value}" for key, value in machine.items()))
        setup = Setup(args, QUICK if args.quick else FULL, model, folder)
        outcomes: dict[str, Outcome] = {}
        for name in args.only:
            start = time.perf_counter()
            outcomes[name] = SECTIONS[name](setup)
            print(f"\n== {name} ({time.perf_counter() - start:.0f} s)\n{outcomes[name].text}")
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        figures = {"machine": machine, **{name: o.figures for name, o in outcomes.items()}}
        args.json.write_text(json.dumps(figures, indent=1) + "\n", "utf-8")
    if args.plots:
        args.plots.mkdir(parents=True, exist_ok=True)
        for outcome in outcomes.values():
            if outcome.plot is not None:
                outcome.plot(args.plots)
    return 0


def _machine(model: LoadedModel, checkpoint: str | None) -> dict[str, str]:
    import torch
    import transformers

    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [x.split(":")[1].strip() for x in info.read_text().splitlines() if x.startswith("model name")]
        cpu = names[0] if names else cpu
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return {
        "machine": f"{platform.platform()}, {cpu}, {os.cpu_count()} cores, GPU: {gpu}",
        "load before": ", ".join(f"{x:.1f}" for x in os.getloadavg()),
        "versions": f"Python {platform.python_version()}, torch {torch.__version__} "
        f"({torch.get_num_threads()} threads), transformers {transformers.__version__}",
        "checkpoint": f"{checkpoint or f'tiny, random, seed {TINY_SEED}'} "
        f"({sum(p.numel() for p in model.network.parameters()) / 1e6:.1f} M parameters, "
        f"{model.dtype}, {model.device})",
    }


def _spread(values: Sequence[float], scale: float = 1e3) -> str:
    """``median (p5 to p95)``, in milliseconds if not said otherwise."""
    p5, median, p95 = (float(x) * scale for x in np.percentile(values, [5, 50, 95]))
    return f"{median:.1f} ({p5:.1f}-{p95:.1f})"


# -- flat ------------------------------------------------------------------------------------------


def _flat(setup: Setup) -> Outcome:
    from vln_ros.engine.engine_bench import measure_flat
    from vln_ros.engine.profile import load_profile

    options = setup.options
    flat = measure_flat(setup.model, load_profile("tiny"), options.frames, options.token_budget)
    part = min(100, options.frames // 3)
    ratios = {name: flat.ratio(name) for name in FLAT_LISTS}
    text = [
        f"{options.frames} frames, each decided on, within {flat.token_budget} tokens: {flat.evicted} turns "
        f"evicted, position {flat.next_position}",
        f"{'':<22}{f'frames {part} to {2 * part}':>24}{f'last {part}':>24}{'ratio':>8}",
    ]
    for name, (label, scale) in FLAT_LISTS.items():
        values = getattr(flat, name)
        early, late = values[part : 2 * part], values[-part:]
        text.append(f"{label:<22}{_spread(early, scale):>24}{_spread(late, scale):>24}{ratios[name]:>8.3f}")
    by_turns = f"{_spread(flat.young_s):>24}{_spread(flat.old_s):>24}{flat.paired_ratio:>8.3f}"
    text.append(f"{'by turns, wall ms':<22}{by_turns}")
    judged = {"by turns": flat.paired_ratio} | {FLAT_LISTS[n][0]: r for n, r in ratios.items()}
    off = [name for name, ratio in judged.items() if abs(ratio - 1.0) > FLAT_WITHIN]
    text += [
        f"By turns: a new stream and the old one, {part} frames each, frame by frame, so that the "
        "machine's load is the same for both.",
        "Flat: all within 10 %." if not off else f"NOT within 10 %: {', '.join(off)}.",
    ]
    figures = {**asdict(flat), "ratios": ratios, "paired_ratio": flat.paired_ratio}
    return Outcome("\n".join(text), figures, lambda folder: _plot_flat(flat, folder))


FLAT_WITHIN = 0.1
FLAT_LISTS = {
    "frame_s": ("frame, wall ms", 1e3),
    "cpu_s": ("frame, processor ms", 1e3),
    "resident_bytes": ("resident MB", 1e-6),
    "cache_bytes": ("cache MB", 1e-6),
}


def _plot_flat(flat: Flat, folder: Path) -> None:
    fig, axes = _figure(1, 2, (12, 4))
    axes[0].plot(np.array(flat.frame_s) * 1e3, ".", markersize=2, alpha=0.5, label="wall clock")
    axes[0].plot(np.array(flat.cpu_s) * 1e3, ".", markersize=2, alpha=0.5, label="processor")
    axes[0].set(xlabel="frame", ylabel="take in and decide [ms]", ylim=(0, None))
    axes[1].plot(np.array(flat.resident_bytes) / 1e6, label="process, resident")
    axes[1].plot(np.array(flat.cache_bytes) / 1e6, label="cache, allocated")
    axes[1].set(xlabel="frame", ylabel="memory [MB]", ylim=(0, None))
    for ax in axes:
        ax.legend()
    _save(fig, folder / "flat.png")


# -- batch -----------------------------------------------------------------------------------------


def _batch(setup: Setup) -> Outcome:
    from vln_ros.engine.engine_bench import measure_batch
    from vln_ros.engine.profile import load_profile

    sizes = setup.sizes
    batch = measure_batch(setup.model, load_profile("tiny"), sizes.robots, sizes.rounds, sizes.repeats)
    rates = {
        way: [batch.robots / s for s in seconds]
        for way, seconds in (("together", batch.together_s), ("one by one", batch.separate_s))
    }
    gain = [a / b for a, b in zip(batch.separate_s, batch.together_s, strict=True)]
    text = [
        f"{batch.robots} robots on one model, {sizes.rounds} frames each, {sizes.repeats} repeats; "
        "decisions per second, median (p5-p95):",
        *(f"  {way:<12}{_spread(rate, 1.0)}" for way, rate in rates.items()),
        f"  together is {_spread(gain, 1.0)} times as fast",
        f"results {'identical' if batch.same_queues else 'NOT IDENTICAL'}; probabilities differ by at most "
        f"{batch.probability_difference:.1e}",
    ]
    return Outcome("\n".join(text), asdict(batch), lambda folder: _plot_batch(batch, folder))


def _plot_batch(batch: Batch, folder: Path) -> None:
    fig, (ax,) = _figure(1, 1, (5, 4))
    pairs = [[batch.robots / s for s in x] for x in (batch.together_s, batch.separate_s)]
    ax.boxplot(pairs, tick_labels=[f"{batch.robots} together", "one by one"])
    ax.set(ylabel="decisions per second", ylim=(0, None))
    _save(fig, folder / "batch.png")


# -- forwards --------------------------------------------------------------------------------------


def _forwards(setup: Setup) -> Outcome:
    from vln_ros.engine.engine_bench import DECODE_MODES, measure_decoding
    from vln_ros.engine.profile import load_profile

    sizes, profile = setup.sizes, load_profile("tiny")
    measure_decoding(setup.model, profile, "tree", 2, 0.0, QUEUE_TOKENS)  # warm up
    costs = {
        way: measure_decoding(setup.model, profile, way, sizes.decisions, sizes.temperature, QUEUE_TOKENS)
        for way in DECODE_MODES
    }
    slow = costs["tokens"]
    fours = [i for i, queue in enumerate(slow.queues) if len(queue) == 4]
    every = range(sizes.decisions)
    same = {w: c.queues == slow.queues for w, c in costs.items() if w != "free"}
    apart = max(
        abs(a - b)
        for way in same
        for x, y in zip(costs[way].probabilities, slow.probabilities, strict=True)
        for a, b in zip(x, y, strict=False)
    )
    text = [
        f"{sizes.decisions} decisions, sampled at {sizes.temperature}, frame and question prefilled in the "
        f"decision; {len(fours)} of them have four actions, {len(set(slow.queues))} queues are different.",
        f"{'way':<8}{'decisions':<12}{'forwards':>9}{'tokens':>8}{'MFLOP':>8}   ms, median (p5-p95)",
    ]
    for way, cost in costs.items():
        # What a random model says freely is no queue: its cost is that of as many tokens.
        groups = (("four actions", fours), ("all", every)) if way != "free" else (("8 tokens", every),)
        text += [_forwards_row(way, label, cost, rows) for label, rows in groups if rows]
    verdict = "identical" if all(same.values()) else f"NOT IDENTICAL: {same}"
    text.append(f"queues of tree, forced and tokens {verdict}; probabilities differ by at most {apart:.1e}")
    figures = {"same_queues": same, "four_actions": fours, "ways": [asdict(c) for c in costs.values()]}
    return Outcome("\n".join(text), figures, lambda folder: _plot_forwards(costs, fours, folder))


def _forwards_row(way: str, label: str, cost: DecodingCost, rows: Sequence[int]) -> str:
    forwards, tokens, flops = (
        float(np.mean([x[i] for i in rows])) for x in (cost.forwards, cost.tokens, cost.flops)
    )
    seconds = [cost.seconds[i] for i in rows]
    return f"{way:<8}{label:<12}{forwards:>9.2f}{tokens:>8.1f}{flops / 1e6:>8.0f}   {_spread(seconds)}"


def _plot_forwards(costs: dict[str, DecodingCost], fours: Sequence[int], folder: Path) -> None:
    fig, axes = _figure(1, 3, (13, 4))
    rows = {way: fours if fours and way != "free" else range(len(c.seconds)) for way, c in costs.items()}
    ways = list(costs)
    axes[0].bar(ways, [float(np.mean([costs[w].forwards[i] for i in rows[w]])) for w in ways])
    axes[1].bar(ways, [float(np.mean([costs[w].flops[i] for i in rows[w]])) / 1e6 for w in ways])
    axes[2].boxplot([[costs[w].seconds[i] * 1e3 for i in rows[w]] for w in ways], tick_labels=ways)
    for ax, label in zip(axes, ("forwards", "decoder MFLOP", "ms"), strict=True):
        ax.set(ylabel=f"{label} per decision", ylim=(0, None))
    _save(fig, folder / "forwards.png")


# -- contexts --------------------------------------------------------------------------------------


def _contexts(setup: Setup) -> Outcome:
    from vln_ros.engine.engine_bench import STRATEGIES, measure_context, walk
    from vln_ros.engine.profile import ImageSpec, load_profile

    sizes = setup.sizes
    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    frames = list(walk(sizes.context_stream, (224, 224)))
    costs: list[ContextCost] = []
    measure_context(setup.model, profile, "append", frames[:4], 1)  # warm up
    for every in (4, 1):
        costs += [measure_context(setup.model, profile, s, frames, every) for s in STRATEGIES]
    text = [
        f"{len(frames)} frames of 224x224 (64 tokens), the same for all; one decision per 4 frames and per "
        "frame. Times: median (p5-p95).",
        f"{'strategy':<15}{'every':>5}{'ms per frame':>22}{'ms per decision':>24}{'s in all':>9}"
        f"{'tokens':>8}{'GFLOP/decision':>15}{'patches':>9}{'cache':>7}{'compression':>12}",
    ]
    text += [_context_row(c) for c in costs]
    for every in (4, 1):
        some = [c for c in costs if c.every == every]
        work, late = max(some, key=_flops), max(some, key=_decision_s)
        total = min(some, key=_total_s)
        batch, append = (next(c for c in some if c.strategy == s) for s in ("delayed_batch", "append"))
        text.append(
            f"Asked every {every}: most decoder work per decision: {work.strategy}; longest wait for one: "
            f"{late.strategy}; least time in all: {total.strategy}. delayed_batch against append: "
            f"wait {_decision_s(batch) / _decision_s(append):.1f}x, "
            f"decoder work {_flops(batch) / _flops(append):.1f}x, "
            f"patches {batch.patches / append.patches:.1f}x, "
            f"time in all {_total_s(batch) / _total_s(append):.1f}x."
        )
    return Outcome("\n".join(text), [asdict(c) for c in costs], lambda folder: _plot_contexts(costs, folder))


def _flops(cost: ContextCost) -> float:
    return cost.flops / len(cost.decide_s)


def _decision_s(cost: ContextCost) -> float:
    return float(np.median(cost.decide_s))


def _total_s(cost: ContextCost) -> float:
    return sum(cost.observe_s) + sum(cost.decide_s)


def _context_row(cost: ContextCost) -> str:
    ratio = "-" if cost.compression is None else f"{cost.compression:.2f}"
    return (
        f"{cost.strategy:<15}{cost.every:>5}{_spread(cost.observe_s):>22}{_spread(cost.decide_s):>24}"
        f"{_total_s(cost):>9.1f}{cost.tokens:>8}{_flops(cost) / 1e9:>15.2f}{cost.patches:>9}"
        f"{cost.cached_tokens:>7}{ratio:>12}"
    )


def _plot_contexts(costs: Sequence[ContextCost], folder: Path) -> None:
    fig, axes = _figure(1, 2, (13, 4))
    for ax, every in zip(axes, (4, 1), strict=True):
        for cost in (c for c in costs if c.every == every):
            ax.plot(np.array(cost.decide_s) * 1e3, ".-", label=cost.strategy)
        ax.set(xlabel="decision", ylabel="question to queue [ms]", ylim=(0, None), title=f"every {every}")
        ax.legend()
    _save(fig, folder / "contexts.png")


# -- stages ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Staged:
    """A shape's decisions by way (``tree``, ``tokens``), and by ``generate``."""

    name: str
    peak: Peak
    ways: dict[str, list[StagedDecision]]
    native: list[NativeDecision]


def _stages(setup: Setup) -> Outcome:
    import torch

    from vln_ros.engine.model import load_model
    from vln_ros.engine.stage_bench import published_config, random_model
    from vln_ros.engine.tiny import build_tiny

    found = [_measure_shape(setup, "as loaded", setup.model)]
    text = _stage_rows(found[0])
    if not torch.cuda.is_available():
        text.append(f"Skipped: shapes {', '.join(setup.options.shapes)}: torch sees no CUDA device here.")
    else:
        build_tiny(setup.folder / "true-ids", TinyConfig(true_ids=True))
        base = load_model(
            str(setup.folder / "true-ids"),
            device="cpu",
            dtype="bfloat16",
            attention="sdpa",
            quantisation="none",
        )
        for shape in setup.options.shapes:
            model = random_model(base, published_config(shape), "cuda", torch.bfloat16)
            found.append(_measure_shape(setup, shape, model))
            text += _stage_rows(found[-1])
            del model
            torch.cuda.empty_cache()
    return Outcome("\n".join(text), [asdict(f) for f in found], lambda folder: _plot_stages(found, folder))


def _measure_shape(setup: Setup, name: str, model: LoadedModel) -> Staged:
    from vln_ros.engine.engine_bench import walk
    from vln_ros.engine.profile import ImageSpec, load_profile
    from vln_ros.engine.stage_bench import measure_generate, measure_peak, measure_stages

    sizes = setup.sizes
    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    peak = measure_peak(model.device, model.dtype)
    # The context grows by a frame per decision: half of them come before it has its size.
    context = sizes.stage_context - sizes.stage_decisions // 2
    frames = list(walk(context + 1 + sizes.stage_decisions, sizes.stage_size))
    ways = {
        way: measure_stages(model, profile, frames, context_frames=context, decode=way, peak=peak)
        for way in ("tree", "tokens")
    }
    native = measure_generate(
        model,
        frames=sizes.stage_context + 1,
        size=sizes.stage_size,
        new_tokens=QUEUE_TOKENS,
        repeats=sizes.repeats,
    )
    return Staged(name, peak, ways, native)


def _stage_rows(staged: Staged) -> list[str]:
    peak = staged.peak
    text = [
        f"{staged.name}: {peak.flops_per_s / 1e12:.2f} TFLOP/s, {peak.bytes_per_s / 1e9:.0f} GB/s "
        f"({peak.source})",
        f"  {'way':<8}{'stage':<12}{'ms':>24}{'forwards':>9}{'GFLOP':>10}{'MB read':>10}"
        f"{'roofline ms':>12}  bound",
    ]
    for way, decisions in staged.ways.items():
        for stage in decisions[0].stages:
            parts = [d.stages[stage] for d in decisions]
            least = float(np.median([p.least_s for p in parts])) * 1e3
            text.append(
                f"  {way:<8}{stage:<12}{_spread([p.seconds for p in parts]):>24}"
                f"{np.mean([p.forwards for p in parts]):>9.1f}"
                f"{np.median([p.cost.flops for p in parts]) / 1e9:>10.2f}"
                f"{np.median([p.cost.bytes for p in parts]) / 1e6:>10.1f}{least:>12.2f}  {parts[0].bound}"
            )
        least = float(np.median([sum(p.least_s for p in d.stages.values()) for d in decisions])) * 1e3
        context = float(np.median([d.context_tokens for d in decisions]))
        text.append(
            f"  {way:<8}{'total':<12}{_spread([d.total_s for d in decisions]):>24}{'':>29}{least:>12.2f}  "
            f"{context:.0f} tokens of context, {np.mean([d.actions for d in decisions]):.1f} actions"
        )
    seconds = [n.total_s for n in staged.native]
    text.append(
        f"  generate, all frames at once: {_spread(seconds)} ms, {staged.native[0].context_tokens} tokens, "
        f"{staged.native[0].new_tokens} new ones"
    )
    return text


def _plot_stages(found: Sequence[Staged], folder: Path) -> None:
    fig, axes = _figure(1, len(found), (5 * len(found) + 1, 4))
    for ax, staged in zip(axes, found, strict=True):
        for x, (_way, decisions) in enumerate(staged.ways.items()):
            bottom = 0.0
            for i, stage in enumerate(decisions[0].stages):
                height = max(float(np.median([d.stages[stage].seconds for d in decisions])) * 1e3, 0.0)
                ax.bar(x, height, bottom=bottom, color=f"C{i}", label=stage if x == 0 else None)
                bottom += height
            least = float(np.median([sum(p.least_s for p in d.stages.values()) for d in decisions])) * 1e3
            ax.hlines(least, x - 0.4, x + 0.4, color="black", label="roofline" if x == 0 else None)
        ax.set(xticks=range(len(staged.ways)), ylabel="ms per decision", title=staged.name)
        ax.set_xticklabels(list(staged.ways))
        ax.legend()
    _save(fig, folder / "stages.png")


# -- plots -----------------------------------------------------------------------------------------


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    return fig, list(axes.flat)


def _save(fig: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


SECTIONS: dict[str, Callable[[Setup], Outcome]] = {
    "flat": _flat,
    "batch": _batch,
    "forwards": _forwards,
    "contexts": _contexts,
    "stages": _stages,
}
