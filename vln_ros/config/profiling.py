"""Options of the profiler: how much it records, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True)
class ProfilingConfig:
    """Where the time goes: spans, report, exports."""

    level: str = option(
        "off", "off; spans: time every stage; layers: every layer of the networks too, at some cost",
        choices=("off", "spans", "layers"),
    )  # fmt: skip
    folder: str = option("", "Folder to write report, JSON, CSV and trace to at the end; empty writes none")
    trace_spans: int = option(
        100_000, "Newest spans per thread that are kept for the trace", minimum=100, maximum=10_000_000
    )
    prometheus_port: int = option(
        0, "Serve the figures as Prometheus text on this port; 0 for none", minimum=0, maximum=65535
    )
    prometheus_address: str = option("127.0.0.1", "Address to serve them on")
