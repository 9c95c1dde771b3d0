"""Checks the Python under which ``ros2 run`` and ``ros2 launch`` start the nodes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import vln_ros
from vln_ros.cli.doctor.findings import Finding
from vln_ros.config import NODES, ConfigError
from vln_ros.ros.environment import prepare_environment
from vln_ros.ros.interpreter import find_executable, installed_interpreter


def look_at_nodes() -> list[Finding]:
    """Whether each node that `ros2 run` and `ros2 launch` would start has what it needs: not this process."""
    name = "installed nodes"
    prepare_environment()
    try:
        executables = [find_executable(vln_ros.__name__, node) for node in NODES]
    except ConfigError as error:
        text = f"not for `ros2 run` ({error}); the commands start them under {sys.executable}"
        return [Finding(name, "ok", text)]
    with ThreadPoolExecutor() as pool:
        asked = [pool.submit(installed_interpreter, path) for path in executables]
    outcomes = zip(executables, (a.exception() for a in asked), strict=True)
    failures = {path.name: str(error) for path, error in outcomes if error is not None}
    if failures:
        remedy = next(iter(failures.values()))
        return [Finding(name, "fail", f"would not start: {', '.join(failures)}", remedy)]
    pythons = {a.result() for a in asked}
    text = f"run under {', '.join(sorted(pythons))}"
    if pythons == {sys.executable}:
        return [Finding(name, "ok", text)]
    remedy = f"this is {sys.executable}: the lines on torch and packages are about it, not about the nodes"
    return [Finding(name, "warn", text, remedy)]
