"""``vln_ros profile``: shows and compares recordings made with ``--profiling``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from vln_ros.config import ConfigError

if TYPE_CHECKING:
    from vln_ros.profiling.timings import Timings

HELP = "Show or compare recordings of where the time went (made with --profiling)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    show = actions.add_parser("show", help="print the report again")
    show.add_argument("recording", type=Path, help="run folder, its profiling folder, or a process's .json")
    comparison = actions.add_parser("compare", help="two runs side by side, differences with their noise")
    comparison.add_argument(
        "first", type=Path, metavar="A", help="run folder, its profiling folder, or a process's .json"
    )
    comparison.add_argument(
        "second", type=Path, metavar="B", help="run folder, its profiling folder, or a process's .json"
    )


def run(options: argparse.Namespace) -> int:
    from vln_ros.profiling.compare import write_comparison
    from vln_ros.profiling.report import write_report

    if options.action == "show":
        for timings in _read(options.recording):
            print(write_report(timings))
        return 0
    first = {t.process: t for t in _read(options.first)}
    second = {t.process: t for t in _read(options.second)}
    shared = [name for name in first if name in second]
    if not shared and len(first) == len(second) == 1:  # two processes of different names, named one by one
        (a,), (b,) = first.values(), second.values()
        print(write_comparison(a, b))
        return 0
    if not shared:
        raise ConfigError(
            f"{options.first} has {', '.join(first)} and {options.second} has {', '.join(second)}: "
            "nothing to compare; name one .json of each"
        )
    for name in shared:
        print(write_comparison(first[name], second[name]))
    return 0


def _read(path: Path) -> list[Timings]:
    from vln_ros.profiling.files import read_recordings
    from vln_ros.profiling.timings import read_timings

    if path.is_dir():
        return read_recordings(path / "profiling" if (path / "profiling").is_dir() else path)
    return [read_timings(path)]
