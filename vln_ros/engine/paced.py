"""Engines that only take time, to measure the graph around a model without one."""

from __future__ import annotations

import time

import numpy as np

from vln_ros.datatypes import Action, ActionChunk, Frame, Instruction
from vln_ros.protocols import Engine


class ForwardEngine:
    """Answers every frame with one forward action.

    Args:
        forward_m: its length.
    """

    def __init__(self, forward_m: float) -> None:
        self._action = Action(forward_m=forward_m)
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        if self._instruction is None or self._frame is None:
            raise RuntimeError("no instruction or no frame yet")
        return ActionChunk(queue, self._instruction.number, self._frame.stamp_ns, (self._action,))

    def close(self) -> None:
        self._frame = None


class PacedEngine:
    """Another engine, after computing for a given time. It releases the interpreter as torch does.

    Args:
        engine: what decides.
        decision_s: how long it computes first, seconds.
    """

    def __init__(self, engine: Engine, decision_s: float) -> None:
        self._engine = engine
        self._decision_s = decision_s
        self._work = np.ones((256, 256), np.float32) / 256.0

    def start(self, instruction: Instruction) -> None:
        self._engine.start(instruction)

    def observe(self, frame: Frame) -> None:
        self._engine.observe(frame)

    def decide(self, queue: int) -> ActionChunk:
        until = time.monotonic() + self._decision_s
        while time.monotonic() < until:
            self._work = self._work @ self._work  # stays what it is: its rows sum to one
        return self._engine.decide(queue)

    def close(self) -> None:
        self._engine.close()
