"""Reports, files and comparisons of recordings whose times are known exactly."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.cli import build_parser
from vln_ros.config import ConfigError, ProfilingConfig
from vln_ros.profiling import spans
from vln_ros.profiling.compare import compare, write_comparison
from vln_ros.profiling.export import csv_text, merge_traces, prometheus_text, trace_events, write_trace
from vln_ros.profiling.files import TRACE, ScrapePage, read_recordings, write_recording
from vln_ros.profiling.report import CACHE_ALLOCATED, CACHE_USED, summarise, warn, write_report
from vln_ros.profiling.spans import Recorder, span
from vln_ros.profiling.timings import Timings, freeze, median_interval, read_timings, write_timings


class Clock:
    """Stands in for the module ``time``: goes on only when told to."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def monotonic_ns(self) -> int:
        return self.now_ns

    @staticmethod
    def time() -> float:
        return 1.7e9

    def after(self, ms: float) -> None:
        self.now_ns += round(ms * 1e6)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    fake = Clock()
    monkeypatch.setattr("vln_ros.profiling.spans.time", fake)
    monkeypatch.setattr("vln_ros.profiling.timings.time", fake)
    yield fake
    spans.stop()


def run(clock: Clock, decisions: int, *, vision_ms: float = 30.0, idle_ms: float = 50.0) -> Recorder:
    """Frames of ``vision_ms`` + 5, decisions of 11 ms, 1 ms of publication."""
    recorder = spans.start(ProfilingConfig(level="spans"))
    assert recorder is not None
    with span("model load"):
        clock.after(2000)
    with span("instruction", 1):
        clock.after(3)
    for queue in range(1, decisions + 1):
        clock.after(idle_ms)
        with span("frame", queue):
            with span("vision encode"):
                clock.after(vision_ms)
            clock.after(5)
        with span("decision", queue):
            with span("prefill"):
                clock.after(10)
            clock.after(1)
        with span(spans.PUBLICATION, queue):
            clock.after(1)
        spans.waited("sync wait", clock.now_ns - 8_000_000)
    spans.gauge(CACHE_USED, 3e6)
    return recorder


def test_the_report_adds_up(clock: Clock) -> None:
    timings = freeze(run(clock, 20), "navigator")
    text = write_report(timings)
    wall_ms = 2000 + 3 + 20 * (50 + 35 + 11 + 1)
    assert timings.wall_s == pytest.approx(wall_ms / 1e3)
    for line in (
        rf"frames +20 +700\.0 +{100 * 700 / wall_ms:.2f} +{20 / timings.wall_s:.2f}",
        rf"decisions +20 +220\.0 +{100 * 220 / wall_ms:.2f}",
        rf"that thread idle +1000\.0 +{100 * 1000 / wall_ms:.2f}",
        r"vision encode +20 +600\.0 +20\.4 +30\.00 +30\.00 - 30\.00",
        r"rest of decision +20 +20\.0 +0\.7 +11\.00",
        r"sync wait +20 +160\.0 +8\.00",
        r"cache used +3\.0 MB +3\.0 MB",
    ):
        assert re.search(line, text), f"{line} in\n{text}"


def test_lists_show_five_at_each_end_and_the_average(clock: Clock) -> None:
    text = write_report(freeze(run(clock, 20), "navigator"))
    queues = text.split("queues (chunks)")[1].split("\n\n")[0].splitlines()[2:]
    assert [line.split()[0] for line in queues] == [
        *("1", "2", "3", "4", "5"),
        "...",
        *("16", "17", "18", "19", "20"),
        "average",
    ]
    assert "(10 omitted)" in queues[5]
    # begun, frames, decisions, ms; the first has the instruction's 3 ms
    assert queues[0].split()[1:5] == ["2.00", "1", "1", "50.0"]
    assert queues[1].split()[2:5] == ["1", "1", "47.0"]
    assert queues[-1].split()[1:4] == ["1", "1", f"{(20 * 47 + 3) / 20:.1f}".rstrip()]
    assert "omitted" not in write_report(freeze(run(clock, 10), "navigator"))


def test_own_times_of_the_rows_add_up_to_the_thread(clock: Clock) -> None:
    timings = freeze(run(clock, 8), "navigator")
    engine = timings.engine
    assert engine is not None
    rows = [*engine.chunks.first, *engine.chunks.last]
    assert sum(r.total_ms for r in rows) == pytest.approx(engine.busy_ms - 2000)
    assert engine.chunks.average is not None
    assert engine.chunks.average.total_ms == pytest.approx((engine.busy_ms - 2000) / 8)


