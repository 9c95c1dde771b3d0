"""Draws one map per episode: where the robot should have gone, and where it went."""

from __future__ import annotations

import io
import json
import math
import textwrap
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from PIL import Image

from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.episode.lettering import lettering
from vln_ros.evaluation.episode.record import EpisodeRecord
from vln_ros.evaluation.episode.top_view import Plan
from vln_ros.evaluation.files import write_atomically

_INK = "#1c2430"
_MUTED = "#66707f"
_GOOD = "#1a8f4b"
_BAD = "#c8382f"
_REFERENCE = "#d6258c"
_PLACE = "#7a3fd1"
_MARGIN_M = 1.5
_WIDTH_IN, _MAX_HEIGHT_IN, _HEADER_IN, _FOOTER_IN = 8.0, 7.0, 1.35, 0.42
_TICKS = 16  # headings drawn along a path, at most
_PLACED = "vln_ros map"
"""Key of the PNG's text that says where its metres are."""


def _headline(record: EpisodeRecord) -> tuple[str, str]:
    """The result in one line, and its colour."""
    m = record.metrics
    if m is None:
        return (
            f"{len(record.steps)} poses   ·   {len(record.answers)} decisions   ·   {record.ended}",
            _MUTED,
        )
    verdict = "success" if m.success else "failure"
    error = f"{m.navigation_error_m:.2f} m" if math.isfinite(m.navigation_error_m) else "unreachable"
    line = f"{verdict}   ·   error {error}   ·   path {m.path_length_m:.1f} m   ·   SPL {m.spl:.2f}"
    return f"{line}   ·   {m.steps} steps   ·   {record.ended}", _GOOD if m.success else _BAD


def _window(points: Float64Array, size_px: tuple[int, int] | None, px_per_m: float) -> tuple[float, ...]:
    """Left, right, low, high of what is shown: the points with a margin, not beyond the plan."""
    margin = _MARGIN_M * px_per_m
    low, high = points.min(axis=0) - margin, points.max(axis=0) + margin
    # A straight corridor walk must not become a sliver: at least 2/3 as high as wide and the reverse.
    extent = high - low
    grow = np.maximum(extent, extent.max() * 2.0 / 3.0) - extent
    low, high = low - grow / 2.0, high + grow / 2.0
    if size_px is not None:
        if max(size_px) <= 2.0 * max(extent):  # the whole plan tells more
            return -0.5, size_px[0] - 0.5, -0.5, size_px[1] - 0.5
        limit = np.array(size_px, np.float64) - 0.5
        low, high = np.clip(low, -0.5, limit), np.clip(high, -0.5, limit)
    return float(low[0]), float(high[0]), float(low[1]), float(high[1])


def _nice_length_m(span_m: float) -> float:
    """A round length of about a fifth of ``span_m``."""
    target = max(span_m / 5.0, 1e-3)
    power = 10.0 ** math.floor(math.log10(target))
    return max(f for f in (power, 2.0 * power, 5.0 * power) if f <= target * 1.0001)


def _place(plan: Plan | None, xy: Float64Array) -> Float64Array:
    """Metres to what the axes count: the plan's pixels where there is one."""
    xy = np.asarray(xy, np.float64)
    return xy if plan is None else np.asarray(plan.to_pixel(xy), np.float64)


