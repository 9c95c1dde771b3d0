"""Declares the boundaries behind which parts are exchanged: engines, worlds, and what each may add."""

from __future__ import annotations

from collections.abc import Generator, Sequence
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
from vln_ros.lenses import Lens
from vln_ros.questions import Question, Spoken


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


class SharedModel(Protocol):
    """Asks several engines at once that run on one model. Each gets what it would alone, or its own error."""

    @property
    def is_loaded(self) -> bool:
        """There is one: engines without a model are asked one by one."""

    def decide(self, engines: Sequence[Engine], queues: Sequence[int]) -> Sequence[ActionChunk | Exception]:
        """As :meth:`Engine.decide` of each."""

    def work_ahead(self, engines: Sequence[Engine]) -> Sequence[Exception | None]:
        """As :meth:`WorksAhead.work_ahead` of each, all of which are such."""


class Speaker(Protocol):
    """Answers pictures in the words of a profile, as a model does; a test or an oracle in a model's place."""

    def start(self, instruction: Instruction) -> None:
        """Forget the run so far and follow ``instruction``."""

    def answer(self, frame: Frame, *, looked_down: bool) -> str:
        """The text that answers the question about ``frame``; ``looked_down``: the second one, about the
        picture that the first answer has asked for."""

    def close(self) -> None:
        """Free what it holds."""


@runtime_checkable
class HearsExecuted(Protocol):
    """An engine that tells its model what the robot did, not what it was to do."""

    def executed(self, done: Sequence[Executed]) -> None:
        """All primitives that the robot has completed since :meth:`Engine.start`, in order, as far as known.

        Called before a frame is observed and before a decision. Where nobody ever calls it in a run, an
        answer counts as done, and how far the robot has gone is read off the frames' poses.
        """


@runtime_checkable
class LooksDown(Protocol):
    """An engine whose model may ask for the picture of a second camera that looks down."""

    @property
    def wants_look_down(self) -> bool:
        """The options say that it is shown that camera's picture."""

    def look_down(self, frame: Frame) -> None:
        """What that camera sees now, with its own camera model and poses. Only the newest one counts."""


@runtime_checkable
class WorksAhead(Protocol):
    """An engine that can do part of a decision before it is asked for it."""

    def work_ahead(self) -> None:
        """Do what shortens the next decision, and nothing else.

        Called when nobody asks about the newest frame, and when a decision about it has been sent. That may
        be so after each frame, or never.
        """


@runtime_checkable
class AnswersQuestions(Protocol):
    """An engine that says what it has seen. The run goes on bit for bit as if nobody had asked."""

    def asking(
        self, question: Question, newest: Frame | None, *, max_question_tokens: int, max_answer_tokens: int
    ) -> Generator[None, None, Spoken]:
        """The answer about the run as it stands when the first step is taken; a step is one forward at most.

        Whatever the run does between the steps changes nothing of the answer. From the engine's thread.

        Args:
            newest: a frame that may not have been observed; the model is shown it beside the run.

        Raises:
            RuntimeError: no instruction yet.
            QuestionError: too long, or there is no memory for it; the run has lost nothing.
            EngineError: the model's scores are not numbers.
        """


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
class LooksThroughLenses(Protocol):
    """A world in which a robot may have other cameras than the ideal one of :meth:`World.render`."""

    def look(
        self, lens: Lens, base_from_optical: Pose
    ) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """As :meth:`World.render`, of a camera as it is: pixel for pixel what comes through its lens."""


@runtime_checkable
class LooksFurtherDown(Protocol):
    """A world whose robot may have a second camera, like the first and at its place, which looks down."""

    @property
    def base_from_look_down(self) -> Pose | None:
        """Where its optical frame is on the robot; None where there is no such camera."""

    def render_look_down(self) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """As :meth:`World.render`, of that camera.

        Raises:
            RuntimeError: there is none.
        """


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
