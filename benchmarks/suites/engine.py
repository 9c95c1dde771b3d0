"""``vln_ros bench engine``: what a decision costs, how that grows with the stream, what could be saved."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import output_file
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.capacity.stages import StagedDecision
    from vln_ros.engine.checkpoint.model import LoadedModel

TITLE = "The engine"
HELP = "Measure the engine: cost per frame, batches, decode modes, context strategies, stages and roofline"
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
class Section:
    """A part of the bench.

    Attributes:
        measure: gives its figures, for JSON; ``text``: of them, in Markdown; ``plot``: draws them to a file.
    """

    title: str
    measure: Callable[[Setup], Any]
    text: Callable[[Any], str]
    plot: Callable[[Any, Path], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--only",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="sections to measure (default: all)",
    )
    parser.add_argument(
        "--checkpoint", help="folder or hub name of a checkpoint (default: a small random one, made anew)"
    )
    parser.add_argument(
        "--device", default="cpu", help="Torch device: cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--dtype",
        default="auto",
        help="number format of the weights: auto, float32, bfloat16, float16 (default: %(default)s)",
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
    parser.add_argument(
        "--quick", action="store_true", help="only try the command: figures are too small to mean anything"
    )
    parser.add_argument(
        "--json", type=output_file, metavar="FILE", help="also write the figures to this file (JSON)"
    )


def run(args: argparse.Namespace) -> int:
    for name, least in (("frames", 6), ("token_budget", 64)):
        if getattr(args, name) < least:
            raise ConfigError(f"--{name.replace('_', '-')} = {getattr(args, name)}: must be at least {least}")
    from vln_ros.engine.checkpoint.model import load_model
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
        figures: dict[str, Any] = {"network": _network(model, args.checkpoint)}
        print(figures["network"])
        setup = Setup(args, QUICK if args.quick else FULL, model, folder)
        for name in args.only:
            start = time.perf_counter()
            figures[name] = SECTIONS[name].measure(setup)
            print(f"\n== {name} ({time.perf_counter() - start:.0f} s)\n{SECTIONS[name].text(figures[name])}")
    if args.json:
        write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


def section(figures: dict[str, Any]) -> str:
    head = f"{figures['network']}. Medians, in brackets 5th to 95th percentile. Each section alone: `--only`."
    parts = [
        f"### {s.title}\n\n{s.text(figures[name]).strip()}" for name, s in SECTIONS.items() if name in figures
    ]
    return "\n\n".join([head, *parts])


def plot(figures: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in SECTIONS.items():
        if name in figures:
            part.plot(figures[name], folder / f"{name}.png")


def _network(model: LoadedModel, checkpoint: str | None) -> str:
    import torch

    return (
        f"Checkpoint {checkpoint or f'tiny, random weights, seed {TINY_SEED}'}: "
        f"{sum(p.numel() for p in model.network.parameters()) / 1e6:.1f} M parameters, "
        f"{str(model.dtype).removeprefix('torch.')}, {model.device}, {torch.get_num_threads()} threads"
    )


def _spread(values: Sequence[float]) -> dict[str, float]:
    from benchmarks.measure.engine import Spread

    return asdict(Spread.of(values))


def _cell(spread: dict[str, float], scale: float = 1e3) -> str:
    """``median (p5 – p95)``, in milliseconds if not said otherwise."""
    p5, median, p95 = (scale * spread[k] for k in ("p5", "median", "p95"))
    return f"{median:.1f} ({p5:.1f} – {p95:.1f})"


# -- flat ------------------------------------------------------------------------------------------

FLAT_WITHIN = 0.1
FLAT_LISTS = {
    "frame_s": ("frame, wall clock [ms]", 1e3),
    "cpu_s": ("frame, processor time [ms]", 1e3),
    "resident_bytes": ("resident memory [MB]", 1e-6),
    "cache_bytes": ("of it cache, allocated [MB]", 1e-6),
}
BY_TURNS = "by turns, wall clock [ms]"
DRAWN_FRAMES = 200


def _flat(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_flat
    from vln_ros.engine.checkpoint.profile import load_profile

    frames = setup.options.frames
    flat = measure_flat(setup.model, load_profile("tiny"), frames, setup.options.token_budget)
    part, every = min(100, frames // 3), -(-frames // DRAWN_FRAMES)
    rows = {}
    for name, (label, _) in FLAT_LISTS.items():
        values = getattr(flat, name)
        early, late = _spread(values[part : 2 * part]), _spread(values[-part:])
        rows[name] = {"label": label, "early": early, "late": late, "ratio": flat.ratio(name)}
    turns = {"early": _spread(flat.young_s), "late": _spread(flat.old_s), "ratio": flat.paired_ratio}
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


def _flat_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    part = figures["part"]
    named = {FLAT_LISTS[name]: row for name, row in figures["rows"].items()}
    named[BY_TURNS, 1e3] = figures["by_turns"]
    rows = [
        (label, _cell(row["early"], scale), _cell(row["late"], scale), f"{row['ratio']:.2f}")
        for (label, scale), row in named.items()
    ]
    off = [label for (label, _), row in named.items() if abs(row["ratio"] - 1.0) > FLAT_WITHIN]
    return (
        f"{figures['frames']} frames of 16 tokens, each decided on, within {figures['token_budget']} tokens; "
        f"{figures['evicted']} turns evicted.\n\n"
        + table(("", f"frames {part} to {2 * part}", f"last {part}", "ratio"), rows)
        + f"\nBy turns: afterwards a new stream and the old one, {part} frames each, frame by frame, so that "
        "the machine's load is the same for both. "
        + ("Flat: all within 10 %.\n" if not off else f"Not within 10 %: {'; '.join(off)}.\n")
    )


def _plot_flat(figures: Any, path: Path) -> None:
    fig, axes = _figure(1, 2, (12, 4))
    drawn = figures["drawn"]
    x = figures["every"] * np.arange(len(drawn["frame_s"]))
    for ax, names in zip(axes, (("frame_s", "cpu_s"), ("resident_bytes", "cache_bytes")), strict=True):
        for name in names:
            label, scale = FLAT_LISTS[name]
            ax.plot(x, np.array(drawn[name]) * scale, ".", markersize=3, label=label)
        ax.set(xlabel="frame", ylim=(0, None))
        ax.legend(loc="center right")
    _save(fig, path)


# -- batch -----------------------------------------------------------------------------------------


def _batch(setup: Setup) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_batch
    from vln_ros.engine.checkpoint.profile import load_profile

    sizes = setup.sizes
    batch = measure_batch(setup.model, load_profile("tiny"), sizes.robots, sizes.rounds, sizes.repeats)
    gain = [a / b for a, b in zip(batch.separate_s, batch.together_s, strict=True)]
    return {**asdict(batch), "rounds": sizes.rounds, "repeats": sizes.repeats, "gain": _spread(gain)}


def _rates(figures: Any) -> dict[str, list[float]]:
    ways = {"together": figures["together_s"], "one by one": figures["separate_s"]}
    return {way: [figures["robots"] / s for s in seconds] for way, seconds in ways.items()}


def _batch_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [(way, _cell(_spread(rates), 1.0)) for way, rates in _rates(figures).items()]
    return (
        f"{figures['robots']} robots on one model, {figures['rounds']} frames each, {figures['repeats']} "
        "repeats.\n\n"
        + table(("", "decisions per second"), rows)
        + f"\nTogether is {_cell(figures['gain'], 1.0)} times as fast. Queues "
        f"{'identical' if figures['same_queues'] else 'NOT IDENTICAL'}, probabilities differ by at most "
        f"{figures['probability_difference']:.1e}. Expect more where reading the weights is what takes the "
        "time (a GPU).\n"
    )


def _plot_batch(figures: Any, path: Path) -> None:
    fig, (ax,) = _figure(1, 1, (5, 4))
    rates = _rates(figures)
    ax.boxplot(list(rates.values()), tick_labels=[f"{figures['robots']} robots, {way}" for way in rates])
    ax.set(ylabel="decisions per second", ylim=(0, None))
    _save(fig, path)


# -- forwards --------------------------------------------------------------------------------------


def _forwards(setup: Setup) -> dict[str, Any]:
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


def _forwards_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (f"`{r['way']}`", r["decisions"], f"{r['forwards']:.1f}", f"{r['tokens']:.0f}",
         f"{r['flops'] / 1e6:.0f}", _cell(_spread(r["seconds"])))
        for r in figures["rows"]
    ]  # fmt: skip
    different = [way for way, same in figures["same_queues"].items() if not same]
    return (
        f"{figures['decisions']} decisions, sampled at {figures['temperature']}, frame and question "
        f"included; {figures['four_actions']} have four actions.\n\n"
        + table(("way to decode", "decisions", "forwards", "query tokens", "decoder MFLOP", "ms"), rows)
        + f"\nQueues of tree, forced and tokens are {'NOT ' if different else ''}identical"
        f"{' (' + ', '.join(different) + ')' if different else ''}, {figures['different_queues']} different "
        f"ones; probabilities differ by at most {figures['probability_difference']:.1e}. What a random "
        "network says freely is no queue: that row is only the cost of as many tokens.\n"
    )


def _plot_forwards(figures: Any, path: Path) -> None:
    rows: dict[str, Any] = {}
    for r in figures["rows"]:
        rows.setdefault(r["way"], r)  # four actions, if there are any
    ways = list(rows)
    fig, axes = _figure(1, 3, (13, 4))
    axes[0].bar(ways, [r["forwards"] for r in rows.values()])
    axes[1].bar(ways, [r["flops"] / 1e6 for r in rows.values()])
    axes[2].boxplot([[1e3 * s for s in r["seconds"]] for r in rows.values()], tick_labels=ways)
    for ax, label in zip(axes, ("forwards", "decoder MFLOP", "ms"), strict=True):
        ax.set(ylabel=f"{label} per decision", ylim=(0, None))
    _save(fig, path)


# -- contexts --------------------------------------------------------------------------------------

ASKED = (4, 1)
"""Frames per decision."""


def _contexts(setup: Setup) -> dict[str, Any]:
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
            "observe_s": _spread(cost.observe_s),
            "decide_s": [float(f"{s:.4g}") for s in cost.decide_s],
            "total_s": sum(cost.observe_s) + sum(cost.decide_s),
        }

    rows = [
        row(measure_context(setup.model, profile, s, frames, every)) for every in ASKED for s in STRATEGIES
    ]
    return {"frames": len(frames), "rows": rows}


def _contexts_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    def flops(r: Any) -> float:
        return float(r["flops"]) / len(r["decide_s"])

    def late_s(r: Any) -> float:
        return float(np.median(r["decide_s"]))

    rows = [
        (r["every"], f"`{r['strategy']}`", _cell(r["observe_s"]), _cell(_spread(r["decide_s"])),
         f"{r['total_s']:.1f}", f"{r['tokens']:,}", f"{flops(r) / 1e9:.2f}", f"{r['patches']:,}",
         f"{r['cached_tokens']:,}", "-" if r["compression"] is None else f"{r['compression']:.2f}")
        for r in figures["rows"]
    ]  # fmt: skip
    columns = ("asked every", "strategy", "ms per frame", "ms per decision", "s in all", "tokens",
               "GFLOP per decision", "patches", "largest cache", "compression")  # fmt: skip
    text = (
        f"{figures['frames']} frames of 224x224 (64 tokens), the same for all; history of 8 frames, reset "
        "every 16 actions, delayed batch of 16 recent frames and up to 8 important ones.\n\n"
    ) + table(columns, rows)
    for every in ASKED:
        some = {r["strategy"]: r for r in figures["rows"] if r["every"] == every}
        batch, append = some["delayed_batch"], some["append"]
        work, late = max(some, key=lambda s: flops(some[s])), max(some, key=lambda s: late_s(some[s]))
        total = min(some, key=lambda s: float(some[s]["total_s"]))
        text += (
            f"\n* Asked every {every}: most decoder work per decision: `{work}`; longest wait for one: "
            f"`{late}`; least time in all: `{total}`. `delayed_batch` against `append`: wait "
            f"{late_s(batch) / late_s(append):.1f}x, decoder work {flops(batch) / flops(append):.1f}x, "
            f"patches {batch['patches'] / append['patches']:.1f}x, time in all "
            f"{batch['total_s'] / append['total_s']:.1f}x."
        )
    return text + "\n"


def _plot_contexts(figures: Any, path: Path) -> None:
    fig, axes = _figure(1, 2, (13, 4))
    for ax, every in zip(axes, ASKED, strict=True):
        for r in (r for r in figures["rows"] if r["every"] == every):
            ax.plot(np.array(r["decide_s"]) * 1e3, ".-", label=r["strategy"])
        ax.set(
            xlabel="decision", ylabel="question to queue [ms]", ylim=(0, None), title=f"asked every {every}"
        )
        ax.legend()
    _save(fig, path)


# -- stages ----------------------------------------------------------------------------------------


def _stages(setup: Setup) -> dict[str, Any]:
    import torch

    from vln_ros.capacity.stages import published_config, random_model
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.tiny import build_tiny

    shapes = [_measure_shape(setup, "as loaded", setup.model)]
    skipped: list[str] = []
    if not torch.cuda.is_available():
        skipped = list(setup.options.shapes)
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
            shapes.append(_measure_shape(setup, shape, model))
            del model
            torch.cuda.empty_cache()
    return {"size": list(setup.sizes.stage_size), "shapes": shapes, "skipped": skipped}


def _measure_shape(setup: Setup, name: str, model: LoadedModel) -> dict[str, Any]:
    from benchmarks.measure.engine import measure_generate
    from vln_ros.capacity.stages import measure_peak, measure_stages
    from vln_ros.capacity.walk import walk
    from vln_ros.engine.checkpoint.profile import ImageSpec, load_profile

    sizes = setup.sizes
    profile = replace(load_profile("tiny"), image=ImageSpec(None, None))
    peak = measure_peak(model.device, model.dtype)
    # The context grows by a frame per decision: half of them come before it has its size.
    context = sizes.stage_context - sizes.stage_decisions // 2
    frames = list(walk(context + 1 + sizes.stage_decisions, sizes.stage_size))
    ways = {
        way: _staged(measure_stages(model, profile, frames, context_frames=context, decode=way, peak=peak))
        for way in ("tree", "tokens")
    }
    native = measure_generate(
        model,
        frames=sizes.stage_context + 1,
        size=sizes.stage_size,
        new_tokens=QUEUE_TOKENS,
        repeats=sizes.repeats,
    )
    return {
        "name": name,
        "peak": asdict(peak),
        "ways": ways,
        "generate": {
            "total": _spread([n.total_s for n in native]),
            "context_tokens": native[0].context_tokens,
            "new_tokens": native[0].new_tokens,
        },
    }


def _staged(decisions: Sequence[StagedDecision]) -> dict[str, Any]:
    """One way's decisions: medians of each stage, its roofline and what bounds that."""
    stages = {}
    for name in decisions[0].stages:
        parts = [d.stages[name] for d in decisions]
        stages[name] = {
            "seconds": _spread([p.seconds for p in parts]),
            "forwards": float(np.mean([p.forwards for p in parts])),
            "flops": float(np.median([p.cost.flops for p in parts])),
            "bytes": float(np.median([p.cost.bytes for p in parts])),
            "least_s": float(np.median([p.least_s for p in parts])),
            "bound": parts[0].bound,
        }
    return {
        "stages": stages,
        "total": _spread([d.total_s for d in decisions]),
        "least_s": float(np.median([sum(p.least_s for p in d.stages.values()) for d in decisions])),
        "context_tokens": float(np.median([d.context_tokens for d in decisions])),
        "actions": float(np.mean([d.actions for d in decisions])),
    }


