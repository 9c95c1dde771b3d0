"""From an action queue and odometry to velocities: a pure state machine, no ROS, no clock of its own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import Action, ActionChunk, ActionKind, Pose, apply_action, wrap_angle
from vln_ros.motion.action_queue import Acceptance, ActionQueue, QueueState


@dataclass(frozen=True)
class Velocity:
    """A planar velocity in the base frame."""

    linear_m_s: float = 0.0
    angular_rad_s: float = 0.0


class ExecutorState(Enum):
    IDLE = "idle"
    """Nothing to do."""
    MOVING = "moving"
    FINISHED = "finished"
    """The model said stop; a new instruction begins a new run."""
    NO_ODOMETRY = "no odometry"


@dataclass(frozen=True)
class Output:
    """What one control period decided.

    Attributes:
        velocity: to be sent to the base now.
        state: of the executor.
        completed: actions that ended in this period (a stop counts).
        remaining_m, remaining_rad: error to the goal of the action in progress.
    """

    velocity: Velocity
    state: ExecutorState
    completed: tuple[Action, ...]
    remaining_m: float
    remaining_rad: float


class Executor:
    """Tracks the queue action by action in the odometry frame. One thread owns it.

    The goal of an action is where the previous one was to end, moved by the action, so errors do
    not add up; only after a blocked action, or a queue from a standstill, is the goal taken from
    the odometry.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self.config = config
        self.queue = ActionQueue()
        self.blocked = 0
        self.clock_resets = 0
        self._pose: Pose | None = None
        self._pose_s = -math.inf
        self._pose_stamp_ns = 0
        self._now_s = -math.inf
        self._goal: Pose | None = None
        self._goal_since_s = 0.0
        self._anchor: Pose | None = None
        self._sent = Velocity()
        self._finished = False

    def offer(self, chunk: ActionChunk) -> Acceptance:
        """A queue from the navigator."""
        previous = self.queue.state
        in_progress = self._goal is not None
        acceptance = self.queue.offer(chunk)
        if acceptance is Acceptance.STALE:
            return acceptance
        if chunk.instruction != previous.instruction:
            self._finished = False
        if not (in_progress and acceptance is Acceptance.ACCEPTED and self._still_current(previous)):
            self._drop_goal()
        return acceptance

    def _still_current(self, previous: QueueState) -> bool:
        return bool(previous.remaining) and self.queue.current == previous.remaining[0]

    def odometry(self, stamp_ns: int, pose: Pose, now_s: float) -> None:
        """Newest odometry; ``now_s`` is the node's clock, used for its age only.

        A late one is ignored. One older by more than ``odometry_timeout_s`` means that the clock was
        reset: the queue is forgotten, for it was planned in the time before.
        """
        back_s = (self._pose_stamp_ns - stamp_ns) / 1e9
        if back_s > self.config.odometry_timeout_s:
            self.queue.reset()
            self._drop_goal()
            self.clock_resets += 1
        elif back_s > 0.0:
            return
        self._pose, self._pose_stamp_ns, self._pose_s = pose, stamp_ns, now_s

    @property
    def odometry_stamp_ns(self) -> int:
        return self._pose_stamp_ns

    def flush(self) -> None:
        """Stand still and forget the queue."""
        self.queue.clear()
        self._drop_goal()

    def update(self, now_s: float) -> Output:
        """One control period at time ``now_s`` of the node's clock."""
        completed: list[Action] = []
        if now_s < self._now_s:  # odometry is only as fresh as this clock says: begin anew
            self._pose = None
        self._now_s = now_s
        if self._pose is None or now_s - self._pose_s > self.config.odometry_timeout_s:
            self.flush()
            return self._output(Velocity(), ExecutorState.NO_ODOMETRY, completed)
        pose = self._pose
        while (action := self.queue.current) is not None:
            if action.stop:
                completed.append(self.queue.complete(self._pose_stamp_ns))
                self._finished = True
                self._drop_goal()
                break
            if self._goal is None:
                self._goal = apply_action(self._anchor or pose, action)
                self._goal_since_s = now_s
                self.queue.begin(self._pose_stamp_ns)
            along_m, heading_rad = self._error(pose, self._goal)
            if self._reached(action, along_m, heading_rad):
                self._anchor = self._goal
            elif now_s - self._goal_since_s > self._allowed_s(action):
                self.blocked += 1
                self._anchor = None
                self._sent = Velocity()  # it stands, whatever it was sent
            else:
                return self._output(
                    self._track(action, along_m, heading_rad), ExecutorState.MOVING, completed
                )
            self._goal = None
            completed.append(self.queue.complete(self._pose_stamp_ns))
        state = ExecutorState.FINISHED if self._finished else ExecutorState.IDLE
        return self._output(Velocity(), state, completed)

    def _drop_goal(self) -> None:
        self._goal = None
        self._anchor = None

    def _allowed_s(self, action: Action) -> float:
        """The time-out, beside what the action takes at full speed: a long one is not a blocked one."""
        c = self.config
        travel_s = action.forward_m / c.max_linear_m_s + abs(action.turn_rad) / c.max_angular_rad_s
        return c.action_timeout_s + travel_s

    @staticmethod
    def _error(pose: Pose, goal: Pose) -> tuple[float, float]:
        """Distance along the goal's heading and heading error that are left."""
        offset = goal.position - pose.position
        along = offset[0] * math.cos(goal.yaw_rad) + offset[1] * math.sin(goal.yaw_rad)
        return float(along), wrap_angle(goal.yaw_rad - pose.yaw_rad)

    def _reached(self, action: Action, along_m: float, heading_rad: float) -> bool:
        if action.kind is ActionKind.FORWARD:
            return along_m <= self.config.position_tolerance_m
        return abs(heading_rad) <= math.radians(self.config.heading_tolerance_deg)

    def _track(self, action: Action, along_m: float, heading_rad: float) -> Velocity:
        c, sent, step_s = self.config, self._sent, 1.0 / self.config.rate_hz
        angular = _approach(
            heading_rad, sent.angular_rad_s, c.angular_gain, c.max_angular_rad_s, c.max_angular_accel_rad_s2,
            step_s,
        )  # fmt: skip
        linear = _approach(
            along_m if action.kind is ActionKind.FORWARD else 0.0, sent.linear_m_s, c.linear_gain,
            c.max_linear_m_s, c.max_linear_accel_m_s2, step_s,
        )  # fmt: skip
        return Velocity(max(0.0, linear), angular)

    def _output(self, velocity: Velocity, state: ExecutorState, completed: list[Action]) -> Output:
        self._sent = velocity
        along = heading = 0.0
        if self._goal is not None and self._pose is not None:
            along, heading = self._error(self._pose, self._goal)
        return Output(velocity, state, tuple(completed), along, heading)


def _approach(
    error: float, sent: float, gain: float, limit: float, acceleration: float, step_s: float
) -> float:
    """The next velocity toward an error of zero: never above ``limit``, never so fast that it could not
    brake in time, nor further from what was sent last than ``acceleration`` allows in one period."""
    change = acceleration * step_s
    # The way of the period until this velocity is replaced is gone before any braking begins.
    braking = math.sqrt(2.0 * acceleration * abs(error) + change**2) - change
    wanted = math.copysign(min(limit, gain * abs(error), braking), error)
    return max(sent - change, min(sent + change, wanted))
