"""Writes timings as text: where the time went, in which order, and what to do about it."""

from __future__ import annotations

from collections.abc import Iterator

from vln_ros.profiling.spans import DECISION, FRAME, INSTRUCTION, UNITS
from vln_ros.profiling.timings import Row, RowList, SpanTimes, ThreadTimes, Timings

CACHE_USED, CACHE_ALLOCATED = "cache used [B]", "cache allocated [B]"
WEIGHTS, DEVICE_MEMORY = "weights [B]", "device memory [B]"
STREAM_FILL = "stream filled [%]"
SUMMARISED = 3
UNACCOUNTED = 0.15
"""Share of the time in no stage, above which it is unusual."""
ROW_PARTS = 5
"""So many components have columns of their own in the lists; the rest is summed."""


def write_report(timings: Timings) -> str:
    """Everything, for a terminal of 110 columns."""
    parts = [_overall(timings), *(_components(t, timings.wall_s) for t in timings.threads if t.spans)]
    if timings.waits:
        head = _HEAD.replace("own ms", "    ms").replace("% busy", "      ")
        parts.append("\n".join(["waits, beside the threads", head, *map(_line, timings.waits)]))
    engine = timings.engine
    if engine is not None:
        parts.append(_list("instructions", engine.instructions))
        parts.append(_list("queues (chunks): what led to each, frames included", engine.chunks))
    if timings.gauges:
        parts.append(_memory(timings))
    warnings = list(warn(timings))
    parts.append("\n".join(["warnings", *(f"  ! {w}" for w in warnings)]) if warnings else "no warnings")
    return "\n\n".join(p for p in parts if p) + "\n"


def summarise(timings: Timings) -> Iterator[tuple[str, str | int | float | bool]]:
    """The few figures that /diagnostics shows."""
    engine = timings.engine
    if engine is not None:
        yield "frames per second", timings.frames_per_s
        yield "decisions per second", timings.decisions_per_s
        yield "engine busy [%]", 100 * engine.busy_ms / timings.wall_s / 1e3
        for s in sorted(engine.spans, key=lambda s: -s.own_ms)[:SUMMARISED]:
            yield f"share of {component(s.name)} [%]", 100 * s.own_ms / engine.busy_ms
    for g in timings.gauges:
        scale, unit = (1e6, "[MB]") if g.name.endswith("[B]") else (1.0, "")
        yield g.name.replace("[B]", unit), g.last / scale


def component(name: str) -> str:
    """What a unit's own time is called: it is what no stage inside accounts for."""
    return f"rest of {name}" if name in UNITS else name


def _overall(timings: Timings) -> str:
    wall_ms = timings.wall_s * 1e3
    engine = timings.engine
    lines = [
        f"{timings.process}: {timings.wall_s:.1f} s recorded ({timings.level})",
        f"  {'':<28}{'count':>8}{'ms':>12}{'% of total':>12}{'per second':>12}",
    ]
    busy_ms = 0.0
    if engine is not None:
        units = {s.name: s for s in engine.spans if s.name in UNITS}
        inside = sum(s.total_ms for s in units.values())
        rows = [(name, units[name]) for name in (INSTRUCTION, FRAME, DECISION) if name in units]
        lines += [
            f"  {name + 's':<28}{s.count:>8}{s.total_ms:>12.1f}{100 * s.total_ms / wall_ms:>12.2f}"
            f"{s.count / timings.wall_s:>12.2f}"
            for name, s in rows
        ]
        busy_ms = engine.busy_ms
        lines.append(_share("beside them, same thread", busy_ms - inside, wall_ms))
        lines.append(_share("that thread idle", wall_ms - busy_ms, wall_ms))
    others = sum(t.busy_ms for t in timings.threads) - busy_ms
    if others:
        lines.append(_share("other threads busy" if engine else "threads busy", others, wall_ms))
    lines.append(_share("total", wall_ms, wall_ms))
    return "\n".join(lines)


def _share(name: str, ms: float, wall_ms: float) -> str:
    return f"  {name:<28}{'':>8}{ms:>12.1f}{100 * ms / wall_ms:>12.2f}"


_HEAD = (
    f"  {'':<28}{'count':>8}{'own ms':>12}{'% busy':>8}{'median':>9}{'95 % interval':>18}"
    f"{'p95':>9}{'longest':>9}{'device':>8}"
)


def _line(s: SpanTimes, busy_ms: float | None = None) -> str:
    share = f"{100 * s.own_ms / busy_ms:>8.1f}" if busy_ms else f"{'':>8}"
    own = f"{s.own_ms:>12.1f}" if busy_ms else f"{s.total_ms:>12.1f}"
    device = "" if s.device_ms is None else f"{s.device_ms:>8.2f}"
    interval = f"{s.low_ms:.2f} - {s.high_ms:.2f}"
    return (
        f"  {component(s.name) if busy_ms else s.name:<28}{s.count:>8}{own}{share}{s.median_ms:>9.2f}"
        f"{interval:>18}{s.p95_ms:>9.2f}{s.longest_ms:>9.1f}{device}"
    )


