"""The second turn of a chat: the picture that the model has asked for, and the point in it that it names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vln_ros.config import ConfigError, LookDownConfig
from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import ImageSpec, Profile
from vln_ros.engine.decode.answer import Answer, AnswerDecoder
from vln_ros.engine.decode.decode import Decoding
from vln_ros.engine.decode.place import with_place
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import Forwards, VisionEncoder
from vln_ros.engine.stream.segments import Piece
from vln_ros.engine.stream.session import Session
from vln_ros.geometry.pixel_goal import PixelGoalLocator, PixelGoalRules


class LookDown:
    """Shows the picture behind the first turn, in the same stream: it costs that picture and two numbers.

    Args:
        session, template, answers: of the engine.
        config: which picture.
        rules: what counts as a place.
        forwards: whose vision tower sees the picture.
    """

    def __init__(
        self,
        model: LoadedModel,
        profile: Profile,
        session: Session,
        template: ChatTemplate,
        answers: AnswerDecoder,
        config: LookDownConfig,
        rules: PixelGoalRules,
        forwards: Forwards,
    ) -> None:
        spec = profile.pixel_goal
        if spec is None:
            raise ConfigError(f"profile {profile.name} has no pixel goals")
        self._spec, self._config = spec, config
        self._session, self._template, self._answers = session, template, answers
        self._same = (spec.picture if config.picture == "profile" else config.picture) == "same"
        # As the camera took it: the numbers are pixels of that.
        self._encoder = VisionEncoder(model, ImageSpec(None, profile.image.max_pixels), forwards=forwards)
        self._second: Frame | None = None
        self._locator = PixelGoalLocator(rules)

    @property
    def has_second_camera(self) -> bool:
        """It is to show the picture of a camera that looks down."""
        return not self._same

    def begin(self) -> None:
        """A new run."""
        self._second = None
        self._locator.begin()

    def see(self, frame: Frame) -> None:
        """What the camera that looks down sees now."""
        self._second = frame

    def figures(self) -> dict[str, float]:
        """What became of the pixel goals of this run; empty where there were none."""
        return self._locator.figures()

    def answer(self, request: Answer, newest: Frame) -> Decoding[tuple[Answer, Frame]]:
        """What the model says to the picture that it has asked for, and the frame that this is of.

        Args:
            request: its first answer. The stream ends where that was given.
            newest: the frame that the question was about.
        """
        frame = self._picture(newest)
        if frame is None:
            why = (
                "it asks for a picture to look down at, and the camera for that (look_down.picture = camera) "
                f"has sent none within {self._config.max_age_s:g} s of the newest frame"
            )
            return replace(request, held=why), newest
        image = replace(self._encoder.encode_picture(frame.rgb), image_id=None)
        asked = self._session.snapshot()

        def question() -> Sequence[Piece]:
            self._session.rollback(asked)
            return (*self._template.reply(request.ids), *self._template.look_down(self._spec, image))

        size = (frame.camera.height, frame.camera.width)
        answer = yield from self._answers.decode_point(question, size)
        return answer, frame

    def placed(self, chunk: ActionChunk, answer: Answer, frame: Frame) -> ActionChunk:
        """``chunk`` with the point that was named, if one was."""
        if answer.point is None:
            return chunk
        goal = self._spec.goal(*answer.point, frame.stamp_ns)
        return with_place(chunk, goal, frame, self._locator, self._spec)

    def _picture(self, newest: Frame) -> Frame | None:
        if self._same:
            return newest
        second = self._second
        if second is None or abs(second.stamp_ns - newest.stamp_ns) > self._config.max_age_s * 1e9:
            return None
        return second
