"""Declares what a context strategy is: it chooses what of the past the model sees when it is asked.

All share one interface and one session; which one a checkpoint was trained with is in its profile.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.memory.landmarks import LandmarkScores, choose_shown, rank_frames


class Context(Protocol):
    """From frames and answers to the pieces that stand before the next answer.

    The caller pushes what :meth:`question` returns, decodes behind it, and reports the answer. If
    that fails it may ask again: the stream goes back to where it was.
    """

    reported: bool
    """:meth:`executed` will say of each answer what the robot did. Otherwise all of it counts as done."""

    def start(self, instruction: str) -> None:
        """Forget everything and begin a run."""

    def observe(self, frame: Frame) -> Image | None:
        """Take in the next frame. If that fails it may be tried again.

        Returns:
            What was seen; None where frames are not looked at one by one.
        """

    def to_prefill(self) -> Sequence[Piece]:
        """What can be pushed already, before the model is asked."""

    def prefilled(self) -> None:
        """What :meth:`to_prefill` returned has been pushed."""

    def question(self) -> Sequence[Piece]:
        """What is still to be pushed before the model answers for the newest frame.

        Raises:
            RuntimeError: no frame yet.
        """

    def aside(self) -> Sequence[Piece]:
        """What is still to be pushed before a question beside the run, at the end of a user turn.

        The caller takes it back afterwards.
        """

    def answered(self, ids: Sequence[int], actions: int) -> None:
        """The model said ``ids``, which is ``actions`` primitive actions."""

    def executed(self, ids: Sequence[int], actions: int) -> None:
        """The robot did ``actions`` primitives; ``ids`` say them, and stand in the chat from now on.

        None at all: the question counts as not asked. To be called once for each answer, with whatever is
        known before the next question.
        """

    def withdraw(self) -> None:
        """The answer does not count: back to before the question."""

    def shrink(self) -> str | None:
        """Show less of the past from now on; what was given up, or None if nothing is left to give.

        Called when memory ran out, in the midst of anything; what was interrupted is tried again.
        """

    def restore(self) -> None:
        """A new run begins: what :meth:`shrink` gave up is there again."""


class FrameBank:
    """Vision features of past frames, in main memory.

    Args:
        limit: when there are more they are thinned evenly; with landmarks, the worst go.
        landmarks: frames are kept and chosen for those that they show.
    """

    def __init__(self, limit: int, landmarks: LandmarkScores | None = None) -> None:
        self._limit, self._landmarks = limit, landmarks
        self._images: list[Image] = []

    def __len__(self) -> int:
        return len(self._images)

    def add(self, image: Image) -> None:
        image = replace(image, features=image.features.cpu())
        self._images.append(image)
        if self._landmarks is not None:
            self.keep(self._limit)
        elif len(self._images) > self._limit:
            # Every other one of all but the newest: an even choice among these stays nearly even.
            self._images = [*self._images[:-1:2], self._images[-1]]

    def renew(self, image: Image) -> None:
        """In the place of the newest frame."""
        self._images[-1] = replace(image, features=image.features.cpu())

    def keep(self, count: int) -> None:
        """Only the newest so many; with landmarks the newest one and the best of the others."""
        while len(self._images) > count:
            gone = 0
            if self._landmarks is not None:
                gone = rank_frames(self._landmarks.table([i.image_id for i in self._images[:-1]]))[-1]
            del self._images[gone]

    def clear(self) -> None:
        self._images.clear()

    def choose(self, indices: Sequence[int]) -> list[Image]:
        return [self._images[i] for i in indices]

    def choose_past(self, spec: ContextSpec, past: int) -> list[Image]:
        """Those of the oldest ``past`` frames that a question shows."""
        if self._landmarks is None:
            return self.choose(spec.choose_history(past))
        threshold, most = self._landmarks.rule.threshold, spec.history_frames or 0
        scores = self._landmarks.table([image.image_id for image in self._images[:past]])
        return self.choose(choose_shown(scores, most=most, threshold=threshold))


class PrimitiveBank(FrameBank):
    """One frame for each primitive that the robot has completed, and the newest one.

    When the next frame comes the newest one stays if the robot has completed a primitive since the frame
    before it, and makes room otherwise.

    Args:
        limit, landmarks: see :class:`FrameBank`.
        way: tells whether the robot has completed a primitive between two frames.
    """

    def __init__(self, limit: int, way: TravelledWay, landmarks: LandmarkScores | None = None) -> None:
        super().__init__(limit, landmarks)
        self._way = way
        self._newest: Frame | None = None

    @property
    def past(self) -> int:
        """How many frames stay when the next one comes."""
        return len(self) - (self._newest is not None and not self._way.is_step)

    def show(self, frame: Frame, image: Image) -> None:
        """The next frame. The newest one may be shown again, e.g. because something failed meanwhile."""
        if frame is self._newest:
            self.renew(image)
            return
        if len(self) and not self._way.is_step:
            self.renew(image)
        else:
            self.add(image)
        self._way.go_on(frame)
        self._newest = frame

    def clear(self) -> None:
        super().clear()
        self._newest = None
        self._way.begin()
