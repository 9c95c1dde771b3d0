"""Context strategy ``history``: every question shows a choice of past frames anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.base import PrimitiveBank
from vln_ros.engine.context.pruning import KeepAll
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.segments import Image, Piece
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot


class HistoryContext:
    """Every question is a chat of its own, with some past frames (NaVIDA, InternVLA-N1 System-2).

    Vision features are computed once per frame, when it arrives, and kept; the decoder sees the
    frames anew each time. What stands before the first frame is prefilled once.
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
        self._opened: Snapshot | None = None

    def start(self, instruction: str) -> None:
        self._instruction, self._answer, self._opened = instruction, None, None
        self._bank.clear()
        self._session.reset()
        self._session.push(self._template.opening())
        self._opened = self._session.snapshot()

    def observe(self, frame: Frame) -> Image:
        image = self._encoder.encode(frame.rgb)
        self._session.on_frame(frame, image)
        self._bank.show(frame, image)
        self._answer = None
        if self._spec.history_limit:
            self._bank.keep(self._spec.history_limit + 1)
        return image

    def to_prefill(self) -> Sequence[Piece]:
        """Nothing: the next question may show other frames."""
        return ()

    def prefilled(self) -> None:
        """There was nothing."""

    def question(self) -> Sequence[Piece]:
        if not len(self._bank):
            raise RuntimeError("the model is asked before it has seen a frame")
        self._answer = None
        before, suffix = self._chat()
        return (*before, *suffix)

    def aside(self) -> Sequence[Piece]:
        if self._answer is not None:  # the chat about the newest frame is still there
            return (*self._template.reply(self._answer), *self._template.user())
        if len(self._bank):
            return self._chat()[0]
        self._go_back()
        return self._template.user()

    def _chat(self) -> tuple[Sequence[Piece], Sequence[Piece]]:
        """A turn about the newest frame: all up to that frame, and the rest."""
        past = len(self._bank) - 1
        (current,) = self._bank.choose([past])
        if past:
            frames = [*self._bank.choose_past(self._spec, past), current]
            *shown, current = self._pruning.thin(frames, whole=1)
        else:
            shown = [current] if self._spec.history_empty == "current" else []
        turn = self._template.turn(0, self._instruction, shown)
        self._go_back()
        return (*turn.prefix, *self._template.shown(current)), turn.suffix

    def _go_back(self) -> None:
        """To what stands before the first frame."""
        assert self._opened is not None, "a run has begun"
        self._session.rollback(self._opened)

    def answered(self, ids: Sequence[int], actions: int) -> None:
        """Only questions beside the run are shown the answer, until the next frame."""
        self._answer = tuple(ids)

    def executed(self, ids: Sequence[int], actions: int) -> None:
        """No question shows an earlier answer."""

    def withdraw(self) -> None:
        """The next question is a chat of its own."""

    def shrink(self) -> str | None:
        self._answer = None
        frames = self._spec.history_frames or 0
        if frames <= 1 or self._opened is None:
            return None
        self._spec = replace(self._spec, history_frames=frames // 2)
        self._session.rollback(self._opened)
        self._session.cache.trim()
        return f"history of {frames // 2} frames"

    def restore(self) -> None:
        self._spec = self._profiled