def _stages_text(figures: Any) -> str:
    from vln_ros.cli.bench.page import table

    width, height = figures["size"]
    text = (
        f"A new frame of {width}x{height} behind others, and its queue; milliseconds, measured / roofline.\n"
    )
    for shape in figures["shapes"]:
        peak, ways, native = shape["peak"], shape["ways"], shape["generate"]
        names = list(ways["tree"]["stages"])
        rows = []
        for way, w in ways.items():
            cells = []
            for name in names:
                stage = w["stages"][name]
                least = f" / {1e3 * stage['least_s']:.1f}" if stage["least_s"] else ""
                cells.append(f"{1e3 * stage['seconds']['median']:.1f}{least}")
            rows.append((f"`{way}`", *cells, _cell(w["total"]), f"{1e3 * w['least_s']:.0f}"))
        empty = [""] * len(names)
        rows.append(("`generate`, all frames at once", *empty, _cell(native["total"]), ""))
        tree = ways["tree"]
        times = [native["total"]["median"] / w["total"]["median"] for w in ways.values()]
        flops = [sum(s["flops"] for s in w["stages"].values()) / 1e9 for w in ways.values()]
        text += (
            f"\n{shape['name']}, {tree['context_tokens']:.0f} tokens of context, {tree['actions']:.1f} "
            f"actions; {peak['flops_per_s'] / 1e12:.2f} TFLOP/s, {peak['bytes_per_s'] / 1e9:.0f} GB/s "
            f"({peak['source']}).\n\n"
            + table(("", *names, "total", "roofline"), rows)
            + f"\n`generate` takes {times[0]:.1f} times as long as `tree` and {times[1]:.1f} times as long "
            f"as `tokens`; `tree` spends {flops[0]:.1f} GFLOP, `tokens` {flops[1]:.1f}.\n"
        )
    if figures["skipped"]:
        text += f"\nShapes {', '.join(figures['skipped'])} are not measured: torch saw no CUDA device.\n"
    return text


