"""Runs a checkpoint and simpler and better-informed baselines on the same unseen episodes.

Every policy runs through the pipeline in lockstep, as a user's robot would. A policy that does no
worse with another episode's instruction does not listen; with black pictures, it does not look.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vln_ros.config import NavigatorConfig
from vln_ros.datatypes import ActionChunk, ActionKind, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engines import build_loop
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.metrics import EpisodeMetrics, Summary, summarise
from vln_ros.evaluation.episode.record import EpisodeRecord, EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.protocols import Engine
from vln_ros.reuse.accounting import Reusing
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.policy import OraclePolicy
from vln_ros.sim.splits import SPLIT_STEP, make_episodes
from vln_ros.training.demonstrations import robot_camera

MAX_ACTIONS = {"room": 80, "small": 120, "flat": 200}
"""After how many actions a run ends; the expert needs about a quarter of it."""
_PERIOD_NS = 500_000_000
_QUEUE = 4
BASELINE_CAMERA = (640, 480)
"""Width and height of the images that a checkpoint is judged with."""
_UNUSED_CAMERA = (16, 12)  # of policies that do not look


class RandomEngine:
    """Implements :class:`vln_ros.protocols.Engine`: draws its actions.

    Args:
        weights: relative, of stop, forward, left and right.
    """

    def __init__(self, weights: Sequence[float], seed: int) -> None:
        self._shares = np.array(weights) / np.sum(weights)
        self._seed = seed
        self._instruction = 0

    def start(self, instruction: Instruction) -> None:
        self._instruction = instruction.number
        self._rng = np.random.default_rng([self._seed, instruction.number])

    def observe(self, frame: Frame) -> None:
        self._stamp_ns = frame.stamp_ns

    def decide(self, queue: int) -> ActionChunk:
        kinds: list[ActionKind] = []
        while len(kinds) < _QUEUE and ActionKind.STOP not in kinds:
            kinds.append(ActionKind(int(self._rng.choice(4, p=self._shares))))
        actions = tuple(SPLIT_STEP.action(k) for k in kinds)
        return ActionChunk(queue, self._instruction, self._stamp_ns, actions)

    def close(self) -> None: ...


class BlindEngine:
    """Another engine that is shown black pictures."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def start(self, instruction: Instruction) -> None:
        self._engine.start(instruction)

    def observe(self, frame: Frame) -> None:
        self._engine.observe(replace(frame, rgb=np.zeros_like(frame.rgb)))

    def decide(self, queue: int) -> ActionChunk:
        return self._engine.decide(queue)

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True, eq=False)
class Policy:
    name: str
    engine: Engine
    episodes: tuple[Episode, ...]
    looks: bool


@dataclass(frozen=True, eq=False)
class Verdict:
    """One row of the table. ``kind`` is the size of the flats."""

    kind: str
    name: str
    summary: Summary


def policies(model: LoadedModel, profile: Profile, episodes: tuple[Episode, ...], seed: int) -> list[Policy]:
    """The policy, the policy impaired, chance, and the expert."""

    def policy() -> QwenEngine:
        return QwenEngine(model, profile, temperature=0.0, seed=seed)

    return [
        Policy("policy", policy(), episodes, True),
        Policy("policy, another instruction", policy(), misled(episodes, seed), True),
        Policy("policy, black images", BlindEngine(policy()), episodes, False),
        Policy("random", RandomEngine((1, 1, 1, 1), seed), episodes, False),
        Policy("random, mostly forward", RandomEngine((1, 20, 5, 5), seed), episodes, False),
        Policy("expert", OraclePolicy(episodes, SPLIT_STEP, _QUEUE), episodes, False),
    ]


def misled(episodes: tuple[Episode, ...], seed: int) -> tuple[Episode, ...]:
    """The same episodes, each with the instruction of another one, by a random cycle through all."""
    order = np.random.default_rng(seed).permutation(len(episodes))
    other = dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True))
    return tuple(replace(e, instruction=episodes[other[k]].instruction) for k, e in enumerate(episodes))


def run_all(policy: Policy, max_actions: int, size: tuple[int, int] = BASELINE_CAMERA) -> list[EpisodeRecord]:
    """All episodes of a policy through the pipeline. ``size``: of the camera's images, pixels."""
    camera, extrinsics = robot_camera(*(size if policy.looks else _UNUSED_CAMERA))
    world = EmbeddedWorld(camera, extrinsics)
    loop = build_loop(policy.engine, NavigatorConfig())
    records = []
    for number, episode in enumerate(tqdm(policy.episodes, desc=policy.name, leave=False)):
        run = EpisodeRun(
            world,
            episode,
            start_ns=0,
            step_period_ns=_PERIOD_NS,
            limits=EpisodeLimits(max_actions),
            recorder=EpisodeRecorder(episode_info(episode), None),
        )
        run_lockstep(run, loop, number)
        engine = policy.engine
        records.append(run.finish(reuse=engine.reuse_stats() if isinstance(engine, Reusing) else None))
    policy.engine.close()
    world.close()
    return records


def metrics_of(records: Sequence[EpisodeRecord]) -> list[EpisodeMetrics]:
    """The measures of embedded episodes, which all have goals."""
    return [r.metrics for r in records if r.metrics is not None]


def evaluate_policies(
    model: LoadedModel,
    profile: Profile,
    kinds: Sequence[str],
    count: int,
    seed: int,
    size: tuple[int, int] = BASELINE_CAMERA,
) -> Iterator[Verdict]:
    """Verdicts over the first ``count`` episodes of val_unseen in each kind of flat."""
    for kind in kinds:
        episodes = make_episodes("val_unseen", count, kind)
        for policy in policies(model, profile, episodes, seed):
            records = run_all(policy, MAX_ACTIONS[kind], size)
            yield Verdict(kind, policy.name, summarise(metrics_of(records), seed))


def table(verdicts: Sequence[Verdict]) -> str:
    """Markdown, percentages with 95 % intervals; a dash where there is none."""
    lines = ["| flats | who | success | SPL | oracle success |", "|---|---|---|---|---|"]
    for v in verdicts:
        cells = [
            "-" if math.isnan(e.mean) else f"{e.mean:.1%} ({e.interval('.0%', join='-')})"
            for e in (v.summary.success, v.summary.spl, v.summary.oracle_success)
        ]
        lines.append(f"| {v.kind} | {v.name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_table(verdicts: Sequence[Verdict], path: Path, model: LoadedModel, count: int) -> None:
    """The table with what it was measured on."""
    path.write_text(
        f"Checkpoint {model.fingerprint}, {count} episodes of val_unseen per kind, embedded world, "
        f"{BASELINE_CAMERA[0]}x{BASELINE_CAMERA[1]}, lockstep, greedy.\n\n{table(verdicts)}",
        "utf-8",
    )
