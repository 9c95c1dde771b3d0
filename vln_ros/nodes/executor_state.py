"""Reads the faults in what the executor says on ``executor_state``.

nodes/executor/report.py writes it.
"""

from __future__ import annotations

import re

from vln_ros.motion.safety import Fault

TOPIC = "executor_state"
_STOPPED = "stopped: "
_ABOUT = re.compile(r" \([^()]*\)")
"""Whom or what a fault is about."""


def faults_named(state: str) -> tuple[tuple[Fault, ...], str]:
    """The faults for which the executor stands, and its own words for them; none and empty where it does not.

    What is no fault that is known here (of another version) is left out of the first, not of the second.
    """
    if not state.startswith(_STOPPED):
        return (), ""
    text = state.removeprefix(_STOPPED)
    named = _ABOUT.sub("", text).split(", ")
    return tuple(fault for fault in Fault if fault.value in named), text
