"""``vln_ros say``: gives a robot an instruction, and says whether it goes."""

from __future__ import annotations

import argparse
import sys
import time
from typing import TYPE_CHECKING, Any

from vln_ros.cli.arguments.parsing import seconds
from vln_ros.cli.output.waiting import waiting
from vln_ros.cli.talk.person import NobodyError, Person, add_place
from vln_ros.config import ConfigError

if TYPE_CHECKING:
    from vln_ros.datatypes import ActionChunk
    from vln_ros.motion.instruction_status import Status

HELP = "Give a robot an instruction; says whether it goes, holds or failed"
STATUS_TOPIC = "instruction_status"
EXECUTOR_WAIT_S = 1.0
"""A navigator that is there may have no executor (lockstep); one that comes is found as soon as it was."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("instruction", help="what to do; the robot stands at once and begins anew")
    parser.add_argument(
        "--follow", action="store_true", help="go on until the run has ended, and say how; Ctrl-C leaves it"
    )
    parser.add_argument(
        "--decision-s",
        type=seconds,
        default=60.0,
        help="seconds to wait for the first decision (default: 60)",
    )
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    with waiting("loading the messages of ROS"):
        from std_msgs.msg import String

        from vln_ros.ros import convert

    try:
        text = convert.instruction_from_string(String(data=options.instruction))
    except convert.MessageError as error:
        raise ConfigError(str(error)) from error
    try:
        with Person.of(options) as person:
            return _Run(person, text).go(options)
    except NobodyError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        return 1


class _Run:
    """What is heard of a run, from before its instruction on."""

    def __init__(self, person: Person, text: str) -> None:
        from diagnostic_msgs.msg import DiagnosticArray
        from std_msgs.msg import Header, String
        from trajectory_msgs.msg import JointTrajectory

        from vln_ros.motion.instruction_status import ENDS, Status
        from vln_ros.ros import convert, qos

        self._status_of, self._ends = Status, ENDS
        self._person, self._text, self._convert = person, text, convert
        self._alive = False
        self._executor = self._failure = self._held = ""
        self._statuses: dict[tuple[int, int], tuple[str, Status, str]] = {}
        self._before: set[tuple[int, int]] = set()
        self._queues: list[ActionChunk] = []
        self._told: Any = person.node.create_publisher(String, "instruction", qos.latched())
        person.hear(Header, "navigator_heartbeat", self._on_beat, qos.sensor("best_effort", 10))
        person.hear(JointTrajectory, "action_queue", self._on_queue, qos.events())
        person.hear(String, "executor_state", self._on_state, qos.latched())
        person.hear(String, "decision_held", self._on_held, qos.events())
        person.hear(String, "engine_failure", self._on_failure, qos.events())
        person.hear(DiagnosticArray, STATUS_TOPIC, self._on_status, qos.latched())

    def go(self, options: argparse.Namespace) -> int:
        person = self._person
        person.find(
            "navigator",
            lambda: self._alive and self._all_would_hear,
            "start one, and see that it is active",
        )
        person.until(lambda: bool(self._executor), EXECUTOR_WAIT_S)
        if "paused" in self._executor:
            print(
                f"vln_ros: nothing was said: the executor is paused ({self._executor}). If nobody is in its "
                "way, `vln_ros stop --release` first",
                file=sys.stderr,
            )
            return 1
        if self._executor.startswith("stopped"):
            print(f"executor: {self._executor}")
        self._queues.clear()
        self._failure = self._held = ""
        self._before = set(self._statuses)
        begun_s = time.monotonic()
        self._told.publish(self._convert.string_from_instruction(self._text))
        if not person.until(lambda: self._number is not None, options.wait_s):
            print(f"vln_ros: no navigator took it within {options.wait_s:g} s", file=sys.stderr)
            return 1
        if not person.until(self._decided, options.decision_s):
            state = f"; executor: {self._executor}" if self._executor else ""
            print(
                f"vln_ros: no decision within {options.decision_s:g} s: do camera and odometry come? "
                f"/diagnostics says more{state}",
                file=sys.stderr,
            )
            return 1
        if self._failure:
            return self._failed()
        if self._end is None or any(map(self._is_mine, self._queues)) or self._held:
            print(self._first())
        return self._follow(begun_s) if options.follow or self._end is not None else 0

    @property
    def _all_would_hear(self) -> bool:
        """Everybody who is known to listen: navigator, executor, and a world that judges the run."""
        listeners: int = self._person.node.count_subscribers(self._told.topic_name)
        return bool(1 < listeners <= self._told.get_subscription_count())  # this command is one of them

    def _follow(self, begun_s: float) -> int:
        """Until the run has ended, or nobody is there who could say so."""
        said = ""
        while True:
            self._person.until(lambda: self._over or self._executor.startswith("stopped"), None)
            if self._over:
                break
            if self._executor != said:
                said = self._executor
                print(f"executor: {said}", flush=True)
            before = self._executor
            self._person.until(lambda before=before: self._over or self._executor != before, None)  # type: ignore[misc]
        if self._failure:
            return self._failed()
        if self._end is None:
            print("vln_ros: the navigator is gone, and the run with it", file=sys.stderr)
            return 1
        status, reason = self._end
        if status is not self._status_of.SUCCEEDED:
            print(f"vln_ros: the run was {status.value}: {reason}", file=sys.stderr)
            return 1
        mine = [q for q in self._queues if self._is_mine(q)]
        print(f"the model says that it is there; {len(mine)} queues, {time.monotonic() - begun_s:.1f} s")
        return 0

    @property
    def _over(self) -> bool:
        if self._failure or self._end is not None:
            return True
        return self._person.node.count_publishers(STATUS_TOPIC) == 0

    @property
    def _end(self) -> tuple[Status, str] | None:
        """How this run has ended, and why; None: it goes on."""
        if self._number is None:
            return None
        _, status, reason = self._statuses[self._number]
        return (status, reason) if status in self._ends else None

    def _failed(self) -> int:
        print(f"vln_ros: the engine failed: {self._failure}", file=sys.stderr)
        return 1

    def _first(self) -> str:
        queue = next(filter(self._is_mine, self._queues), None)
        if queue is None:
            return f"taken; the robot holds: {self._held}"
        return f"taken as instruction {queue.instruction}; it goes: {', '.join(map(str, queue.actions))}"

    @property
    def _number(self) -> tuple[int, int] | None:
        """Epoch and number that the navigator has given to these words, since they were said."""
        mine = (n for n, (text, *_) in self._statuses.items() if text == self._text and n not in self._before)
        return min(mine, default=None)

    def _is_mine(self, queue: ActionChunk) -> bool:
        return bool(queue.actions) and (queue.epoch, queue.instruction) == self._number

    def _decided(self) -> bool:
        return any(map(self._is_mine, self._queues)) or bool(self._held or self._failure or self._end)

    def _on_beat(self, _: Any) -> None:
        self._alive = True

    def _on_queue(self, msg: Any) -> None:
        try:
            self._queues.append(self._convert.chunk_from_trajectory(msg))
        except self._convert.MessageError as error:
            print(f"a queue that cannot be read: {error}", file=sys.stderr)

    def _on_state(self, msg: Any) -> None:
        self._executor = msg.data

    def _on_held(self, msg: Any) -> None:
        self._held = msg.data

    def _on_failure(self, msg: Any) -> None:
        self._failure = msg.data

    def _on_status(self, msg: Any) -> None:
        for told in msg.status:
            values = {v.key: v.value for v in told.values}
            number = int(values["epoch"]), int(values["number"])
            self._statuses[number] = (
                values["instruction"],
                self._status_of(values["status"]),
                values["reason"],
            )
