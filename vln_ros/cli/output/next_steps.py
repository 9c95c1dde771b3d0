"""Says what a person may do with what a command has written."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

REPORT = "report.html"


def print_next(*steps: str) -> None:
    """At the end of a command, one line each."""
    for step in steps:
        print(f"next: {step}", flush=True)


def print_report(folder: Path) -> None:
    """Where the page of a run is, if it is."""
    page = folder / REPORT
    if page.is_file():
        print(f"report: {page}")
        print_next(f"open {page} in a browser")


def resuming(arguments: Sequence[str], out: Path | None = None) -> str:
    """The command line that goes on with a run.

    Args:
        arguments: of the one that began it, without the program's name.
        out: where the run is, if the command line does not say it.
    """
    more = [*arguments]
    if out is not None and not any(a == "--out" or a.startswith("--out=") for a in arguments):
        more += ["--out", str(out)]
    if "--resume" not in more:
        more.append("--resume")
    return shlex.join(["vln_ros", *more])
