"""The executor's state in plain words, for people who have not read its documentation."""

from __future__ import annotations

from vln_ros.web.messages import State

REMEDIES = {
    "no odometry": "The base does not say where it is: look at its driver.",
    "odometry not usable": "The odometry cannot be read.",
    "odometry of another frame": "The odometry is of a frame whose place on the robot is not known.",
    "odometry jumped": "The odometry jumped farther than a robot drives: give a new instruction.",
    "no navigator heartbeat": "The navigator is silent: it is not running, still loading, or out of reach.",
    "no frames at the navigator": "The navigator gets no pictures: look at the camera.",
    "no depth": "No depth images come, so obstacles would not be seen.",
    "depth not usable": "The depth images cannot be read.",
    "depth without calibration": "The depth images come without their calibration.",
    "depth says nothing": "The depth camera sees nothing on the way.",
    "depth in a wrong unit": "The depth images are in another unit than they say.",
    "depth camera covered": "Something covers the depth camera.",
    "depth camera does not see the way": "The depth camera looks elsewhere than the robot drives.",
    "depth stands still": "The depth camera repeats the same picture though the robot has moved.",
    "no scan": "No laser scans come, so obstacles would not be seen.",
    "scan not usable": "The laser scans cannot be read.",
    "scan says nothing": "The laser scanner sees nothing on the way.",
    "scan does not cover the way": "The laser scanner does not look where the robot drives.",
    "scan stands still": "The laser scanner repeats the same scan though the robot has moved.",
    "two navigators": "Two navigators are running: end one of them.",
    "two executors": "Two executors are running: end one of them.",
    "the control clock stands": "The simulated clock stands still, or there is none (use_sim_time).",
    "queue not usable": "The last queue of actions could not be read.",
    "obstacle": "Something is in the way; the robot waits for another decision.",
    "blocked": "The robot did not get where it should: something holds it.",
    "paused": "Somebody has stopped it. It stands until it is released.",
}
"""For each of the executor's faults what it means, and what to do about it."""
PAUSED = "paused"


def plain_state(text: str) -> State:
    """From what ``executor_state`` says.

    ``moving: forward 0.25 m`` is a state and the action in progress; ``stopped: no odometry, two executors (A
    and B)`` a state and the faults, each with what it is about in brackets. Faults that are not known here
    are shown as they are.
    """
    state, _, rest = text.partition(": ")
    if state == "moving":
        action = rest.replace(" deg", "°")
        verb = "Turns" if action.startswith(("left", "right")) else "Drives"
        return State("moving", f"{verb} {action}".strip(), (), False)
    if state == "idle":
        return State("idle", "Stands, ready for the next action", (), False)
    if state == "finished":
        return State("finished", "Has arrived: it said stop", (), False)
    if state != "stopped":
        return State("unknown", text, (), False)
    faults = _split(rest)
    names = [fault.partition(" (")[0] for fault in faults]
    reasons = [
        REMEDIES[name] + fault.removeprefix(name) if name in REMEDIES else f"{fault}."
        for name, fault in zip(names, faults, strict=True)
    ]
    paused = PAUSED in names
    headline = "Stopped by somebody" if names == [PAUSED] else f"Stands: {', '.join(names)}"
    return State("stopped", headline, tuple(reasons), paused)


def _split(text: str) -> list[str]:
    """At commas that stand in no bracket."""
    parts, depth, begin = [], 0, 0
    for i, sign in enumerate(text):
        depth += (sign == "(") - (sign == ")")
        if sign == "," and depth <= 0:
            parts.append(text[begin:i].strip())
            begin = i + 1
    return [part for part in [*parts, text[begin:].strip()] if part]
