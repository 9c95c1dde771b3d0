"""Lets the policy run in the embedded world, for validation and for DAgger."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vln_ros.datatypes import ActionKind, Executed, Frame, Instruction
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.geometry.correspondence import IntArray
from vln_ros.protocols import Engine, HearsExecuted
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.episodes.episode import Episode
from vln_ros.training.baselines import MAX_ACTIONS
from vln_ros.training.demonstrations import Rules, Task, queue_lengths, shared_scenes, split_episode

_PERIOD_NS = 500_000_000
_OWN_SHARE = 2 / 3  # of the decisions of a run, at most, before the expert takes over


@dataclass(frozen=True)
class Rollout:
    """One run.

    Attributes:
        executed: what was done, queue by queue.
        success: it stopped nearer to the goal than the episode's radius.
        spl: success weighted by path length (Anderson et al., arXiv 1807.06757).
        nearest_m: the least distance to the goal on the way.
    """

    executed: tuple[tuple[ActionKind, ...], ...]
    success: bool
    spl: float
    nearest_m: float


@dataclass(frozen=True)
class Score:
    """Means over episodes. ``stopped`` is the share that ended by a stop."""

    episodes: int
    success: float
    spl: float
    oracle: float
    stopped: float


def follow(
    engine: Engine,
    world: EmbeddedWorld,
    episode: Episode,
    number: int,
    *,
    max_actions: int,
    every_frame: bool,
    lengths: Sequence[int] | IntArray | None = None,
) -> Rollout:
    """Let ``engine`` run an episode, queue by queue, as the pipeline does in lockstep.

    Args:
        number: of the instruction.
        max_actions: the run ends after this many.
        every_frame: show the engine the frames between two decisions too. Where its profile drops
            them, not showing them changes nothing and saves most of the time.
        lengths: how many actions are done of each queue before the engine is asked again; from the
            beginning when they are at their end. None: all of them.
    """
    world.load(episode.scene_id)
    world.place(episode.start)
    engine.start(Instruction(number, episode.instruction))
    frames, actions, travelled_m = 0, 0, 0.0

    def distance_m() -> float:
        return world.geodesic_distance(world.pose.position, episode.goal)

    done: list[Executed] = []

    def show() -> None:
        nonlocal frames
        if isinstance(engine, HearsExecuted):
            engine.executed(done)
        rgb, depth_m = world.render()
        optical = world.pose @ world.base_from_optical
        engine.observe(Frame(frames, actions * _PERIOD_NS, rgb, depth_m, world.camera, world.pose, optical))
        frames += 1

    show()
    nearest_m = distance_m()
    executed: list[tuple[ActionKind, ...]] = []
    while actions < max_actions:
        chunk = engine.decide(len(executed))
        if not chunk.actions:
            break
        queue = chunk.actions if lengths is None else chunk.actions[: lengths[len(executed) % len(lengths)]]
        executed.append(tuple(a.kind for a in queue))
        for left, action in zip(range(len(queue) - 1, -1, -1), queue, strict=True):
            actions += 1
            if action.stop:
                success = distance_m() < episode.goal_radius_m
                shortest_m = episode.geodesic_distance_m
                spl = success * shortest_m / max(shortest_m, travelled_m)
                return Rollout(tuple(executed), success, spl, nearest_m)
            travelled_m += world.step(action).distance_m
            done.append(Executed(actions * _PERIOD_NS, action))
            nearest_m = min(nearest_m, distance_m())
            if every_frame or left == 0:
                show()
    return Rollout(tuple(executed), False, 0.0, nearest_m)


def training_world(rules: Rules) -> EmbeddedWorld:
    """A world with the camera that the demonstrations are made with."""
    return EmbeddedWorld(rules.camera, rules.extrinsics, scenes=shared_scenes())


@functools.lru_cache(maxsize=1)
def _policy(checkpoint: str, profile: str) -> QwenEngine:
    model = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    return QwenEngine(model, load_profile(profile), temperature=0.0, seed=0)


def run_alone(task: Task, rules: Rules, checkpoint: str, profile: str) -> Task:
    """The task with what the policy in ``checkpoint`` does; with None if it never says an action.

    It drives for a random number of decisions, behind which the expert is to take over: a run that is
    lost teaches little more by going on, and how it is mended is not to be missed.
    """
    rng = np.random.default_rng([task.seed, task.number])
    decisions = int(rng.integers(1, math.ceil(_OWN_SHARE * rules.max_turns), endpoint=True))
    lengths = queue_lengths(task, rules)
    run = follow(
        _policy(checkpoint, profile),
        training_world(rules),
        split_episode("train", task.kind, task.number),
        task.number,
        max_actions=min(MAX_ACTIONS[task.kind], int(lengths[:decisions].sum())),
        every_frame=rules.keep_frames,
        lengths=lengths,
    )
    return replace(task, executed=to_mend(run) or None)


def to_mend(run: Rollout) -> tuple[tuple[ActionKind, ...], ...]:
    """What was done, without a stop at the wrong place: most runs fail by one, and what would have
    been right instead is to be learnt, with all that follows."""
    if run.success or not run.executed or run.executed[-1][-1] is not ActionKind.STOP:
        return run.executed
    return (*run.executed[:-1], run.executed[-1][:-1])


def score(rollouts: Iterable[Rollout], goal_radius_m: float) -> Score:
    """Means over at least one run."""
    runs = list(rollouts)
    return Score(
        len(runs),
        float(np.mean([r.success for r in runs])),
        float(np.mean([r.spl for r in runs])),
        float(np.mean([r.nearest_m < goal_radius_m for r in runs])),
        float(np.mean([bool(r.executed) and r.executed[-1][-1] is ActionKind.STOP for r in runs])),
    )
