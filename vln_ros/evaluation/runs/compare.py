"""Compares two runs episode by episode."""

from __future__ import annotations

import io
import math
import os
import posixpath
import shlex
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import matplotlib
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from vln_ros.config import ConfigError
from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.episode.metrics import MEASURES, metric_columns
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import CONFIDENCE, Estimate, mean, paired_p_value
from vln_ros.evaluation.runs.loading import LoadedRun, short_scene
from vln_ros.evaluation.runs.pages import render
from vln_ros.evaluation.runs.results import EpisodeResult

_LABELS = {
    "success": ("Success [%]", 100.0),
    "spl": ("SPL [%]", 100.0),
    "oracle_success": ("Oracle success [%]", 100.0),
    "navigation_error_m": ("Navigation error [m]", 1.0),
    "path_length_m": ("Path length [m]", 1.0),
    "ndtw": ("nDTW [%]", 100.0),
    "sdtw": ("SDTW [%]", 100.0),
    "collisions": ("Collisions", 1.0),
    "steps": ("Steps", 1.0),
}
_LISTED = 50


@dataclass(frozen=True)
class Difference:
    """One measure over the episodes that have it in both runs.

    Attributes:
        label: with the unit in which the numbers are.
        a, b: means.
        difference: b - a, with the 95 % interval of the paired differences and the number of pairs.
        p_value: of success, by McNemar's exact test; None for the others, whose interval says it.
    """

    label: str
    a: float
    b: float
    difference: Estimate
    p_value: float | None = None

    @property
    def differs(self) -> bool:
        """By more than chance would have it, looked at alone."""
        if self.p_value is not None:
            return self.p_value < 1.0 - CONFIDENCE
        return self.difference.excludes_zero


@dataclass(frozen=True, eq=False, kw_only=True)
class Comparison:
    """Of two runs, over the episodes that both have.

    Attributes:
        differences: the measures.
        wins, losses: pairs ``(a, b)`` in which b, or a, alone succeeded; the clearest first.
        better, worse: pairs with the same verdict in which b ended nearer to the goal, or a did; the clearest
            first.
        both, neither: how many succeeded in both runs, and in none.
        only_a, only_b: episodes that the other run does not have.
        notes: what makes the comparison less than fair.
    """

    a: LoadedRun
    b: LoadedRun
    differences: tuple[Difference, ...]
    wins: tuple[tuple[EpisodeResult, EpisodeResult], ...]
    losses: tuple[tuple[EpisodeResult, EpisodeResult], ...]
    better: tuple[tuple[EpisodeResult, EpisodeResult], ...]
    worse: tuple[tuple[EpisodeResult, EpisodeResult], ...]
    both: int
    neither: int
    only_a: int
    only_b: int
    notes: tuple[str, ...]

    @property
    def pairs(self) -> int:
        return len(self.wins) + len(self.losses) + self.both + self.neither

    @property
    def success_test(self) -> str:
        """How success was paired, and McNemar's test of it."""
        p = paired_p_value(len(self.wins), len(self.losses))
        return (
            f"success: {len(self.wins)} only B, {len(self.losses)} only A, {self.both} both, "
            f"{self.neither} neither; exact McNemar p = {p:.2g}"
        )

    @property
    def multiplicity(self) -> str:
        """What many measures at once do to the word \"differs\"."""
        many = len(self.differences)
        chance = 1.0 - CONFIDENCE**many
        return (
            f"{many} measures are looked at at once: of two equal runs, at least one would be marked in up "
            f"to {chance:.0%} of comparisons. Decide on one measure beforehand, or ask for p < "
            f"{0.05 / many:.2g} (Bonferroni)"
        )