def draw_map(record: EpisodeRecord, plan: Plan | None) -> Figure:
    """The map of one episode as a figure (no display is needed).

    Args:
        record: the episode; poses in metres, in the plan's frame.
        plan: the scene from above; None draws on a metric grid.
    """
    info = record.info
    path = record.positions[:, :2]
    if len(path) == 0:
        path = np.zeros((0, 2))
    place = partial(_place, plan)
    px_per_m = float(np.linalg.norm(place(np.array([1.0, 0.0])) - place(np.zeros(2))))
    shown = [path]
    circle = None
    if info.goal is not None and info.goal_radius_m is not None:
        angle = np.linspace(0.0, 2.0 * math.pi, 73)
        circle = np.asarray(info.goal, np.float64)[:2] + info.goal_radius_m * np.stack(
            [np.cos(angle), np.sin(angle)], axis=1
        )
        shown.append(circle)
    if info.reference_path is not None:
        shown.append(np.asarray(info.reference_path, np.float64)[:, :2])
    everything = np.concatenate(shown)
    if len(everything) == 0:
        everything = np.zeros((1, 2))

    size = None if plan is None else (plan.image.shape[1], plan.image.shape[0])
    left, right, low, high = _window(place(everything), size, px_per_m)
    width, height = _WIDTH_IN * 0.86, min(_WIDTH_IN * 0.86 * (high - low) / (right - left), _MAX_HEIGHT_IN)
    total = _HEADER_IN + height + _FOOTER_IN
    figure = Figure(figsize=(_WIDTH_IN, total), dpi=100, facecolor="white")
    FigureCanvasAgg(figure)
    inner = (0.03, _FOOTER_IN / total, width / _WIDTH_IN, height / total)
    axes = figure.add_axes(inner)
    if plan is not None:
        axes.imshow(plan.image, interpolation="bilinear", alpha=0.85)
    axes.set_xlim(left, right)
    axes.set_ylim((high, low) if plan is not None else (low, high))  # rows of an image count downwards
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_color("#d5dae2")
    if plan is None:
        axes.set_facecolor("#f6f7f9")
        for draw, a, b in ((axes.axvline, left, right), (axes.axhline, low, high)):
            if b - a <= 200.0:
                for at in range(math.ceil(a), math.floor(b) + 1):
                    draw(at, color="#e6e9ee", linewidth=0.8, zorder=0)

    if circle is not None and info.goal is not None:
        ring = place(circle)
        axes.fill(ring[:, 0], ring[:, 1], color=_GOOD, alpha=0.12, zorder=1, linewidth=0)
        axes.plot(ring[:, 0], ring[:, 1], color=_GOOD, linewidth=1.4, zorder=2)
        star = place(np.asarray(info.goal, np.float64)[:2])
        axes.plot(
            *star,
            marker="*",
            linestyle="none",
            markersize=19,
            color=_GOOD,
            markeredgecolor="white",
            label="goal",
            zorder=8,
        )
    if info.reference_path is not None:
        line = place(np.asarray(info.reference_path, np.float64)[:, :2])
        axes.plot(
            line[:, 0],
            line[:, 1],
            "--",
            color=_REFERENCE,
            linewidth=2.0,
            dashes=(4, 2.5),
            label="reference",
            zorder=3,
        )
    _places(axes, record, place)
    if len(path):
        _travelled(figure, axes, record, place(path), place)
    if axes.get_legend_handles_labels()[0]:
        figure.legend(
            loc="lower left", ncols=5, fontsize=9, frameon=False, handletextpad=0.4, columnspacing=1.4,
            bbox_to_anchor=(0.02, 0.0),
        )  # fmt: skip

    span_m = (right - left) / px_per_m
    length_m = _nice_length_m(span_m)
    _scale_bar(axes, length_m, length_m * px_per_m / (right - left))
    name = textwrap.shorten(f"{info.scene_id}   #{info.episode_id}", 100, placeholder="…")
    told = lettering(textwrap.shorten(info.instruction, 260, placeholder=" …"))
    text = textwrap.fill(told.text + (f" [{told.note}]" if told.note else ""), 92)
    letters = {} if told.font is None else {"fontproperties": FontProperties(fname=told.font)}
    verdict, colour = _headline(record)
    lines: tuple[tuple[float, str, dict[str, Any]], ...] = (
        (0.15, name, {"fontsize": 9, "color": _MUTED, "va": "top"}),
        (0.38, text, {**letters, "fontsize": 11, "color": _INK, "va": "top"}),
        (_HEADER_IN - 0.1, verdict, {"fontsize": 10.5, "color": colour, "va": "bottom", "weight": "bold"}),
    )
    for inches, words, style in lines:
        figure.text(0.03, 1.0 - inches / total, words, parse_math=False, **style)
    return figure


