"""Follows each instruction from the moment it is accepted to its one end, and says which that is.

A pure state machine: no ROS, no threads, no clock of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum

from vln_ros.config import RunLimitsConfig
from vln_ros.datatypes import Action, ActionChunk, Executed, Instruction, Pose
from vln_ros.geometry.frame_checks import MotionLimits, pose_jumped
from vln_ros.motion.safety import STANDING, Fault

_LEAST_STEP_M = 0.01
"""A base that stands is not exactly where it was in every odometry: less is no way that was driven."""
_MENDED_BY_ITSELF = STANDING | {Fault.PAUSED}
"""Somebody wants a pause, and who stands before an obstacle waits for the model's next queue."""


class Status(Enum):
    """Where an instruction is. The value is what people read."""

    ACCEPTED = "accepted"
    """Nothing of it is executed yet."""
    DRIVING = "driving"
    """A queue of it is being executed, or was."""
    SUCCEEDED = "succeeded"
    """The model said stop, and the robot stands."""
    CANCELLED = "cancelled"
    ABORTED = "aborted"
    SUPERSEDED = "superseded"
    """By a newer instruction."""


ENDS = frozenset({Status.SUCCEEDED, Status.CANCELLED, Status.ABORTED, Status.SUPERSEDED})


class AbortCause(Enum):
    """Of what kind the reason of an abort is."""

    FAULT = "fault"
    """The executor stood for a fault too long or was lost, or the navigator came to rest."""
    LIMIT = "limit"
    ENGINE_FAILURE = "engine failure"


@dataclass(frozen=True, kw_only=True)
class InstructionStatus:
    """An instruction and what has become of it.

    Attributes:
        epoch: which life of the navigator counted the instruction; see :class:`ActionChunk`.
        cause: of an abort; None otherwise.
        reason: of the end, or why the robot stands meanwhile; empty where there is nothing to say.
        decisions: how often the engine has answered a frame.
        duration_s: since it was accepted, by the clock of the node.
        distance_m: that the base has driven since, by its odometry.
        unconstrained: what the model would have said that is no action; None where it wanted one.
        left: of the queue in execution; the first is in progress.
    """

    epoch: int
    instruction: Instruction
    status: Status = Status.ACCEPTED
    cause: AbortCause | None = None
    reason: str = ""
    decisions: int = 0
    duration_s: float = 0.0
    distance_m: float = 0.0
    unconstrained: str | None = None
    left: tuple[Action, ...] = ()

    @property
    def ended(self) -> bool:
        return self.status in ENDS


@dataclass(kw_only=True)
class _Run:
    """The instruction that is followed, and what its end is judged by."""

    now: InstructionStatus
    limits: RunLimitsConfig
    clock_s: float
    queue: int = 0
    stop_decided: bool = False
    toward_place: bool = False
    held: str = ""
    last_pose: Pose | None = None
    last_stamp_ns: int = 0


