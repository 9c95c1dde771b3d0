"""Options of the profiler: how much it records, and where it goes."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True)
class ProfilingConfig:
    """Where the time goes: spans, report, exports."""

    level: str = option(
        "off",
        "How much the profiler records. off: nothing; spans: the time of every stage; layers: every layer of "
        "the networks, too, which slows them down.",
        choices=("off", "spans", "layers"),
    )
    folder: str = option(
        "",
        "Folder that report, JSON, CSV and trace are written to when the process ends. Empty writes no "
        "files.",
    )
    trace_spans: int = option(
        100_000,
        "Most spans per thread that are kept for the trace; older ones are dropped, the totals keep them. "
        "Too low a number cuts off the beginning of the trace, too high a number takes memory.",
        minimum=100, maximum=10_000_000,
    )  # fmt: skip
    prometheus_port: int = option(
        0,
        "Port on which the figures are served as Prometheus text. 0 serves nothing; a port that is in use is "
        "an error at the start.",
        minimum=0, maximum=65535,
    )  # fmt: skip
    prometheus_address: str = option(
        "127.0.0.1",
        "Network address that the Prometheus port listens on. The default is heard on this machine only; "
        "0.0.0.0 is heard by everybody who can reach the robot.",
    )
