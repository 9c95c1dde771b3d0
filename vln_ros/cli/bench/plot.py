"""Draws the bars and lines of the benches' figures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def plot_bars(
    path: Path,
    title: str,
    unit: str,
    bars: Sequence[tuple[str, float, float, float]],
    *,
    logarithmic: bool = False,
) -> None:
    """Horizontal bars with the range of each, as PNG.

    Args:
        bars: name, value, low, high.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(7, 0.8 + 0.4 * len(bars)))
    names = [name for name, *_ in bars]
    values = [value for _, value, _, _ in bars]
    below = [max(0.0, value - low) for _, value, low, _ in bars]
    above = [max(0.0, high - value) for _, value, _, high in bars]
    ax.barh(names, values, xerr=[below, above], capsize=3, color="tab:blue")
    ax.invert_yaxis()
    ax.set(xlabel=unit, title=title)
    if logarithmic:
        ax.set_xscale("log")
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


@dataclass(frozen=True)
class Point:
    """What was measured at ``x``; ``low`` and ``high`` are NaN where there is no interval of it."""

    x: float
    y: float
    low: float = math.nan
    high: float = math.nan


def plot_lines(path: Path, title: str, labels: tuple[str, str], lines: Mapping[str, Sequence[Point]]) -> None:
    """Named lines above nought, with a marker for each point and a bar for its interval, as PNG.

    Args:
        labels: of the axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(7, 3.2))
    draw_lines(ax, lines)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title)
    ax.legend(loc="lower right")
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


def draw_lines(ax: Any, lines: Mapping[str, Sequence[Point]]) -> None:
    """The lines of :func:`plot_lines` on matplotlib's axes."""
    import numpy as np

    for name, points in lines.items():
        x, y, low, high = np.array([(p.x, p.y, p.low, p.high) for p in points]).reshape(-1, 4).T
        # An interval that ends at its value may end beyond it by rounding; NaN stays, and no bar is drawn.
        bars = np.maximum([y - low, high - y], 0.0)
        ax.errorbar(x, y, None if np.isnan(bars).all() else bars, fmt=".-", capsize=3, label=name)
    ends = [v for points in lines.values() for p in points for v in (p.y, p.high) if math.isfinite(v)]
    top = max(ends, default=0.0) or 1.0
    ax.set_ylim(-_ROOM * top, (1.0 + _ROOM) * top)


_ROOM = 0.06
"""Between the lines and the frame, as a share of the height: a line at an end of the scale is seen."""
