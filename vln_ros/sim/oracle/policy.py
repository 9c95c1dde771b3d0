"""The oracle policy as an engine: recognises its episode by instruction and start pose."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vln_ros.datatypes import ActionChunk, Frame, Instruction, StepSize
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.expert import ExpertEngine
from vln_ros.sim.oracle.follower import FollowerEngine

_START_TOLERANCE_M = 0.5


class OraclePolicy:
    """Implements :class:`vln_ros.protocols.Engine`.

    A navigator is told an instruction and shown frames, nothing else. The episode is the one with
    this instruction; of several to different goals, the one that starts where the first frame was taken.

    Args:
        episodes: those that may come.
        step, actions_per_decision: see :class:`vln_ros.sim.oracle.expert.ExpertEngine`.
        clearance_m: distance to keep from walls where there is room for it, besides the robot's own size.
        follower: finds the way instead, where the scenes are not the embedded world's or nothing slides.
    """

    def __init__(
        self,
        episodes: Sequence[Episode],
        step: StepSize,
        actions_per_decision: int,
        clearance_m: float = 0.0,
        follower: FollowerEngine | None = None,
    ) -> None:
        self._episodes = tuple(episodes)
        self._expert = follower or ExpertEngine(step, actions_per_decision, clearance_m=clearance_m)
        self._instruction: Instruction | None = None
        self._found = False

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._found = instruction, False
        self._expert.start(instruction)

    def observe(self, frame: Frame) -> None:
        """Raises ValueError: no episode has this instruction and this start."""
        if not self._found:
            self._expert.set_episode(self._find(frame))
            self._found = True
        self._expert.observe(frame)

    def _find(self, frame: Frame) -> Episode:
        text = "" if self._instruction is None else self._instruction.text
        here = frame.odom_from_base.position
        told = [episode for episode in self._episodes if episode.instruction == text]
        goals = {(episode.scene_id, *episode.goal) for episode in told}
        for episode in told:
            distance_m = float(np.linalg.norm(episode.start.position[:2] - here[:2]))
            if distance_m < _START_TOLERANCE_M or len(goals) == 1:
                return episode
        raise ValueError(
            f"none of the expert's {len(self._episodes)} episodes says {text!r} and starts at {here[:2]}: "
            "are navigator and simulator given the same episode file?"
        )

    def decide(self, queue: int) -> ActionChunk:
        return self._expert.decide(queue)

    def close(self) -> None:
        self._expert.close()
