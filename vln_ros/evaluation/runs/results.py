"""Sums up a run and writes it as JSON.

JSON has no NaN: what is not finite is written as null. A null navigation error reads back as infinity
(an unreachable goal is the only way to have none), any other null measure as NaN.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import json
import math
import platform
import posixpath
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import vln_ros
from vln_ros.config import Scalar
from vln_ros.datatypes import ActionChunk
from vln_ros.evaluation.episode.metrics import EpisodeMetrics, Summary
from vln_ros.evaluation.episode.record import EpisodeCost
from vln_ros.reuse.accounting import ReuseStats

NOT_A_NUMBER = (
    "unreachable end: failure, error not averaged but counted; no shortest path: SPL left out; "
    "no step-level ground truth: nDTW and SDTW left out"
)
"""The policy of :mod:`vln_ros.evaluation.episode.metrics`, for results."""


@dataclass(frozen=True)
class FrameCounts:
    """What became of the camera's frames over a run."""

    received: int
    aligned: int
    dropped: int
    processed: int


@dataclass(frozen=True)
class LatencyStats:
    """Decision latency over a run or an episode, milliseconds; NaN where nothing was decided."""

    count: int
    p50: float
    p95: float
    max: float

    @staticmethod
    def of(latencies_ms: Sequence[float] | array[float]) -> LatencyStats:
        if len(latencies_ms) == 0:
            return LatencyStats(0, math.nan, math.nan, math.nan)
        ordered = sorted(latencies_ms)

        def quantile(share: float) -> float:  # numpy's, but 20 times faster on an episode's few values
            at = share * (len(ordered) - 1)
            low = int(at)
            high = min(low + 1, len(ordered) - 1)
            return ordered[low] + (at - low) * (ordered[high] - ordered[low])

        return LatencyStats(len(ordered), quantile(0.5), quantile(0.95), ordered[-1])


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How episodes are run and judged; a number means nothing without it.

    Attributes:
        name: e.g. ``r2r-vlnce``; ``replay`` for a recording.
        split: split of the dataset; empty where there is none.
        control: ``lockstep`` or ``real time``.
        goal_radius_m, forward_m, turn_deg: success radius and step sizes; None where they do not apply.
        max_steps: an episode ends after so many; None: no limit.
        max_actions, max_turns_in_place, max_questions, early_end_is_stop: see
            :class:`vln_ros.evaluation.episode.run.EpisodeLimits`.
        measures: ``all`` or ``basic``.
        not_a_number: how what is no number enters the means.
        generation: how the model's tokens are chosen; empty for an engine without a model.
    """

    name: str
    split: str
    control: str
    goal_radius_m: float | None
    forward_m: float | None
    turn_deg: float | None
    max_steps: int | None
    max_actions: int | None = None
    max_turns_in_place: int | None = None
    max_questions: int | None = None
    early_end_is_stop: bool = False
    measures: str = "all"
    not_a_number: str = NOT_A_NUMBER
    generation: str = ""


@dataclass(frozen=True)
class Decides:
    """Who decides in a run: as its options have it; empty where they do not."""

    engine: str
    profile: str
    checkpoint: str


@dataclass(frozen=True)
class RunInfo:
    """What identifies a run.

    Attributes:
        command: as it was typed, argument by argument.
        protocol: the rules.
        seed: of everything random in the run; also of the bootstrap.
        config: every option, dotted names (:func:`vln_ros.config.to_flat`).
        checkpoint: fingerprint of the weights; empty where there are none, or before they are loaded.
    """

    command: tuple[str, ...]
    protocol: Protocol
    seed: int
    config: Mapping[str, Scalar]
    checkpoint: str = ""

    @property
    def decides(self) -> Decides:
        """Engine, profile and checkpoint."""

        def named(name: str) -> str:
            return str(self.config.get(f"navigator.{name}", self.config.get(name, "")))

        engine = named("engine")
        if engine not in ("", "qwen"):
            return Decides(engine, "", "")
        return Decides(engine, named("qwen.profile"), named("qwen.checkpoint"))

    def to_tree(self) -> dict[str, Any]:
        """As it stands in ``result.json``."""
        return {**dataclasses.asdict(self), "command": list(self.command), "config": dict(self.config)}

    @staticmethod
    def from_tree(tree: Mapping[str, Any]) -> RunInfo:
        """Raises ValueError: it was written by another version."""
        try:
            protocol = Protocol(**tree["protocol"])
            return RunInfo(
                tuple(tree["command"]), protocol, tree["seed"], tree["config"], tree.get("checkpoint", "")
            )
        except (TypeError, KeyError) as error:
            raise ValueError(f"not the description of a run of this version: {error}") from error


@dataclass(frozen=True, kw_only=True)
class EpisodeResult:
    """One line of ``episodes.jsonl``.

    Attributes:
        folder: its folder's name under ``episodes``.
        ended: why it ended.
        decisions: answers of the engine.
        latencies_ms: of each of them, milliseconds, to 0.01.
        video_frames: 0: there is no video.
        metrics: None without a goal.
        answers: None where the engine has no model.
        standing_s, cost, reuse, given_up: see :class:`vln_ros.evaluation.episode.record.EpisodeRecord`.
    """

    episode_id: str
    scene_id: str
    instruction: str
    folder: str
    ended: str
    wall_s: float
    decisions: int
    latencies_ms: array[float]
    video_frames: int
    metrics: EpisodeMetrics | None
    standing_s: float | None = None
    cost: EpisodeCost | None = None
    reuse: ReuseStats | None = None
    given_up: tuple[str, ...] = ()
    answers: Answers | None = None

    def to_json(self) -> str:
        """One line without its end."""
        line = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        line["latencies_ms"] = [round(v, 2) for v in self.latencies_ms]
        line["wall_s"] = round(self.wall_s, 3)
        line["metrics"] = None if self.metrics is None else vars(self.metrics)
        line["cost"] = None if self.cost is None else {k: _short(v) for k, v in vars(self.cost).items()}
        line["reuse"] = None if self.reuse is None else {k: _short(v) for k, v in vars(self.reuse).items()}
        line["answers"] = None if self.answers is None else vars(self.answers)
        return json.dumps(finite_tree(line), allow_nan=False)

    @staticmethod
    def from_json(line: str) -> EpisodeResult:
        """Raises ValueError: not such a line."""
        try:
            fields: dict[str, Any] = json.loads(line)
            fields["latencies_ms"] = array("d", fields["latencies_ms"])
            if fields["metrics"] is not None:
                metrics: dict[str, Any] = {
                    k: math.nan if v is None else v for k, v in fields["metrics"].items()
                }
                if math.isnan(metrics["navigation_error_m"]):
                    metrics["navigation_error_m"] = math.inf
                metrics["oracle_success"] = fields["metrics"]["oracle_success"]
                if not isinstance(metrics["success"], bool):
                    raise TypeError(f"success = {fields['metrics']['success']!r} is neither true nor false")
                fields["metrics"] = EpisodeMetrics(**metrics)
            if fields.get("cost") is not None:
                fields["cost"] = EpisodeCost(**fields["cost"])
            if fields.get("reuse") is not None:
                fields["reuse"] = ReuseStats(**fields["reuse"])
            fields["given_up"] = tuple(fields.get("given_up", ()))
            if fields.get("answers") is not None:
                answers: dict[str, Any] = {
                    k: math.nan if v is None else v for k, v in fields["answers"].items()
                }
                fields["answers"] = Answers(**answers)
            return EpisodeResult(**fields)
        except (TypeError, KeyError, AttributeError) as e:
            raise ValueError(f"not an episode result: {e}") from e


def _short(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value


@dataclass(frozen=True)
class Skip:
    """An episode that could not be run, and why; ``engine_failure``: it had begun, and the engine failed."""

    episode_id: str
    scene_id: str
    reason: str
    engine_failure: bool = False


def skips_line(skips: Sequence[Skip], measured: int) -> str:
    """How many could not be run, and the first few reasons; for the terminal."""
    shown = [f"  {s.scene_id} #{s.episode_id}: {s.reason}" for s in skips[:5]]
    more = [f"  and {len(skips) - 5} more: see result.json"] if len(skips) > 5 else []
    failures = sum(s.engine_failure for s in skips)
    why = f" ({failures} for a failure of the engine)" if failures else ""
    head = f"{len(skips)} of {len(skips) + measured} episodes could not be run{why} and are in no number:"
    return "\n".join([head, *shown, *more])


@dataclass(frozen=True, kw_only=True)
class Costs:
    """Totals over the episodes that were counted; see :class:`vln_ros.evaluation.episode.record.EpisodeCost`.

    ``forwards`` and ``tokens`` are None where the engine has none.
    """

    episodes: int
    wall_s: float
    load_s: float
    render_s: float
    measure_s: float
    observe_s: float
    decide_s: float
    waited_s: float
    forwards: int | None
    tokens: int | None
    prepared: int
    engine_cpu_s: float | None = None
    """None where it was not measured in every episode."""

    @staticmethod
    def of(episodes: Sequence[EpisodeResult]) -> Costs:
        counted = [(e, e.cost) for e in episodes if e.cost is not None]
        forwards = [c.forwards for _, c in counted if c.forwards is not None]
        tokens = [c.tokens for _, c in counted if c.tokens is not None]
        cpu_s = [c.engine_cpu_s for _, c in counted if c.engine_cpu_s is not None]
        return Costs(
            episodes=len(counted),
            wall_s=sum(e.wall_s for e, _ in counted),
            load_s=sum(c.load_s for _, c in counted),
            render_s=sum(c.render_s for _, c in counted),
            measure_s=sum(c.measure_s for _, c in counted),
            observe_s=sum(c.observe_s for _, c in counted),
            decide_s=sum(sum(e.latencies_ms) for e, _ in counted) / 1e3,
            waited_s=sum(c.waited_s for _, c in counted),
            forwards=sum(forwards) if forwards else None,
            tokens=sum(tokens) if tokens else None,
            prepared=sum(c.prepared for _, c in counted),
            engine_cpu_s=sum(cpu_s) if counted and len(cpu_s) == len(counted) else None,
        )


@dataclass(frozen=True)
class Answers:
    """What the model wanted to say against what the action vocabulary let it, over counted answers.

    Attributes:
        count: answers under a grammar.
        least_allowed, mean_allowed: share of its probability that the grammar left it; see
            :class:`vln_ros.datatypes.ActionChunk`. NaN where there was no grammar.
        left: answers at which it would rather have said something else, free text included.
        held: answers that the robot therefore did not act on.
    """

    count: int
    least_allowed: float
    mean_allowed: float
    left: int
    held: int

    @staticmethod
    def of(chunks: Sequence[ActionChunk]) -> Answers:
        shares = [c.allowed for c in chunks if c.allowed is not None]
        return Answers(
            len(shares),
            min(shares, default=math.nan),
            sum(shares) / len(shares) if shares else math.nan,
            sum(c.unconstrained is not None for c in chunks),
            sum(c.held is not None for c in chunks),
        )

    @staticmethod
    def together(parts: Sequence[Answers]) -> Answers:
        """Of several episodes."""
        counted = [p for p in parts if p.count]
        count = sum(p.count for p in counted)
        return Answers(
            count,
            min((p.least_allowed for p in counted), default=math.nan),
            sum(p.mean_allowed * p.count for p in counted) / count if count else math.nan,
            sum(p.left for p in parts),
            sum(p.held for p in parts),
        )

    def line(self) -> str:
        """For the terminal and the page; empty where there is nothing to say."""
        if not self.count and not self.held:
            return ""
        allowed = (
            f"the vocabulary allowed {self.mean_allowed:.1%} of what the model wanted to say (least "
            f"{self.least_allowed:.1%}); "
            if self.count
            else ""
        )
        return f"{allowed}{self.left} answers left it, {self.held} were held"


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """A whole run, as in ``result.json``."""

    info: RunInfo
    versions: Mapping[str, str]
    complete: bool
    episodes: tuple[EpisodeResult, ...]
    summary: Summary
    latency_ms: LatencyStats
    frames: FrameCounts | None
    skipped: tuple[Skip, ...] = ()
    cut_short: str = ""
    """Why it is not complete, if it is not."""

    @cached_property
    def costs(self) -> Costs:
        return Costs.of(self.episodes)

    @cached_property
    def answers(self) -> Answers:
        """Over all episodes."""
        return Answers.together([e.answers for e in self.episodes if e.answers is not None])

    @property
    def standing_s(self) -> float | None:
        """Mean per episode; None where it was not measured."""
        times = [e.standing_s for e in self.episodes if e.standing_s is not None]
        return sum(times) / len(times) if times else None

    def to_json(self) -> str:
        tree = {
            "complete": self.complete,
            "cut_short": self.cut_short,
            "versions": dict(self.versions),
            **self.info.to_tree(),
            "summary": dataclasses.asdict(self.summary),
            "frames": None if self.frames is None else dataclasses.asdict(self.frames),
            "decisions": self.latency_ms.count,
            "latency_ms": dataclasses.asdict(self.latency_ms),
            "standing_s": self.standing_s,
            "costs": dataclasses.asdict(self.costs),
            "out_of_memory": {e.episode_id: list(e.given_up) for e in self.episodes if e.given_up},
            "answers": dataclasses.asdict(self.answers),
            "engine_failures": sum(s.engine_failure for s in self.skipped),
            "skipped": [dataclasses.asdict(s) for s in self.skipped],
            "episodes": [
                {
                    "episode_id": e.episode_id,
                    "scene_id": e.scene_id,
                    "folder": posixpath.normpath(f"episodes/{e.folder}"),
                    "ended": e.ended,
                    "metrics": None if e.metrics is None else vars(e.metrics),
                }
                for e in self.episodes
            ],
        }
        return json.dumps(finite_tree(tree), indent=1, allow_nan=False) + "\n"


def finite_tree(value: Any) -> Any:
    """The same tree with None for every float that JSON cannot hold."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {k: finite_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [finite_tree(v) for v in value]
    return value


def versions() -> dict[str, str]:
    """Of this package, Python, and of those libraries that are installed, or that this process has loaded."""
    found = {
        "vln_ros": vln_ros.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in ("numpy", "torch", "transformers", "safetensors", "tokenizers", "habitat_sim"):
        module = sys.modules.get(name)
        if module is not None:
            found[name] = str(getattr(module, "__version__", "unknown"))
            continue
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def cost_line(result: RunResult) -> str:
    """What a decision cost, for the terminal; empty where nobody counted."""
    count, costs = result.latency_ms.count, result.costs
    if not count or costs.forwards is None or costs.tokens is None:
        return ""
    cpu = (
        "" if costs.engine_cpu_s is None else f", {1e3 * costs.engine_cpu_s / count:.1f} ms of processor time"
    )
    return f"per decision: {costs.forwards / count:.2f} forwards, {costs.tokens / count:.1f} tokens{cpu}"
