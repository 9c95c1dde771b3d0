"""Drives to a place queue by queue: keeps what was seen of obstacles, plans, and knows when to ask again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vln_ros.config import FrameCheckConfig, PlaceConfig
from vln_ros.datatypes import (
    Action,
    ActionChunk,
    Float64Array,
    Frame,
    PlaceGoal,
    Pose,
    StepSize,
    apply_action,
)
from vln_ros.geometry.frame_checks import MotionLimits, depth_fault, motion_fault
from vln_ros.motion.local_planner import LocalPlan, LocalPlanner, NoWay
from vln_ros.motion.obstacles import ObstacleMemory

_CHECKS = FrameCheckConfig()
_LIMITS = MotionLimits.of_camera(_CHECKS)


class PlaceDrive:
    """Turns an answer that is a place into queues, each planned from what is known of obstacles by then.

    It stands between who decides and who moves the robot: what it makes are queues like any other, and the
    executor stops them like any other. Of obstacles it knows what the frames' depth has shown, gathered in
    the same cubes as at the executor, and where an executor tells what it knows, that as well
    (:meth:`hear`), scans included. In lockstep there is no executor: then the frames are all.

    One thread owns it, but for :meth:`hear`.

    Args:
        config: when to plan anew, to ask again and to give up.
        step: what one action does.
        nowhere: what is done instead where there is no way to an answered place; None holds.
    """

    def __init__(self, config: PlaceConfig, step: StepSize, nowhere: Action | None = None) -> None:
        self._config = config
        self._nowhere = nowhere
        self._planner = LocalPlanner(config, step)
        self._seen = ObstacleMemory(config.min_height_m, config.max_height_m)
        self._told: Float64Array = np.zeros((0, 2))
        self._answer: ActionChunk | None = None
        self._target: Float64Array = np.zeros(2)
        self._frame: Frame | None = None
        self._spent = 0
        self._end: Pose | None = None
        self.plan: LocalPlan | None = None
        """The newest one, while a place is driven to."""
        self.counts: Counter[str] = Counter()
        """Places so far, and what became of them, by names with a unit or in words."""

    def begin(self) -> None:
        """A new run: nothing of the one before holds, for the robot may have been carried away."""
        self.forget()
        self.counts.clear()

    def forget(self) -> None:
        """Nothing is where it was."""
        self.drop()
        self._seen.clear()
        self._told = np.zeros((0, 2))
        self._frame = None

    def drop(self) -> None:
        """The place is driven to no more; what was seen of obstacles is kept."""
        self._answer = self._end = self.plan = None

    @property
    def place(self) -> PlaceGoal | None:
        """Where it drives to; None while it does not."""
        return None if self._answer is None else self._answer.place

    def figures(self) -> dict[str, float]:
        """Since :meth:`begin`: what became of how many places, and how often a way was planned."""
        return {name: count for name, count in self.counts.items() if count}

    def observe(self, frame: Frame) -> None:
        """The next frame: where the robot is, and what its depth shows of obstacles.

        After a jump of the pose or the clock no place and no obstacle is where it was: the model is asked.
        """
        if self._frame is not None and motion_fault(frame, self._frame, _LIMITS) is not None:
            self.counts["places lost by a jump"] += self._answer is not None
            self.forget()
        self._frame = frame
        if (
            frame.depth_m is not None
            and depth_fault(frame.depth_m, _CHECKS, self._config.max_depth_m) is None
        ):
            self._seen.see(frame.depth_m, frame.camera, frame.odom_from_optical, frame.odom_from_base)

    def hear(self, obstacles: Float64Array) -> None:
        """What the executor knows of obstacles now, ``[N, 2]`` metres in odom. From any thread."""
        self._told = obstacles

    def take(self, answer: ActionChunk) -> ActionChunk:
        """The first queue toward the place that is the answer; where there is none, what is done instead, or
        a hold, and why.

        An answer that is no place is handed back as it is, and ends what was driven to.

        Raises:
            RuntimeError: no frame yet.
        """
        self.drop()
        if answer.place is None:
            return answer
        if self._frame is None:
            raise RuntimeError("no frame yet: where is the robot?")
        pose = self._frame.odom_from_base
        self.counts["places"] += 1
        self._answer, self._spent = answer, 0
        self._target = np.array([answer.place.x_m, answer.place.y_m])
        plan = self._plan(pose)
        if isinstance(plan, LocalPlan) and plan.actions:
            return self._queue(answer.queue, (), pose, plan)
        if isinstance(plan, NoWay):
            why = f"{answer.place} cannot be driven to: {plan}"
        else:
            self.counts["places where the robot was already"] += 1
            why = f"the robot is at {answer.place} already"
        self.drop()
        if self._nowhere is None:
            return replace(answer, place=None, held=why)
        return replace(answer, place=None, actions=(self._nowhere,), unconstrained=why)

    def go_on(self, queue: int, ahead: Sequence[Action] = ()) -> ActionChunk | None:
        """The next queue toward the place, numbered ``queue``; None: the model is to be asked.

        Args:
            ahead: actions of the last queue that are still to be executed; the queue begins with them.
        """
        if self._answer is None or self._frame is None:
            return None
        pose = self._frame.odom_from_base
        if ahead and self._end is not None:
            pose = self._end
        left = self._config.max_actions - self._spent
        plan = self._plan(pose)
        if isinstance(plan, NoWay):
            self.drop()
            return None
        if not plan.actions:
            self.counts["places reached"] += 1
            self.drop()
            return None
        if self._config.max_actions and left <= 0:
            self.counts["places left for max_actions"] += 1
            self.drop()
            return None
        return self._queue(queue, ahead, pose, plan)

    def _plan(self, pose: Pose) -> LocalPlan | NoWay:
        assert self.place is not None, "only toward a place"
        around = self._seen.points[:, :2]
        plan = self._planner.plan(pose, self._target, np.concatenate([around, self._told]))
        self.counts["ways planned"] += 1
        if isinstance(plan, NoWay):
            self.counts[f"places given up: {plan.kind.value}"] += 1
        else:
            # What was chosen instead of a place in a wall stays chosen: seen from elsewhere it may be the
            # place on the other side.
            self.plan, self._target = plan, plan.target
        return plan

    def _queue(self, queue: int, ahead: Sequence[Action], pose: Pose, plan: LocalPlan) -> ActionChunk:
        """The first actions of a plan that begins at ``pose``."""
        assert self._answer is not None and self._frame is not None, "only toward a place"
        count = self._config.queue_actions
        if self._config.max_actions:
            count = min(count, self._config.max_actions - self._spent)
        actions = plan.actions[:count]
        self._spent += len(actions)
        for action in actions:
            pose = apply_action(pose, action)
        self._end = pose
        answer = self._answer
        if queue == answer.queue:  # with what is known of the answer
            return replace(answer, actions=(*ahead, *actions), frame_stamp_ns=self._frame.stamp_ns)
        return ActionChunk(
            queue,
            answer.instruction,
            self._frame.stamp_ns,
            (*ahead, *actions),
            epoch=answer.epoch,
            place=answer.place,
        )
