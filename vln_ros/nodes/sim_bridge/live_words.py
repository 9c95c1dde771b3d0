"""What is said to a person of a sentence: what is understood of it, and how it was judged."""

from __future__ import annotations

from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.episode.record import EpisodeRecord
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
