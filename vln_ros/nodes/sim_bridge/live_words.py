"""What is said to a person of a sentence: what is understood of it, and how it was judged; and of a place."""

from __future__ import annotations

from vln_ros.datatypes import Float64Array, Pose
from vln_ros.evaluation.episode.record import EpisodeRecord
from vln_ros.sim.embedded.flat import Rect
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.sentences import (
    Goal,
    Named,
    RoomGoal,
    candidates,
    nearest,
    nearest_room,
    read_sentence,
    rooms_named,
)
from vln_ros.sim.splits import GOAL_RADIUS_M

ROOM_RADIUS_M = 0.1
"""Success radius where a room is the goal: the distance is 0 in it, and more than this outside."""


def understood(text: str, scene: Scene, here: Float64Array) -> tuple[Goal | RoomGoal | None, str]:
    """The goal of a sentence from ``here`` ``[>= 2]``, and what there is to say. None: it is not scored."""
    flat = scene.flat
    read = read_sentence(text, [room.name for room in flat.rooms])
    news = ""
    if read.unknown:
        news = f"words that the flats' instructions do not have: {', '.join(read.unknown)}. "
    named = read.goal
    if named is None:
        return None, f"{news}It names no thing to stop at, so it is not scored"
    goal: Goal | RoomGoal | None
    if isinstance(named, Named):
        is_there, goal = bool(candidates(flat, named)), nearest(scene, named, here)
    else:
        is_there, goal = bool(rooms_named(flat, named)), nearest_room(scene, named, here)
    if not is_there:
        things = [f"the {name}" for name in sorted(flat.referents.values())]
        there = [*dict.fromkeys(f"the {room.name}" for room in flat.rooms), *things]
        return None, f"{news}There is no {named} here, so it is not scored. There are {', '.join(there)}"
    if goal is None:
        return None, f"{news}No way leads to the {named}, so it is not scored"
    if isinstance(goal, Goal):
        where = f"the {goal.item.name} in the {flat.rooms[goal.item.room].name}"
    else:
        where = f"the {goal.room.name}"
    return goal, f"{news}The goal is {where}, {goal.distance_m:.1f} m on foot"


def verdict(record: EpisodeRecord, goal: Goal | RoomGoal) -> str:
    """How a sentence with a goal has ended."""
    metrics = record.metrics
    assert metrics is not None, "it was measured"
    way = f"{metrics.path_length_m:.1f} m driven, {goal.distance_m:.1f} m is the shortest way"
    if isinstance(goal, Goal):
        away = f"{metrics.navigation_error_m:.1f} m from its place beside the {goal.item.name}"
        counts = f"{away} (within {GOAL_RADIUS_M:g} m counts)"
    elif metrics.navigation_error_m > 0.0:
        away = counts = f"{metrics.navigation_error_m:.1f} m before the {goal.room.name}"
    else:
        away = counts = f"in the {goal.room.name}"
    if metrics.success:
        return f"reached: it stopped {away}; {way}"
    why = "it stopped" if record.ended == "stop" else f"{record.ended}:"
    return f"not reached: {why} {counts}; {way}"


def why_not_at(scene: Scene, pose: Pose) -> str:
    """What keeps the robot from standing there, and where it could instead; empty: nothing."""
    walkable, flat = scene.walkable, scene.flat
    if walkable.contains(pose.position[None, :2])[0]:
        return ""
    x, y = (float(c) for c in pose.position[:2])
    reach_m = walkable.radius_m
    what = "a wall is there"
    if not any(_is_in(wall, x, y, 0.0) for wall in flat.walls):
        things = [f"the {f.name} is there" for f in flat.furniture if _is_in(f.footprint, x, y, reach_m)]
        if things:
            what = things[0]
        elif not _is_in((0.0, 0.0, *flat.size_m), x, y, 0.0):
            what = "it is outside the flat"
    near = walkable.nearest(pose.position)
    return f"at ({x:.2f}, {y:.2f}) {what}; the nearest free place is ({near[0]:.2f}, {near[1]:.2f})"


def _is_in(rect: Rect, x_m: float, y_m: float, reach_m: float) -> bool:
    """Or nearer than ``reach_m`` to it, along both axes."""
    x0, y0, x1, y1 = rect
    return x0 - reach_m <= x_m <= x1 + reach_m and y0 - reach_m <= y_m <= y1 + reach_m
