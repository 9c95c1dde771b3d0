# ruff: noqa: E501  (the page template)
"""Writes ``report.html`` of a run, which loads nothing from a network."""

from __future__ import annotations

import math
import posixpath
import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2

from vln_ros.evaluation.episode.metrics import SummaryRow, summary_remarks, summary_rows
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import METHOD
from vln_ros.evaluation.runs.plots import plots
from vln_ros.evaluation.runs.results import Costs, EpisodeResult, LatencyStats, RunInfo, RunResult

_SHOWN_EACH = 6
"""Episodes with a large map and video among the worst, and among the best."""
_LISTED = 2000
"""Episodes in the table at the end; a browser takes no more."""


@dataclass(frozen=True)
class _Card:
    """An episode as the template shows it."""

    number: int
    result: EpisodeResult
    folder: str
    map_link: str | None
    video_link: str | None
    verdict: str
    tone: str
    facts: tuple[tuple[str, str], ...]
    latency: LatencyStats


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
    return _Card(number, e, folder, map_link, video, verdict, tone, tuple(facts), latency)


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


@dataclass(frozen=True)
class _Decides:
    """Who decided: as the options have it; empty where they do not."""

    engine: str
    profile: str
    checkpoint: str


def _decides(info: RunInfo) -> _Decides:
    def option(name: str) -> str:
        return str(info.config.get(f"navigator.{name}", info.config.get(name, "")))

    engine = option("engine")
    if engine not in ("", "qwen"):
        return _Decides(engine, "", "")
    return _Decides(engine, option("qwen.profile"), option("qwen.checkpoint"))


def write_report(result: RunResult, folder: Path) -> Path:
    """Write ``report.html`` and ``plots/`` into a run folder and return the page's path."""
    number = {id(e): n for n, e in enumerate(result.episodes, 1)}
    sections = [
        (s.title, [_card(number[id(e)], e, folder) for e in s.episodes]) for s in _sections(result.episodes)
    ]
    cards = [_card(n, e, folder) for n, e in enumerate(result.episodes[:_LISTED], 1)]
    rows: list[SummaryRow] = summary_rows(result.summary) if result.summary.episodes else []
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    environment.filters["num"] = _number
    page = environment.from_string(_TEMPLATE).render(
        result=result,
        command=shlex.join(result.info.command),
        rows=rows,
        cards=cards,
        sections=sections,
        plots=plots(result, folder),
        latency=result.latency_ms,
        shares=_time_shares(result.costs),
        method=METHOD,
        decides=_decides(result.info),
        ends=Counter(e.ended for e in result.episodes).most_common(),
        remarks=summary_remarks(result.summary),
        failures=sum(s.engine_failure for s in result.skipped),
    )
    path = folder / "report.html"
    write_atomically(path, page)
    return path