def _travelled(figure: Figure, axes: Any, record: EpisodeRecord, line: Float64Array, place: Any) -> None:
    """The way the robot took, coloured by time, with headings and collisions."""
    steps = record.steps
    time_s = np.array([s.stamp_ns - steps[0].stamp_ns for s in steps]) / 1e9
    if len(line) > 1:
        segments = np.stack([line[:-1], line[1:]], axis=1)
        axes.add_collection(
            LineCollection(list(segments), colors="white", linewidths=5.5, zorder=4, capstyle="round")
        )
        ways = LineCollection(list(segments), cmap="viridis", linewidths=3.2, zorder=5, capstyle="round")
        ways.set_array(time_s[1:])
        axes.add_collection(ways)
        if time_s[-1] > 0.0:
            box = axes.get_position()
            bar = figure.colorbar(ways, cax=figure.add_axes((0.91, box.y0, 0.018, box.height)))
            bar.set_label("time [s]", fontsize=9, color=_MUTED)
            bar.ax.tick_params(labelsize=8, colors=_MUTED)
            bar.outline.set_visible(False)
    picked = np.unique(np.linspace(0, len(steps) - 1, _TICKS).round().astype(int))
    yaw = np.array([steps[i].yaw_rad for i in picked])
    tail = record.positions[picked, :2]
    heading = place(tail + 0.01 * np.stack([np.cos(yaw), np.sin(yaw)], axis=1)) - place(tail)
    heading /= np.maximum(np.linalg.norm(heading, axis=1, keepdims=True), 1e-12)
    axes.quiver(
        *line[picked].T, *heading.T, angles="xy", scale_units="inches", scale=5.5, width=0.0028, color=_INK,
        zorder=6, headwidth=4.5, headlength=5, headaxislength=4.5,
    )  # fmt: skip
    hits = [i for i, s in enumerate(steps) if s.collided]
    if hits:
        axes.plot(
            *line[hits].T, "X", color="#f28c28", markeredgecolor="white", markersize=9, label="collision",
            linestyle="none", zorder=7,
        )  # fmt: skip
    axes.plot(
        *line[0], "o", color="#2b7de9", markeredgecolor="white", markeredgewidth=1.5, markersize=11,
        label="start", linestyle="none", zorder=7,
    )  # fmt: skip
    axes.plot(
        *line[-1], "s", color=_INK, markeredgecolor="white", markeredgewidth=1.5, markersize=9, label="end",
        linestyle="none", zorder=9,
    )  # fmt: skip


def _places(axes: Any, record: EpisodeRecord, place: Any) -> None:
    """The places that the answers named, each with a line from where the robot was when it was told."""
    named = [d for d in record.answers if d.chunk.place is not None]
    for n, d in enumerate(named):
        goal = d.chunk.place
        assert goal is not None
        ends = np.stack([record.positions[d.step, :2], [goal.x_m, goal.y_m]])
        axes.plot(*place(ends).T, ":", color=_PLACE, linewidth=1.2, zorder=3)
        axes.plot(
            *place(ends[1]), "o", color="white", markeredgecolor=_PLACE, markeredgewidth=1.8, markersize=6,
            label="pixel goal" if n == 0 else None, linestyle="none", zorder=6,
        )  # fmt: skip


def _scale_bar(axes: Any, length_m: float, share: float) -> None:
    """A bar of ``length_m`` below the axes at the right; ``share`` of the axes' width."""
    y = -0.045
    axes.plot(
        [1.0 - share, 1.0], [y, y], transform=axes.transAxes, color=_INK, linewidth=4, solid_capstyle="butt",
        clip_on=False,
    )  # fmt: skip
    axes.text(
        0.99 - share, y, f"{length_m:g} m", transform=axes.transAxes, fontsize=9, color=_INK,
        ha="right", va="center",
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class MapPlacement:
    """Where a map's metres are in its picture.

    Attributes:
        matrix: ``[2, 3]``; times ``[x_m, y_m, 1]`` it is the share of the picture's width from the left and
            of its height from the top.
    """

    matrix: Float64Array

    def shares(self, xy: Float64Array) -> Float64Array:
        """``[n, 2]`` metres to ``[n, 2]`` shares."""
        return np.asarray(xy @ self.matrix[:, :2].T + self.matrix[:, 2], np.float64)


def write_map(record: EpisodeRecord, plan: Plan | None, path: Path) -> None:
    """:func:`draw_map` as a PNG, written whole or not at all; it holds its :class:`MapPlacement`."""
    figure = draw_map(record, plan)
    axes = figure.axes[0]
    axes.apply_aspect()
    ends = _place(plan, np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    shares = axes.transData.transform(ends) / (figure.get_size_inches() * figure.dpi)
    shares[:, 1] = 1.0 - shares[:, 1]
    zero, x, y = shares
    matrix = np.stack([x - zero, y - zero, zero], axis=1)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", metadata={_PLACED: json.dumps(matrix.tolist())})
    write_atomically(path, drawn.getvalue())


def map_placement(path: Path) -> MapPlacement | None:
    """Of a map that :func:`write_map` has written; None for another picture, or one of an earlier release."""
    try:
        with Image.open(path) as picture:
            text = picture.info.get(_PLACED)
        matrix = np.array(json.loads(text), np.float64) if isinstance(text, str) else np.empty(0)
    except (OSError, ValueError):
        return None
    return MapPlacement(matrix) if matrix.shape == (2, 3) and np.isfinite(matrix).all() else None
