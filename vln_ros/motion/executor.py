"""Turns an action queue and odometry into velocities: a state machine without ROS and without a clock."""

from __future__ import annotations

import itertools
import math
from collections import deque
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from vln_ros.config import ExecutorConfig
from vln_ros.datatypes import (
    Action,
    ActionChunk,
    ActionKind,
    CameraModel,
    Pose,
    RangeScan,
    Velocity,
    apply_action,
    wrap_angle,
)
from vln_ros.geometry.frame_checks import MotionLimits, clock_went_back, pose_jumped
from vln_ros.motion.action_queue import Acceptance, ActionQueue
from vln_ros.motion.delay import DelayMeter
from vln_ros.motion.obstacles import ObstacleMemory, clearance_m
from vln_ros.motion.presence import Doubles
from vln_ros.motion.safety import (
    BLIND_WHEN_NEAR,
    DEPTH_CONTENT,
    LATCHED,
    SCAN_CONTENT,
    STANDING,
    Fault,
    Watch,
)
from vln_ros.motion.sensor_content import (
    BLIND_WITHIN_M,
    DepthJudge,
    Stillness,
    depth_content,
    judge_scan,
    scan_content,
    scan_obstacles,
)
from vln_ros.motion.tracking import GoalError, goal_error, predict, track

_NS = 1e9
_KEPT_ANCHOR_M = 0.1
_KEPT_ANCHOR_RAD = math.radians(10.0)
_KEPT_SENT_S = 1.0
"""The longest delay that can be predicted."""


def _drives(velocity: Velocity) -> bool:
    """Not only in place."""
    return velocity.linear_m_s != 0.0 or velocity.lateral_m_s != 0.0


class ExecutorState(Enum):
    IDLE = "idle"
    """Nothing to do."""
    MOVING = "moving"
    FINISHED = "finished"
    """The model said stop; a new instruction begins a new run."""
    STOPPED = "stopped"
    """By a fault. The queue is gone."""


@dataclass(frozen=True, kw_only=True)
class Output:
    """What one control period decided.

    Attributes:
        velocity: to be sent to the base now.
        state: of the executor.
        faults: why it stands, in the state STOPPED.
        completed: actions that ended in this period (a stop counts).
        action: in progress.
        error: what is left to its goal.
        report: what is left of the queue has changed otherwise than by a new queue: tell the navigator.
    """

    velocity: Velocity
    state: ExecutorState
    faults: tuple[Fault, ...]
    completed: tuple[Action, ...]
    action: Action | None
    error: GoalError
    report: bool


