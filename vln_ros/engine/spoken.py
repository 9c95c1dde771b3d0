"""An engine whose answers somebody says in the words of a profile: all that follows a model, without one."""

from __future__ import annotations

import re

from vln_ros.datatypes import ActionChunk, Frame, Instruction, PixelGoal
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.decode.grammar import parse_queue
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PixelGoalRules, PlaceRefusal
from vln_ros.protocols import Speaker

_LOOK_DOWN = "↓"
_PIXEL = re.compile(r"\s*(\d+)\s+(\d+)\s*")


class SpokenEngine:
    """Implements :class:`vln_ros.protocols.Engine`.

    What is said is read as a model's text is: actions in the words of the profile, or "look down" and then a
    pixel of the second picture, whose place is found by depth and pose. The robot looks down with the camera
    that it has: the second picture is the first.

    Args:
        speaker: says the answers.
        profile: whose words they are.
        rules: what counts as floor and as free where a pixel points.
    """

    def __init__(self, speaker: Speaker, profile: Profile, rules: PixelGoalRules) -> None:
        self._speaker = speaker
        self._profile = profile
        self._locator = PixelGoalLocator(rules)
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None
        self.said: tuple[str, ...] = ()
        """The last answer, turn by turn."""

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None
        self._locator.begin()
        self._speaker.start(instruction)

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    def decide(self, queue: int) -> ActionChunk:
        """What the newest frame is answered with.

        Raises:
            RuntimeError: no instruction or no frame yet.
        """
        if self._instruction is None or self._frame is None:
            raise RuntimeError("no instruction or no frame yet")
        frame, profile = self._frame, self._profile
        number = self._instruction.number
        text = self._speaker.answer(frame, looked_down=False)
        self.said = (text,)
        if text.strip() == _LOOK_DOWN:
            text = self._speaker.answer(frame, looked_down=True)
            self.said += (text,)
        if pixel := _PIXEL.fullmatch(text):
            goal = PixelGoal(int(pixel[1]), int(pixel[2]), frame.stamp_ns)
            place = self._locator.locate(goal, frame)
            if isinstance(place, PlaceRefusal):
                held = f"{goal}: {place.value}"
                return ActionChunk(queue, number, frame.stamp_ns, (), held=held, pixel_goal=goal)
            return ActionChunk(queue, number, frame.stamp_ns, (), pixel_goal=goal, place=place)
        phrases = parse_queue(text, profile.vocabulary, profile.separator, profile.max_phrases)
        if phrases is None:
            return ActionChunk(
                queue, number, frame.stamp_ns, (), wanted=text, held=f"this is no action: {text!r}"
            )
        actions = tuple(a for index in phrases for a in profile.vocabulary[index].actions)
        return ActionChunk(queue, number, frame.stamp_ns, actions)

    def figures(self) -> dict[str, float]:
        """Implements :class:`vln_ros.protocols.HasFigures`: of the pixels of this run."""
        return self._locator.figures()

    def close(self) -> None:
        self._speaker.close()
        self._frame = None
