"""Leaves frames of a robot that stands out of its context, as long as they show nothing new."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from vln_ros.config import StandstillConfig
from vln_ros.datatypes import Frame
from vln_ros.geometry.standstill import Standstill

_TURNS = ("append", "window_reset", "history")
"""Strategies that wait with a turn until they are asked. The other one collects frames: time counts."""


class StillFrames:
    """What is shown of each frame. Off, every frame is shown as it is.

    Args:
        strategy: of the context that the frames are for.
        want_whole: called where the next frame has been left out for so long that all is computed.
    """

    def __init__(self, config: StandstillConfig, strategy: str, want_whole: Callable[[], None]) -> None:
        self._want_whole = want_whole
        on = config.enabled and strategy in _TURNS
        self._standstill = Standstill(config) if on else None
        self._waiting: int | None = None
        """Primitives done when the turn that waits for a question got its frame; None: there is none."""
        self._left_out = 0

    def begin(self) -> None:
        """A new run."""
        self._waiting, self._left_out = None, 0
        if self._standstill is not None:
            self._standstill.begin()

    def turn_changed(self) -> None:
        """The next frame belongs to another turn than the one before, or to another reply."""
        self._waiting = None

    def to_show(self, frame: Frame, done: int) -> Frame | None:
        """The frame, or with the pixels shown last if it differs from them by noise only.

        Args:
            done: primitives that the robot has done.

        Returns:
            None: the turn that waits shows it already. Otherwise it is to be shown, and then
            :meth:`was_shown` called.
        """
        if self._standstill is None:
            return frame
        if not self._standstill.shows_nothing_new(frame):
            self._waiting = None  # showing it may fail, and is tried again then
            if self._standstill.is_overdue:
                self._want_whole()
            return frame
        if self._waiting == done:
            self._left_out += 1
            return None
        self._waiting = None
        assert self._standstill.shown is not None, "nothing new: since something"
        return replace(frame, rgb=self._standstill.shown.rgb)  # equal pixel by pixel: its features are there

    def was_shown(self, frame: Frame, shown: Frame, done: int) -> None:
        """``shown`` is in the context for ``frame``."""
        self._waiting = done
        if self._standstill is not None and shown is frame:
            self._standstill.show(frame)

    def figures(self) -> dict[str, float]:
        """For diagnostics; empty where it is off."""
        if self._standstill is None:
            return {}
        noise = self._standstill.noise or 0.0
        return {"frames with nothing new": self._left_out, "noise of the camera [grey levels]": noise}