def compare(a: LoadedRun, b: LoadedRun, seed: int = 0) -> Comparison:
    """Pair the episodes of two runs by their id, and compare.

    Raises:
        ConfigError: no episode is in both, or the same id means another scene.
    """
    ours = {e.episode_id: e for e in a.episodes if e.metrics is not None}
    theirs = {e.episode_id: e for e in b.episodes if e.metrics is not None}
    common = [i for i in ours if i in theirs]
    if not common:
        raise ConfigError(f"{a.name} and {b.name} have no measured episode in common: are they of one split?")
    for i in common:
        scenes = [short_scene(e.scene_id) for e in (ours[i], theirs[i]) if e.scene_id]
        if len(set(scenes)) > 1:
            raise ConfigError(f"episode {i} is in {scenes[0]} in {a.name}, in {scenes[1]} in {b.name}")
    pairs = [(ours[i], theirs[i]) for i in common]
    columns = [
        metric_columns([e.metrics for e in side if e.metrics is not None])
        for side in zip(*pairs, strict=True)
    ]
    won = columns[1][:, 0] - columns[0][:, 0]
    wins = [p for p, w in zip(pairs, won, strict=True) if w > 0]
    losses = [p for p, w in zip(pairs, won, strict=True) if w < 0]
    succeeded = columns[0][:, 0] > 0
    nearer = [(p, _nearer_m(p)) for p, w in zip(pairs, won, strict=True) if w == 0]
    return Comparison(
        a=a,
        b=b,
        differences=_differences(columns[0], columns[1], seed, paired_p_value(len(wins), len(losses))),
        wins=tuple(sorted(wins, key=_clearness)),
        losses=tuple(sorted(losses, key=lambda p: _clearness((p[1], p[0])))),
        better=tuple(p for p, m in sorted(nearer, key=lambda n: -n[1]) if m > 0.0),
        worse=tuple(p for p, m in sorted(nearer, key=lambda n: n[1]) if m < 0.0),
        both=int((succeeded & (won == 0)).sum()),
        neither=int((~succeeded & (won == 0)).sum()),
        only_a=len(ours) - len(common),
        only_b=len(theirs) - len(common),
        notes=_notes(a, b),
    )


def _clearness(pair: tuple[EpisodeResult, EpisodeResult]) -> float:
    """Smaller for a failure that ended farther away."""
    m = pair[0].metrics
    return 0.0 if m is None or math.isnan(m.navigation_error_m) else -m.navigation_error_m


def _nearer_m(pair: tuple[EpisodeResult, EpisodeResult]) -> float:
    """By how much b ended nearer to the goal than a; 0 where that is not known."""
    a, b = (math.nan if e.metrics is None else e.metrics.navigation_error_m for e in pair)
    return 0.0 if math.isnan(a - b) else a - b


def _differences(a: Float64Array, b: Float64Array, seed: int, success_p: float) -> tuple[Difference, ...]:
    """Of the measures ``[n, 9]`` of the same episodes; only pairs in which both are finite count."""
    rows = []
    for name, ours, theirs in zip(MEASURES, a.T, b.T, strict=True):
        label, scale = _LABELS[name]
        usable = np.isfinite(ours) & np.isfinite(theirs)
        if not usable.any():
            continue
        ours, theirs = ours[usable] * scale, theirs[usable] * scale
        p_value = success_p if name == "success" else None
        difference = mean(theirs - ours, seed)
        rows.append(Difference(label, float(ours.mean()), float(theirs.mean()), difference, p_value))
    return tuple(rows)


def _notes(a: LoadedRun, b: LoadedRun) -> tuple[str, ...]:
    notes = [f"{run.name}: {note}" for run in (a, b) for note in run.notes]
    notes += [
        f"{run.name}: values behind the means: {', '.join(run.coverage)}" for run in (a, b) if run.coverage
    ]
    if a.protocol is None or b.protocol is None:
        notes += [f"{r.name}: its files do not state the protocol" for r in (a, b) if r.protocol is None]
    elif a.protocol != b.protocol:
        ours, theirs = vars(a.protocol), vars(b.protocol)
        notes += [
            f"another {n}: {' and '.join('none' if v == '' else str(v) for v in (ours[n], theirs[n]))}"
            for n in ours
            if ours[n] != theirs[n]
        ]
    return tuple(notes)


