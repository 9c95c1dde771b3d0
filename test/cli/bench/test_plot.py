"""Lines of benches: a marker for what was measured, a bar for its interval, and room at the frame."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.cli.bench.plot import Point, draw_lines, plot_lines
from vln_ros.evaluation.intervals import share

mpl.use("Agg")
from matplotlib import pyplot as plt


def drawn(lines: dict[str, list[Point]]) -> Any:
    fig, ax = plt.subplots()
    draw_lines(ax, lines)
    plt.close(fig)
    return ax


def bars(ax: Any) -> list[np.ndarray]:
    """Of each line that has any the bars ``[[x, low], [x, high]]`` that are seen."""
    return [
        np.array([s for s in line.lines[2][0].get_segments() if len(s) and np.isfinite(s).all()])
        for line in ax.containers
        if line.has_yerr
    ]


def wilson(x: float, successes: int, of: int) -> Point:
    found = share(successes, of)
    return Point(x, 100 * found.mean, 100 * found.low, 100 * found.high)


def test_every_point_has_a_marker_and_every_interval_a_bar() -> None:
    ax = drawn({"success": [wilson(0, 99, 100), wilson(1, 12, 20)], "memory": [Point(0, 3.0), Point(2, 4.0)]})
    data = [line.lines[0] for line in ax.containers]
    assert [line.get_label() for line in ax.containers] == ["success", "memory"]
    assert all(line.get_marker() not in ("", "None", None) for line in data)
    assert [line.get_ydata().tolist() for line in data] == [[99.0, 60.0], [3.0, 4.0]]
    (success,) = bars(ax)  # and what has no interval looks like it in the legend, too
    expected = [share(99, 100), share(12, 20)]
    assert success[:, :, 1].tolist() == pytest.approx(
        np.array([[100 * e.low, 100 * e.high] for e in expected]), abs=1e-9
    )


def test_a_point_without_interval_stands_among_others() -> None:
    """Two episodes tell nothing of the spread: a share of them has none."""
    assert math.isnan(share(1, 2).low)
    (found,) = bars(drawn({"success": [wilson(0, 5, 20), wilson(1, 1, 2), wilson(2, 20, 20)]}))
    assert found[:, 0, 0].tolist() == [0.0, 2.0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.tuples(st.integers(0, 20), st.floats(0.001, 1000.0)), min_size=1, max_size=5))
def test_nothing_lies_on_the_frame(points: list[tuple[int, float]]) -> None:
    """Also a line along an end of the scale, and whatever the unit."""
    lines = [wilson(i, n, 20) for i, (n, _) in enumerate(points)]
    for some in (lines, [Point(i, y) for i, (_, y) in enumerate(points)], [Point(i, 0.0) for i in range(3)]):
        ax = drawn({"line": some})
        ends = [v for p in some for v in (p.y, p.low, p.high) if math.isfinite(v)]
        bottom, top = ax.get_ylim()
        room = 0.03 * (top - bottom)
        assert bottom + room < min(0.0, *ends) and max(ends) < top - room


@pytest.mark.parametrize("lines", [{"none": []}, {"one": [Point(0.0, 100.0, 83.9, 100.0)]}])
def test_little_is_drawn_too(tmp_path: Path, lines: dict[str, list[Point]]) -> None:
    path = tmp_path / "plots" / "lines.png"
    plot_lines(path, "title", ("x", "y"), lines)
    assert path.read_bytes().startswith(b"\x89PNG")
