"""Computes velocities that bring a planar base to a goal within its limits. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import Action, ActionKind, Pose, Velocity, wrap_angle

_MOST_STEERING_RAD = math.radians(15.0)


@dataclass(frozen=True)
class GoalError:
    """What is left to a goal, in the goal's frame.

    Attributes:
        along_m: still to go in the goal's direction.
        beside_m: the goal's line lies this far to the left.
        heading_rad: still to turn, left positive.
    """

    along_m: float = 0.0
    beside_m: float = 0.0
    heading_rad: float = 0.0


def goal_error(pose: Pose, goal: Pose) -> GoalError:
    x, y = (goal.position - pose.position)[:2]
    c, s = math.cos(goal.yaw_rad), math.sin(goal.yaw_rad)
    return GoalError(float(c * x + s * y), float(c * y - s * x), wrap_angle(goal.yaw_rad - pose.yaw_rad))


def predict(pose: Pose, sent: Sequence[Velocity], step_s: float, delay_s: float) -> Pose:
    """Where a base will be that has yet to obey what it was told in the last ``delay_s``.

    Args:
        sent: the velocities up to the last one, each for ``step_s``; what was before them was zero.
    """
    steps = min(delay_s / step_s, len(sent))
    whole = math.ceil(steps - 1e-9)
    for i in range(len(sent) - whole, len(sent)):
        v, for_s = sent[i], min(1.0, steps - (len(sent) - 1 - i)) * step_s  # of the oldest only the rest
        half = v.angular_rad_s * for_s / 2.0
        turn = Pose.planar(0.0, 0.0, half)
        pose = pose @ turn @ Pose.planar(v.linear_m_s * for_s, v.lateral_m_s * for_s, half)
    return pose


def track(
    config: ExecutorConfig, action: Action, error: GoalError, further: float, sent: Velocity, speed_m_s: float
) -> Velocity:
    """The next velocity toward the goal of ``action``.

    A trapezoid: accelerate, hold the limit, brake for the end of the last equal action.

    Args:
        further: of the equal actions that follow, metres or radians; no need to brake for this goal.
        sent: the velocity of the period before.
        speed_m_s: the limit of the speed now, at most the configured one.
    """
    forward = action.kind is ActionKind.FORWARD
    turn_rad = error.heading_rad
    if forward:
        # Steer back to the line, the less the nearer its end: there the heading counts.
        fade = min(1.0, max(0.0, error.along_m + further) / config.lookahead_m)
        if not config.holonomic:
            steer = math.atan2(error.beside_m, config.lookahead_m) * fade
            turn_rad += max(-_MOST_STEERING_RAD, min(_MOST_STEERING_RAD, steer))
    else:
        turn_rad += math.copysign(further, action.turn_rad)
    angular = approach(
        turn_rad, sent.angular_rad_s, config.angular_gain, config.max_angular_rad_s,
        config.max_angular_accel_rad_s2, 1.0 / config.rate_hz,
    )  # fmt: skip

    def drive(way_m: float, last_m_s: float) -> float:
        return approach(
            way_m, last_m_s, config.linear_gain, speed_m_s,
            config.max_linear_accel_m_s2, 1.0 / config.rate_hz,
        )  # fmt: skip

    along_m = error.along_m + further if forward else error.along_m
    if not config.holonomic:
        # It neither goes back nor sideways; what is missing after a turn, the next way makes good.
        return Velocity(max(0.0, drive(max(0.0, along_m) if forward else 0.0, sent.linear_m_s)), angular)
    along, beside = _in_goal(sent, error.heading_rad)
    along, beside = drive(along_m, along), drive(error.beside_m, beside)
    excess = max(1.0, math.hypot(along, beside) / speed_m_s)
    linear, lateral = _in_base(along / excess, beside / excess, error.heading_rad)
    return Velocity(linear, angular, lateral)


def _in_goal(v: Velocity, heading_rad: float) -> tuple[float, float]:
    """A velocity in axes that are turned by ``heading_rad`` against the base's."""
    c, s = math.cos(heading_rad), math.sin(heading_rad)
    return c * v.linear_m_s + s * v.lateral_m_s, c * v.lateral_m_s - s * v.linear_m_s


def _in_base(along: float, beside: float, heading_rad: float) -> tuple[float, float]:
    c, s = math.cos(heading_rad), math.sin(heading_rad)
    return c * along - s * beside, s * along + c * beside


def approach(
    error: float, sent: float, gain: float, limit: float, acceleration: float, step_s: float
) -> float:
    """The next velocity toward an error of zero: never above ``limit``, never so fast that it could not
    brake in time, nor further from what was sent last than ``acceleration`` allows in one period."""
    change = acceleration * step_s
    # The way of the period until this velocity is replaced is gone before any braking begins.
    braking = math.sqrt(2.0 * acceleration * abs(error) + change**2) - change
    wanted = math.copysign(min(limit, gain * abs(error), braking), error)
    return max(sent - change, min(sent + change, wanted))
