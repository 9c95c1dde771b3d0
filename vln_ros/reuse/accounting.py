"""Measures what reuse and pruning cost and save, and switches them off when they lose time."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, runtime_checkable

import numpy as np

from vln_ros.geometry.fallback_reason import FallbackReason

logger = logging.getLogger(__name__)

_SAMPLES = 5
_FORWARDS = 64
_LEAST_FORWARDS = 8


@dataclass(frozen=True)
class ReuseStats:
    """One run's reuse.

    Attributes:
        frames: pictures that were prefilled.
        reuse: mean share of their tokens that was taken over.
        overhead_ms: time spent on finding out what to take over.
        saved_ms: time of the vision tower and the decoder that was not needed, against the newest whole
            frames; the overhead is not subtracted.
        refreshes: frames computed whole only because it was time.
        auto_offs: times that it switched itself off.
        refused: frames from which nothing was taken over, by reason.
        repeated: frames equal to the one before, whose vision features were taken over (exact).
        passed_over: mean share of the frames' tokens that the vision tower did not compute.
        stale: tokens that the decoder computed from the feature of an earlier frame, because the tower had
            passed over them and what was to be taken over was gone.
    """

    frames: int
    reuse: float
    overhead_ms: float
    saved_ms: float
    refreshes: int
    auto_offs: int
    refused: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0
    passed_over: float = 0.0
    stale: int = 0

    @property
    def net_ms(self) -> float:
        """What is left of what was saved."""
        return self.saved_ms - self.overhead_ms

    def figures(self) -> dict[str, float]:
        """For diagnostics: names with units."""
        return {
            "reuse [%]": 100.0 * self.reuse,
            "reuse: tower passed over [%]": 100.0 * self.passed_over,
            "reuse: overhead [ms]": self.overhead_ms,
            "reuse: stale features": self.stale,
            "reuse: saved [ms]": self.saved_ms,
            "reuse: net [ms]": self.net_ms,
            "reuse: refreshes": self.refreshes,
            "reuse: auto-offs": self.auto_offs,
            "reuse: frames repeated": self.repeated,
            **{f"reuse refused: {reason}": n for reason, n in self.refused.items()},
        }


@runtime_checkable
class Reusing(Protocol):
    """An engine that may take over what it computed before."""

    def reuse_stats(self) -> ReuseStats | None:
        """Of the present run; None where reuse is not configured."""


class NetMeter:
    """What a feature costs and saves in a run. It switches the feature off where that loses time.

    Args:
        window: frames over which the net must not be negative; 0 never switches off.
        feature: its name, for the log.
    """

    def __init__(self, window: int, feature: str) -> None:
        self._window, self._feature = window, feature
        self.begin()

    def begin(self) -> None:
        """A new run: it may be tried again."""
        self.overhead_s = self.saved_s = 0.0
        self.off = False
        self.auto_offs = 0
        self.reasons: Counter[FallbackReason] = Counter()
        """Frames to which the feature was not applied."""
        self._net_s: deque[float] = deque(maxlen=max(self._window, 1))

    def refused(self, reason: FallbackReason) -> None:
        self.reasons[reason] += 1

    def add(self, saved_s: float, overhead_s: float, *, tried: bool) -> None:
        """A frame; it counts for the switch if the feature was tried."""
        self.saved_s += saved_s
        self.overhead_s += overhead_s
        if not tried or self.off:
            return
        self._net_s.append(saved_s - overhead_s)
        if self._window and len(self._net_s) == self._window and sum(self._net_s) < 0.0:
            self.off = True
            self.auto_offs += 1
            logger.warning("%s loses time here: switched off until the next instruction", self._feature)


class ForwardTimes:
    """How long a forward of ``n`` tokens behind ``c`` others takes: ``k + a n + b n (c + n / 2)``.

    None of the three is negative. They are fitted to the newest forwards, so what a forward with other
    numbers would take can be told on this machine: where a device is busy with reading the weights,
    ``k`` is all there is, and fewer tokens save nothing.
    """

    def __init__(self) -> None:
        self._noted: deque[tuple[int, int, float]] = deque(maxlen=_FORWARDS)

    def note(self, tokens: int, before: int, seconds: float) -> None:
        self._noted.append((tokens, before, max(seconds, 1e-9)))

    def saved_s(self, forwards: Sequence[tuple[int, int, int, int]]) -> float | None:
        """By how much longer they would have taken with more tokens; None as long as too little is known.

        Args:
            forwards: tokens, tokens before them, and how many more of either there would have been.
        """
        if len(self._noted) < _LEAST_FORWARDS:
            return None
        n, before, seconds = np.array(self._noted).T
        # Relative errors count: the short forwards are as telling as the long ones.
        terms = np.stack([np.ones_like(n), n, n * (before + n / 2)], 1) / seconds[:, None]
        from scipy.optimize import nnls  # the navigator's process has this module too, and needs no scipy

        (_, per_token, per_pair), _ = nnls(terms, np.ones_like(n))
        own, before, more, more_before = np.array(forwards, np.float64).reshape(-1, 4).T
        whole = own + more
        pairs = whole * (before + more_before + whole / 2) - own * (before + own / 2)
        return float(per_token * more.sum() + per_pair * pairs.sum())


class ReuseMeter(NetMeter):
    """Holds what a frame takes (vision, planning, prefill with what is decided in it) against whole ones.

    Whole frames come again and again, so what they take is always known as it is now. Args: see
    :class:`NetMeter`.
    """

    def __init__(self, window: int) -> None:
        self._whole: deque[float] = deque(maxlen=_SAMPLES)
        self._whole_vision: deque[float] = deque(maxlen=_SAMPLES)
        super().__init__(window, "reuse")

    def begin(self) -> None:
        """A new run. What a whole frame takes is still known."""
        super().begin()
        self._frames = self._tokens = 0
        self._reused = 0.0
        self._seen = self._passed_over = self.stale = 0
        self._vision_s = self._plan_s = 0.0

    def vision(self, tokens: int, passed_over: int, vision_s: float | None, plan_s: float) -> None:
        """A frame was seen, by a tower that passed over some of it; or by none, and no time is given.

        It counts with the next prefill.
        """
        self._seen += tokens
        self._passed_over += passed_over
        self._plan_s += plan_s
        if vision_s is None:
            return
        if passed_over:
            self._vision_s += (median(self._whole_vision) if self._whole_vision else vision_s) - vision_s
        else:
            self._whole_vision.append(vision_s)

    def whole(self, tokens: int, picture: int, forward_s: float, overhead_s: float, *, tried: bool) -> None:
        """``tokens`` were computed, of which ``picture`` show something; not for lack of trying?"""
        self._whole.append(forward_s / tokens)
        self._count(picture, 0.0, 0.0, overhead_s, tried=tried)

    def partial(self, tokens: int, picture: int, reused: float, forward_s: float, overhead_s: float) -> None:
        """Of ``tokens`` new ones ``reused`` were not computed (a token in half of the layers is half)."""
        usual_s = median(self._whole) * tokens if self._whole else forward_s
        self._count(picture, reused, usual_s - forward_s, overhead_s, tried=True)

    def _count(self, picture: int, reused: float, saved_s: float, overhead_s: float, *, tried: bool) -> None:
        self._frames += 1
        self._tokens += picture
        self._reused += reused
        self.add(saved_s + self._vision_s, overhead_s + self._plan_s, tried=tried)
        self._vision_s = self._plan_s = 0.0

    def stats(self, repeated: int) -> ReuseStats:
        return ReuseStats(
            self._frames,
            self._reused / self._tokens if self._tokens else 0.0,
            self.overhead_s * 1e3,
            self.saved_s * 1e3,
            self.reasons[FallbackReason.REFRESH],
            self.auto_offs,
            {reason.value: n for reason, n in self.reasons.items()},
            repeated,
            self._passed_over / self._seen if self._seen else 0.0,
            self.stale,
        )
