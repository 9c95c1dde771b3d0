"""Context strategy ``delayed_batch``: frames are collected and shown as one video; for comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Frame
from vln_ros.engine.checkpoint.profile import ContextSpec
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.segments import Piece, Video
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Snapshot
from vln_ros.memory.star import Selection, scene_change, select_frames


@dataclass(frozen=True)
class _Collected:
    rgb: npt.NDArray[np.uint8]
    stamp_ns: int
    score: float


class DelayedBatchContext:
    """Frames are only collected; when asked, those that matter are encoded as one video.

    It puts all the work between question and answer, and saves none of it: the vision tower has no
    attention across frames. It is here to be compared with. The prefilled video is kept until
    another frame comes.
    """

    _kept: list[_Collected]
    _total: int
    _asked: Snapshot | None
    _suffix: tuple[Piece, ...]

    def __init__(
        self, session: Session, template: ChatTemplate, encoder: VisionEncoder, spec: ContextSpec
    ) -> None:
        self._session, self._template, self._encoder, self._spec = session, template, encoder, spec
        self._profiled = spec
        self._instruction = ""
        self.reported = False
        self._clear()

    def start(self, instruction: str) -> None:
        self._instruction = instruction
        self._clear()

    @property
    def selection(self) -> Selection:
        """What the next question would show, of all frames of the run."""
        return Selection(self._choose(self._kept), self._total)

    def observe(self, frame: Frame) -> None:
        kept = self._kept
        if kept and kept[-1].rgb.shape != frame.rgb.shape:
            kept = []  # a video has one size
        # The first frame has nothing before it that it could look like.
        score = scene_change(kept[-1].rgb, frame.rgb) if kept else 1.0
        kept = [*kept, _Collected(frame.rgb, frame.stamp_ns, score)]
        # A frame that is not chosen now is never chosen later: the scores before the window are final.
        self._kept = [kept[i] for i in self._choose(kept)]
        self._total += 1
        self._asked = None

    def to_prefill(self) -> Sequence[Piece]:
        """Nothing: all work is left to the question. That is what this strategy is."""
        return ()

    def prefilled(self) -> None:
        """There was nothing."""

    def question(self) -> Sequence[Piece]:
        if not self._kept:
            raise RuntimeError("the model is asked before it has seen a frame")
        self._show()
        return self._suffix

    def aside(self) -> Sequence[Piece]:
        if self._kept:
            self._show()
            return ()
        self._session.reset()
        return (*self._template.opening(), *self._template.user())

    def _show(self) -> None:
        """Bring the stream to right behind the video of what is kept."""
        if self._asked is None:
            turn = self._template.turn(0, self._instruction, ())
            self._session.reset()
            self._session.push(
                (*self._template.opening(), *turn.prefix, *self._template.shown(self._video()))
            )
            self._asked, self._suffix = self._session.snapshot(), turn.suffix
        else:
            self._session.rollback(self._asked)

    def answered(self, ids: Sequence[int], actions: int) -> None:
        """Nothing of an answer is shown again."""

    def executed(self, ids: Sequence[int], actions: int) -> None:
        """Nothing of an answer is shown again."""

    def withdraw(self) -> None:
        """The next question begins right behind the video."""

    def shrink(self) -> str | None:
        frames = self._spec.recent_frames or 0
        if frames <= 1:
            return None
        self._spec = replace(self._spec, recent_frames=frames // 2)
        self._kept = [self._kept[i] for i in self._choose(self._kept)]
        self._session.reset()
        self._asked = None
        self._session.cache.trim()
        return f"window of {frames // 2} frames"

    def restore(self) -> None:
        self._spec = self._profiled

    def _clear(self) -> None:
        self._session.reset()
        self._kept = []
        self._total = 0
        self._asked = None
        self._suffix = ()

    def _choose(self, collected: Sequence[_Collected]) -> tuple[int, ...]:
        """Which of them stay."""
        spec = self._spec
        assert spec.recent_frames and spec.important_frames is not None and spec.important_score is not None
        return select_frames(
            [c.score for c in collected],
            recent=spec.recent_frames,
            important=spec.important_frames,
            threshold=spec.important_score,
        ).indices

    def _video(self) -> Video:
        shown = self._kept
        span_s = (shown[-1].stamp_ns - shown[0].stamp_ns) * 1e-9
        return self._encoder.encode_video([c.rgb for c in shown], span_s / max(len(shown) - 1, 1))