class Executor:
    """Tracks the queue action by action in the odometry frame, and stands still when in doubt.

    The goal of an action is where the previous one was to end, moved by the action, so errors do not
    add up; only after the robot was stopped, or pushed, is the goal taken from the odometry. Equal actions
    in a row are driven as one.

    One thread owns it. ``now_s`` is always of one steady clock, and only used for the age of things; the
    time of control is counted in periods, so that simulated time may run at any speed.
    """

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config
        self.queue = ActionQueue()
        self.blocked = 0
        self.clock_resets = 0
        self.stops: dict[Fault, int] = dict.fromkeys(Fault, 0)
        """How often each fault has stopped the robot."""
        self.clearance_m = math.inf
        """The free way ahead of the robot's edge, at the last period in which it drove."""
        self.delay = DelayMeter(1.0 / config.rate_hz)
        self.watch = Watch(config)
        self.doubles = Doubles(config)
        self.obstacles = ObstacleMemory(config.safety.min_height_m, config.safety.max_height_m)
        self.depth_judge = DepthJudge()
        self._still = {Fault.DEPTH_STILL: Stillness(), Fault.SCAN_STILL: Stillness()}
        self._held: set[Fault] = set()
        self._blind: Fault | None = None
        self._odometry_good = True
        self._faults: tuple[Fault, ...] = ()
        self.reasons: dict[Fault, str] = {}
        """Whom or what a fault is about, where its name does not say it all."""
        self._report = False
        self._taken_of = (0, 0)
        """Epoch and instruction of the newest queue: a clock that was reset is no new instruction."""
        self._updated_s: float | None = None
        self._checked_s: float | None = None
        """First: a clock that has never gone stands, too."""
        self._pose: Pose | None = None
        self._pose_stamp_ns = 0
        self._goal: Pose | None = None
        self._error = GoalError()
        self._allowed_periods = 0
        self._anchor: Pose | None = None
        self._sent: deque[Velocity] = deque([Velocity()], maxlen=math.ceil(_KEPT_SENT_S * config.rate_hz))
        self._finished = False
        self._interrupted = False

    @property
    def pose(self) -> Pose | None:
        """odom_from_base of the newest odometry that was taken; None before the first."""
        return self._pose

    @property
    def config(self) -> ExecutorConfig:
        return self._config

    @config.setter
    def config(self, config: ExecutorConfig) -> None:
        """Only live options may have changed. What was seen of obstacles is kept."""
        s = config.safety
        self._config = self.watch.config = self.doubles.config = config
        self.obstacles.heights_m = s.min_height_m, s.max_height_m

    # ------------------------------------------------------------------ what comes in

    def offer(self, chunk: ActionChunk) -> Acceptance:
        """A queue from the navigator. While a fault lasts, none is taken, but a new instruction ends a
        fault that waits for one."""
        before, (epoch, instruction) = self.queue.state, self._taken_of
        in_progress = self._goal is not None
        if chunk.actions and self._updated_s is not None:
            self.doubles.queue(chunk.epoch, self._updated_s)
        acceptance = self.queue.offer(chunk)
        if acceptance is Acceptance.STALE:
            return acceptance
        self._taken_of = chunk.epoch, chunk.instruction
        restarted = chunk.epoch != epoch  # that alone is nobody's word that all is well
        if chunk.instruction > instruction and not (restarted and epoch):
            self._release(LATCHED)
        anew = chunk.instruction != instruction or restarted
        if anew:
            self._finished = False
        if chunk.actions and not STANDING.issuperset(self._faults):
            self.queue.flush(self._pose_stamp_ns)
            acceptance = Acceptance.REFUSED
        kept = not anew and bool(before.remaining) and self.queue.current == before.remaining[0]
        if in_progress and not (acceptance is Acceptance.ACCEPTED and kept):
            self._drop_goal()
            self._anchor = None
            self._interrupted = True
        if acceptance is Acceptance.ACCEPTED and chunk.actions:
            self._release(STANDING)
        return acceptance

    def interrupt(self) -> None:
        """A new instruction was told: stand, and do not wait until the navigator says so too.

        The queue that is dropped may already be of the new instruction; the navigator then decides again.
        """
        if self.queue.current is not None:
            self.queue.drop()
            self._drop_goal()
            self._anchor = None
            self._interrupted = self._report = True

    def odometry(self, stamp_ns: int, pose: Pose, now_s: float) -> None:
        """Newest odometry. A late one is ignored.

        One older by more than the time-out means that the clock was reset: the queue is forgotten, for
        it was planned in the time before.
        """
        late_ns = round(self.config.safety.odometry_timeout_s * _NS)
        between_s = (stamp_ns - self._pose_stamp_ns) / _NS
        if clock_went_back(self._pose_stamp_ns, stamp_ns, late_ns):
            self.queue.reset()
            self._drop_goal()
            self._forget_surroundings()
            self.clock_resets += 1
        elif between_s <= 0.0:
            return
        elif self._pose is not None and pose_jumped(
            self._pose, pose, MotionLimits.of_base(self.config), between_s
        ):
            self._held.add(Fault.ODOMETRY_JUMP)
            self._forget_surroundings()
        self._odometry_good = True
        self._pose, self._pose_stamp_ns = pose, stamp_ns
        for still in self._still.values():
            still.moved(pose, now_s)
        self.watch.came(Fault.NO_ODOMETRY, stamp_ns, now_s)

    def _forget_surroundings(self) -> None:
        """What was seen and felt was of another place."""
        self.obstacles.clear()
        self.delay.clear()
        for still in self._still.values():
            still.clear()

    @property
    def odometry_stamp_ns(self) -> int:
        return self._pose_stamp_ns

    def bad_odometry(self, fault: Fault = Fault.BAD_ODOMETRY) -> None:
        """Odometry that is no pose of the base (NaN, another frame): stand until a good one comes."""
        self._odometry_good = False
        self._held.add(fault)

    def bad_queue(self) -> None:
        """A queue that cannot be read: who sends it cannot be trusted with the queue before it."""
        self._held.add(Fault.BAD_QUEUE)

    def heartbeat(self, frame_stamp_ns: int, now_s: float, sender: str = "") -> None:
        """The navigator that calls itself ``sender`` lives; ``frame_stamp_ns`` is the stamp of its newest
        complete frame, 0 before."""
        self.watch.beat(now_s)
        self.doubles.navigator(sender, now_s)
        if frame_stamp_ns:
            self.watch.came(Fault.NO_FRAMES, frame_stamp_ns, now_s)

    def depth(
        self,
        stamp_ns: int,
        depth_m: npt.NDArray[np.float32],
        camera: CameraModel,
        base_from_optical: Pose,
        now_s: float,
    ) -> None:
        """A depth image ``[H, W]`` in metres, 0: no reading. One that says nothing of the way is a fault.

        Right before what is remembered it is one only for a robot that drives: nobody knows what has come
        between, but in place it may turn away.
        """
        self.watch.came(Fault.NO_DEPTH, stamp_ns, now_s)
        safety = self.config.safety
        fault = self.depth_judge.judge(depth_m, camera, base_from_optical, safety)
        self._blind = fault
        if fault in BLIND_WHEN_NEAR and not _drives(self._sent[-1]) and self._too_near(base_from_optical):
            fault = None
        self._held = self._held - DEPTH_CONTENT | ({fault} if fault else set())
        if self._blind:
            self._still[Fault.DEPTH_STILL].clear()  # it has changed, if to nothing
        if self._pose is None or self._blind:
            return  # what it saw shall not take the place of what is remembered
        content, must_change = depth_content(depth_m, camera, base_from_optical, safety)
        self._still[Fault.DEPTH_STILL].came(content, must_change, self._pose, now_s)
        self.obstacles.see(depth_m, camera, self._pose @ base_from_optical, self._pose)

    def scan(self, stamp_ns: int, scan: RangeScan, base_from_scanner: Pose, now_s: float) -> None:
        """A laser scan. One that says nothing of the way is a fault."""
        self.watch.came(Fault.NO_SCAN, stamp_ns, now_s)
        fault = judge_scan(scan, base_from_scanner, self.config.safety)
        self._held = self._held - SCAN_CONTENT | ({fault} if fault else set())
        if fault:
            self._still[Fault.SCAN_STILL].clear()
        if self._pose is None or fault:
            return
        self._still[Fault.SCAN_STILL].came(*scan_content(scan), self._pose, now_s)
        points = scan_obstacles(scan, base_from_scanner, self.config.safety.robot_radius_m)
        self.obstacles.scan(points, self._pose @ base_from_scanner)

    def bad_depth(self, fault: Fault = Fault.BAD_DEPTH) -> None:
        """A depth image that cannot be read or has no calibration: stand until a good one comes."""
        self._held = self._held - DEPTH_CONTENT | {fault}

    def bad_scan(self) -> None:
        """A scan that cannot be read: stand until a good one comes."""
        self._held = self._held - SCAN_CONTENT | {Fault.BAD_SCAN}

    def _too_near(self, base_from_optical: Pose) -> bool:
        """Ahead something is known to be so near that the camera may not be able to measure it."""
        if self._pose is None:
            return False
        radius_m = self.config.safety.robot_radius_m
        free_m = clearance_m(self.obstacles.around(self._pose), Velocity(1.0), radius_m)
        return free_m + radius_m - float(base_from_optical.position[0]) <= BLIND_WITHIN_M

    def pause(self, paused: bool) -> None:
        """Stand until told otherwise. Going on also ends the faults that wait for somebody."""
        if paused:
            self._held.add(Fault.PAUSED)
        else:
            self._release(LATCHED | {Fault.PAUSED})

    # ------------------------------------------------------------------ what goes out

    def update(self, now_s: float) -> Output:
        """One control period."""
        output = self._period(now_s)
        if self._pose is not None:
            self.delay.add(output.velocity, self._pose)
        return output

    def _period(self, now_s: float) -> Output:
        self._updated_s = now_s
        self._judge(now_s)
        interrupted, self._interrupted = self._interrupted, False
        # Whoever was driving stands for a period first, even if the next queue is already here.
        if self._faults or interrupted:
            return self._output(Velocity(), ())
        completed: list[Action] = []
        velocity = self._step(completed)
        if self._blind and _drives(velocity):
            self._held.add(self._blind)
        if self._held:
            self._judge(now_s)
            velocity = Velocity()
        return self._output(velocity, tuple(completed))

    def check(self, now_s: float) -> Output | None:
        """To be called on a steady clock, and after whatever may end a motion: what to send if the clock of
        control stands, a stream has ended or the robot was told to stand between two periods; None if all is
        well."""
        if self._checked_s is None:
            self._checked_s = now_s
        since_s = self._checked_s if self._updated_s is None else self._updated_s
        if now_s - since_s > self.config.safety.odometry_timeout_s:
            self._held.add(Fault.NO_CLOCK)
        else:
            self._held.discard(Fault.NO_CLOCK)
            if self._updated_s is None:
                return None
        self._judge(now_s)
        if not self._faults and not self._interrupted:
            return None
        self._sent.pop()  # instead of what this period was to be driven with
        return self._output(Velocity(), ())

    def _release(self, faults: frozenset[Fault]) -> None:
        self._held -= faults
        self._report |= bool(self._faults) and faults.issuperset(self._faults)
        self._faults = tuple(f for f in self._faults if f not in faults)

    def _judge(self, now_s: float) -> None:
        """Which faults there are now. A new one flushes; when the last has gone, the navigator must know."""
        missing = self.watch.missing(now_s)
        missing += self._standing_still(now_s, missing)
        self.reasons = self.doubles.found(now_s)
        faults = tuple(f for f in Fault if f in self._held or f in missing or f in self.reasons)
        for fault in faults:
            self.stops[fault] += fault not in self._faults
        if faults and (self.queue.current is not None or set(faults) - set(self._faults)):
            self.queue.flush(self._pose_stamp_ns)
            self._drop_goal()
            self._anchor = None
            self._report = STANDING.issuperset(faults)
        if self._faults and not faults:
            self._report = True
        self._faults = faults
        if self._odometry_good:  # only now: what came and went between two periods has stopped it too
            self._held -= {Fault.BAD_ODOMETRY, Fault.ODOMETRY_FRAME}

    def _standing_still(self, now_s: float, missing: list[Fault]) -> list[Fault]:
        """The sensors that say the same for ever though the robot has moved on."""
        limit_s = self.config.safety.obstacle_timeout_s
        ended = {Fault.NO_DEPTH: Fault.DEPTH_STILL, Fault.NO_SCAN: Fault.SCAN_STILL}
        silent = {ended[fault] for fault in missing if fault in ended}
        return [
            fault
            for fault, still in self._still.items()
            if fault not in silent and still.lasts_s(now_s) > limit_s
        ]

    def _drop_goal(self) -> None:
        self._goal = None
        self._error = GoalError()

    def _step(self, completed: list[Action]) -> Velocity:
        assert self._pose is not None  # otherwise there were no odometry
        c = self.config
        pose = predict(self._pose, self._sent, 1.0 / c.rate_hz, c.delay_s)
        while (action := self.queue.current) is not None:
            if action.stop:
                completed.append(self.queue.complete(self._pose_stamp_ns))
                self._finished = True
                self._anchor = None
                break
            if self._goal is None:
                self._begin(pose, action)
            assert self._goal is not None
            self._error = goal_error(pose, self._goal)
            further = self._further(action)
            if self._reached(action, further):
                self._anchor = self._goal
                self._drop_goal()
                completed.append(self.queue.complete(self._pose_stamp_ns))
                continue
            self._allowed_periods -= 1
            if self._allowed_periods < 0:
                self.blocked += 1
                self._held.add(Fault.BLOCKED)
                return Velocity()
            velocity = self._slow_down(pose, action, further)
            if velocity is None:
                self._held.add(Fault.OBSTACLE)
                return Velocity()
            return velocity
        return Velocity()

    def _begin(self, pose: Pose, action: Action) -> None:
        anchor = self._anchor
        if anchor is not None:
            pushed_m = float(np.linalg.norm(anchor.position[:2] - pose.position[:2]))
            turned_rad = abs(wrap_angle(anchor.yaw_rad - pose.yaw_rad))
            if pushed_m > _KEPT_ANCHOR_M or turned_rad > _KEPT_ANCHOR_RAD:
                anchor = None
        self._goal = apply_action(anchor or pose, action)
        c = self.config
        travel_s = action.forward_m / c.max_linear_m_s + abs(action.turn_rad) / c.max_angular_rad_s
        self._allowed_periods = round((c.action_timeout_s + travel_s) * c.rate_hz)
        self.queue.begin(self._pose_stamp_ns)

    def _further(self, action: Action) -> float:
        """What the equal actions right behind this one add to it, metres or radians."""
        if not self.config.blend:
            return 0.0
        behind = itertools.islice(self.queue.state.remaining, 1, None)
        equal = itertools.takewhile(lambda a: a.kind is action.kind, behind)
        return sum(a.forward_m + abs(a.turn_rad) for a in equal)

    def _reached(self, action: Action, further: float) -> bool:
        c, error = self.config, self._error
        straight = abs(error.heading_rad) <= math.radians(c.heading_tolerance_deg)
        if action.kind is ActionKind.FORWARD:
            return error.along_m <= 0.0 if further else error.along_m <= c.position_tolerance_m and straight
        if further:
            return math.copysign(1.0, action.turn_rad) * error.heading_rad <= 0.0
        return straight

    def _slow_down(self, pose: Pose, action: Action, further: float) -> Velocity | None:
        """The next velocity, slower before an obstacle; None where it must not go on."""
        c, s = self.config, self.config.safety
        sent = self._sent[-1]
        velocity = track(c, action, self._error, further, sent, c.max_linear_m_s)
        if s.obstacles == "none" or not _drives(velocity):
            return velocity
        self.clearance_m = free = clearance_m(self.obstacles.around(pose), velocity, s.robot_radius_m)
        speed = math.hypot(sent.linear_m_s, sent.lateral_m_s)
        needed = speed * s.reaction_s + speed**2 / (2.0 * c.max_linear_accel_m_s2)
        if free <= s.stop_distance_m or free < needed:
            return None
        if free < s.slow_distance_m:
            share = (free - s.stop_distance_m) / (s.slow_distance_m - s.stop_distance_m)
            limit = min(c.max_linear_m_s, max(s.creep_m_s, c.max_linear_m_s * share))
            velocity = track(c, action, self._error, further, sent, limit)
        return velocity

    def _output(self, velocity: Velocity, completed: tuple[Action, ...]) -> Output:
        self._sent.append(velocity)
        if self._faults:
            state = ExecutorState.STOPPED
        elif self._goal is not None:
            state = ExecutorState.MOVING
        else:
            state = ExecutorState.FINISHED if self._finished else ExecutorState.IDLE
        report, self._report = self._report or bool(completed), False
        return Output(
            velocity=velocity,
            state=state,
            faults=self._faults,
            completed=completed,
            action=self.queue.current,
            error=self._error,
            report=report,
        )
