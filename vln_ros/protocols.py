"""Declares the boundaries behind which parts are exchanged: engines, worlds, and what each may add."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import (
    Action,
    ActionChunk,
    CameraModel,
    Executed,
    Float64Array,
    Frame,
    Instruction,
    Pose,
)


class EngineError(RuntimeError):
    """The engine cannot go on with this run: what it computed is of no use. The message says where it failed.

    Nothing of the run may move a robot. The next :meth:`Engine.start` begins anew.
    """


class Engine(Protocol):
    """Turns one robot's stream of frames into action queues. Used from one thread only."""

    def start(self, instruction: Instruction) -> None:
        """Forget the stream so far and follow ``instruction`` from the next frame on."""

    def observe(self, frame: Frame) -> None:
        """Take in the next frame. What can be put off until it is known whether it is asked about is."""

    def decide(self, queue: int) -> ActionChunk:
        """The actions to take after the newest frame, as the queue with number ``queue``.

        Raises:
            RuntimeError: no instruction or no frame yet.
            EngineError: what the model computed is of no use.
        """

    def close(self) -> None:
        """Free what the engine holds (device memory). It is not used afterwards."""


@runtime_checkable
class HearsExecuted(Protocol):
    """An engine that tells its model what the robot did, not what it was to do."""

    def executed(self, done: Sequence[Executed]) -> None:
        """All primitives that the robot has completed since :meth:`Engine.start`, in order, as far as known.

        Called before a frame is observed and before a decision. Where nobody ever calls it in a run, an
        answer counts as done, and how far the robot has gone is read off the frames' poses.
        """


@runtime_checkable
class WorksAhead(Protocol):
    """An engine that can do part of a decision before it is asked for it."""

    def work_ahead(self) -> None:
        """Nobody asks about the newest frame: do what shortens the next decision, and nothing else."""


@runtime_checkable
class TellsVitals(Protocol):
    """An engine that has something to say of itself on /diagnostics."""

    def vitals(self) -> tuple[tuple[str, int | float | str], ...]:
        """Name with unit, and value. Called from the engine's thread."""


@runtime_checkable
class GivesUp(Protocol):
    """An engine that goes on with less when memory runs out."""

    def given_up(self) -> tuple[str, ...]:
        """What it has given up since :meth:`Engine.start`, in order; empty: nothing."""


@runtime_checkable
class ShowsReuse(Protocol):
    """An engine that may take over what it has computed for earlier frames."""

    def reuse_labels(self) -> npt.NDArray[np.int64] | None:
        """``[rows, columns]``: what became of each visual token of the newest frame, as
        :class:`vln_ros.reuse.frame_plan.Label`; None where nothing is reused. From the engine's thread.
        """


@dataclass(frozen=True)
class Motion:
    """What a movement in a world really did."""

    collided: bool
    distance_m: float
    """Length of the way travelled, metres."""


class WorldLostError(RuntimeError):
    """The world is gone (its process died, or does not answer); the message says what is known of why.

    The episode cannot go on. The next :meth:`World.load` starts anew.
    """


class World(Protocol):
    """A scene with one robot in it. The world frame serves as its odometry frame.

    Where the world lives in a process of its own, every method may raise :class:`WorldLostError`.
    """

    @property
    def camera(self) -> CameraModel: ...

    @property
    def base_from_optical(self) -> Pose: ...

    @property
    def pose(self) -> Pose:
        """``world_from_base``, exact."""

    def load(self, scene_id: str) -> None:
        """Make ``scene_id`` (as written in an episode file) the scene. A loaded one is kept.

        Raises:
            ValueError: no such scene; the message says which ids exist.
        """

    def place(self, pose: Pose) -> None:
        """Put the robot at ``pose``.

        Raises:
            ValueError: the robot does not fit there.
        """

    def render(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Colour ``[H, W, 3]`` and planar depth ``[H, W]`` in metres (0: nothing there)."""

    def step(self, action: Action) -> Motion:
        """Execute one discrete action at once. A stop does not move."""

    def drive(self, linear_m_s: float, angular_rad_s: float, duration_s: float) -> Motion:
        """Hold a planar velocity (body frame) for a time."""

    def geodesic_distance(self, start: Float64Array, goal: Float64Array) -> float:
        """Length in metres of the shortest walkable way between two ``[3]`` points; inf if none."""

    def close(self) -> None: ...


@runtime_checkable
class CountsWork(Protocol):
    """An engine with a model behind it."""

    @property
    def fingerprint(self) -> str:
        """Tells checkpoints apart."""

    @property
    def forwards(self) -> int:
        """Calls of the decoder so far."""

    @property
    def tokens(self) -> int:
        """Tokens that they computed."""


@runtime_checkable
class HasFigures(Protocol):
    """An engine that says more about a run."""

    def figures(self) -> dict[str, float]:
        """Since the instruction came: names with units, and values."""
