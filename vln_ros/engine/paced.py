"""An engine that only takes time: the graph around it can be measured without a model."""

from __future__ import annotations

import time

import numpy as np

from vln_ros.datatypes import Action, ActionChunk, Frame, Instruction


class PacedEngine:
    """Computes for a given time per decision, then says forward. It releases the interpreter as torch does.

    Args:
        decision_s: how long a decision takes, seconds.
        forward_m: length of the one forward action it answers with.
    """

    def __init__(self, decision_s: float, forward_m: float) -> None:
        self._decision_s = decision_s
        self._action = Action(forward_m=forward_m)
        self._work = np.ones((256, 256), np.float32) / 256.0
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        if self._instruction is None or self._frame is None:
            raise RuntimeError("no instruction or no frame yet")
        until = time.monotonic() + self._decision_s
        while time.monotonic() < until:
            self._work = self._work @ self._work  # stays what it is: its rows sum to one
        return ActionChunk(queue, self._instruction.number, self._frame.stamp_ns, (self._action,))

    def close(self) -> None:
        self._frame = None
