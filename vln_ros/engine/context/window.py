"""Context strategy ``window_reset``: a chat that begins anew after so many actions, with some past frames."""

from __future__ import annotations

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.context.append import Answered, AppendContext
from vln_ros.engine.context.base import PrimitiveBank
from vln_ros.engine.context.budget import TokenBudget
from vln_ros.engine.context.pruning import KeepAll
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.stream.session import Session


class WindowResetContext(AppendContext):
    """A chat that is dropped every ``reset_steps`` primitives and begun anew with some past frames.

    The rhythm of StreamVLN (arXiv 2507.05240). The reset happens when the first frame after the
    actions arrives, so a queue that is still being executed is not touched by it; where it is reported
    what is executed, when the last of them is.
    """

    def __init__(
        self,
        session: Session,
        template: ChatTemplate,
        encoder: VisionEncoder,
        spec: ContextSpec,
        budget: TokenBudget,
        pruning: KeepAll,
        bank: PrimitiveBank,
    ) -> None:
        self._bank = bank
        self._past: list[Image] = []
        super().__init__(session, template, encoder, spec, budget, pruning)

    def start(self, instruction: str) -> None:
        self._bank.clear()
        super().start(instruction)

    def _close_turn(self, answer: Answered) -> None:
        self._past = self._bank.choose_past(self._spec, self._bank.past)
        super()._close_turn(answer)

    def _count(self, actions: int) -> None:
        super()._count(actions)
        assert self._spec.reset_steps is not None
        if self._actions >= self._spec.reset_steps:
            shown, past = self._shown, self._pruning.thin(self._past, whole=0)
            self._begin(past)
            self._shown = shown
            if shown:
                self._compose(shown)

    def _remember(self, frame: Frame, image: Image) -> None:
        self._bank.show(frame, image)
