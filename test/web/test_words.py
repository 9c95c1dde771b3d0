"""The executor's state in plain words."""

from __future__ import annotations

import pytest

from vln_ros.datatypes import STOP, Action
from vln_ros.motion.safety import Fault
from vln_ros.web.words import REMEDIES, plain_state


def test_what_is_explained_is_a_fault() -> None:
    assert set(REMEDIES) <= {fault.value for fault in Fault}


@pytest.mark.parametrize("fault", Fault, ids=lambda f: f.name)
def test_every_fault_is_a_reason_in_words(fault: Fault) -> None:
    state = plain_state(f"stopped: {fault.value}")
    assert state.level == "stopped"
    assert state.paused == (fault is Fault.PAUSED)
    (reason,) = state.reasons
    assert reason.endswith(".")


def test_states_without_a_fault() -> None:
    assert plain_state(f"moving: {Action(forward_m=0.25)}").headline == "Drives: forward 25 cm"
    assert plain_state("moving").level == "moving"
    assert plain_state("idle").level == "idle"
    assert plain_state(f"finished: {STOP}").level == "finished"
    assert plain_state("").level == "unknown"
    assert plain_state("something new: entirely").headline == "something new: entirely"


def test_several_faults_and_what_they_are_about() -> None:
    state = plain_state(
        "stopped: paused, two executors (/executor (process 1, started 1:2), /b (process 2)), no scan"
    )
    assert state.paused
    assert len(state.reasons) == 3
    assert "/executor (process 1, started 1:2), /b" in state.reasons[1]
    assert state.headline == "Stands: paused, two executors, no scan"


@pytest.mark.parametrize(
    "text",
    ["stopped", "stopped: ", "stopped: ,,", "stopped: (", "stopped: )), x", ": ", "stopped: new fault"],
)
def test_what_nobody_says_today_is_shown_all_the_same(text: str) -> None:
    state = plain_state(text)
    assert isinstance(state.headline, str)
    assert not state.paused