def _components(thread: ThreadTimes, wall_s: float) -> str:
    busy_ms = thread.busy_ms
    spans = sorted(thread.spans, key=lambda s: -s.own_ms)
    head = (
        f"thread {thread.name}: busy {busy_ms:.1f} ms of {wall_s * 1e3:.1f} ({busy_ms / wall_s / 10:.1f} %); "
        "own: without inner spans"
    )
    total = f"  {'sum':<28}{'':>8}{busy_ms:>12.1f}{100.0:>8.1f}"
    return "\n".join([head, _HEAD, *(_line(s, busy_ms) for s in spans), total])


def _list(title: str, rows: RowList) -> str:
    if rows.average is None:
        return ""
    average = rows.average.own_ms
    shown = sorted(average, key=lambda name: -average[name])[:ROW_PARTS]
    head = f"  {'number':>8}{'begun s':>9}{'frames':>8}{'asked':>7}{'ms':>10}"
    head += "".join(f"{component(n)[:13]:>14}" for n in shown) + f"{'others':>9}"

    def line(label: str, row: Row) -> str:
        begun = f"{row.begun_s:>9.2f}" if label != "average" else f"{'':>9}"
        parts = [row.own_ms.get(n, 0.0) for n in shown]
        return (
            f"  {label:>8}{begun}{row.frames:>8.4g}{row.decisions:>7.4g}{row.total_ms:>10.1f}"
            + "".join(f"{p:>14.1f}" for p in parts)
            + f"{row.total_ms - sum(parts):>9.1f}"
        )

    lines = [title, head, *(line(str(r.number), r) for r in rows.first)]
    omitted = rows.count - len(rows.first) - len(rows.last)
    if omitted:
        lines.append(f"  ... ({omitted} omitted)")
    lines += [line(str(r.number), r) for r in rows.last]
    return "\n".join([*lines, line("average", rows.average)])


def _memory(timings: Timings) -> str:
    def value(name: str, level: float) -> str:
        return f"{level / 1e6:.1f} MB" if name.endswith("[B]") else f"{level:.4g}"

    lines = [
        f"  {g.name.removesuffix(' [B]'):<28}{value(g.name, g.last):>16}{value(g.name, g.highest):>16}"
        for g in timings.gauges
    ]
    return "\n".join([f"{'memory and levels':<30}{'now':>16}{'highest':>16}", *lines])


def warn(timings: Timings) -> Iterator[str]:
    """What is unusual, and which lever there is."""
    engine = timings.engine
    if engine is None:
        return
    own: dict[str, float] = {}
    for unit in engine.spans:
        own[unit.name] = own.get(unit.name, 0.0) + unit.own_ms
    # What happens once says nothing about a run that goes on.
    running = sum(ms for name, ms in own.items() if name not in ONCE)
    if not running:
        return
    for name, (limit, lever) in LEVERS.items():
        share = sum(ms for n, ms in own.items() if n == name or n.startswith(f"{name}:")) / running
        if share > limit:
            yield f"{name} is {share:.0%} of the engine's time (unusual above {limit:.0%}): {lever}"
    rest = sum(own.get(unit, 0.0) for unit in (FRAME, DECISION))
    if rest / running > UNACCOUNTED:
        yield f"{rest / running:.0%} of the engine's time is in no stage: record with level layers"
    first = next(iter(engine.instructions.first), None)
    since_s = timings.wall_s - (0.0 if first is None else first.begun_s)
    if running / since_s / 1e3 > 0.9:
        yield (
            "the engine is busy nearly all the time, so frames are replaced by newer ones: lower the rate or "
            "size of the camera's images, or decide less often"
        )
    decision = engine.span(DECISION)
    if decision is not None and decision.samples >= 20 and decision.p95_ms > 3 * decision.median_ms:
        yield (
            f"one decision in twenty takes {decision.p95_ms / decision.median_ms:.1f} times the median: "
            "other programs compete for the machine, or its clock is throttled"
        )
    levels = {g.name: g.highest for g in timings.gauges}
    if levels.get(STREAM_FILL, 0.0) > 95:
        yield "the stream is at its budget, so old turns go: raise qwen.stream.token_budget to keep more"
    used, allocated = levels.get(CACHE_USED, 0.0), levels.get(CACHE_ALLOCATED, 0.0)
    if allocated - used > 256e6:
        yield (
            f"{(allocated - used) / 1e6:.0f} MB of the cache are allocated and never used: lower "
            "qwen.stream.cache_block_tokens"
        )


ONCE = ("model load", "warm-up", "cache allocation")
LEVERS: dict[str, tuple[float, str]] = {
    "vision encode": (
        0.7,
        "lower image.resize or image.max_pixels of the profile; pixels cost more than tokens",
    ),
    "preprocess": (0.2, "let the camera publish smaller images, nearer to the profile's size"),
    "conversion": (0.2, "subscribe to raw images (color_transport, depth_transport) or to smaller ones"),
    "decode": (0.4, "set qwen.stream.decode to tree, or bound the queue with qwen.stream.max_phrases"),
    "grammar": (0.1, "bound the queue with qwen.stream.max_phrases: fewer queues to tell apart"),
    "memory": (0.1, "raise qwen.stream.token_budget or lower qwen.stream.recent_turns: evict less often"),
    "reuse gate": (0.1, "set reuse.enabled to false: its gate must cost less than what it saves"),
    "queue publication": (0.05, "other nodes block the transport: see vln_ros bench nodes"),
}
"""By stage: the share above which it is unusual, and what to do then."""