def _plot_stages(figures: Any, path: Path) -> None:
    shapes = figures["shapes"]
    fig, axes = _figure(1, len(shapes), (5 * len(shapes) + 1, 4))
    for ax, shape in zip(axes, shapes, strict=True):
        for x, w in enumerate(shape["ways"].values()):
            bottom = 0.0
            for i, (name, stage) in enumerate(w["stages"].items()):
                height = max(1e3 * stage["seconds"]["median"], 0.0)
                ax.bar(x, height, bottom=bottom, color=f"C{i}", label=name if x == 0 else None)
                bottom += height
            label = "roofline" if x == 0 else None
            ax.hlines(1e3 * w["least_s"], x - 0.4, x + 0.4, color="black", label=label)
        ax.set(ylabel="ms per decision", title=shape["name"])
        ax.set_xticks(range(len(shape["ways"])), list(shape["ways"]))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    _save(fig, path)


# -- plots -----------------------------------------------------------------------------------------


def _figure(rows: int, columns: int, size: tuple[float, float]) -> tuple[Any, list[Any]]:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    fig, axes = plt.subplots(rows, columns, figsize=size, squeeze=False)
    return fig, list(axes.flat)


def _save(fig: Any, path: Path) -> None:
    from matplotlib import pyplot as plt

    fig.tight_layout()
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


SECTIONS: dict[str, Section] = {
    "flat": Section("Flat cost", _flat, _flat_text, _plot_flat),
    "batch": Section("Robots together", _batch, _batch_text, _plot_batch),
    "forwards": Section("Ways to decode", _forwards, _forwards_text, _plot_forwards),
    "contexts": Section("Context strategies", _contexts, _contexts_text, _plot_contexts),
    "stages": Section("Stages and roofline", _stages, _stages_text, _plot_stages),
}
