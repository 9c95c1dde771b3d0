"""What reuse costs and saves, measured while it runs, and when it must switch itself off."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol, runtime_checkable

from vln_ros.reuse.refusal import Refusal

_SAMPLES = 5


@dataclass(frozen=True)
class ReuseStats:
    """One run's reuse.

    Attributes:
        frames: pictures that were prefilled.
        reuse: mean share of their tokens that was taken over.
        overhead_ms: time spent on finding out what to take over, and copying it.
        saved_ms: estimated decoder time that was not needed; the overhead is not subtracted.
        refreshes: frames computed whole only because it was time.
        auto_offs: times that it switched itself off.
        refused: frames from which nothing was taken over, by reason.
        repeated: frames equal to the one before, whose vision features were taken over (exact).
    """

    frames: int
    reuse: float
    overhead_ms: float
    saved_ms: float
    refreshes: int
    auto_offs: int
    refused: Mapping[str, int] = field(default_factory=dict)
    repeated: int = 0


@runtime_checkable
class Reusing(Protocol):
    """An engine that may take over what it computed before."""

    def reuse_stats(self) -> ReuseStats | None:
        """Of the present run; None where reuse is not configured."""


class NetMeter:
    """Holds the time of whole prefills against that of partial ones.

    Args:
        window: frames over which the net must not be negative; 0 never switches off.
    """

    def __init__(self, window: int) -> None:
        self._window = window
        self._whole: deque[float] = deque(maxlen=_SAMPLES)
        self.begin()

    def begin(self) -> None:
        """A new run: it may be tried again. What a whole prefill takes is still known."""
        self._net: deque[float] = deque(maxlen=max(self._window, 1))
        self._frames = self._tokens = 0
        self._reused = self._overhead_s = self._saved_s = 0.0
        self._refused: Counter[Refusal] = Counter()
        self.off = False
        self.auto_offs = 0

    def refused(self, reason: Refusal) -> None:
        self._refused[reason] += 1

    def whole(self, tokens: int, picture: int, forward_s: float, overhead_s: float, *, tried: bool) -> None:
        """``tokens`` were computed, of which ``picture`` show something; not for lack of trying?"""
        self._whole.append(forward_s / tokens)
        self._count(picture, 0.0, overhead_s, 0.0, tried)

    def partial(self, tokens: int, picture: int, reused: float, forward_s: float, overhead_s: float) -> None:
        """Of ``tokens`` new ones ``reused`` were not computed (a token in half of the layers is half)."""
        usual_s = median(self._whole) * tokens if self._whole else forward_s
        self._count(picture, reused, overhead_s, usual_s - forward_s, True)

    def _count(self, picture: int, reused: float, overhead_s: float, saved_s: float, tried: bool) -> None:
        self._frames += 1
        self._tokens += picture
        self._reused += reused
        self._overhead_s += overhead_s
        self._saved_s += saved_s
        if tried:
            self._net.append(saved_s - overhead_s)
        if self._window and not self.off and len(self._net) == self._window and sum(self._net) < 0.0:
            self.off = True
            self.auto_offs += 1

    def stats(self, repeated: int) -> ReuseStats:
        return ReuseStats(
            self._frames,
            self._reused / self._tokens if self._tokens else 0.0,
            self._overhead_s * 1e3,
            self._saved_s * 1e3,
            self._refused[Refusal.REFRESH],
            self.auto_offs,
            {reason.value: n for reason, n in self._refused.items()},
            repeated,
        )
