"""Adds ``--profiling`` to the commands that run something, and prints the result at their end."""

from __future__ import annotations

import argparse
from pathlib import Path

from vln_ros.config import ProfilingConfig, Scalar, walk_options

FOLDER = "profiling"


def add_switch(parser: argparse.ArgumentParser) -> None:
    level = next(e for e in walk_options(ProfilingConfig) if e.name == "level")
    parser.add_argument(
        "--profiling",
        choices=level.option.choices,
        default=level.default,
        help=f"{level.option.doc} Report, JSON, CSV and trace go to OUT/{FOLDER} (default: {level.default})",
    )


def node_parameters(options: argparse.Namespace, out: Path) -> dict[str, Scalar]:
    """What the nodes are to be started with."""
    if options.profiling == "off":
        return {}
    return {"profiling.level": options.profiling, "profiling.folder": str(out / FOLDER)}


def print_recordings(options: argparse.Namespace, out: Path) -> None:
    """The reports of all processes of the run."""
    if options.profiling == "off":
        return
    from vln_ros.profiling.files import TRACE, read_recordings
    from vln_ros.profiling.report import write_report

    for timings in read_recordings(out / FOLDER):
        print(write_report(timings))
    print(f"trace: {out / FOLDER / TRACE} (open it in ui.perfetto.dev)")
