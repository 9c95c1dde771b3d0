"""``vln_ros bench prune``: what leaving visual tokens out saves, and how it changes the decisions."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.parsing import SIZE, rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import ConfigError, LandmarkConfig, PruneConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import ratio_of_sums
from vln_ros.sim.embedded.flat import KINDS

if TYPE_CHECKING:
    from vln_ros.engine.qwen import QwenEngine
    from vln_ros.protocols import Engine

TITLE = "Leaving visual tokens out"
HELP = "Measure pruning and the landmark memory: cost, gain, agreement with full compute"
FULL = "everything"
VARIANTS = {
    FULL: StreamConfig(),
    "voxels, 0.25 m": StreamConfig(prune=PruneConfig(strategy="voxels", voxel_m=0.25, window=0)),
    "voxels, 0.5 m": StreamConfig(prune=PruneConfig(strategy="voxels", voxel_m=0.5, window=0)),
    "seen, 0.25 m": StreamConfig(prune=PruneConfig(strategy="seen", voxel_m=0.25, window=0)),
    "seen, 0.5 m": StreamConfig(prune=PruneConfig(strategy="seen", voxel_m=0.5, window=0)),
    "landmark memory": StreamConfig(landmarks=LandmarkConfig(plan="model", memory=True)),
}
_QUEUE = 4


@dataclass
class Tally:
    """One variant, over all episodes.

    Attributes:
        observe_ms, decide_ms: of each frame and decision; total_s: of each episode.
        taken_in: share of each episode's visual tokens that entered the stream.
        kept: per decision, visual tokens in the stream over those that would be with everything.
        agreed: per decision, is the queue the one of full compute?
        overhead_ms: per frame of an episode: finding out what to leave out, or asking about landmarks.
        plan_ms: per instruction: taking it apart.
    """

    observe_ms: list[float] = field(default_factory=list)
    decide_ms: list[float] = field(default_factory=list)
    total_s: list[float] = field(default_factory=list)
    taken_in: list[float] = field(default_factory=list)
    kept: list[float] = field(default_factory=list)
    agreed: list[bool] = field(default_factory=list)
    overhead_ms: list[float] = field(default_factory=list)
    plan_ms: list[float] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint", help="folder or hub name of a checkpoint (default: a small random one, made anew)"
    )
    parser.add_argument("--profile", default="tiny", help="name or path of a profile (default: %(default)s)")
    parser.add_argument(
        "--device", default="cpu", help="Torch device: cpu, cuda, cuda:1, mps (default: %(default)s)"
    )
    parser.add_argument(
        "--episodes", type=int, default=4, help="walks of the oracle policy (default: %(default)s)"
    )
    parser.add_argument(
        "--kind",
        default="flat",
        choices=KINDS,
        help="size of the flats (default: flat)",
    )
    parser.add_argument(
        "--size",
        metavar=SIZE,
        default="336x252",
        help="size of the frames that the model sees (default: %(default)s)",
    )
    add_json(parser)
    rename_options(parser, {"--flats": "--kind"})


def run(args: argparse.Namespace) -> int:
    if args.episodes < 1:
        raise ConfigError(f"--episodes = {args.episodes}: must be at least 1")
    try:
        width, height = (int(side) for side in args.size.split("x"))
    except ValueError:
        raise ConfigError(f"--size = {args.size}: must be WIDTHxHEIGHT in pixels, such as 336x252") from None
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.qwen import QwenEngine
    from vln_ros.engine.tiny import build_tiny

    profile = load_profile(args.profile)
    profile = replace(profile, image=replace(profile.image, resize=(width, height)))
    with tempfile.TemporaryDirectory() as scratch:
        checkpoint = args.checkpoint
        if checkpoint is None:
            checkpoint = str(Path(scratch) / "tiny")
            build_tiny(Path(checkpoint), TinyConfig())
        model = load_model(
            checkpoint, device=args.device, dtype="auto", attention="sdpa", quantisation="none"
        )
    engines = {
        name: QwenEngine(model, profile, temperature=0.0, seed=0, stream=stream)
        for name, stream in VARIANTS.items()
    }
    tallies = {name: Tally() for name in engines}
    for number, walk in enumerate(walks(args.kind, args.episodes)):
        measure(walk, number, engines, tallies)
    figures = {
        "setting": f"{args.device}, {'random weights' if args.checkpoint is None else model.fingerprint}, "
        f"frames of {width}x{height}, {args.episodes} walks of the expert ({args.kind})",
        "variants": {name: asdict(tally) for name, tally in tallies.items()},
    }
    print(section(figures))
    if args.json is not None:
        write_atomically(args.json, json.dumps(figures, indent=1) + "\n")
    return 0


@dataclass(frozen=True, eq=False)
class Walk:
    """An instruction, and what happened on the way; a frame is followed by None where a queue was wanted."""

    instruction: str
    events: Sequence[Frame | None]


class _Recording:
    """Implements :class:`vln_ros.protocols.Engine`: another engine, of which is noted what it was shown."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.events: list[Frame | None] = []

    def start(self, instruction: Instruction) -> None:
        self.events = []
        self._engine.start(instruction)

    def observe(self, frame: Frame) -> None:
        self.events.append(frame)
        self._engine.observe(frame)

    def decide(self, queue: int) -> ActionChunk:
        self.events.append(None)
        return self._engine.decide(queue)

    def close(self) -> None:
        self._engine.close()


