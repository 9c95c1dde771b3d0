"""``vln_ros stop``: makes a robot stand and ends its run, or lets it go again."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from vln_ros.cli.talk.person import NobodyError, Person, add_place

HELP = "Make a robot stand still, and end its run. It is no emergency stop"
COMPANION_S = 1.0
"""Where one of executor and navigator was found, the other one is waited for so long."""
STANDS_S = 2.0
"""How long it may take, on the busiest machine, until the executor sends zero."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        action="store_true",
        help="instead: let the executor take queues again; nothing moves before the next instruction",
    )
    add_place(parser)


def run(options: argparse.Namespace) -> int:
    try:
        with Person.of(options) as person:
            return _Stop(person, options.release).go()
    except NobodyError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        return 1


class _Stop:
    """The two services, each called as soon as it is found."""

    def __init__(self, person: Person, release: bool) -> None:
        from geometry_msgs.msg import TwistStamped
        from std_msgs.msg import String
        from std_srvs.srv import SetBool, Trigger

        from vln_ros.ros import qos

        self._person, self._release = person, release
        self._zero_s: float | None = None
        self._state = ""
        node = person.node
        self._requests: dict[str, tuple[Any, Any]] = {
            "executor": (
                node.create_client(SetBool, "executor/pause"),
                SetBool.Request(data=not release),
            ),
            # Also of a release: nothing that was decided before it may move the robot now.
            "navigator": (node.create_client(Trigger, "navigator/cancel"), Trigger.Request()),
        }
        self._called: dict[str, tuple[Any, float]] = {}
        person.hear(TwistStamped, "velocity_sent", self._on_velocity, qos.diagnostics())
        person.hear(String, "executor_state", self._on_state, qos.latched())

    def go(self) -> int:
        person = self._person
        if self._release:  # the run ends first
            person.until(lambda: self._done("navigator"), COMPANION_S)
            person.find("executor", lambda: self._done("executor"), "start one, and see that it is active")
            person.until(lambda: bool(self._state) and "paused" not in self._state, STANDS_S)
            print(f"executor: {self._state}; it takes the next instruction")
            return 0
        person.find("executor or navigator", self._any_called, "nothing of ours moves a robot there")
        person.until(lambda: self._done("executor") and self._done("navigator"), COMPANION_S)
        if not self._answered("executor"):
            print(
                f"vln_ros: no executor in {person.place}: the run is cancelled, and nothing else was told to "
                "stand",
                file=sys.stderr,
            )
            return 1
        begun_s = self._called["executor"][1]
        if not person.until(lambda: self._zero_s is not None and "paused" in self._state, STANDS_S):
            print(
                f"vln_ros: the executor was paused and does not say that it sends zero ({self._state}): use "
                "the robot's own stop",
                file=sys.stderr,
            )
            return 1
        assert self._zero_s is not None, "it was waited for"
        print(f"the robot stands; zero was heard {(self._zero_s - begun_s) * 1e3:.0f} ms after the call")
        if self._answered("navigator"):
            print("its run is cancelled; `vln_ros stop --release`, then `vln_ros say`, to go on")
        else:
            print("no navigator was found to be told; `vln_ros stop --release` lets the executor go on")
        return 0

    def _any_called(self) -> bool:
        for name in self._requests:
            self._done(name)
        return bool(self._called)

    def _done(self, name: str) -> bool:
        """Call the service as soon as it is there; whether it has answered."""
        client, request = self._requests[name]
        if name not in self._called and client.service_is_ready():
            self._called[name] = client.call_async(request), time.monotonic()
        return self._answered(name)

    def _answered(self, name: str) -> bool:
        return name in self._called and bool(self._called[name][0].done())

    def _on_velocity(self, msg: Any) -> None:
        """The first zero after the executor has answered; one that was sent before may be another's end."""
        linear, angular = msg.twist.linear, msg.twist.angular
        if linear.x or linear.y or angular.z:
            self._zero_s = None
        elif self._zero_s is None and self._answered("executor"):
            self._zero_s = time.monotonic()

    def _on_state(self, msg: Any) -> None:
        self._state = msg.data
