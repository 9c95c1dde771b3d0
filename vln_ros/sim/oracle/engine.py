"""Gives engines that are told the episode what they share: they plan from the newest frame's pose."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vln_ros.datatypes import Action, ActionChunk, Frame, Instruction, Pose


class OracleEngine:
    """Implements :class:`vln_ros.protocols.Engine`, but for ``close``. The pictures are not looked at.

    Args:
        actions_per_decision: length of a queue, at most.
    """

    def __init__(self, actions_per_decision: int) -> None:
        if actions_per_decision < 1:
            raise ValueError(f"actions_per_decision must be at least 1, got {actions_per_decision}")
        self._count = actions_per_decision
        self._plan: Callable[[Pose, int], Sequence[Action]] | None = None
        """So many actions from a pose on, at most, to the goal of the episode."""
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        """Up to ``actions_per_decision`` actions from the newest frame's pose on.

        Raises:
            RuntimeError: no episode, instruction or frame yet.
        """
        if self._plan is None:
            raise RuntimeError("no episode is known: call set_episode() first")
        if self._instruction is None or self._frame is None:
            raise RuntimeError("no instruction or no frame yet")
        actions = self._plan(self._frame.odom_from_base, self._count)
        return ActionChunk(queue, self._instruction.number, self._frame.stamp_ns, tuple(actions))