class InstructionTracker:
    """Knows of each instruction where it is, and ends it once. One at a time: the next ends the one before.

    What an executor says of itself counts from its first word on; where there is none (lockstep, a
    recording), no fault of one can end an instruction. One thread owns it.

    Args:
        epoch: of this life of the navigator.
        limits: how far the base moves from one odometry to the next at most: what jumps was not driven.
        told: called with each change of status.
    """

    def __init__(self, epoch: int, limits: MotionLimits, told: Callable[[InstructionStatus], None]) -> None:
        self._epoch = epoch
        self._limits = limits
        self._told = told
        self._run: _Run | None = None
        self._paused = False
        self._faults = ""
        self._fault_since_s: float | None = None
        self._executor_heard_s: float | None = None

    @property
    def now(self) -> InstructionStatus | None:
        """Of the instruction that is followed, with its figures; None where none is."""
        if self._run is None:
            return None
        paused = "the navigator is paused" if self._paused else ""
        return replace(self._run.now, reason=self._faults or paused or self._run.held)

    # ------------------------------------------------------------------ what somebody wants

    def begin(
        self, instruction: Instruction, limits: RunLimitsConfig, clock_s: float, steady_s: float
    ) -> None:
        """A new instruction. The clocks are those of :meth:`tick`."""
        self._end(Status.SUPERSEDED, f"by instruction {instruction.number}")
        if self._fault_since_s is not None:
            self._fault_since_s = steady_s  # that it stood before is nothing that this one has to bear
        if self._executor_heard_s is not None:
            self._executor_heard_s = steady_s
        now = InstructionStatus(epoch=self._epoch, instruction=instruction)
        self._run = _Run(now=now, limits=limits, clock_s=clock_s)
        self._told(self._run.now)

    def pause(self, paused: bool) -> None:
        """Of the navigator: nothing is decided. That ends no instruction."""
        self._paused = paused

    def cancel(self, reason: str) -> None:
        """Somebody wants no more of it."""
        self._end(Status.CANCELLED, reason)

    def rest(self, reason: str) -> None:
        """The navigator follows nothing any more."""
        self._end(Status.ABORTED, reason, AbortCause.FAULT)

    # ------------------------------------------------------------------ what happens

    def decided(self, chunk: ActionChunk) -> None:
        """The engine has answered a frame."""
        if (run := self._run_of(chunk.instruction)) is None:
            return
        run.queue, run.held = chunk.queue, ""
        run.stop_decided = any(action.stop for action in chunk.actions)
        run.toward_place = chunk.place is not None
        if chunk.goes_on:
            return  # to a place that was decided before
        if chunk.is_hold:
            run.held = f"the model holds: {chunk.held or 'it wants no queue'}"
        unconstrained = chunk.unconstrained if chunk.held else None
        run.now = replace(run.now, decisions=run.now.decisions + 1, unconstrained=unconstrained)
        if run.now.decisions > run.limits.max_decisions or chunk.is_hold:
            self._judge_decisions(run)

    def failed(self, instruction: int, reason: str) -> None:
        """The engine cannot go on."""
        if self._run_of(instruction) is not None:
            self._end(Status.ABORTED, reason, AbortCause.ENGINE_FAILURE)

    def reported(self, left: ActionChunk, executed: tuple[Executed, ...] | None, steady_s: float) -> None:
        """The executor says what is left of the queue, and what it has completed under its instruction.

        None: who drives does not say what was completed; then a stop is executed when nothing is left of
        its queue.
        """
        if self._executor_heard_s is not None:
            self._executor_heard_s = steady_s
        run = self._run_of(left.instruction)
        if run is None or left.epoch not in (0, self._epoch):
            return
        run.now = replace(run.now, left=left.actions)
        ends_queue = left.queue == run.queue and not left.actions
        if executed is None:
            stopped = ends_queue and run.stop_decided
        else:
            stopped = bool(executed) and executed[-1].action.stop
        if (left.actions or executed or stopped) and run.now.status is Status.ACCEPTED:
            self.driving(left.instruction)
        if stopped:
            self._end(Status.SUCCEEDED, "the model said stop")
        elif ends_queue and not run.toward_place:
            self._judge_decisions(run)

    def driving(self, instruction: int) -> None:
        """Something of it is being executed."""
        run = self._run_of(instruction)
        if run is not None and run.now.status is Status.ACCEPTED:
            run.now = replace(run.now, status=Status.DRIVING)
            self._told(run.now)

    def stands(self, faults: tuple[Fault, ...], text: str, steady_s: float) -> None:
        """The executor says why it stands; without a fault it does not, or has nothing to do.

        Args:
            text: the faults in its own words.
        """
        self._faults = text
        self._executor_heard_s = steady_s
        if not set(faults) - _MENDED_BY_ITSELF:
            self._fault_since_s = None
        elif self._fault_since_s is None:
            self._fault_since_s = steady_s

    def moved(self, pose: Pose, stamp_ns: int) -> None:
        """Odometry of the base."""
        if (run := self._run) is None:
            return
        last, between_s = run.last_pose, (stamp_ns - run.last_stamp_ns) / 1e9
        if last is not None and not pose_jumped(last, pose, self._limits, max(0.0, between_s)):
            along = pose.position - last.position
            step_m = math.hypot(float(along[0]), float(along[1]))
            if step_m < _LEAST_STEP_M:
                return
            run.now = replace(run.now, distance_m=run.now.distance_m + step_m)
        run.last_pose, run.last_stamp_ns = pose, stamp_ns

    def tick(self, clock_s: float, steady_s: float) -> None:
        """Time has passed: limits are judged.

        Args:
            clock_s: of the node's clock, which may be simulated: 0 until it is heard, and one that is set
                back takes nothing away.
            steady_s: of a steady clock.
        """
        if (run := self._run) is None:
            return
        passed_s = max(0.0, clock_s - run.clock_s) if run.clock_s else 0.0
        run.clock_s = clock_s
        run.now = now = replace(run.now, duration_s=run.now.duration_s + passed_s)
        limits = run.limits
        if limits.max_duration_s and now.duration_s >= limits.max_duration_s:
            self._end(Status.ABORTED, f"{limits.max_duration_s:g} s have passed", AbortCause.LIMIT)
        elif limits.max_distance_m and now.distance_m >= limits.max_distance_m:
            self._end(Status.ABORTED, f"{limits.max_distance_m:g} m are driven", AbortCause.LIMIT)
        elif self._lasts_s(self._fault_since_s, steady_s) >= limits.max_fault_s > 0.0:
            self._end(Status.ABORTED, self._faults, AbortCause.FAULT)
        elif self._lasts_s(self._executor_heard_s, steady_s) >= limits.max_fault_s > 0.0:
            reason = f"the executor has said nothing for {limits.max_fault_s:g} s"
            self._end(Status.ABORTED, reason, AbortCause.FAULT)

    # ------------------------------------------------------------------

    @staticmethod
    def _lasts_s(since_s: float | None, steady_s: float) -> float:
        return 0.0 if since_s is None else steady_s - since_s

    def _run_of(self, number: int) -> _Run | None:
        run = self._run
        return run if run is not None and run.now.instruction.number == number else None

    def _judge_decisions(self, run: _Run) -> None:
        """The last queue that it may have is driven to its end; one more is too many."""
        most = run.limits.max_decisions
        if most and run.now.decisions >= most:
            self._end(Status.ABORTED, f"{most} decisions are taken", AbortCause.LIMIT)

    def _end(self, status: Status, reason: str, cause: AbortCause | None = None) -> None:
        """Whatever is known of its way and time stays; nothing is left to do."""
        if self._run is None:
            return
        ended = replace(self._run.now, status=status, reason=reason, cause=cause, left=())
        self._run = None
        self._told(ended)
