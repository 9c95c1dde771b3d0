"""For all tests: a ROS graph of one's own, and no thread pool that fights with the other workers'."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import pytest

# Before anything imports numpy, torch or rclpy. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
os.environ.setdefault("PYTEST_TIMEOUT", "120")  # of pytest-timeout, in seconds

from vln_ros.ros.environment import own_domain, stay_on_this_machine

stay_on_this_machine(os.environ)
os.environ["ROS_DOMAIN_ID"] = str(own_domain())

HERE = Path(__file__).parent
collect_ignore = []
if importlib.util.find_spec("hypothesis") is None:  # rosdep installs pytest alone
    collect_ignore += [p.name for p in HERE.glob("test_*.py") if "from hypothesis " in p.read_text("utf-8")]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if collect_ignore:
        text = ", ".join(sorted(collect_ignore))
        terminalreporter.write_line(f"left out for want of hypothesis (requirements-dev.txt): {text}")
