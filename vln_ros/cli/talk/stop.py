"""``vln_ros stop``: makes a robot stand and ends its run, or lets it go again."""

from __future__ import annotations

import argparse
import sys
import time
from typing import Any

from vln_ros.cli.talk.person import NobodyError, Person, add_place

HELP = "Make a robot stand still, and end its run. It is no emergency stop"
COMPANION_S = 1.0
"""Where one of executor and navigator was found, the other one is waited for so long, and other robots."""
STANDS_S = 2.0
"""How long it may take, on the busiest machine, until the executor sends zero."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--release",
        action="store_true",
        help="instead: let the executor take queues again; nothing moves before the next instruction",
    )
    add_place(parser, "every robot of the domain stops; released is the one without a namespace")


def run(options: argparse.Namespace) -> int:
    try:
        with Person.of(options) as person:
            if options.release:
                return _Told(person, person.node.get_namespace(), release=True).release()
            return _Stop(person, every=not options.namespace).go()
    except NobodyError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        return 1


class _Stop:
    """Of one robot, or of every one: who does not say which is in a hurry, or does not know."""

    def __init__(self, person: Person, every: bool) -> None:
        self._person, self._every = person, every
        own = person.node.get_namespace()
        self._told = {own: _Told(person, own, release=False)}

    def go(self) -> int:
        person = self._person
        person.find("executor or navigator", self._any_called, "use the robot's own stop")
        begun_s = time.monotonic()
        person.until(lambda: self._all_done(time.monotonic() - begun_s), COMPANION_S)
        found = [told for told in self._told.values() if told.was_called]
        return max(told.say_what_came(named=self._every) for told in found)

    def _any_called(self) -> bool:
        if self._every:
            for namespace in self._person.robots() - {*self._told}:
                self._told[namespace] = _Told(self._person, namespace, release=False)
        for told in self._told.values():
            told.call()
        return any(told.was_called for told in self._told.values())

    def _all_done(self, after_s: float) -> bool:
        """One robot, when it has answered; of every one the last is never known."""
        self._any_called()
        return not self._every and all(told.has_answered for told in self._told.values())


class _Told:
    """One robot: the two services, each called as soon as it is found."""

    def __init__(self, person: Person, namespace: str, *, release: bool) -> None:
        from geometry_msgs.msg import TwistStamped
        from std_msgs.msg import String
        from std_srvs.srv import SetBool, Trigger

        from vln_ros.ros import qos

        self._person, self._namespace = person, namespace
        self._zero_s: float | None = None
        self._state = ""
        node, of_robot = person.node, namespace.rstrip("/")
        self._requests: dict[str, tuple[Any, Any]] = {
            "executor": (
                node.create_client(SetBool, f"{of_robot}/executor/pause"),
                SetBool.Request(data=not release),
            ),
            # Also of a release: nothing that was decided before it may move the robot now.
            "navigator": (node.create_client(Trigger, f"{of_robot}/navigator/cancel"), Trigger.Request()),
        }
        self._called: dict[str, tuple[Any, float]] = {}
        person.hear(TwistStamped, f"{of_robot}/velocity_sent", self._on_velocity, qos.diagnostics())
        person.hear(String, f"{of_robot}/executor_state", self._on_state, qos.latched())

    def release(self) -> int:
        person = self._person
        person.until(lambda: self._done("navigator"), COMPANION_S)  # the run ends first
        person.find("executor", lambda: self._done("executor"), "start one, and see that it is active")
        person.until(lambda: bool(self._state) and "paused" not in self._state, STANDS_S)
        print(f"executor: {self._state}; it takes the next instruction")
        return 0

    def call(self) -> None:
        """What is there."""
        for name in self._requests:
            self._done(name)

    @property
    def was_called(self) -> bool:
        return bool(self._called)

    @property
    def has_answered(self) -> bool:
        return all(map(self._answered, self._requests))

    def say_what_came(self, *, named: bool) -> int:
        """For people; the status of the command."""
        robot = f"{self._namespace}: " if named and self._namespace != "/" else ""
        option = f" --namespace {self._namespace}" if self._namespace != "/" else ""
        if "executor" not in self._called:
            print(
                f"vln_ros: {robot}no executor in {self._person.place_of(self._namespace)}: the run is "
                "cancelled, and nothing else was told to stand",
                file=sys.stderr,
            )
            return 1
        begun_s = self._called["executor"][1]
        if not self._person.until(lambda: self._zero_s is not None and "paused" in self._state, STANDS_S):
            print(
                f"vln_ros: {robot}the executor was told to pause and does not say that it sends zero "
                f"({self._state}): use the robot's own stop",
                file=sys.stderr,
            )
            return 1
        assert self._zero_s is not None, "it was waited for"
        after_ms = (self._zero_s - begun_s) * 1e3
        print(f"{robot}the robot stands; zero was heard {after_ms:.0f} ms after the call")
        if self._answered("navigator"):
            print(
                f"{robot}its run is cancelled; `vln_ros stop --release{option}`, then `vln_ros say{option}`, "
                "to go on"
            )
        else:
            print(
                f"{robot}no navigator was found to be told; `vln_ros stop --release{option}` lets the "
                "executor go on"
            )
        return 0

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
