"""Runs one policy with parts switched off or changed, and says what each change costs.

The reference is the naive way: before every decision the whole chat, all pictures included, is computed
anew. What the engine does instead is held against it, episode by episode.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vln_ros.config import ConfigError, LandmarkConfig, PruneConfig, ReuseConfig, StreamConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.model import QUANTISATIONS, LoadedModel
from vln_ros.engine.checkpoint.profile import ContextSpec, Profile
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.qwen import QwenEngine
from vln_ros.evaluation.episode.record import EpisodeRecord
from vln_ros.evaluation.intervals import Estimate, mean, share_of
from vln_ros.reuse.accounting import ReuseStats
from vln_ros.sim.splits import make_episodes
from vln_ros.training.baselines import BASELINE_CAMERA, MAX_ACTIONS, Policy, metrics_of, run_all
from vln_ros.training.batch import ActionWords

REFERENCE = "full recompute"


@dataclass(frozen=True)
class Ablation:
    """One way to run a policy.

    Attributes:
        recompute: forget the cache and the pictures' features before every decision.
        quantisation: of the decoder's weights.
    """

    name: str
    profile: Profile
    stream: StreamConfig
    recompute: bool = False
    reuse: ReuseConfig = ReuseConfig()
    quantisation: str = "none"


def ablations(profile: Profile) -> list[Ablation]:
    """The reference first, then the plain stream, then one change at a time.

    The plain stream does nothing ahead of a question: in lockstep nothing is gained by that, and what a
    decision costs is then all in its time.

    Raises:
        ValueError: the policy's own context is not one growing chat: there is no common reference.
    """
    if profile.context.strategy != "append":
        raise ValueError(f"profile {profile.name} has context {profile.context.strategy}, not append")
    stream = StreamConfig(prefill_on_arrival=False)
    other = "drop" if profile.context.unasked_frames == "keep" else "keep"
    told = profile.first_turn.replace("{image}", "{history}{image}")
    growing = ContextSpec("append", unasked_frames=other)
    window = ContextSpec(
        "window_reset",
        unasked_frames="drop",
        reset_steps=16,
        history_frames=4,
        history_choice="uniform_round",
    )
    alone = ContextSpec(
        "history",
        history_frames=4,
        history_choice="uniform_round",
        history_empty="none",
        history_limit=0,
    )
    video = ContextSpec("delayed_batch", recent_frames=4, important_frames=4, important_score=0.5)
    return [
        Ablation(REFERENCE, profile, stream, recompute=True),
        Ablation("stream", profile, stream),
        Ablation("stream, prefill on arrival", profile, replace(stream, prefill_on_arrival=True)),
        Ablation("stream, token by token", profile, replace(stream, decode="tokens")),
        Ablation("stream, free text", profile, replace(stream, decode="free")),
        Ablation("1 action per decision", profile, replace(stream, max_phrases=1)),
        Ablation("2 actions per decision", profile, replace(stream, max_phrases=2)),
        Ablation(f"unasked frames: {other}", replace(profile, context=growing), stream),
        Ablation(
            "budget 512 tokens, pose keyframes", profile, replace(stream, token_budget=512, recent_turns=4)
        ),
        Ablation(
            "budget 512 tokens, appearance keyframes",
            profile,
            replace(stream, token_budget=512, recent_turns=4, keyframes="appearance"),
        ),
        Ablation(
            "window of 16 actions, 4 frames of history",
            replace(profile, context=window, first_turn=told),
            stream,
        ),
        Ablation(
            "every question a chat, 4 frames of history",
            replace(profile, context=alone, next_turn=told),
            stream,
        ),
        *(
            Ablation(
                f"pruned: {how}, {side} m",
                profile,
                replace(stream, prune=PruneConfig(strategy=how, voxel_m=side, window=0)),
            )
            for how in ("voxels", "seen")
            for side in (0.25, 0.5)
        ),
        Ablation("landmark memory", profile, replace(stream, landmarks=LandmarkConfig("rules", memory=True))),
        Ablation("collected frames as a video", replace(profile, context=video), stream),
        *reusing_ways(profile, stream),
        *(
            Ablation(f"weights: {name}", profile, stream, quantisation=name)
            for name in QUANTISATIONS
            if name != "none" and importlib.util.find_spec(name.split("-")[0]) is not None
        ),
    ]


def reusing_ways(profile: Profile, stream: StreamConfig) -> list[Ablation]:
    """Budgets of reuse, and its parts left out one by one."""
    reuse = ReuseConfig(enabled=True, window=0)
    off = 1e6
    everything = replace(
        reuse,
        budget=0.25,
        tower=False,
        max_relevance=off,
        max_relevance_change=off,
        max_age=100000,
        refresh_every=100000,
        doubt=0.0,
    )
    tokens = replace(reuse, tower=False)
    named = {f"reuse, {share:.0%} computed": replace(reuse, budget=share) for share in (0.25, 0.5, 0.75)}
    named |= {
        "reuse, whole tower": tokens,
        "reuse of all seen again, but a quarter": everything,
        "reuse, no gate": replace(reuse, max_relevance=off, max_relevance_change=off),
        "reuse, no doubt": replace(reuse, doubt=0.0),
        "reuse, whole tower, layer budget": replace(tokens, layer_budget=True),
        "reuse, auto-off": replace(reuse, window=ReuseConfig().window),
    }
    return [Ablation(name, profile, stream, reuse=options) for name, options in named.items()]


class TimedEngine:
    """An engine, and how long it takes. Implements :class:`vln_ros.protocols.Engine`.

    Attributes:
        seconds: per decision so far, frames since the decision before included. Processor time: a table
            takes so long that other programs would be in it.
    """

    def __init__(self, engine: QwenEngine) -> None:
        self._engine = engine
        self._spent_s = 0.0
        self.seconds: list[float] = []

    def reuse_stats(self) -> ReuseStats | None:
        """Of the present run."""
        return self._engine.reuse_stats()

    @property
    def tokens(self) -> int:
        """Query rows that went through the decoder so far."""
        return self._engine.session.work.tokens

    def start(self, instruction: Instruction) -> None:
        self._engine.start(instruction)
        self._spent_s = 0.0

    def observe(self, frame: Frame) -> None:
        begun = time.process_time()
        self._engine.observe(frame)
        self._spent_s += time.process_time() - begun

    def decide(self, queue: int) -> ActionChunk:
        begun = time.process_time()
        chunk = self._engine.decide(queue)
        self.seconds.append(self._spent_s + time.process_time() - begun)
        self._spent_s = 0.0
        return chunk

    def close(self) -> None:
        self._engine.close()


class RecomputeEngine(TimedEngine):
    """The slow, obvious reference: the whole run is shown to an empty engine before every decision."""

    def __init__(self, engine: QwenEngine, words: ActionWords) -> None:
        super().__init__(engine)
        self._words = words
        self._run: list[Frame | ActionChunk] = []
        self._instruction = Instruction(0, "")

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._run = instruction, []

    def observe(self, frame: Frame) -> None:
        self._run.append(frame)

    def decide(self, queue: int) -> ActionChunk:
        begun = time.process_time()
        engine = self._engine
        engine.start(self._instruction)
        for event in self._run:
            if isinstance(event, Frame):
                engine.observe(event)
            else:
                engine.ready()
                engine.session.push(engine.context.question())
                engine.context.answered(
                    self._words.tokens([a.kind for a in event.actions]), len(event.actions)
                )
        chunk = engine.decide(queue)
        self.seconds.append(time.process_time() - begun)
        self._run.append(chunk)
        return chunk


@dataclass(frozen=True)
class WayFigures:
    """A row of the table.

    Attributes:
        against: name of the reference.
        gain: success minus the reference's, episode by episode.
        same: share of the episodes whose actions are the reference's, one by one.
        agreement: share of the decisions with the reference's queue, of those taken after the same past.
        reuse: mean share of the pictures' tokens that was taken over.
        net_ms: decoder time that reuse saved, less what it cost, per decision.
        decisions: per episode.
        tokens: decoder rows per decision.
        median_ms, high_ms: processor time of the engine per decision, frames included; 50th and 95th
            percentile.
    """

    kind: str
    name: str
    against: str
    episodes: int
    success: Estimate
    spl: Estimate
    gain: Estimate
    same: float
    agreement: float
    reuse: float
    net_ms: float
    decisions: float
    tokens: float
    median_ms: float
    high_ms: float


def compare(
    load: Callable[[str], LoadedModel],
    profile: Profile,
    kind: str,
    count: int,
    seed: int,
    chosen: Sequence[str],
    size: tuple[int, int] = BASELINE_CAMERA,
    against: str = REFERENCE,
) -> Iterator[WayFigures]:
    """The ways with these names, or all if none is named, over the first ``count`` episodes of val_unseen.

    The reference always runs, and comes first.

    Args:
        load: the policy with its weights quantised so.
        size: of the camera's images, pixels.
        against: name of the reference. The naive one grows with the square of an episode's length.

    Raises:
        ConfigError: no way has a name that is asked for.
    """
    named = {ablation.name: ablation for ablation in ablations(profile)}
    if unknown := [n for n in (against, *chosen) if n not in named]:
        raise ConfigError(f"unknown ways {unknown}; there are {sorted(named)}")
    episodes = make_episodes("val_unseen", count, kind)
    reference: list[EpisodeRecord] | None = None
    plain = load("none")
    for ablation in [named.pop(against), *(w for n, w in named.items() if not chosen or n in chosen)]:
        model = plain if ablation.quantisation == "none" else load(ablation.quantisation)
        inner = QwenEngine(
            model, ablation.profile, temperature=0.0, seed=seed, stream=ablation.stream, reuse=ablation.reuse
        )
        words = ActionWords(ChatTemplate(model, ablation.profile), ablation.profile, model.tokens.im_end)
        engine = RecomputeEngine(inner, words) if ablation.recompute else TimedEngine(inner)
        records = run_all(Policy(ablation.name, engine, episodes, True), MAX_ACTIONS[kind], size)
        reference = reference or records
        yield _figures(kind, ablation.name, against, engine, records, reference, seed)


def _figures(
    kind: str,
    name: str,
    against: str,
    engine: TimedEngine,
    records: list[EpisodeRecord],
    reference: list[EpisodeRecord],
    seed: int,
) -> WayFigures:
    measured, before = metrics_of(records), metrics_of(reference)
    success = np.array([float(m.success) for m in measured])
    ms = np.array(engine.seconds) * 1e3
    same = [
        [s.action for s in a.steps] == [s.action for s in b.steps]
        for a, b in zip(records, reference, strict=True)
    ]
    stats = [r.reuse for r in records if r.reuse is not None]
    return WayFigures(
        kind,
        name,
        against,
        len(records),
        share_of(success),
        mean(np.array([m.spl for m in measured]), seed),
        mean(success - np.array([float(m.success) for m in before]), seed),
        float(np.mean(same)),
        _agreement(records, reference),
        float(np.mean([s.reuse for s in stats])) if stats else 0.0,
        sum(s.saved_ms - s.overhead_ms for s in stats) / len(ms),
        len(ms) / len(records),
        engine.tokens / len(ms),
        float(np.median(ms)),
        float(np.quantile(ms, 0.95)),
    )


def _agreement(records: Sequence[EpisodeRecord], reference: Sequence[EpisodeRecord]) -> float:
    """Share of the decisions with the same queue, up to the first with another one."""
    same = asked = 0
    for a, b in zip(records, reference, strict=True):
        for one, other in zip(a.decisions, b.decisions, strict=False):
            asked += 1
            if one.chunk.actions != other.chunk.actions:
                break
            same += 1
    return same / asked if asked else 1.0


def table(figures: Sequence[WayFigures]) -> str:
    """Markdown; success and its gain in percent and points, with 95 % intervals, or a dash."""
    lines = [
        "| flats | way | success | points gained | SPL | same runs | same decisions | reuse | net ms "
        "| decisions | tokens | ms (p95) |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for f in figures:
        gain = f"{f.gain.mean * 100:+.1f} ({f.gain.interval('+.0f', 100.0, ' to ')})"
        success = f"{f.success.mean:.1%} ({f.success.interval('.0f', 100.0, '-')})"
        lines.append(
            f"| {f.kind} | {f.name} | {success} | {gain} | {f.spl.mean:.1%} | {f.same:.0%} "
            f"| {f.agreement:.1%} | {f.reuse:.0%} | {f.net_ms:+.2f} "
            f"| {f.decisions:.1f} | {f.tokens:.0f} | {f.median_ms:.1f} ({f.high_ms:.1f}) |"
        )
    return "\n".join(lines) + "\n"
