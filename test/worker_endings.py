"""Workers of an evaluation that end badly. A process finds them by the name of this module."""

from __future__ import annotations

import os
import signal
import sys
from typing import Any

from vln_ros.config import EvalConfig
from vln_ros.evaluation.workers.worker import LastWords


def fail(_: EvalConfig, worker: int, connection: Any) -> None:
    """A worker that dies of an error, after a line of chatter."""
    print("Loading weights: 100%", file=sys.stderr)
    connection.send(LastWords("ValueError: the scene has no floor"))
    raise SystemExit(1)


def be_killed(_: EvalConfig, worker: int, connection: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)
