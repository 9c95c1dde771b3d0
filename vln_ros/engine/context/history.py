"""Context strategy `history`: every question is a chat that begins like the one before or the next one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.base import PrimitiveBank
from vln_ros.engine.context.forecast import QuestionForecast
from vln_ros.engine.context.pruning import KeepAll
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.segments import Image, Piece, common_beginning
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot


class HistoryContext:
    """Every question is a chat of its own, with some past frames (NaVIDA, InternVLA-N1 System-2).

    Vision features are computed once per frame, when it arrives, and kept. The stream goes back no farther
    than to where the next chat differs from what it holds. While the robot moves it takes in the beginning of
    the chat that is foreseen: the frames that the next question will show, as far as they are there. If
    another question comes, that costs what was foreseen wrongly; what the model sees is the same.
    """

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        encoder: VisionEncoder,
        spec: ContextSpec,
        pruning: KeepAll,
        bank: PrimitiveBank,
    ) -> None:
        self._session, self._template, self._encoder, self._spec = session, template, encoder, spec
        self._pruning, self._bank = pruning, bank
        self._profiled = spec
        self._instruction = ""
        self.reported = False
        self._answer: tuple[int, ...] | None = None
        self._is_chat_there = False  # of the answer, up to where the model answers
        self._opened: Snapshot | None = None
        self._forecast = QuestionForecast()

    def start(self, instruction: str) -> None:
        self._instruction, self._answer, self._opened = instruction, None, None
        self._is_chat_there = False
        self._bank.clear()
        self._forecast.begin()
        self._session.reset()
        self._session.push(self._template.opening())
        self._opened = self._session.snapshot()

    def observe(self, frame: Frame) -> Image:
        image = self._encoder.encode(frame)
        self._session.on_frame(frame, image)
        self._bank.show(frame, image)
        self._answer = None
        self._forecast.seen()
        if self._most_kept:
            self._bank.keep(self._most_kept)
        return image

    def to_prefill(self) -> Sequence[Piece]:
        """The beginning of the next question, as far as that is foreseen and its frames are there."""
        if self._pruning.thins:
            return ()  # what is left of the past depends on frames that are still to come
        shown = self._bank.choose_foreseen(self._spec, self._forecast.entered(), self._most_kept)
        prefix = self._template.turn(0, self._instruction, shown).prefix
        end = max((i + 1 for i, piece in enumerate(prefix) if isinstance(piece, Image)), default=0)
        if not self._common(prefix[:end], self._session)[1]:
            return ()  # whatever is behind the last picture may stay
        self._is_chat_there = False
        # With the mark behind the picture: the last token of a forward is always computed.
        return self._go_to(prefix[: end + 1], self._session)

    def prefilled(self) -> None:
        """The stream itself says what it holds."""

    def question(self) -> Sequence[Piece]:
        if not len(self._bank):
            raise RuntimeError("the model is asked before it has seen a frame")
        self._answer, self._is_chat_there = None, False
        before, suffix = self._chat(self._session)
        return (*self._go_to(before, self._session), *suffix)

    def aside(self, stream: Session) -> Sequence[Piece]:
        if not len(self._bank):
            return (*self._go_to((), stream), *self._template.user())
        if self._answer is None:
            return self._go_to(self._chat(stream)[0], stream)
        reply = (*self._template.reply(self._answer), *self._template.user())
        if self._is_chat_there:
            return reply
        before, suffix = self._chat(stream)
        return (*self._go_to(before, stream), *suffix, *reply)

    def _chat(self, stream: Session) -> tuple[Sequence[Piece], Sequence[Piece]]:
        """A turn about the newest frame: all up to that frame, and the rest."""
        past = len(self._bank) - 1
        (current,) = self._bank.choose([past])
        if past:
            frames = [*self._bank.choose_past(self._spec, past), current]
            pruning = self._pruning if stream is self._session else KeepAll()  # it counts what it leaves out
            *shown, current = pruning.thin(frames, whole=1)
        else:
            shown = [current] if self._spec.history_empty == "current" else []
        turn = self._template.turn(0, self._instruction, shown)
        return (*turn.prefix, *self._template.shown(current)), turn.suffix

    @property
    def _most_kept(self) -> int:
        """Frames in the bank, the newest included; 0 for all."""
        return self._spec.history_limit + 1 if self._spec.history_limit else 0

    def _common(self, pieces: Sequence[Piece], stream: Session) -> tuple[int, tuple[Piece, ...]]:
        """How many segments behind the opening are the beginning of ``pieces``, and the rest of these."""
        assert self._opened is not None, "a run has begun"
        return common_beginning(stream.timeline.segments[len(self._opened.segments) :], pieces)

    def _go_to(self, pieces: Sequence[Piece], stream: Session) -> tuple[Piece, ...]:
        """Back to the longest common beginning with ``pieces``; what of them is still to be pushed."""
        assert self._opened is not None, "a run has begun"
        kept, rest = self._common(pieces, stream)
        gone = len(stream.timeline.segments) - len(self._opened.segments) - kept
        if gone:
            stream.drop_last(gone)
        return rest

    def answered(self, ids: Sequence[int], actions: int) -> None:
        """Only questions beside the run are shown the answer, until the next frame."""
        self._answer, self._is_chat_there = tuple(ids), True
        self._forecast.answered(self._bank.entered, actions)

    def executed(self, ids: Sequence[int], actions: int) -> None:
        """No question shows an earlier answer."""

    def withdraw(self) -> None:
        self._forecast.answered(self._bank.entered, 0)

    def shrink(self) -> str | None:
        self._answer, self._is_chat_there = None, False
        frames = self._spec.history_frames or 0
        if frames <= 1 or self._opened is None:
            return None
        self._spec = replace(self._spec, history_frames=frames // 2)
        self._session.rollback(self._opened)
        self._session.cache.trim()
        return f"history of {frames // 2} frames"

    def restore(self) -> None:
        self._spec = self._profiled
