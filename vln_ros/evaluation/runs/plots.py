"""Draws the plots of a report."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.runs.results import RunResult


def histogram(values: Sequence[float], title: str, unit: str, path: Path) -> bool:
    """An SVG histogram of the finite values; False, and no file, where there are none."""
    finite = np.asarray(values, np.float64)
    finite = finite[np.isfinite(finite)]
    if len(finite) == 0:
        return False
    figure = Figure(figsize=(4.6, 2.5))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.12, 0.24, 0.84, 0.60))
    if finite.min() == finite.max():  # one value: a bar of its own width, not numpy's -0.5 ... +0.5
        half = max(abs(float(finite[0])) * 0.05, 0.05)
        span = (float(finite[0]) - half, float(finite[0]) + half)
    else:
        span = (float(finite.min()), float(finite.max()))
    bins = int(np.clip(round(math.sqrt(len(finite)) * 2), 8, 40))
    axes.hist(finite, bins=bins, range=span, color="#2b7de9", edgecolor="white", linewidth=0.6)
    median = float(np.median(finite))
    axes.axvline(median, color="#d6258c", linewidth=1.6)
    axes.set_title(
        f"{title}  (median {median:.3g}{' ' + unit if unit else ''}, n = {len(finite)})",
        fontsize=9.5,
        loc="left",
    )
    axes.set_xlabel(unit, fontsize=8.5, color="#66707f")
    axes.tick_params(labelsize=8, colors="#66707f")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color("#c9cfd9")
    # Without a date, and with a fixed salt for its ids, the same run gives the same file.
    with matplotlib.rc_context({"svg.hashsalt": "vln_ros"}):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    write_atomically(path, drawn.getvalue())
    return True


def plots(result: RunResult, folder: Path) -> list[str]:
    (folder / "plots").mkdir(exist_ok=True)
    measured = [e.metrics for e in result.episodes if e.metrics is not None]
    wanted = (
        ("latency.svg", "Decision latency", "ms", [v for e in result.episodes for v in e.latencies_ms]),
        ("navigation_error.svg", "Navigation error", "m", [m.navigation_error_m for m in measured]),
        ("spl.svg", "SPL", "", [m.spl for m in measured]),
        ("steps.svg", "Steps", "", [float(m.steps) for m in measured]),
    )
    return [f"plots/{n}" for n, title, unit, v in wanted if histogram(v, title, unit, folder / "plots" / n)]
