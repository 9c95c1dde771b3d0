"""Names the quality of service of every topic, by what it carries.

| profile       | reliability | durability      | depth | for                                      |
|---------------|-------------|-----------------|-------|------------------------------------------|
| `sensor`      | by option   | volatile        | given | images, camera_info, odometry            |
| `latched`     | reliable    | transient local | 1     | instruction, status: late joiners get it |
| `static_frames` | reliable  | transient local | 100   | /tf_static: every broadcaster's          |
| `frames`      | reliable    | volatile        | 100   | /tf, as tf2's own broadcaster            |
| `commands`    | reliable    | volatile        | 1     | action queue, cmd_vel: the newest counts |
| `events`      | reliable    | volatile        | 50    | the same for who must miss none: recorders |
| `diagnostics` | reliable    | volatile        | 10    | /diagnostics, paths for rviz             |

A best-effort subscriber hears reliable and best-effort publishers; a reliable one hears only
reliable publishers. So `best_effort` is what to subscribe with when in doubt.
"""

from __future__ import annotations

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from vln_ros.config import ConfigError

_RELIABILITY = {
    "best_effort": ReliabilityPolicy.BEST_EFFORT,
    "reliable": ReliabilityPolicy.RELIABLE,
}
RELIABILITIES = tuple(_RELIABILITY)
"""Choices for an option that selects the reliability of :func:`sensor`."""


def _profile(reliability: ReliabilityPolicy, durability: DurabilityPolicy, depth: int) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability, durability=durability
    )


def sensor(reliability: str, depth: int) -> QoSProfile:
    """Raises ConfigError for a reliability that is not in :data:`RELIABILITIES`, or a depth below 1."""
    if reliability not in _RELIABILITY:
        raise ConfigError(f"reliability = {reliability!r}: choose one of {', '.join(RELIABILITIES)}")
    if depth < 1:
        raise ConfigError(f"depth = {depth}: a sensor queue holds at least 1 message")
    return _profile(_RELIABILITY[reliability], DurabilityPolicy.VOLATILE, depth)


def latched() -> QoSProfile:
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 1)


def static_frames() -> QoSProfile:
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL, 100)


def frames() -> QoSProfile:
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 100)


def commands() -> QoSProfile:
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 1)


def events() -> QoSProfile:
    """Also of a publisher whose listeners take the newest only: what it keeps can be sent again."""
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 50)


def diagnostics() -> QoSProfile:
    return _profile(ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE, 10)
