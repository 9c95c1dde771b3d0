"""Writes ``report.html`` of a run, which loads nothing from a network."""

from __future__ import annotations

import json
import math
import posixpath
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from vln_ros.evaluation.episode.maps import map_placement
from vln_ros.evaluation.episode.metrics import SummaryRow, summary_remarks, summary_rows
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import METHOD
from vln_ros.evaluation.runs.lines import read_filmed
from vln_ros.evaluation.runs.pages import FilesBeside, FilesInside, PageFiles, render
from vln_ros.evaluation.runs.plots import plots
from vln_ros.evaluation.runs.results import Costs, EpisodeResult, LatencyStats, RunResult

_SHOWN_EACH = 6
"""Episodes with a large map and video among the worst, and among the best."""
_LISTED = 2000
"""Episodes in the table at the end; a browser takes no more."""


@dataclass(frozen=True, kw_only=True)
class _Card:
    """An episode as the template shows it.

    Attributes:
        frames: of the video; 0 where nobody knows.
        way: for each of them where the robot is on the map, as JSON: shares of its width and
            height. Empty where nobody knows.
    """

    number: int
    result: EpisodeResult
    folder: str
    map_link: str | None
    video_link: str | None
    verdict: str
    tone: str
    facts: tuple[tuple[str, str], ...]
    latency: LatencyStats
    frames: int = 0
    way: str = ""


def _number(value: float, spec: str, unit: str = "") -> str:
    if math.isnan(value):
        return "–"
    return format(value, spec) + unit if math.isfinite(value) else "unreachable"


def _card(number: int, e: EpisodeResult, run: Path) -> _Card:
    latency = LatencyStats.of(e.latencies_ms)
    m = e.metrics
    facts: list[tuple[str, str]] = []
    if m is not None:
        facts = [
            ("Error", _number(m.navigation_error_m, ".2f", " m")),
            ("SPL", _number(m.spl, ".2f")),
            ("nDTW", _number(m.ndtw, ".2f")),
            ("Path", _number(m.path_length_m, ".1f", " m")),
            ("Steps", str(m.steps)),
            ("Collisions", str(m.collisions)),
        ]
    facts += [
        ("Decisions", str(e.decisions)),
        ("Latency p50", _number(latency.p50, ".0f", " ms")),
        ("Latency p95", _number(latency.p95, ".0f", " ms")),
        ("Ended by", e.ended),
        ("Took", f"{e.wall_s:.1f} s"),
    ]
    if e.standing_s is not None:
        facts.append(("Standing still", f"{e.standing_s:.1f} s"))
    elif e.cost is not None:
        facts.append(("Waited", f"{e.cost.waited_s:.1f} s"))
    verdict, tone = (
        ("recorded", "plain") if m is None else ("success", "good") if m.success else ("failure", "bad")
    )
    folder = posixpath.normpath(f"episodes/{e.folder}")
    files = [f"{folder}/{name}" for name in ("map.png", "video.mp4")]
    map_link, video = (name if (run / name).exists() else None for name in files)
    return _Card(
        number=number,
        result=e,
        folder=folder,
        map_link=map_link,
        video_link=video,
        verdict=verdict,
        tone=tone,
        facts=tuple(facts),
        latency=latency,
    )


def _shown(card: _Card, run: Path) -> _Card:
    """An episode that is shown large: with the frames of its video, and the robot's way on its map."""
    if card.video_link is None:
        return card
    poses = read_filmed(run / card.folder)
    if not poses:
        return replace(card, frames=card.result.video_frames)
    card = replace(card, frames=len(poses))  # an episode that was filmed later has none in its line
    placement = None if card.map_link is None else map_placement(run / card.map_link)
    if placement is None:
        return card
    shares = placement.shares(np.array([(s.x_m, s.y_m) for s in poses], np.float64))
    return replace(card, way=json.dumps(shares.round(4).tolist(), separators=(",", ":")))


def _quality(e: EpisodeResult) -> tuple[float, float, float]:
    """Sorts from worst to best: success, then SPL, then how near the robot ended."""
    m = e.metrics
    if m is None:
        return (0.0, 0.0, 0.0)
    return (float(m.success), 0.0 if math.isnan(m.spl) else m.spl, -m.navigation_error_m)


@dataclass(frozen=True)
class _Section:
    title: str
    episodes: tuple[EpisodeResult, ...]


def _sections(episodes: Sequence[EpisodeResult]) -> list[_Section]:
    """Worst first, then best; few episodes, or a recording, in one section."""
    if all(e.metrics is None for e in episodes):
        return [_Section("Episodes", tuple(episodes[: 2 * _SHOWN_EACH]))]
    ranked = sorted(episodes, key=_quality)
    if len(ranked) <= _SHOWN_EACH:
        return [_Section("Episodes, worst first", tuple(ranked))]
    worst = min(_SHOWN_EACH, len(ranked) // 2)
    best = ranked[worst:][-_SHOWN_EACH:]
    return [
        _Section("Worst episodes", tuple(ranked[:worst])),
        _Section("Best episodes", tuple(reversed(best))),
    ]


def extremes(episodes: Sequence[EpisodeResult]) -> list[EpisodeResult]:
    """The episodes that the report shows large, with map and video."""
    return [e for section in _sections(episodes) for e in section.episodes]


@dataclass(frozen=True)
class _Share:
    """One row of the table of where the time went."""

    name: str
    per_episode_s: float
    share: float


def _time_shares(costs: Costs) -> list[_Share]:
    """Where the wall time of the workers went; empty where nobody counted."""
    if not costs.episodes or not costs.wall_s:
        return []
    parts = [
        ("Decisions", costs.decide_s),
        ("Taking in frames", costs.observe_s),
        ("Rendering", costs.render_s),
        ("Loading scenes", costs.load_s),
        ("Measures", costs.measure_s),
    ]
    parts.append(("The rest (videos, motion, files)", max(0.0, costs.wall_s - sum(s for _, s in parts))))
    return [_Share(name, s / costs.episodes, s / costs.wall_s) for name, s in parts]


def _page(result: RunResult, folder: Path, files: PageFiles) -> str:
    number = {id(e): n for n, e in enumerate(result.episodes, 1)}
    sections = [
        (s.title, [_shown(_card(number[id(e)], e, folder), folder) for e in s.episodes])
        for s in _sections(result.episodes)
    ]
    cards = [_card(n, e, folder) for n, e in enumerate(result.episodes[:_LISTED], 1)]
    rows: list[SummaryRow] = summary_rows(result.summary) if result.summary.episodes else []
    return render(
        "report.html.j2",
        {"num": _number},
        result=result,
        command=shlex.join(result.info.command),
        rows=rows,
        cards=cards,
        sections=sections,
        plots=plots(result, folder),
        latency=result.latency_ms,
        shares=_time_shares(result.costs),
        method=METHOD,
        decides=result.info.decides,
        ends=Counter(e.ended for e in result.episodes).most_common(),
        remarks=summary_remarks(result.summary),
        failures=sum(s.engine_failure for s in result.skipped),
        files=files,
    )


def write_report(result: RunResult, folder: Path) -> Path:
    """Write ``report.html`` and ``plots/`` into a run folder and return the page's path."""
    path = folder / "report.html"
    write_atomically(path, _page(result, folder, FilesBeside()))
    return path


def export_report(result: RunResult, folder: Path, path: Path) -> Path:
    """The report of a run folder as one file, to be sent to somebody: its pictures and videos are in it.

    Maps and videos of the episodes that it shows large; of the others a small map.
    """
    files = FilesInside(folder, {"result.json": result.to_json().encode()})
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, _page(result, folder, files))
    return path
