"""An engine whose answers somebody says in the words of a profile: all that follows a model, without one."""

from __future__ import annotations

from dataclasses import replace

from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.decode.grammar import parse_queue
from vln_ros.engine.decode.place import with_place
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PixelGoalRules
from vln_ros.protocols import Speaker


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
        frame, profile, spec = self._frame, self._profile, self._profile.pixel_goal
        text = self._speaker.answer(frame, looked_down=False)
        self.said = (text,)
        looked_down = spec is not None and text.strip() == spec.request
        if looked_down:
            text = self._speaker.answer(frame, looked_down=True)
            self.said += (text,)
        chunk = ActionChunk(queue, self._instruction.number, frame.stamp_ns, ())
        if looked_down and spec is not None and (point := spec.parse(text)) is not None:
            return with_place(chunk, spec.goal(*point, frame.stamp_ns), frame, self._locator, spec)
        phrases = parse_queue(text, profile.vocabulary, profile.separator, profile.max_phrases)
        if phrases is None:
            return replace(chunk, unconstrained=text, held=f"this is no action: {text!r}")
        return replace(chunk, actions=tuple(a for i in phrases for a in profile.vocabulary[i].actions))

    def figures(self) -> dict[str, float]:
        """Implements :class:`vln_ros.protocols.HasFigures`: of the pixels of this run."""
        return self._locator.figures()

    def close(self) -> None:
        self._speaker.close()
        self._frame = None
