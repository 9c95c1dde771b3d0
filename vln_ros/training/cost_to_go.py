"""Computes what the oracle would do at a place, and what every other action would cost.

A word that is wrong by nothing and one that is wrong by ten actions are not to be taught alike: beside a
heading that is nearly right, going on and turning once more are worth the same, and who is taught one
word of them learns neither. Teaching by cost-to-go is AggreVaTe's (Ross and Bagnell, arXiv 1406.5979).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from vln_ros.datatypes import ActionKind, Float64Array, Pose, StepSize, wrap_angle
from vln_ros.sim.embedded.world import move
from vln_ros.sim.oracle.expert import NEARNESS_COST, Expert

# What a stop costs more than going on, in actions.
_RIGHT_STOP = -2.0
_WRONG_STOP = 10.0
_EARLY_STOP = 1.0  # within the goal, but not as near to it as the expert's
_TOUCH = 2.0  # actions that a step is dearer in which something is touched
_TURN_BACK = 6.0  # actions that turning back, away from what has just been looked at, is dearer
_IN_VIEW_RAD = math.radians(75.0)  # a way at this bearing has been seen: no need to look around


@dataclass(frozen=True, eq=False)
class CostToGo:
    """``kind`` is the best action; ``costs`` ``[4]``, by :class:`ActionKind`: how many actions each costs."""

    kind: ActionKind
    costs: Float64Array


@dataclass(frozen=True)
class _Rest:
    """What is left to do from a place: actions, but for the turns until the way lies ahead; its heading."""

    actions: float
    heading_rad: float


class CostToGoOracle:
    """Asks the expert, and prices what it did not say.

    The expert knows where the way goes on behind the robot's back, and turns there by the shorter side.
    Nobody who only sees can know that side: asked again after each turn, it changes its mind, and the one
    who imitates it looks to and fro. So going on with a turn is preferred here to turning back.

    Args:
        expert: knows the way.
        step: what one action does.
        stop_within_m, goal_radius_m: the expert stops within the one, success is within the other.
    """

    def __init__(self, expert: Expert, step: StepSize, stop_within_m: float, goal_radius_m: float) -> None:
        self._expert, self._step = expert, step
        self._stop_within_m, self._goal_radius_m = stop_within_m, goal_radius_m
        # A turn stays where it is: most places are asked about several times.
        self._rests: dict[tuple[float, float], _Rest] = {}

    def cost_to_go(self, pose: Pose, turning: int) -> CostToGo:
        """CostToGo at ``pose``. ``turning``: side of the turns made last, 1 for left and -1 for right; 0
        behind a step forward."""
        kind = self._expert.next_action(pose).kind
        behind = self._behind(pose)
        costs = np.empty(len(ActionKind))
        for k in (ActionKind.FORWARD, ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT):
            moved, motion = move(self._expert.walkable, pose, self._step.action(k))
            back = behind and after(k, turning) * turning < 0
            costs[k.value] = 1.0 + self.effort(moved, after(k, turning)) + back * _TURN_BACK
            costs[k.value] += motion.collided * _TOUCH
        onward = {1: ActionKind.TURN_LEFT, -1: ActionKind.TURN_RIGHT}.get(turning, kind)
        turns = kind in (ActionKind.TURN_LEFT, ActionKind.TURN_RIGHT)
        # Ahead, the expert sees more than a bearing, and has its way.
        if turns and behind and costs[onward.value] < costs[kind.value]:
            kind = onward
        near = self._expert.distance_m(pose.position) < self._goal_radius_m
        dearer = _RIGHT_STOP if kind is ActionKind.STOP else _EARLY_STOP if near else _WRONG_STOP
        costs[ActionKind.STOP.value] = costs[1:].min() + dearer
        # What the expert says is right: it looks at what a step really does, two ahead if need be.
        costs[kind.value] = costs.min()
        return CostToGo(kind, costs)

    def effort(self, pose: Pose, turning: int) -> float:
        """How many actions the way from ``pose`` to the place to stop at takes, about."""
        rest = self._rest(pose.position)
        if rest.actions == 0.0:
            return 0.0
        return rest.actions + self._turns(wrap_angle(rest.heading_rad - pose.yaw_rad), turning)

    def _behind(self, pose: Pose) -> bool:
        """The way begins where nobody has looked."""
        bearing_rad = wrap_angle(self._rest(pose.position).heading_rad - pose.yaw_rad)
        return abs(bearing_rad) >= _IN_VIEW_RAD

    def _turns(self, bearing_rad: float, turning: int) -> float:
        """Turns to the left or to the right until the way lies ahead: the cheaper ones."""
        if abs(bearing_rad) < _IN_VIEW_RAD or turning == 0:
            return abs(bearing_rad) / self._step.turn_rad
        onward = (turning * bearing_rad) % (2.0 * math.pi)
        return min(onward / self._step.turn_rad, (2.0 * math.pi - onward) / self._step.turn_rad + _TURN_BACK)

    def _rest(self, position: Float64Array) -> _Rest:
        key = (float(position[0]), float(position[1]))
        if key not in self._rests:
            self._rests[key] = self._look(position)
        return self._rests[key]

    def _look(self, position: Float64Array) -> _Rest:
        way = self._expert.way(position)
        steps = np.diff(way, axis=0)
        lengths = np.linalg.norm(steps, axis=1)
        steps, lengths = steps[lengths > 0.0], lengths[lengths > 0.0]
        # At the goal itself there is no heading: nothing asks for one but whether it is out of view.
        headings = np.arctan2(steps[:, 1], steps[:, 0]).tolist() or [math.nan]
        left_m = float(lengths.sum()) - self._stop_within_m
        if left_m <= 0.0:
            return _Rest(0.0, headings[0])
        off_m = float(np.linalg.norm(self._expert.walkable.nearest(position) - way[0]))
        bends = sum(abs(wrap_angle(b - a)) for a, b in pairwise(headings))
        metres = left_m + NEARNESS_COST * off_m
        return _Rest(metres / self._step.forward_m + bends / self._step.turn_rad, headings[0])


def after(kind: ActionKind, turning: int) -> int:
    """``turning`` behind an action of this kind."""
    match kind:
        case ActionKind.TURN_LEFT:
            return 1
        case ActionKind.TURN_RIGHT:
            return -1
        case ActionKind.FORWARD:
            return 0
        case ActionKind.STOP:
            return turning