def test_a_recording_of_nothing_is_a_report_too(clock: Clock) -> None:
    recorder = spans.start(ProfilingConfig(level="spans"))
    assert recorder is not None
    clock.after(10)
    timings = freeze(recorder, "executor")
    assert "no warnings" in write_report(timings)
    assert timings.engine is None
    assert "frames per second" not in dict(summarise(timings))
    with span("executor"):
        clock.after(1)
    assert re.search(r"\n  threads busy +1\.0", write_report(freeze(recorder, "executor")))
    assert not list(warn(timings))


def test_warnings_name_a_lever(clock: Clock) -> None:
    quiet = freeze(run(clock, 30), "navigator")
    assert not list(warn(quiet))
    heavy = freeze(run(clock, 30, vision_ms=300), "navigator")
    (warning,) = warn(heavy)
    assert "image.max_pixels" in warning
    hurried = freeze(run(clock, 30, idle_ms=0), "navigator")
    (warning,) = warn(hurried)
    assert "lower the rate" in warning
    recorder = run(clock, 30)
    spans.gauge(CACHE_ALLOCATED, 300e6)
    (warning,) = warn(freeze(recorder, "navigator"))
    assert "cache_block_tokens" in warning


def test_diagnostics_get_rates_shares_and_levels(clock: Clock) -> None:
    values = dict(summarise(freeze(run(clock, 20), "navigator")))
    assert values["frames per second"] == pytest.approx(20 / 3.943)
    assert "share of model load [%]" in values
    assert values["cache used [MB]"] == 3.0


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=200))
@settings(deadline=None, max_examples=100)
def test_the_interval_holds_the_median(samples: list[float]) -> None:
    ordered = sorted(samples)
    low, high = median_interval(ordered)
    assert low <= ordered[len(ordered) // 2] <= high


def test_json_gives_back_what_went_in(clock: Clock, tmp_path: Path) -> None:
    timings = freeze(run(clock, 20), "navigator")
    write_timings(timings, tmp_path / "a.json")
    assert read_timings(tmp_path / "a.json") == timings


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "cannot read"), ("{", "holds no timings"), ('{"format": 0}', "another version"),
     ("{}", "no timings"), ('{"format": 1, "threads": [1], "waits": [], "gauges": []}', "no timings")],
)  # fmt: skip
def test_bad_files_are_named(content: str | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_timings(path)


def test_csv_has_a_line_per_span(clock: Clock) -> None:
    lines = csv_text(freeze(run(clock, 4), "navigator")).splitlines()
    assert lines[0].startswith("thread,span,count,total_ms,own_ms")
    assert "MainThread,vision encode,4,120.0,120.0,30.0,30.0,30.0,30.0,30.0," in lines
    assert any(line.startswith("(waits),sync wait,4,32.0,") for line in lines)


def check_trace(content: dict[str, Any]) -> dict[tuple[int, int], list[dict[str, Any]]]:
    """The rules of the Trace Event Format for the events that are used; complete events by thread.

    Raises AssertionError where a viewer would drop or misplace an event.
    """
    open_waits: dict[tuple[int, str, int], float] = {}
    complete: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for e in content["traceEvents"]:
        assert isinstance(e["pid"], int)
        assert isinstance(e["tid"], int)
        if e["ph"] == "M":
            assert e["name"] in ("process_name", "thread_name")
            assert isinstance(e["args"]["name"], str)
            continue
        assert e["name"]
        assert e["cat"]
        assert e["ts"] >= 0
        if e["ph"] == "X":
            assert e["dur"] >= 0
            complete[e["pid"], e["tid"]].append(e)
        elif e["ph"] == "b":
            open_waits[e["pid"], e["cat"], e["id"]] = e["ts"]
        else:
            assert e["ph"] == "e"
            assert e["ts"] >= open_waits.pop((e["pid"], e["cat"], e["id"]))
    assert not open_waits
    for events in complete.values():  # within a thread, spans lie in each other or apart
        stack: list[float] = []
        for e in sorted(events, key=lambda e: (e["ts"], -e["dur"])):
            while stack and e["ts"] >= stack[-1] - 1e-3:
                stack.pop()
            assert not stack or e["ts"] + e["dur"] <= stack[-1] + 1e-3, e
            stack.append(e["ts"] + e["dur"])
    return complete


def test_the_trace_is_one_that_viewers_open(clock: Clock, tmp_path: Path) -> None:
    recorder = run(clock, 3)
    write_trace(trace_events(recorder, "navigator"), tmp_path / "a.trace")
    content = json.loads((tmp_path / "a.trace").read_text())
    (events,) = check_trace(content).values()
    assert [e["name"] for e in events[:4]] == ["model load", "instruction", "frame", "vision encode"]
    frame = next(e for e in events if e["name"] == "frame")
    assert (frame["dur"], frame["args"]) == (35_000.0, {"number": 1})
    merge_traces([tmp_path / "a.trace", tmp_path / "a.trace"], tmp_path / "both.json")
    assert len(json.loads((tmp_path / "both.json").read_text())["traceEvents"]) == 2 * len(
        content["traceEvents"]
    )


def test_the_checker_finds_what_is_wrong() -> None:
    def event(ts: float, dur: float) -> dict[str, Any]:
        return {"name": "a", "cat": "span", "ph": "X", "pid": 1, "tid": 1, "ts": ts, "dur": dur}

    with pytest.raises(AssertionError):
        check_trace({"traceEvents": [event(0, 10), event(5, 10)]})
    assert check_trace({"traceEvents": [event(0, 10), event(5, 5), event(10, 1)]})


def test_prometheus_text_is_well_formed(clock: Clock) -> None:
    text = prometheus_text(replace(freeze(run(clock, 4), "nav"), process='a"b\\c\nd'))
    typed = set(re.findall(r"^# TYPE (\w+) (?:counter|gauge)$", text, re.MULTILINE))
    samples = [line for line in text.splitlines() if not line.startswith("#")]
    pattern = re.compile(r'(\w+)\{(\w+="(?:[^"\\\n]|\\.)*",?)+\} ([-+0-9.e]+)$')
    names = set()
    for line in samples:
        match = pattern.match(line)
        assert match, line
        names.add(match[1])
        float(match[3])
    assert names == typed
    assert len({line.rsplit(" ", 1)[0] for line in samples}) == len(samples)
    assert re.search(
        r'span_own_seconds_total\{.*thread="MainThread",span="vision encode"\} 0.12$', text, re.M
    )


def test_metrics_are_served_until_the_page_closes() -> None:
    page = ScrapePage("127.0.0.1", 0, lambda: "vln_ros_x 1\n")
    address = f"http://127.0.0.1:{page.port}"
    with urllib.request.urlopen(f"{address}/metrics", timeout=5) as answer:
        assert answer.read() == b"vln_ros_x 1\n"
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{address}/other", timeout=5)
    with pytest.raises(ConfigError, match=f"prometheus_port = {page.port}"):
        ScrapePage("127.0.0.1", page.port, str)
    page.close()
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{address}/metrics", timeout=5)


def with_spread(timings: Timings, name: str, low_ms: float, median_ms: float, high_ms: float) -> Timings:
    (thread,) = timings.threads
    changed = tuple(
        replace(s, low_ms=low_ms, median_ms=median_ms, high_ms=high_ms) if s.name == name else s
        for s in thread.spans
    )
    return replace(timings, threads=(replace(thread, spans=changed),))


def test_a_comparison_tells_differences_from_noise(clock: Clock) -> None:
    base = with_spread(freeze(run(clock, 6), "navigator"), "prefill", 9.0, 10.0, 11.0)
    for low, median, high, verdict in ((10.5, 12.0, 13.0, "noise"), (11.5, 12.0, 13.0, "slower")):
        other = with_spread(base, "prefill", low, median, high)
        difference = next(d for d in compare(base, other) if d.name.startswith("prefill"))
        assert difference.ratio == pytest.approx(1.2)
        assert difference.beyond_noise == (verdict == "slower")
        line = next(x for x in write_comparison(base, other).splitlines() if "prefill" in x)
        assert line.endswith(f"1.20  {verdict}")
    load = next(d for d in compare(base, base) if d.name.startswith("model load"))
    assert load.verdict == "too few"  # one sample each says nothing about noise
    only_one = replace(base, waits=())
    assert next(d for d in compare(base, only_one) if "wait" in d.name).ratio is None


def test_the_command_shows_and_compares(
    clock: Clock, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, vision_ms in (("a", 30.0), ("b", 60.0)):
        write_recording(run(clock, 6, vision_ms=vision_ms), "navigator", tmp_path / name / "profiling")

    def command(*arguments: str) -> str:
        options = build_parser().parse_args(["profile", *arguments])
        assert options.run(options) == 0
        return capsys.readouterr().out

    assert "rest of decision" in command("show", str(tmp_path / "a"))
    assert (tmp_path / "a" / "profiling" / TRACE).exists()
    text = command("compare", str(tmp_path / "a"), str(tmp_path / "b" / "profiling" / "navigator.json"))
    line = next(x for x in text.splitlines() if "vision encode" in x)
    assert line.split()[-2:] == ["2.00", "slower"]
    with pytest.raises(ConfigError, match="no recording"):
        read_recordings(tmp_path)
