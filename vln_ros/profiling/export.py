"""Writes timings and traces for other programs: CSV, Chrome trace, Prometheus text."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vln_ros.profiling.spans import Recorder
from vln_ros.profiling.timings import Timings

CSV_COLUMNS = (
    "thread", "span", "count", "total_ms", "own_ms", "median_ms", "low_ms", "high_ms", "p95_ms", "longest_ms",
    "device_ms",
)  # fmt: skip


def csv_text(timings: Timings) -> str:
    """One line per thread and span; waits have the thread ``(waits)``."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for thread, spans in [*((t.name, t.spans) for t in timings.threads), ("(waits)", timings.waits)]:
        for s in spans:
            figures = [getattr(s, column) for column in CSV_COLUMNS[2:]]
            writer.writerow([thread, s.name, *("" if f is None else f for f in figures)])
    return out.getvalue()


def trace_events(recorder: Recorder, process: str) -> list[dict[str, Any]]:
    """Events of the Trace Event Format, timestamps in microseconds of the machine's monotonic clock.

    Processes on one machine share that clock, so their events can be put into one file.
    """
    pid = recorder.process
    found: list[dict[str, Any]] = [_metadata("process_name", pid, 0, process)]
    for (tid, name), events in recorder.events().items():
        found.append(_metadata("thread_name", pid, tid, name))
        for e in sorted(events, key=lambda e: (e.begun_ns, e.depth)):
            arguments = {} if e.number is None else {"args": {"number": e.number}}
            found.append(
                {"name": e.name, "cat": "span", "ph": "X", "pid": pid, "tid": tid,
                 "ts": e.begun_ns / 1e3, "dur": e.took_ns / 1e3, **arguments}
            )  # fmt: skip
    for number, e in enumerate(recorder.wait_events()):
        for phase, at_ns in (("b", e.begun_ns), ("e", e.begun_ns + e.took_ns)):  # they overlap each other
            event = {"name": e.name, "cat": "wait", "ph": phase, "id": number, "ts": at_ns / 1e3}
            found.append({**event, "pid": pid, "tid": 0})
    return found


def _metadata(name: str, pid: int, tid: int, value: str) -> dict[str, Any]:
    return {"name": name, "ph": "M", "pid": pid, "tid": tid, "args": {"name": value}}


def write_trace(events: Sequence[dict[str, Any]], path: Path) -> None:
    """A file that chrome://tracing and ui.perfetto.dev open."""
    path.write_text(json.dumps({"traceEvents": list(events), "displayTimeUnit": "ms"}), "utf-8")


def merge_traces(parts: Sequence[Path], path: Path) -> None:
    """The traces of several processes of one machine as one."""
    events = [e for part in parts for e in json.loads(part.read_text("utf-8"))["traceEvents"]]
    write_trace(events, path)


def prometheus_text(timings: Timings) -> str:
    """Text exposition format 0.0.4."""
    lines: list[str] = []

    def metric(name: str, kind: str, help_text: str, samples: Sequence[tuple[dict[str, str], float]]) -> None:
        if samples:
            lines.extend([f"# HELP vln_ros_{name} {help_text}", f"# TYPE vln_ros_{name} {kind}"])
        for labels, value in samples:
            text = ",".join(f'{k}="{_escape(v)}"' for k, v in {"process": timings.process, **labels}.items())
            lines.append(f"vln_ros_{name}{{{text}}} {value:.9g}")

    spans = [({"thread": t.name, "span": s.name}, s) for t in timings.threads for s in t.spans]
    waits = [({"wait": w.name}, w) for w in timings.waits]
    metric("recorded_seconds", "gauge", "How long it has been recorded.", [({}, timings.wall_s)])
    metric("span_total", "counter", "Spans that have ended.", [(k, s.count) for k, s in spans])
    metric("span_seconds_total", "counter", "Their length.", [(k, s.total_ms / 1e3) for k, s in spans])
    metric(
        "span_own_seconds_total", "counter", "Without inner spans.", [(k, s.own_ms / 1e3) for k, s in spans]
    )
    metric(
        "span_median_seconds", "gauge", "Median of the newest.", [(k, s.median_ms / 1e3) for k, s in spans]
    )
    metric("span_p95_seconds", "gauge", "95th percentile of them.", [(k, s.p95_ms / 1e3) for k, s in spans])
    metric("wait_total", "counter", "Waits that have ended.", [(k, w.count) for k, w in waits])
    metric("wait_seconds_total", "counter", "Their length.", [(k, w.total_ms / 1e3) for k, w in waits])
    for gauge in timings.gauges:
        name = re.sub(
            r"[^a-z0-9]+", "_", gauge.name.replace("[B]", "bytes").replace("[%]", "percent").lower()
        )
        metric(name, "gauge", f"{gauge.name}, last.", [({}, gauge.last)])
        metric(f"{name}_highest", "gauge", f"{gauge.name}, highest.", [({}, gauge.highest)])
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
