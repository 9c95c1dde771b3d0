"""Says which scenes and episodes of the embedded world belong to which split, for ever.

``train`` and ``val_seen`` share scenes (seeds from 0) and differ in episodes; ``val_unseen`` has
scenes of its own (seeds from 900000). Episode k of a split is the same whatever else is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from vln_ros.config import ConfigError
from vln_ros.datatypes import ActionKind, Float64Array, Pose, StepSize, wrap_angle
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, FurnitureItem, scene_id
from vln_ros.sim.embedded.geodesic import GoalField
from vln_ros.sim.embedded.world import Scene, SceneCache
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.episodes.instructions import describe_route, tell
from vln_ros.sim.oracle.expert import Expert

GOAL_RADIUS_M = 1.0
"""Success radius of embedded episodes: a room is a few metres wide, R2R's 3 m would be the whole room."""
EPISODES_PER_SCENE = 5
SPLIT_STEP = StepSize(0.25, math.radians(15.0))
"""What the ground-truth actions are made of."""

_BESIDE_M = 0.15  # free floor between the robot's square and the thing it stops at
_BESIDE_STEP_M = 0.1  # between two places beside it that are looked at
_MAX_STEPS = 500


@dataclass(frozen=True)
class Split:
    """``first_seed`` and ``scenes`` bound its scenes; ``stream`` separates its draws from other splits'."""

    name: str
    first_seed: int
    scenes: int
    stream: int


SPLITS: dict[str, Split] = {
    s.name: s
    for s in (
        Split("train", 0, 100_000, 1),
        Split("val_seen", 0, 100_000, 2),
        Split("val_unseen", 900_000, 100_000, 3),
    )
}


