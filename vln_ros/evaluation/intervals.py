"""Computes 95 % intervals of a mean over episodes, and whether two runs differ in success.

* A share (success, oracle success) has Wilson's interval: right near 0 and 1 too; 5 of 5 is 57 to 100 %.
* Another mean has a BCa bootstrap interval (Efron 1987), seeded. Above :data:`MOST_RESAMPLED` values it is
  Student's t interval: by then the two hardly differ, and it costs nothing.
* Fewer than :data:`LEAST_VALUES` values tell nothing of the spread: no interval. Nor do values of a mean that
  are all equal.

All of it is scipy's, which is imported where it is needed: the nodes have no use for it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from vln_ros.datatypes import Float64Array

METHOD = "shares Wilson, means BCa bootstrap"
"""For tables and records."""
LEAST_VALUES = 5
MOST_RESAMPLED = 2000
CONFIDENCE = 0.95
NO_INTERVAL = "–"
_RESAMPLES = 2000
_BATCH = 200  # samples drawn at once; bounds the memory
_ROUNDING = 1e-9  # relative; values that differ by less are equal
_TINY = 1e-90  # values that differ by less are, too: the third power of it is hardly a number


@dataclass(frozen=True)
class Estimate:
    """A mean over episodes with its 95 % interval.

    ``mean`` is NaN where nothing was measured; ``low`` and ``high`` are NaN where there is no interval.
    """

    mean: float
    low: float
    high: float
    count: int
    """Episodes that entered the mean."""

    @property
    def excludes_zero(self) -> bool:
        """There is an interval, and 0 is not in it."""
        return self.low > 0.0 or self.high < 0.0

    def interval(self, spec: str, scale: float = 1.0, join: str = " – ") -> str:
        """``low – high`` in a number format; a dash where there is none.

        An interval without width is none either: older records have it of values that are all equal.
        """
        if not (math.isfinite(self.low) and math.isfinite(self.high)) or self.low == self.high:
            return NO_INTERVAL
        return f"{format(scale * self.low, spec)}{join}{format(scale * self.high, spec)}"


NOTHING = Estimate(math.nan, math.nan, math.nan, 0)


def share(count: int, of: int) -> Estimate:
    """``count`` of ``of`` as a share, with Wilson's interval. Raises ValueError: more than all."""
    if not 0 <= count <= of:
        raise ValueError(f"{count} of {of}: no share")
    if of == 0:
        return NOTHING
    if of < LEAST_VALUES:
        return Estimate(count / of, math.nan, math.nan, of)
    from scipy.stats import binomtest

    found = binomtest(count, of).proportion_ci(CONFIDENCE, "wilson")
    return Estimate(count / of, float(found.low), float(found.high), of)


def share_of(values: Float64Array) -> Estimate:
    """:func:`share` of the ones among ``[n]`` zeros and ones; what is not finite is left out."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    return share(int(np.count_nonzero(values)), len(values))


def mean(values: Float64Array, seed: int) -> Estimate:
    """The mean of ``[n]`` with its interval; what is not finite is left out. Same seed, same interval."""
    values = np.asarray(values, np.float64)
    values = values[np.isfinite(values)]
    n = len(values)
    if n == 0:
        return NOTHING
    middle = float(values.mean())
    if n > MOST_RESAMPLED and not _all_equal(values):
        from scipy.stats import t

        spread = float(values.std(ddof=1)) / math.sqrt(n)
        low, high = t.interval(CONFIDENCE, n - 1, middle, spread)
        return Estimate(middle, float(low), float(high), n)
    low, high = _bca((values,), np.mean, seed)
    return Estimate(middle, low, high, n)


def ratio_of_sums(above: Float64Array, below: Float64Array, seed: int) -> Estimate:
    """``above.sum() / below.sum()`` of ``[n]`` pairs, with the interval over the pairs."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)

    def ratio(a: Float64Array, b: Float64Array, axis: int = -1) -> Any:
        return a.sum(axis) / b.sum(axis)

    low, high = math.nan, math.nan
    if not _all_equal(above / below):
        low, high = _bca((above, below), ratio, seed)
    return Estimate(float(ratio(above, below)), low, high, len(above))


def _all_equal(values: Float64Array) -> bool:
    return float(np.ptp(values)) <= max(_TINY, _ROUNDING * float(np.abs(values).max()))


def _bca(samples: tuple[Float64Array, ...], statistic: Callable[..., Any], seed: int) -> tuple[float, float]:
    """The interval of a statistic of paired samples; NaN and NaN where it has no spread."""
    if len(samples[0]) < LEAST_VALUES or all(_all_equal(s) for s in samples):
        return math.nan, math.nan
    from scipy.stats import bootstrap

    found = bootstrap(
        samples,
        statistic,
        n_resamples=_RESAMPLES,
        batch=_BATCH,
        paired=len(samples) > 1,
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired_p_value(wins: int, losses: int) -> float:
    """Exact McNemar test of two runs over the same episodes: how often pairs that differ would fall at
    least so unevenly if neither run were better. 1 where none differs.

    Args:
        wins, losses: pairs in which only the one, or only the other, succeeded.
    """
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)
