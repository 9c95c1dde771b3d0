"""What tests run in processes of their own: there a test's own module cannot be imported."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

from vln_ros.config import EvalConfig
from vln_ros.evaluation.runs.compare import Comparison, compare, write_comparison
from vln_ros.evaluation.runs.loading import load_result, load_run
from vln_ros.evaluation.runs.report import write_report
from vln_ros.evaluation.workers.worker import LastWords


def most_kb() -> int:
    """Of this process; ru_maxrss begins with its parent's."""
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def compare_and_report(tmp_path: Path) -> tuple[int, int, float]:
    """Pairs, size of the page in bytes, and the most memory of this process, kB."""
    runs = [load_run(tmp_path / str(k)) for k in range(2)]
    comparison: Comparison = compare(runs[0], runs[1])
    write_comparison(comparison, tmp_path / "compare")
    whole = load_result(tmp_path / "0")
    page = write_report(whole, tmp_path / "0")
    return comparison.pairs, page.stat().st_size, most_kb()


def fail(_: EvalConfig, worker: int, connection: Any) -> None:
    """A worker that dies of an error, after a line of chatter."""
    print("Loading weights: 100%", file=sys.stderr)
    connection.send(LastWords("ValueError: the scene has no floor"))
    raise SystemExit(1)


def be_killed(_: EvalConfig, worker: int, connection: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
