"""Reads answers that somebody says in the words of a profile: all that follows a model, without one."""

from __future__ import annotations

from dataclasses import replace

from vln_ros.config import LookDownConfig
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.checkpoint.profile import Profile
from vln_ros.engine.decode.grammar import parse_queue
from vln_ros.engine.decode.place import with_place
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PixelGoalRules
from vln_ros.protocols import Speaker


class SpokenEngine:
    """Implements :class:`vln_ros.protocols.Engine`.

    What is said is read as a model's text is: actions in the words of the profile, or "look down" and then a
    pixel of the second picture, whose place is found by depth and pose.

    Args:
        speaker: says the answers.
        profile: whose words they are.
        rules: what counts as floor and as free where a pixel points.
        look_down: which picture is the second one, and how old it may be.
    """

    def __init__(
        self, speaker: Speaker, profile: Profile, rules: PixelGoalRules, look_down: LookDownConfig
    ) -> None:
        self._speaker = speaker
        self._profile = profile
        self._locator = PixelGoalLocator(rules)
        self._look_down = look_down
        self._second: Frame | None = None
        self._instruction: Instruction | None = None
        self._frame: Frame | None = None
        self.said: tuple[str, ...] = ()
        """The last answer, turn by turn."""

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._frame = instruction, None
        self._second = None
        self._locator.begin()
        self._speaker.start(instruction)

    def observe(self, frame: Frame) -> None:
        self._frame = frame

    @property
    def wants_look_down(self) -> bool:
        """Implements :class:`vln_ros.protocols.LooksDown`."""
        spec, picture = self._profile.pixel_goal, self._look_down.picture
        return spec is not None and (spec.picture if picture == "profile" else picture) == "camera"

    def look_down(self, frame: Frame) -> None:
        """Implements :class:`vln_ros.protocols.LooksDown`."""
        self._second = frame

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
        chunk = ActionChunk(queue, self._instruction.number, frame.stamp_ns, ())
        if looked_down:
            picture = self._picture(frame)
            if picture is None:
                limit_s = self._look_down.max_age_s
                why = f"it asks to look down, and the second camera has sent nothing within {limit_s:g} s"
                return replace(chunk, held=why)
            text = self._speaker.answer(picture, looked_down=True)
            self.said += (text,)
            if spec is not None and (point := spec.parse(text)) is not None:
                return with_place(chunk, spec.goal(*point, picture.stamp_ns), picture, self._locator, spec)
        phrases = parse_queue(text, profile.vocabulary, profile.separator, profile.max_phrases)
        if phrases is None:
            return replace(chunk, unconstrained=text, held=f"this is no action: {text!r}")
        return replace(chunk, actions=tuple(a for i in phrases for a in profile.vocabulary[i].actions))

    def _picture(self, newest: Frame) -> Frame | None:
        """The one to look down at; None where the second camera has none of about this time."""
        if not self.wants_look_down:
            return newest
        second = self._second
        if second is None or abs(second.stamp_ns - newest.stamp_ns) > self._look_down.max_age_s * 1e9:
            return None
        return second

    def figures(self) -> dict[str, float]:
        """Implements :class:`vln_ros.protocols.HasFigures`: of the pixels of this run."""
        return self._locator.figures()

    def close(self) -> None:
        self._speaker.close()
        self._frame = None