def comparison_table(c: Comparison) -> str:
    """As text for the terminal."""
    lines = [f"A = {c.a.name} ({c.a.who}), B = {c.b.name} ({c.b.who}); {c.pairs} episodes in both"]
    if c.only_a or c.only_b:
        lines.append(f"left out: {c.only_a} only in A, {c.only_b} only in B")
    lines.append(f"{'':<22}{'A':>9}{'B':>9}{'B - A':>9}   {'95 % interval':<20}{'pairs':>7}")
    for d in c.differences:
        e = d.difference
        interval = e.interval("+.2f")
        mark = " *" if d.differs else ""
        lines.append(f"{d.label:<22}{d.a:>9.2f}{d.b:>9.2f}{e.mean:>+9.2f}   {interval:<20}{e.count:>7}{mark}")
    lines.append(c.success_test)
    lines.append("*: p < 0.05 (success), or an interval without 0. " + c.multiplicity)
    return "\n".join([*lines, *(f"note: {n}" for n in c.notes)])


def write_comparison(c: Comparison, folder: Path) -> Path:
    """``compare.html`` with its plots; returns its path."""
    folder.mkdir(parents=True, exist_ok=True)
    _forest(c, folder / "differences.svg")
    _scatter(c, folder / "errors.svg")
    page = render(
        "compare.html.j2",
        {"metres": _metres},
        c=c,
        lists=[
            (title, [_pair(p, c, folder) for p in pairs[:_LISTED]], len(pairs))
            for title, pairs in (
                ("Only B succeeded", c.wins),
                ("Only A succeeded", c.losses),
                ("The same verdict, B ended nearer to the goal", c.better),
                ("The same verdict, A ended nearer to the goal", c.worse),
            )
        ],
        runs=[_run_rows(run, folder) for run in (c.a, c.b)],
        options=_other_options(c.a, c.b),
    )
    path = folder / "compare.html"
    write_atomically(path, page)
    return path


@dataclass(frozen=True)
class _Side:
    """An episode in one of the runs: error in metres, SPL in percent, and where its map and video are."""

    error_m: float
    spl: str
    map_link: str
    video_link: str


@dataclass(frozen=True)
class _Pair:
    """An episode as the page lists it."""

    scene_id: str
    episode_id: str
    instruction: str
    sides: tuple[_Side, _Side]


def _link(run: LoadedRun, name: str, page: Path) -> str:
    """From the page's folder to a file of a run of ours; empty where there is none."""
    if run.own is None or not (run.own.folder / name).is_file():
        return ""
    return quote(Path(os.path.relpath((run.own.folder / name).resolve(), page.resolve())).as_posix())


def _pair(pair: tuple[EpisodeResult, EpisodeResult], c: Comparison, page: Path) -> _Pair:
    sides = []
    for e, run in zip(pair, (c.a, c.b), strict=True):
        assert e.metrics is not None, "episodes are paired by what was measured"
        folder = posixpath.normpath(f"episodes/{e.folder}")
        links = [_link(run, f"{folder}/{name}", page) for name in ("map.png", "video.mp4")]
        sides.append(_Side(e.metrics.navigation_error_m, _percent(e.metrics.spl), *links))
    a, b = pair
    return _Pair(a.scene_id or b.scene_id, a.episode_id, a.instruction or b.instruction, (sides[0], sides[1]))


@dataclass(frozen=True)
class _RunRows:
    """A run as the page introduces it."""

    name: str
    report_link: str
    rows: tuple[tuple[str, str], ...]


def _run_rows(run: LoadedRun, page: Path) -> _RunRows:
    if run.own is None:
        return _RunRows(run.name, "", (("Results of", run.who),))
    info = run.own.info
    d = info.decides
    checkpoint = d.checkpoint + (f" (fingerprint {info.checkpoint})" if info.checkpoint else "")
    versions = ", ".join(f"{name} {v}" for name, v in run.own.versions.items() if name != "platform")
    rows = (
        ("Command", shlex.join(info.command)),
        ("Engine", d.engine),
        ("Profile", d.profile),
        ("Checkpoint", checkpoint),
        ("Seed", str(info.seed)),
        ("Versions", versions),
    )
    return _RunRows(run.name, _link(run, "report.html", page), tuple((k, v) for k, v in rows if v))