_TEMPLATE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vln_ros · {{ result.info.protocol.name }}</title>
<style>
:root { --ink: #1c2430; --muted: #66707f; --line: #e3e7ed; --page: #f4f6f9; --card: #fff; --blue: #2b7de9;
  --good: #1a8f4b; --bad: #c8382f; --plain: #66707f; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
main { max-width: 1240px; margin: 0 auto; padding: 32px 24px 64px; }
h1 { font-size: 26px; margin: 0 0 4px; letter-spacing: -.01em; }
h2 { font-size: 18px; margin: 40px 0 14px; }
.sub { color: var(--muted); margin: 0 0 16px; }
code, pre { font: 13px/1.5 ui-monospace, "Cascadia Code", Menlo, Consolas, monospace; }
pre { background: #11141a; color: #ecf0f4; border-radius: 10px; padding: 12px 16px; overflow-x: auto; margin: 0;
  white-space: pre-wrap; overflow-wrap: anywhere; }
.panel, .card { background: var(--card); border: 1px solid var(--line); border-radius: 14px;
  box-shadow: 0 1px 2px rgba(20, 30, 50, .04); }
.panel { padding: 6px 18px; overflow-x: auto; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(170px, 1fr)); gap: 12px; margin: 20px 0; }
.tile { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 14px 16px; }
.tile b { display: block; font-size: 28px; line-height: 1.2; letter-spacing: -.02em; }
.tile span { color: var(--muted); font-size: 13px; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 600; font-size: 13px; color: var(--muted); white-space: nowrap; }
th, td { padding: 9px 10px; border-bottom: 1px solid var(--line); vertical-align: middle; }
tbody tr:last-child td { border-bottom: 0; }
.num { text-align: right; white-space: nowrap; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(440px, 1fr)); gap: 16px; align-items: start; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 16px; }
.plots img { width: 100%; background: var(--card); border: 1px solid var(--line); border-radius: 14px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(540px, 1fr)); gap: 18px; }
.card { overflow: hidden; border-top: 4px solid var(--tone); }
.card .text { padding: 14px 18px 16px; }
.card p { margin: 8px 0 12px; font-size: 16px; overflow-wrap: anywhere; max-height: 7.5em; overflow-y: auto; }
.card img, .card video { display: block; width: 100%; background: #11141a; }
.card img { background: #fff; border-bottom: 1px solid var(--line); }
dl { display: grid; grid-template-columns: repeat(auto-fill, minmax(104px, 1fr)); gap: 8px 12px; margin: 0; }
dt { color: var(--muted); font-size: 12px; } dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
.badge { display: inline-block; border-radius: 99px; padding: 1px 11px; font-size: 12.5px; font-weight: 600;
  color: #fff; background: var(--tone); }
.good { --tone: var(--good); } .bad { --tone: var(--bad); } .plain { --tone: var(--plain); }
.id { color: var(--muted); font-size: 13px; margin-left: 8px; overflow-wrap: anywhere; }
.thumb { width: 96px; border-radius: 6px; border: 1px solid var(--line); display: block; }
.instruction { min-width: 260px; max-width: 460px; overflow-wrap: anywhere; }
.instruction div { max-height: 4.6em; overflow-y: auto; }
a { color: var(--blue); text-decoration: none; } a:hover { text-decoration: underline; }
#filter { width: 320px; padding: 8px 12px; border: 1px solid var(--line); border-radius: 10px; font: inherit;
  margin-bottom: 12px; }
th.sort { cursor: pointer; } th.sort:hover { color: var(--ink); }
.warn { background: #fff5e5; border: 1px solid #f4c77b; border-radius: 10px; padding: 10px 16px; margin: 14px 0; }
details summary { cursor: pointer; padding: 10px 0; font-weight: 600; }
@media (max-width: 640px) { .cards, .two { grid-template-columns: 1fr; } }
</style>
</head>
<body>
<main>
{% set p = result.info.protocol %}
<h1>Navigation run <span class="badge plain">{{ p.name }}</span></h1>
{% set count = result.episodes | length %}
<p class="sub">{{ count }} episode{{ "" if count == 1 else "s" }}
{% if p.split %} · {{ p.split }}{% endif %} · {{ p.control }} · seed {{ result.info.seed }}
 · vln_ros {{ result.versions["vln_ros"] }}</p>
<pre>{{ command }}</pre>
{% if not result.complete %}
<div class="warn"><b>This run is not complete</b>{% if result.cut_short %}: {{ result.cut_short }}{% endif %}. The numbers below are of the
{{ count }} episodes that finished.</div>
{% endif %}
{% set lacking = result.episodes | selectattr("given_up") | list %}
{% if lacking %}
<div class="warn"><b>Memory ran out in {{ lacking | length }} of {{ count }} episodes.</b> From then on the model was
shown less than its profile says, until the episode's end; their results count.
<ul>{% for e in lacking[:200] %}<li>{{ e.scene_id }} #{{ e.episode_id }}: {{ e.given_up | join("; ") }}</li>{% endfor %}</ul>
</div>
{% endif %}
{% if result.skipped %}
<div class="warn"><b>{{ result.skipped | length }} of {{ count + result.skipped | length }} episodes could not be
run</b>{% if failures %} ({{ failures }} for a failure of the engine){% endif %} and are in no number below.<details><summary>Which, and why</summary><table><tbody>
{% for s in result.skipped[:200] %}
<tr><td>{{ s.scene_id }} #{{ s.episode_id }}</td><td>{{ s.reason }}</td></tr>
{% endfor %}
</tbody></table></details></div>
{% endif %}
<div class="tiles">
{% for r in rows[:4] %}
<div class="tile"><b>{{ r.value }}</b><span>{{ r.name }}{% if r.interval %}<br>{{ r.interval }}{% endif %}</span></div>
{% endfor %}
<div class="tile"><b>{{ latency.p50 | num(".0f") }}</b><span>Decision latency p50 [ms]<br>p95 {{ latency.p95 | num(".0f") }}
 · max {{ latency.max | num(".0f") }}</span></div>
{% if result.frames %}
<div class="tile"><b>{{ result.frames.aligned }}<small style="font-size:17px"> / {{ result.frames.received }}</small></b>
<span>Frames aligned / received<br>{{ result.frames.dropped }} dropped · {{ result.frames.processed }} processed</span></div>
{% endif %}
</div>

{% if rows %}
<h2>Results</h2>
<div class="panel">
<table>
<thead><tr><th>Measure</th><th class="num">Mean</th><th class="num">95 % interval</th><th class="num">Episodes</th></tr></thead>
<tbody>
{% for r in rows %}
<tr><td>{{ r.name }}</td><td class="num"><b>{{ r.value }}</b></td><td class="num">{{ r.interval }}</td><td class="num">{{ r.count }}</td></tr>
{% endfor %}
</tbody>
</table>
</div>
<p class="sub">Intervals of 95 % over episodes: {{ method }}; a dash where fewer than five values, or values that are all
equal, tell nothing. Success: STOP called strictly within the goal radius.
{% for remark in remarks %}
{{ remark }}.
{% endfor %}</p>
{% endif %}

{% if plots %}
<h2>Distributions</h2>
<div class="plots">
{% for plot in plots %}
<img src="{{ plot }}" alt="histogram {{ plot }}">
{% endfor %}
</div>
{% endif %}

{% if shares %}
<h2>Where the time went</h2>
{% set k = result.costs %}
<div class="panel"><table>
<thead><tr><th>Part</th><th class="num">Per episode</th><th class="num">Share</th><th style="width:50%"></th></tr></thead>
<tbody>
{% for s in shares %}
<tr><td>{{ s.name }}</td><td class="num">{{ s.per_episode_s | num(".3f") }} s</td><td class="num">{{ (100 * s.share) | num(".1f") }} %</td>
<td><div style="background:var(--blue);height:10px;border-radius:5px;width:{{ (100 * s.share) | num(".2f") }}%"></div></td></tr>
{% endfor %}
</tbody></table></div>
<p class="sub">Time of the workers. The world waited {{ (k.waited_s / k.episodes) | num(".2f") }} s per episode for the
model: a robot would have stood still for it. {{ result.latency_ms.count }} decisions
{%- if k.forwards is not none %}, {{ k.forwards }} forwards of the decoder, {{ k.tokens }} tokens{% endif %};
scenes were made ready {{ k.prepared }} times.
{% if k.engine_cpu_s is not none %}The engine took {{ k.engine_cpu_s | num(".1f") }} s of processor time.{% endif %}
{% if result.answers.line() %}Over all answers {{ result.answers.line() }}.{% endif %}</p>
{% endif %}

{% for title, cards in sections if cards %}
<h2>{{ title }}</h2>
<div class="cards">
{% for c in cards %}
<article class="card {{ c.tone }}">
{% if c.map_link %}
<a href="{{ c.map_link }}"><img src="{{ c.map_link }}" alt="map of episode {{ c.result.episode_id }}" loading="lazy"></a>
{% endif %}
{% if c.video_link %}
<video src="{{ c.video_link }}" controls muted loop playsinline preload="metadata"></video>
{% endif %}
<div class="text">
<span class="badge">{{ c.verdict }}</span><span class="id">{{ c.result.scene_id }} #{{ c.result.episode_id }}</span>
<p>{{ c.result.instruction | truncate(1000) }}</p>
<dl>
{% for name, value in c.facts %}
<div><dt>{{ name }}</dt><dd>{{ value }}</dd></div>
{% endfor %}
</dl>
</div>
</article>
{% endfor %}
</div>
{% endfor %}

{% if cards %}
<h2>{{ "All episodes" if cards | length == count else "The first %d of %d episodes" % (cards | length, count) }}</h2>
<input id="filter" type="search" placeholder="Filter by text, scene or result" aria-label="Filter episodes">
<div class="panel">
<table id="all">
<thead><tr><th class="sort">#</th><th>Map</th><th class="sort">Result</th><th class="sort">Instruction</th>
<th class="sort num">Error [m]</th><th class="sort num">SPL</th><th class="sort num">nDTW</th><th class="sort num">Steps</th>
<th class="sort num">Decisions</th><th class="sort num">p50 [ms]</th><th class="sort num">p95 [ms]</th><th>Files</th></tr></thead>
<tbody>
{% for c in cards %}
{% set m = c.result.metrics %}
<tr class="{{ c.tone }}"><td>{{ c.number }}</td>
<td>{% if c.map_link %}<a href="{{ c.map_link }}"><img class="thumb" src="{{ c.map_link }}" alt="map" loading="lazy"></a>{% endif %}</td>
<td><span class="badge">{{ c.verdict }}</span></td>
<td class="instruction"><div>{{ c.result.instruction | truncate(400) }}</div><span class="id" style="margin:0">{{ c.result.scene_id }} #{{ c.result.episode_id }}</span></td>
<td class="num">{{ m.navigation_error_m | num(".2f") if m else "–" }}</td>
<td class="num">{{ m.spl | num(".2f") if m else "–" }}</td>
<td class="num">{{ m.ndtw | num(".2f") if m else "–" }}</td>
<td class="num">{{ m.steps if m else "–" }}</td>
<td class="num">{{ c.result.decisions }}</td>
<td class="num">{{ c.latency.p50 | num(".0f") }}</td>
<td class="num">{{ c.latency.p95 | num(".0f") }}</td>
<td>{% if c.video_link %}<a href="{{ c.video_link }}">video</a><br>{% endif %}
<a href="{{ c.folder }}/trajectory.jsonl">poses</a><br>
<a href="{{ c.folder }}/decisions.jsonl">decisions</a></td></tr>
{% endfor %}
</tbody>
</table>
</div>
{% endif %}

<h2>Protocol, configuration and versions</h2>
<div class="two">
<div class="panel"><table><tbody>
<tr><th>Protocol</th><td>{{ p.name }}</td></tr>
<tr><th>Split</th><td>{{ p.split or "–" }}</td></tr>
<tr><th>Control</th><td>{{ p.control }}</td></tr>
<tr><th>Goal radius</th><td>{{ p.goal_radius_m ~ " m" if p.goal_radius_m is not none else "–" }}</td></tr>
<tr><th>Step</th><td>{{ p.forward_m ~ " m" if p.forward_m is not none else "–" }},
{{ p.turn_deg ~ "°" if p.turn_deg is not none else "–" }}</td></tr>
<tr><th>Step limit</th><td>{{ p.max_steps if p.max_steps is not none else "none" }}</td></tr>
<tr><th>Early ends</th><td>{{ p.max_actions ~ " actions" if p.max_actions is not none else "any number of actions" }},
{{ p.max_turns_in_place ~ " actions in place" if p.max_turns_in_place is not none else "any turns" }},
{{ p.max_questions ~ " decisions" if p.max_questions is not none else "any number of decisions" }}; they
{{ "count" if p.early_end_is_stop else "do not count" }} as a stop</td></tr>
<tr><th>Measures</th><td>{{ p.measures }}</td></tr>
{% if p.generation %}<tr><th>Tokens are chosen</th><td>{{ p.generation }}</td></tr>{% endif %}
<tr><th>No number</th><td>{{ p.not_a_number }}</td></tr>
<tr><th>Engine</th><td>{{ decides.engine or "–" }}</td></tr>
<tr><th>Profile</th><td>{{ decides.profile or "–" }}</td></tr>
<tr><th>Checkpoint</th><td>{{ decides.checkpoint or "–" }}{% if result.info.checkpoint %} (fingerprint {{ result.info.checkpoint }}){% endif %}</td></tr>
{% for reason, number in ends %}
<tr><th>Ended by {{ reason }}</th><td>{{ number }} of {{ count }} episodes</td></tr>
{% endfor %}
<tr><th>Seed</th><td>{{ result.info.seed }}</td></tr>
{% for name, version in result.versions.items() %}
<tr><th>{{ name }}</th><td>{{ version }}</td></tr>
{% endfor %}
</tbody></table></div>
<div class="panel"><details{{ " open" if result.info.config | length <= 16 else "" }}><summary>{{ result.info.config | length }} options</summary>
<table><tbody>
{% for name, value in result.info.config.items() %}
<tr><td><code>{{ name }}</code></td><td class="num"><code>{{ value }}</code></td></tr>
{% endfor %}
</tbody></table></details></div>
</div>
<p class="sub" style="margin-top:16px">The same as data: <a href="result.json">result.json</a>,
<a href="episodes.jsonl">episodes.jsonl</a></p>
</main>
<script>
const body = document.querySelector("#all tbody");
document.querySelector("#filter")?.addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const row of body.rows) row.hidden = !row.textContent.toLowerCase().includes(wanted);
});
document.querySelectorAll("#all th.sort").forEach((head) => head.addEventListener("click", () => {
  const column = head.cellIndex, sign = head.dataset.up ? -1 : 1;
  head.dataset.up = sign === 1 ? "1" : "";
  const key = (row) => { const t = row.cells[column].textContent.trim(), n = parseFloat(t);
    return Number.isNaN(n) ? t : n; };
  [...body.rows].sort((a, b) => { const x = key(a), y = key(b);
    return sign * (typeof x === typeof y ? (x > y) - (x < y) : typeof x === "number" ? -1 : 1);
  }).forEach((row) => body.append(row));
}));
</script>
</body>
</html>
"""
