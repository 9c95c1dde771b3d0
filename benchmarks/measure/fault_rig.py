"""A running graph that faults are put into, and what is measured of them."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.demo import EXPERT_CLEARANCE_M, write_laps
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import ExecutorConfig, Scalar
from vln_ros.datatypes import Velocity

if TYPE_CHECKING:
    from benchmarks.measure.fault_relay import FaultRelay, Said

WAIT_S = 60.0
SET_OFF_S = 10.0
BASE_REACTION_S = 0.2
"""After the zero it may take the simulated base this long to have heard it."""
DIAGNOSED_S = 10.0
"""How long a diagnostics message is waited for."""
WATCHED_S = 0.5
LATEST_S = 5.0
"""A robot that is still driven this long after the fault was not stopped by it."""
OPEN_M, NEAR_M = 0.7, 0.3
"""Free way: in the open there is more, near a wall less."""
NEAR_SCAN_M = 0.42
"""Range at which it is near a wall, and still drives."""
PASSING = ("idle", "obstacle", "queue not usable")
"""What does not keep the executor from taking the next queue."""
DROVE_S = 0.12
"""Who was told to drive so short a time before the fault still drives: a second executor says zero, too."""
STOOD_AT_MOST = 2
"""So many injections for each that counts may have met a robot that stood."""
CONTROL = ExecutorConfig()
LIMIT_MS = 2e3 / CONTROL.rate_hz + 50.0


@dataclass(frozen=True)
class FaultFigures:
    """All injections of one fault. Only those count that met a robot that drove.

    Attributes:
        injections: how many.
        due_ms: time that is allowed to pass before the fault counts as one (a time-out), beside the rest.
        p50_ms, max_ms: from the fault (or the end of its time-out) until the base heard zero.
        reason: how often the executor said why on /diagnostics; None where its process is gone.
        flushed: how often it said then that nothing of the queue before the fault was left: no action, or
            only those of a newer instruction; None likewise.
        still: how often nothing moved afterwards.
        resumed: how often the robot drove again after the way on that docs/design/executor.md defines.
        placed_anew: how often it then stood before something, or was at its goal, without this fault, and
            drove again where it was placed anew.
        stood: how many more injections met a robot that stood already, and are counted nowhere else.
    """

    injections: int
    due_ms: float
    p50_ms: float
    max_ms: float
    reason: int | None
    flushed: int | None
    still: int
    resumed: int
    placed_anew: int = 0
    stood: int = 0

    @property
    def passed(self) -> bool:
        counts = [self.reason, self.flushed, self.still, self.resumed]
        return self.max_ms <= LIMIT_MS and all(n in (None, self.injections) for n in counts)


@dataclass(frozen=True)
class _Injection:
    """One of :class:`FaultFigures`.

    Attributes:
        drove: the robot was told to drive when the fault came, or afterwards.
    """

    took_ms: float
    told_why: bool
    flushed: bool
    still: bool
    resumed: bool
    placed_anew: bool
    drove: bool


@dataclass(frozen=True)
class Fault:
    """One thing that can go wrong.

    Attributes:
        inject: does it; returns when it counts as a fault (monotonic), earlier than the zero that follows.
        recover: undoes it and asks to go on.
        reason: what the executor must say.
        due_s: the time-out in it.
        moves_on: the robot goes on by itself: there is no standing still to watch.
        ahead: it lies before the robot, which may turn in place but drive no further.
    """

    inject: Callable[[Rig], float]
    recover: Callable[[Rig], None]
    reason: str | None = None
    due_s: float = 0.0
    moves_on: bool = False
    ahead: bool = False

    def allows(self, velocity: Velocity) -> bool:
        return velocity == (
            replace(Velocity(), angular_rad_s=velocity.angular_rad_s) if self.ahead else Velocity()
        )


class Rig:
    """A graph in real time, with the relay in its middle. A context: leaving it ends everything."""

    def __init__(self, folder: Path, episodes_count: int, base_reaction_s: float = BASE_REACTION_S) -> None:
        from benchmarks.measure.fault_relay import STREAMS, source

        environment = enter_graph(folder / "logs")  # the relay is in this process
        import rclpy
        from rclpy.context import Context

        from benchmarks.measure.fault_relay import FaultRelay

        episodes = write_laps(folder / "dataset", episodes_count)
        common: dict[str, Scalar] = {"use_sim_time": True}
        bridge: dict[str, Scalar] = {
            "episodes": str(episodes), "mode": "realtime", "camera.width": 160, "camera.height": 120,
            "max_episode_s": 3600.0, "max_steps": 10000,
        }  # fmt: skip
        navigator: dict[str, Scalar] = {
            **common, "engine": "expert", "expert.episodes": str(episodes),
            "expert.clearance_m": EXPERT_CLEARANCE_M, "decide_ahead": 1,
            "extrinsics": "parameters", "reliability": "reliable",
        }  # fmt: skip
        executor: dict[str, Scalar] = {
            **common, "extrinsics": "parameters", "diagnostics_hz": 5.0, "safety.obstacles": "both",
            "safety.robot_radius_m": 0.2, "safety.stop_distance_m": 0.05, "safety.slow_distance_m": 0.3,
        }  # fmt: skip
        robots = {topic: source(topic) for n, (_, topic) in STREAMS.items() if n != "heartbeat"}
        robots["instruction"] = source("instruction")
        beats = {"navigator_heartbeat": source("navigator_heartbeat")}
        self._specs = {
            "sim_bridge": NodeSpec("sim_bridge", bridge, remaps=robots),
            "navigator": NodeSpec("navigator", navigator, remaps=beats),
            "executor": NodeSpec("executor", executor),
        }
        self.graph = Graph(folder / "logs", environment)
        self._clients: dict[str, Any] = {}
        self._base_reaction_s = base_reaction_s
        self._context = Context()
        rclpy.init(context=self._context)
        self.relay: FaultRelay = FaultRelay(self._context)

    def __enter__(self) -> Rig:
        for spec in self._specs.values():
            self.graph.start(spec)
        return self

    def __exit__(self, *_: object) -> None:
        self.graph.close()
        self.relay.close()
        self._context.shutdown()

    def start(self, name: str) -> None:
        self.graph.start(self._specs[name])

    def start_double(self, name: str) -> float:
        """A second node of this kind; when it was first heard of (monotonic)."""
        before = set(self.relay.senders)
        self.graph.start(self._double(name))

        def new_s() -> list[float]:
            return [at_s for who, at_s in self.relay.senders.items() if who not in before]

        if not self.relay.wait(lambda: bool(new_s()), WAIT_S):
            raise RuntimeError(f"the second {name} does not come up")
        return new_s()[0]

    def end_double(self, name: str) -> None:
        """The one that came later."""
        key = self._double(name).key
        os.kill(self.graph.pid(key), signal.SIGTERM)
        self.graph.wait(key)

    def _double(self, name: str) -> NodeSpec:
        return replace(self._specs[name], key_suffix="_double")

    def call(self, service: str, type_: Any, request: Any) -> float:
        """Ask, and go on: the answer may come long after the effect. Returns when."""
        client = self._clients.get(service) or self.relay.create_client(type_, service)
        self._clients[service] = client
        if not client.wait_for_service(WAIT_S):
            raise RuntimeError(f"no service {service}")
        begun_s = time.monotonic()
        client.call_async(request)
        return begun_s

    def moving(self) -> bool:
        """The robot is told to drive, and the executor has said that it does."""
        recent = self.relay.commands[-4:]
        fast = [v for t, v in recent if v.linear_m_s > 0.2 and time.monotonic() - t < 0.5]
        return len(fast) == 4 and bool(self.relay.said) and self.relay.said[-1].summary == "moving"

    def measure(self, name: str, fault: Fault, injections: int) -> FaultFigures:
        done: list[_Injection] = []
        stood = 0
        while len(done) < injections:
            injection = self._inject(fault)
            if injection.drove:
                done.append(injection)
                continue
            stood += 1
            if stood > STOOD_AT_MOST * injections:
                raise RuntimeError(f"{name}: the robot stood already at {stood} injections")
        took_ms = [i.took_ms for i in done]
        speaks = fault.reason is not None
        return FaultFigures(
            injections,
            fault.due_s * 1e3,
            float(np.median(took_ms)),
            max(took_ms),
            sum(i.told_why for i in done) if speaks else None,
            sum(i.flushed for i in done) if speaks else None,
            sum(i.still for i in done),
            sum(i.resumed for i in done),
            sum(i.placed_anew for i in done),
            stood,
        )

    def drives(self, condition: Callable[[], bool] = lambda: True) -> None:
        """Waits until the robot drives and the condition holds, elsewhere if it does not here."""
        relay = self.relay

        def well() -> bool:
            return self.moving() and condition()

        if not relay.wait(well, SET_OFF_S):
            self.begin_anew()
        if not relay.wait(well, WAIT_S):
            self.graph.check()
            said = relay.said[-1].summary if relay.said else "nothing"
            log = self.graph.log_path("navigator").read_text("utf-8")[-800:]
            raise RuntimeError(f"the robot does not drive; the executor says: {said}; the navigator: {log}")

    def begin_anew(self) -> None:
        """What drives only knows the map: after a stop it may aim at a corner, and there it must stand."""
        from std_srvs.srv import Trigger

        self.call("sim_bridge/reset", Trigger, Trigger.Request())

    def _inject(self, fault: Fault) -> _Injection:
        relay = self.relay
        self.drives()
        told, spoken, placed = len(relay.commands), len(relay.said), len(relay.poses)
        instruction = relay.said[-1].instruction
        fault_s = fault.inject(self)

        def zero_s() -> float | None:
            return next((t for t, v in relay.commands[told:] if fault.allows(v) and t > fault_s), None)

        def last_s() -> float:
            return max((t for t, v in relay.commands[told:] if not fault.allows(v)), default=fault_s)

        if not relay.wait(lambda: zero_s() is not None, WAIT_S):
            raise RuntimeError("the robot was never told to stand")
        zero = zero_s()
        assert zero is not None
        told_why = flushed = False
        if (reason := fault.reason) is not None:

            def said_it() -> list[Said]:
                return [s for s in relay.said[spoken:] if reason in s.summary]

            def gone(s: Said) -> bool:
                return s.actions_left == 0 or (s.actions_left is not None and s.instruction != instruction)

            told_why = relay.wait(lambda: bool(said_it()), DIAGNOSED_S)
            flushed = relay.wait(lambda: any(gone(s) for s in said_it()), DIAGNOSED_S)
        still = True
        if not fault.moves_on:
            # A queue may have ended just before: only the zero that nothing follows is the fault's.
            quiet_s = self._base_reaction_s + WATCHED_S
            while time.monotonic() < last_s() + quiet_s < fault_s + LATEST_S:
                time.sleep(0.02)
            zero = next((t for t, _ in relay.commands[told:] if t > max(last_s(), fault_s)), math.inf)
            after = [p for t, p in relay.poses[placed:] if t > zero + self._base_reaction_s]
            moved = max((float(np.linalg.norm(p.position - after[0].position)) for p in after), default=0.0)
            turned = max((abs(p.yaw_rad - after[0].yaw_rad) for p in after), default=0.0)
            still = moved < 1e-4 and (turned < 1e-4 or fault.ahead) and time.monotonic() > last_s() + quiet_s
        before = [(t, not fault.allows(v)) for t, v in relay.commands[told - 1 :] if t <= fault_s]
        drove = before[-1][1] or any(driven for t, driven in before if t > fault_s - DROVE_S)
        drove = drove or not still or (not fault.moves_on and last_s() > fault_s)
        fault.recover(self)
        resumed, placed_anew = self._resumes(fault)
        return _Injection((zero - fault_s) * 1e3, told_why, flushed, still, resumed, placed_anew, drove)

    def _resumes(self, fault: Fault) -> tuple[bool, bool]:
        """Whether it drives again, and whether it had to be placed anew for it: only without the fault."""
        relay = self.relay
        if relay.wait(self.moving, SET_OFF_S):
            return True, False
        said = relay.said[-1]
        lasts = fault.reason is not None and fault.reason not in PASSING and fault.reason in said.summary
        if lasts or time.monotonic() - said.at_s > SET_OFF_S:
            return relay.wait(self.moving, WAIT_S), False
        self.begin_anew()
        resumed = relay.wait(self.moving, WAIT_S)
        return resumed, resumed