def walks(flats: str, count: int) -> Iterator[Walk]:
    """The expert's walks through the first episodes of val_unseen, frame by frame."""
    from tqdm import tqdm

    from vln_ros.sim.oracle.policy import OraclePolicy
    from vln_ros.sim.splits import SPLIT_STEP, make_episodes
    from vln_ros.training.baselines import MAX_ACTIONS, Policy, run_all

    for episode in tqdm(make_episodes("val_unseen", count, flats), desc="walks", disable=None):
        engine = _Recording(OraclePolicy([episode], SPLIT_STEP, _QUEUE))
        run_all(Policy("expert", engine, (episode,), True), MAX_ACTIONS[flats])
        yield Walk(episode.instruction, engine.events)


def measure(walk: Walk, number: int, engines: dict[str, QwenEngine], tallies: dict[str, Tally]) -> None:
    """Every variant sees the same; they take turns, so that all meet the same load of the machine."""
    spent = dict.fromkeys(engines, 0.0)
    for engine in engines.values():
        engine.start(Instruction(number, walk.instruction))
    seen = 0
    for queue, event in enumerate(walk.events):
        actions = {}
        for name, engine in engines.items():
            begun = time.perf_counter()
            if event is not None:
                engine.observe(event)
            else:
                actions[name] = engine.decide(queue).actions
            took = time.perf_counter() - begun
            spent[name] += took
            (tallies[name].decide_ms if event is None else tallies[name].observe_ms).append(took * 1e3)
        if event is not None:
            seen += 1
            continue
        whole = _pictures(engines[FULL])
        for name, engine in engines.items():
            tallies[name].agreed.append(actions[name] == actions[FULL])
            tallies[name].kept.append(_pictures(engine) / whole)
    for name, engine in engines.items():
        tally, report = tallies[name], engine.report()
        tally.total_s.append(spent[name])
        pruned, landmarks = report.pruning, report.landmarks
        tally.taken_in.append(1.0 if pruned is None else 1.0 - pruned.left_out / pruned.tokens)
        overhead = landmarks.chunks_ms if pruned is None else pruned.overhead_ms
        tally.overhead_ms.append(overhead / seen)
        if landmarks.plan_cost is not None:
            tally.plan_ms.append(landmarks.plan_cost.ms)


def _pictures(engine: QwenEngine) -> int:
    from vln_ros.engine.stream.timeline import SegmentKind

    return sum(s.count for s in engine.session.timeline.segments if s.kind is SegmentKind.IMAGE)


def plot(figures: Any, folder: Path) -> None:
    bars = []
    for name, t in figures["variants"].items():
        low, middle, high = np.percentile(t["observe_ms"], [5, 50, 95])
        bars.append((name, float(middle), float(low), float(high)))
    plot_bars(folder / "prune.png", TITLE, "ms per frame, 5th to 95th percentile", bars)


def section(figures: Any) -> str:
    """Times are medians; the ratio is of whole episodes, with a 95 % interval over them (BCa bootstrap)."""
    lines = [
        f"{figures['setting']}. Every variant sees the same frames and takes its turn frame by frame.",
        "",
        "| variant | taken in | in the stream | ms per frame | of it overhead | ms per decision | "
        "time, everything / this | same queues | ms per instruction |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    variants = {name: Tally(**tally) for name, tally in figures["variants"].items()}
    full = np.array(variants[FULL].total_s)
    for name, t in variants.items():
        own = np.array(t.total_s)
        ratio = ratio_of_sums(full, own, 0)
        plan = f"{np.median(t.plan_ms):.1f}" if t.plan_ms else "-"
        lines.append(
            f"| {name} | {np.mean(t.taken_in):.0%} | {np.mean(t.kept):.0%} | {np.median(t.observe_ms):.1f} | "
            f"{np.mean(t.overhead_ms):.1f} | {np.median(t.decide_ms):.1f} | "
            f"{ratio.mean:.2f} ({ratio.interval('.2f', join='-')}) | {np.mean(t.agreed):.0%} | {plan} |"
        )
    return "\n".join(lines)
