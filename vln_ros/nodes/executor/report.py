"""Publishes what the executor says of itself: state, faults, errors, diagnostics."""

from __future__ import annotations

import time
from collections.abc import Mapping

from geometry_msgs.msg import TwistStamped, Vector3, Vector3Stamped
from rclpy.node import Node
from std_msgs.msg import Header, String

from vln_ros.motion.executor import Executor, ExecutorState, Output
from vln_ros.motion.safety import Fault
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level

LATE_MS = 20
"""A control period that begins later than this has missed its deadline."""
_LONGEST_MS = 1000


class ControlTimes:
    """How late the control periods begin, to the millisecond, since the node was activated."""

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._last_s: float | None = None
        self._counts = [0] * (_LONGEST_MS + 1)
        self.worst_ms = 0.0

    def tick(self) -> None:
        now_s = time.monotonic()
        if self._last_s is not None:
            late_ms = max(0.0, now_s - self._last_s - self._period_s) * 1e3
            self.worst_ms = max(self.worst_ms, late_ms)
            self._counts[min(_LONGEST_MS, int(late_ms))] += 1
        self._last_s = now_s

    @property
    def periods(self) -> int:
        return sum(self._counts)

    @property
    def missed(self) -> int:
        return sum(self._counts[LATE_MS:])

    def percentile_ms(self, share: float) -> float:
        """Upper end of the millisecond in which this share of the periods lies."""
        wanted, seen = share * self.periods, 0
        for ms, count in enumerate(self._counts):
            seen += count
            if seen >= wanted:
                return ms + 1.0
        return float(_LONGEST_MS)


class ExecutorReport:
    """Publishes the state when it changes, and the numbers of every period where somebody listens."""

    def __init__(self, node: Node, base_frame: str) -> None:
        self._base_frame = base_frame
        self.last: Output | None = None
        self._said = ""
        self._state_pub = node.create_publisher(String, "executor_state", qos.latched())
        self._velocity_pub = node.create_publisher(TwistStamped, "velocity_sent", qos.diagnostics())
        self._error_pub = node.create_publisher(Vector3Stamped, "remaining_error", qos.diagnostics())

    def publish(self, output: Output, reasons: Mapping[Fault, str], stamp_ns: int) -> None:
        self.last = output
        state = described(output.state, output.faults, reasons)
        if output.action is not None:
            state += f": {output.action}"
        if state != self._said:
            self._said = state
            self._state_pub.publish(String(data=state))
        if self._velocity_pub.get_subscription_count():
            self._velocity_pub.publish(
                convert.stamped_from_velocity(output.velocity, stamp_ns, self._base_frame)
            )
        if self._error_pub.get_subscription_count():
            header = Header(stamp=convert.time_from_stamp_ns(stamp_ns), frame_id="goal")
            e = output.error
            self._error_pub.publish(
                Vector3Stamped(header=header, vector=Vector3(x=e.along_m, y=e.beside_m, z=e.heading_rad))
            )


def described(state: ExecutorState, faults: tuple[Fault, ...], reasons: Mapping[Fault, str]) -> str:
    """``moving``, or ``stopped: no odometry, paused``; in brackets whom or what a fault is about."""
    said = [f"{f.value} ({reasons[f]})" if f in reasons else f.value for f in faults]
    return f"{state.value}: {', '.join(said)}" if said else state.value


def is_error(faults: tuple[Fault, ...]) -> bool:
    """A pause is none: somebody wants it."""
    return bool(set(faults) - {Fault.PAUSED})


def health(
    executor: Executor,
    state: ExecutorState,
    faults: tuple[Fault, ...],
    last: Output | None,
    times: ControlTimes,
    refused: int,
    warning: str,
    now_s: float,
) -> Health:
    """For /diagnostics. ``warning``: what is no fault, but should be known; empty: nothing."""
    queue = executor.queue
    level = Level.OK
    if faults:
        level = Level.ERROR if is_error(faults) else Level.WARN
    summary = described(state, faults, executor.reasons)
    if warning:
        level, summary = max(level, Level.WARN), f"{summary}; {warning}"
    values: list[tuple[str, str | int | float | bool]] = [
        ("instruction", queue.state.instruction),
        ("queue", queue.state.queue),
        ("actions left", len(queue.state.remaining)),
    ]
    if last is not None:
        values += [
            ("action", str(last.action or "none")),
            ("velocity sent [m/s]", last.velocity.linear_m_s),
            ("turn rate sent [rad/s]", last.velocity.angular_rad_s),
            ("remaining along [m]", last.error.along_m),
            ("remaining beside [m]", last.error.beside_m),
            ("remaining heading [rad]", last.error.heading_rad),
        ]
    values += [
        ("free way ahead [m]", executor.clearance_m),
        ("stale queues", queue.stale),
        ("contradicted queues", queue.contradicted),
        ("blocked actions", executor.blocked),
        ("clock resets", executor.clock_resets),
        ("refused messages", refused),
        ("control periods", times.periods),
        (f"control periods {LATE_MS} ms late", times.missed),
        ("control late p99.9 [ms]", times.percentile_ms(0.999)),
        ("control late worst [ms]", times.worst_ms),
    ]
    if (delay_s := executor.delay.delay_s()) is not None:
        values.append(("delay of the base, measured [s]", delay_s))
    values += [
        (f"age: {f.value.removeprefix('no ')} [s]", age_s)
        for f, age_s in executor.watch.ages_s(now_s).items()
    ]
    values += [(f"stopped by {f.value}", n) for f, n in executor.stops.items() if n]
    return Health(level, summary, tuple(values))
