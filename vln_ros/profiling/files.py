"""Writes the files of a recording, and serves the page for Prometheus."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from vln_ros.config import ConfigError, ProfilingConfig
from vln_ros.profiling import spans
from vln_ros.profiling.export import csv_text, merge_traces, prometheus_text, trace_events, write_trace
from vln_ros.profiling.report import write_report
from vln_ros.profiling.spans import Recorder
from vln_ros.profiling.timings import Timings, freeze, read_timings, write_timings

TRACE = "trace.json"


def write_recording(recorder: Recorder, process: str, folder: Path) -> Timings:
    """``PROCESS.json``, ``.csv``, ``.txt``, ``.prom`` and ``PROCESS.trace`` (Chrome trace)."""
    timings = freeze(recorder, process)
    folder.mkdir(parents=True, exist_ok=True)
    write_timings(timings, folder / f"{process}.json")
    (folder / f"{process}.csv").write_text(csv_text(timings), "utf-8")
    (folder / f"{process}.txt").write_text(write_report(timings), "utf-8")
    (folder / f"{process}.prom").write_text(prometheus_text(timings), "utf-8")
    write_trace(trace_events(recorder, process), folder / f"{process}.trace")
    return timings


@contextmanager
def recorded(config: ProfilingConfig, process: str) -> Iterator[None]:
    """Record what this process does inside, if the options say so, and leave it in their folder."""
    recorder = spans.start(config)
    try:
        yield
    finally:
        if recorder is not None and config.folder:
            write_recording(recorder, process, Path(config.folder))
        spans.stop()


def read_recordings(folder: Path) -> list[Timings]:
    """Of all processes that wrote into ``folder``; their traces are joined in ``trace.json``.

    Raises:
        ConfigError: there is nothing, or it is something else.
    """
    traces = sorted(folder.glob("*.trace"))
    found = [read_timings(path.with_suffix(".json")) for path in traces]
    if not found:
        raise ConfigError(f"{folder} holds no recording: run with --profiling spans")
    merge_traces(traces, folder / TRACE)
    return found


class ScrapePage:
    """Serves ``/metrics`` from a thread of its own until it is closed.

    Args:
        text: makes the page; called in that thread.

    Raises:
        ConfigError: the address cannot be used.
    """

    def __init__(self, address: str, port: int, text: Callable[[], str]) -> None:
        class Page(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path.split("?")[0] != "/metrics":
                    self.send_error(404)
                    return
                body = text().encode()
                self.send_response(200)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return

        try:
            self._server = ThreadingHTTPServer((address, port), Page)
        except OSError as error:
            raise ConfigError(
                f"profiling.prometheus_port = {port}: cannot serve on {address}: {error.strerror}"
            ) from error
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
