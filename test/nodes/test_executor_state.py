"""What the executor writes on executor_state is what others read there."""

from __future__ import annotations

from itertools import combinations

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.motion.executor import ExecutorState
from vln_ros.motion.safety import Fault
from vln_ros.nodes.executor.report import described
from vln_ros.nodes.executor_state import faults_named


def test_one_or_two_faults_are_read_as_they_were_written() -> None:
    for faults in [(f,) for f in Fault] + list(combinations(Fault, 2)):
        text = described(ExecutorState.STOPPED, faults, {})
        assert faults_named(text) == (faults, text.removeprefix("stopped: "))


def test_whom_a_fault_is_about_is_no_fault() -> None:
    reasons = {Fault.TWO_NAVIGATORS: "no depth, obstacle on robot, paused on desk"}
    faults = (Fault.NO_SCAN, Fault.TWO_NAVIGATORS)
    named, text = faults_named(described(ExecutorState.STOPPED, faults, reasons))
    assert named == faults
    assert "paused on desk" in text


@pytest.mark.parametrize("state", [s for s in ExecutorState if s is not ExecutorState.STOPPED])
def test_other_states_have_none(state: ExecutorState) -> None:
    assert faults_named(described(state, (), {})) == ((), "")
    assert faults_named(f"{state.value}: forward 0.25 m") == ((), "")


def test_a_fault_of_another_version_is_told_but_not_known() -> None:
    assert faults_named("stopped: wheels fell off, no scan") == ((Fault.NO_SCAN,), "wheels fell off, no scan")