def make_episodes(
    split: str, count: int, kind: str = "flat", wrap: Callable[[Iterable[int]], Iterable[int]] = iter
) -> tuple[Episode, ...]:
    """The first ``count`` episodes of a split; fewer asked for are a prefix of more.

    Args:
        split: train, val_seen or val_unseen.
        count: how many.
        kind: size of the scenes, a key of :data:`vln_ros.sim.embedded.flat.KINDS`.
        wrap: passes the episode numbers on: a place to hang a progress bar.

    Raises:
        ConfigError: unknown split or kind, or more episodes than the split has.
    """
    chosen = _split(split)
    if not 0 < count <= chosen.scenes * EPISODES_PER_SCENE:
        raise ConfigError(
            f"{split} has 1 to {chosen.scenes * EPISODES_PER_SCENE} episodes, asked for {count}"
        )
    cache = SceneCache(AGENT_RADIUS_M, 1)
    episodes = []
    for number in wrap(range(count)):
        scene = cache.get(scene_id(chosen.first_seed + number // EPISODES_PER_SCENE, kind))
        episodes.append(_episode(chosen, number, scene))
    return tuple(episodes)


def first_seeds(split: str, count: int) -> list[int]:
    """Seeds of the first ``count`` scenes of a split. Raises ConfigError if it has not that many."""
    chosen = _split(split)
    if not 0 < count <= chosen.scenes:
        raise ConfigError(f"{split} has 1 to {chosen.scenes} scenes, asked for {count}")
    return list(range(chosen.first_seed, chosen.first_seed + count))


def make_scene_episodes(split: str, seed: int, kind: str = "flat") -> tuple[Episode, ...]:
    """The episodes that a split has in the scene with this seed.

    Raises:
        ConfigError: unknown split, or a seed that is not in it.
    """
    chosen = _split(split)
    first = _number_in(chosen, seed) * EPISODES_PER_SCENE
    scene = Scene(scene_id(seed, kind), AGENT_RADIUS_M)
    return tuple(_episode(chosen, k, scene) for k in range(first, first + EPISODES_PER_SCENE))


def begin_episode(split: str, number: int, scene: Scene) -> Episode:
    """Episode ``number`` of a split without the expert's actions, which cost most of making it.

    Args:
        scene: the one that the episode takes place in.

    Raises:
        ValueError: another scene.
    """
    chosen = _split(split)
    seed = chosen.first_seed + number // EPISODES_PER_SCENE
    if scene.flat.seed != seed:
        raise ValueError(f"episode {number} of {split} is in the scene {seed}, not in {scene.flat.scene_id}")
    return _begin(chosen, number, scene)


def begin_scene(split: str, scene: Scene) -> tuple[Episode, ...]:
    """The episodes that a split has in a scene, without the expert's actions.

    Raises:
        ConfigError: unknown split, or a scene that is not in it.
    """
    chosen = _split(split)
    first = _number_in(chosen, scene.flat.seed) * EPISODES_PER_SCENE
    return tuple(_begin(chosen, k, scene) for k in range(first, first + EPISODES_PER_SCENE))


def _number_in(split: Split, seed: int) -> int:
    index = seed - split.first_seed
    if not 0 <= index < split.scenes:
        last = split.first_seed + split.scenes - 1
        raise ConfigError(f"seed {seed} is not in {split.name}, which has {split.first_seed} to {last}")
    return index


def _split(name: str) -> Split:
    if name not in SPLITS:
        raise ConfigError(f"split = {name!r}: choose one of {', '.join(SPLITS)}")
    return SPLITS[name]


def _episode(split: Split, number: int, scene: Scene) -> Episode:
    begun = _begin(split, number, scene)
    expert = Expert(scene.walkable, begun.goal, SPLIT_STEP)
    actions, poses = expert.rollout(begun.start, _MAX_STEPS)
    return replace(
        begun,
        actions=tuple(ActionKind(a.kind) for a in actions),
        locations=np.array([begun.start.position, *(p.position for p in poses)]),
    )


def _begin(split: Split, number: int, scene: Scene) -> Episode:
    flat, walkable = scene.flat, scene.walkable
    shortest_m = 4.0 if len(flat.rooms) > 3 else 2.5 if len(flat.rooms) > 1 else 1.5
    rng = np.random.default_rng([flat.seed, len(flat.rooms), split.stream, number])
    targets = [f for f in flat.furniture if f.number in flat.referents]
    while True:
        target = targets[int(rng.integers(len(targets)))]
        start = rng.random(2) * flat.size_m
        yaw = wrap_angle(float(rng.integers(24)) * math.radians(15.0))
        if not walkable.contains(start[None])[0]:
            continue
        if len(flat.rooms) > 1 and flat.room_at(start) == target.room:
            continue
        goal = place_beside(scene, target, start)
        if goal is not None and walkable.distance(start, goal) >= shortest_m:
            break
    path = walkable.path(start, goal)
    text = tell(flat, describe_route(flat, path, yaw, target), rng)
    return Episode(
        episode_id=str(number + 1),
        trajectory_id=str(number + 1),
        scene_id=flat.scene_id,
        start=Pose.planar(float(start[0]), float(start[1]), yaw),
        goal=np.array([*goal, 0.0]),
        goal_radius_m=GOAL_RADIUS_M,
        instruction=text,
        reference_path=np.concatenate([path, np.zeros((len(path), 1))], 1),
        geodesic_distance_m=walkable.distance(start, goal),
    )


def place_beside(scene: Scene, item: FurnitureItem, start: Float64Array) -> Float64Array | None:
    """The place beside a thing that is nearest on foot; None if none can be reached.

    "Stop next to the sofa" names no side of it: only where one comes from does.
    """
    x0, y0, x1, y1 = item.footprint
    away = scene.walkable.radius_m + _BESIDE_M
    xs = np.linspace(x0, x1, math.ceil((x1 - x0) / _BESIDE_STEP_M) + 1)
    ys = np.linspace(y0, y1, math.ceil((y1 - y0) / _BESIDE_STEP_M) + 1)
    places = np.array(
        [(x, y) for x in xs for y in (y0 - away, y1 + away)]
        + [(x, y) for y in ys for x in (x0 - away, x1 + away)]
    )
    inside = np.array([scene.flat.room_at(p) == item.room for p in places])
    places = places[inside & scene.walkable.contains(places)]
    if not len(places):
        return None
    lengths = GoalField(scene.walkable, start).distances(places)
    nearest = int(lengths.argmin())
    return places[nearest] if math.isfinite(lengths[nearest]) else None