def _other_options(a: LoadedRun, b: LoadedRun) -> list[tuple[str, str, str]]:
    """Name and both values of the options that differ, of two runs of ours."""
    if a.own is None or b.own is None:
        return []
    ours, theirs = a.own.info.config, b.own.info.config
    return [
        (name, str(ours.get(name, "–")), str(theirs.get(name, "–")))
        for name in dict.fromkeys([*ours, *theirs])
        if ours.get(name) != theirs.get(name)
    ]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.0f}"


def _metres(value: float) -> str:
    return "unreachable" if math.isinf(value) else "–" if math.isnan(value) else f"{value:.2f}"


def _save(figure: Figure, path: Path) -> None:
    with matplotlib.rc_context({"svg.hashsalt": "vln_ros"}):
        drawn = io.BytesIO()
        figure.savefig(drawn, format="svg", transparent=True, metadata={"Date": None})
    write_atomically(path, drawn.getvalue())


def _forest(c: Comparison, path: Path) -> None:
    """Differences of the rates with their intervals."""
    rates = [d for d in c.differences if d.label.endswith("[%]")]
    figure = Figure(figsize=(6.4, 0.6 + 0.45 * len(rates)))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.27, 0.28, 0.70, 0.68))
    for row, d in enumerate(reversed(rates)):
        e = d.difference
        colour = "#66707f" if not d.differs else "#1a8f4b" if e.mean > 0 else "#c8382f"
        axes.plot([e.low, e.high], [row, row], color=colour, linewidth=3, solid_capstyle="round")
        axes.plot([e.mean], [row], "o", color=colour, markersize=7)
    axes.axvline(0.0, color="#1c2430", linewidth=1.0)
    axes.set_yticks(range(len(rates)), [d.label for d in reversed(rates)], fontsize=9)
    axes.set_ylim(-0.6, len(rates) - 0.4)
    axes.set_xlabel("B - A, percentage points, 95 % interval", fontsize=8.5, color="#66707f")
    axes.tick_params(labelsize=8.5, colors="#66707f")
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    _save(figure, path)


def _scatter(c: Comparison, path: Path) -> None:
    """Navigation error of A against B's, as counts."""
    theirs = {e.episode_id: e.metrics for e in c.b.episodes}
    points: list[tuple[float, float]] = []
    for e in c.a.episodes:
        m, n = e.metrics, theirs.get(e.episode_id)
        if m is not None and n is not None:
            points.append((m.navigation_error_m, n.navigation_error_m))
    errors = np.array(points).reshape(-1, 2)
    errors = errors[np.isfinite(errors).all(axis=1)]
    top = max(1.0, float(errors.max(initial=0.0)) * 1.03)
    figure = Figure(figsize=(4.6, 4.2))
    FigureCanvasSVG(figure)
    axes = figure.add_axes((0.13, 0.13, 0.82, 0.82))
    if len(errors) > 500:
        axes.hexbin(
            errors[:, 0], errors[:, 1], gridsize=40, bins="log", cmap="Blues", mincnt=1, linewidths=0.1
        )
    else:
        axes.plot(
            errors[:, 0], errors[:, 1], "o", color="#2b7de9", alpha=0.5, markersize=5, markeredgewidth=0
        )
    axes.plot([0, top], [0, top], color="#c9cfd9", linewidth=1.0, zorder=0)
    axes.set_xlim(0, top)
    axes.set_ylim(0, top)
    axes.set_xlabel("error of A [m]", fontsize=9, color="#66707f")
    axes.set_ylabel("error of B [m]", fontsize=9, color="#66707f")
    axes.tick_params(labelsize=8.5, colors="#66707f")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    _save(figure, path)
