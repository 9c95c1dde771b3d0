"""The walk through the code in docs/design/architecture.md is the way that a frame really takes."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from followed_frame import PACKAGE, qualified_names

PAGE = Path(__file__).parents[1] / "docs/design/architecture.md"
PROGRAM = Path(__file__).with_name("followed_frame.py")
STEP = re.compile(r"(?P<indent> *)(?P<path>\S+\.py) +(?P<function>[A-Za-z_.]+)  +(?P<what>\S.*)")
TIMEOUT_S = 110.0
Calls = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Step:
    name: str
    """``path.py Class.method``"""
    caller: str | None
    """The line above it that is indented less; None where a thread begins."""


def walk_of(page: str) -> list[Step]:
    """The steps of the block under the heading; a line that is no step ends a thread."""
    block = page.split("## One frame, call by call", 1)[1].split("```", 2)[1]
    steps: list[Step] = []
    open_steps: list[tuple[int, str]] = []
    for line in block.splitlines():
        found = STEP.fullmatch(line)
        if found is None:
            assert ".py" not in line, f"neither a step nor a title: {line}"
            open_steps = []
            continue
        indent, name = len(found["indent"]), f"{found['path']} {found['function']}"
        open_steps = [(i, n) for i, n in open_steps if i < indent]
        steps.append(Step(name, open_steps[-1][1] if open_steps else None))
        open_steps.append((indent, name))
    return steps


def faults_of(steps: list[Step], calls: Calls) -> list[str]:
    """What of the walk did not happen in a run."""
    faults = []
    reached = 0
    for step in steps:
        call = calls.get(step.name)
        if call is None:
            faults.append(f"{step.name} is not called")
            continue
        if step.caller is not None and step.caller not in call["below"]:
            faults.append(f"{step.name} is not called by {step.caller}")
        if call["last"] < reached:
            faults.append(f"{step.name} is called before the step above it")
        reached = call["first"]
    return faults


@pytest.fixture(scope="module")
def walk() -> list[Step]:
    return walk_of(PAGE.read_text("utf-8"))


def test_every_function_of_the_walk_exists(walk: list[Step]) -> None:
    assert len(walk) > 30
    for step in walk:
        path, function = step.name.split()
        names = qualified_names(ast.parse((PACKAGE / path).read_text("utf-8")))
        assert function in names.values(), f"docs/design/architecture.md: {path} has no {function}"


@pytest.mark.ros
@pytest.mark.slow
def test_a_frame_takes_that_way(walk: list[Step]) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    path = os.pathsep.join([str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path}
    command = [sys.executable, str(PROGRAM)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert max(seen["speeds"]) > 0.0, "the wheels did not turn"
    assert not faults_of(walk, seen["functions"]), "docs/design/architecture.md, One frame, call by call"


def test_a_wrong_walk_is_found() -> None:
    page = """## One frame, call by call
```
a thread
a.py f          begins
  b.py C.g      is called by it
another thread
c.py h          takes over
```"""
    steps = walk_of(page)
    assert steps == [Step("a.py f", None), Step("b.py C.g", "a.py f"), Step("c.py h", None)]
    calls: Calls = {
        "a.py f": {"first": 1, "last": 1, "below": []},
        "b.py C.g": {"first": 2, "last": 2, "below": ["a.py f"]},
        "c.py h": {"first": 3, "last": 4, "below": []},
    }
    assert faults_of(steps, calls) == []
    without_c = {name: call for name, call in calls.items() if name != "c.py h"}
    assert faults_of(steps, without_c) == ["c.py h is not called"]
    assert faults_of(steps, {**calls, "b.py C.g": {"first": 2, "last": 2, "below": []}}) == [
        "b.py C.g is not called by a.py f"
    ]
    assert faults_of(steps, {**calls, "c.py h": {"first": 1, "last": 1, "below": []}}) == [
        "c.py h is called before the step above it"
    ]
    with pytest.raises(AssertionError, match="neither a step nor a title"):
        walk_of(page.replace("a.py f          begins", "a.py f"))
