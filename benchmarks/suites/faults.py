"""``vln_ros bench faults``: how fast the robot stands after each fault, measured on real processes."""

from __future__ import annotations

import argparse
import json
import math
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import output_file
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.bench.record import read_record, write_unfinished
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, write_laps
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import ConfigError, ExecutorConfig, Scalar
from vln_ros.datatypes import Action, ActionChunk, Pose, Velocity, wrap_angle
from vln_ros.evaluation.files import write_atomically
from vln_ros.motion.sensor_content import MOVED_M, MOVED_RAD

if TYPE_CHECKING:
    from benchmarks.measure.fault_relay import FaultRelay, Said

TITLE = "Everything that can break, broken"
HELP = "Break everything that can break in a running graph, and time how fast the robot stands still"
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
        resumed: how often the robot drove again after the way on that docs/executor.md defines.
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--injections", type=int, default=20, help="times that each fault is injected (default: 20)"
    )
    parser.add_argument(
        "--only", nargs="+", metavar="FAULT", default=None, help="measure only faults with these names"
    )
    parser.add_argument(
        "--join",
        nargs="+",
        type=Path,
        metavar="RECORD",
        default=None,
        help="measure nothing: put the faults of these records together; of one that comes again, the first",
    )
    parser.add_argument(
        "--json", type=output_file, default=None, help="also write the figures to this file (JSON)"
    )


def run(options: argparse.Namespace) -> int:
    faults = make_faults()
    unknown = set(options.only or ()) - set(faults)
    if unknown:
        raise ConfigError(f"--only {' '.join(sorted(unknown))}: choose from {', '.join(faults)}")
    if options.join is not None:
        figures = join(options.join)
        print("\n".join([_header(), *(_line(name, f) for name, f in figures.items())]))
    else:
        figures = _measure(options, faults)
    if options.json is not None:
        write_atomically(options.json, json.dumps(_plain(figures), indent=2) + "\n")
    return 0 if all(f.passed for f in figures.values()) else 1


def _measure(options: argparse.Namespace, faults: dict[str, Fault]) -> dict[str, FaultFigures]:
    from tqdm import tqdm

    names = options.only or list(faults)
    figures: dict[str, FaultFigures] = {}
    print(_header())
    episodes = options.injections * len(names)  # an episode sees several
    with tempfile.TemporaryDirectory() as name, Rig(Path(name), episodes) as rig:
        for fault in tqdm(names, unit="fault", disable=None):
            figures[fault] = rig.measure(fault, faults[fault], options.injections)
            tqdm.write(_line(fault, figures[fault]))
            if options.json is not None:
                write_unfinished("faults", _plain(figures), options.json)
    return figures


def join(paths: Sequence[Path]) -> dict[str, FaultFigures]:
    """The faults of several records, in the order of :func:`make_faults`.

    Raises:
        ConfigError: a file is no record of this bench, or of another version of it.
    """
    found: dict[str, FaultFigures] = {}
    for path in paths:
        record = read_record(path)
        if record.bench != "faults":
            raise ConfigError(f"{path} is a record of bench {record.bench}: only those of faults are joined")
        for name, figures in record.figures.items():
            found.setdefault(name, FaultFigures(**figures))
    order = list(make_faults())
    unknown = sorted(set(found) - set(order))
    if unknown:
        raise ConfigError(f"no fault is called {', '.join(unknown)}: measure with this version")
    return {name: found[name] for name in order if name in found}


def _plain(figures: dict[str, FaultFigures]) -> dict[str, Any]:
    return {name: asdict(f) for name, f in figures.items()}


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


def make_faults() -> dict[str, Fault]:
    """Every fault of docs/executor.md, by name."""
    s = CONTROL.safety

    def silence(stream: str, due_s: float, reason: str) -> Fault:
        def inject(rig: Rig) -> float:
            rig.relay.cut.add(stream)
            return rig.relay.forwarded_s[stream] + due_s

        return Fault(inject, lambda rig: rig.relay.cut.clear(), reason, due_s)

    def corrupt(stream: str, change: Callable[[bytes], bytes], reason: str, resume: bool = False) -> Fault:
        def inject(rig: Rig) -> float:
            before_s = rig.relay.forwarded_s[stream]
            rig.relay.changed[stream] = change
            while rig.relay.forwarded_s[stream] == before_s:  # the fault is there when it has passed
                time.sleep(0.001)
            return rig.relay.forwarded_s[stream]

        def recover(rig: Rig) -> None:
            rig.relay.changed.clear()
            if resume:
                time.sleep(0.2)  # the jump back is a jump
                _go_on(rig)

        return Fault(inject, recover, reason)

    def scan(rig: Rig) -> float:
        rig.relay.scan_m = 0.21
        begun_s = time.monotonic()
        rig.relay.scan()
        return begun_s

    def no_scan(rig: Rig) -> None:
        from benchmarks.measure.fault_relay import FREE_M

        rig.relay.scan_m = FREE_M

    def ended(number: signal.Signals) -> Fault:
        def inject(rig: Rig) -> float:
            begun_s = time.monotonic()
            os.kill(rig.graph.pid("executor"), number)
            return begun_s

        def recover(rig: Rig) -> None:
            rig.graph.wait("executor")
            rig.start("executor")

        return Fault(inject, recover)

    def in_the_open(fault: Fault) -> Fault:
        """Right before a wall a camera may be blind: a robot that sees none there may still turn away."""

        def inject(rig: Rig) -> float:
            rig.drives(lambda: rig.relay.said[-1].free_m > OPEN_M)
            return fault.inject(rig)

        return replace(fault, inject=inject)

    def near_a_wall(fault: Fault) -> Fault:
        """What the scanner sees all the time, so close that a camera may be blind: it may only turn."""

        def inject(rig: Rig) -> float:
            rig.relay.scan_m = NEAR_SCAN_M
            rig.drives(lambda: rig.relay.said[-1].free_m < NEAR_M)
            return fault.inject(rig)

        def recover(rig: Rig) -> None:
            no_scan(rig)
            fault.recover(rig)

        return replace(fault, inject=inject, recover=recover, ahead=True)

    def stands_still(stream: str, reason: str) -> Fault:
        def inject(rig: Rig) -> float:
            """It counts when the robot has left the place where the content was new, for the time-out."""
            relay, frozen = rig.relay, _Frozen(_message_type(stream))
            relay.changed[stream] = frozen
            while not frozen.seen:
                time.sleep(0.001)
            _, place = relay.poses[-1]
            if not relay.wait(lambda: _left(place, relay.poses[-1][1]), WAIT_S):
                raise RuntimeError("the robot does not leave its place")
            return relay.poses[-1][0] + s.obstacle_timeout_s

        return Fault(inject, lambda rig: rig.relay.changed.clear(), reason, s.obstacle_timeout_s)

    def double(name: str) -> Fault:
        return Fault(lambda rig: rig.start_double(name), lambda rig: rig.end_double(name), f"two {name}s")

    return {
        "no odometry": silence("odom", s.odometry_timeout_s, "no odometry"),
        "no colour": silence("color", s.frame_timeout_s, "no frames"),
        "no depth": silence("depth", s.obstacle_timeout_s, "no depth"),
        "no heartbeat": silence("heartbeat", s.heartbeat_timeout_s, "no navigator heartbeat"),
        "clock stands": silence("clock", s.odometry_timeout_s, "the control clock stands"),
        "odometry jumps": corrupt("odom", _jumped, "odometry jumped", resume=True),
        "odometry NaN": corrupt("odom", _nan, "odometry not usable"),
        "odometry of a camera": corrupt("odom", _of_a_camera, "odometry of another frame"),
        "odometry in a map": corrupt("odom", _in_a_map, "odometry of another frame"),
        "queue NaN": Fault(_nan_queue, lambda rig: None, "queue not usable", moves_on=True),
        "obstacle in depth": replace(corrupt("depth", _near, "obstacle"), ahead=True),
        "obstacle in scan": Fault(scan, no_scan, "obstacle", ahead=True),
        "depth of zeros": in_the_open(
            corrupt("depth", partial(_depth, lambda d: 0.0 * d), "depth says nothing")
        ),
        "depth NaN": in_the_open(
            corrupt("depth", partial(_depth, lambda d: math.nan * d), "depth says nothing")
        ),
        "depth NaN near a wall": near_a_wall(
            corrupt("depth", partial(_depth, lambda d: math.nan * d), "depth says nothing")
        ),
        "depth in mm": corrupt("depth", partial(_depth, lambda d: 1e3 * d), "depth in a wrong unit"),
        "depth covered": in_the_open(
            corrupt("depth", partial(_depth, lambda d: 0.0 * d + 0.1), "depth camera covered")
        ),
        "depth unreadable": corrupt("depth", _odd_encoding, "depth not usable"),
        "depth of another size": corrupt(
            "depth", partial(_depth, lambda d: d[::2, ::2]), "depth without calibration"
        ),
        "no calibration": corrupt("info", _no_calibration, "depth without calibration"),
        "depth looks aside": corrupt("info", _aside, "depth camera does not see the way"),
        "depth stands still": stands_still("depth", "depth stands still"),
        "no scan": silence("scan", s.obstacle_timeout_s, "no scan"),
        "scan NaN": corrupt("scan", partial(_scan, math.nan), "scan says nothing"),
        "scan of zeros": corrupt("scan", partial(_scan, 0.0), "scan says nothing"),
        "scan too near": replace(corrupt("scan", partial(_scan, -math.inf), "obstacle"), ahead=True),
        "scan unreadable": corrupt("scan", _contradicting_scan, "scan not usable"),
        "scan looks aside": corrupt("scan", _scan_aside, "scan does not cover the way"),
        "scan stands still": stands_still("scan", "scan stands still"),
        "pause": Fault(partial(_pause, "executor", True), _go_on, "paused"),
        "navigator paused": Fault(
            partial(_pause, "navigator", True), lambda rig: _ignore(_pause("navigator", False, rig)), "idle"
        ),
        "cancel": Fault(_cancel, _tell_again, "idle"),
        "new instruction": Fault(lambda rig: _tell(rig), lambda rig: None, "idle", moves_on=True),
        "deactivate": Fault(_deactivate, _activate),
        "SIGINT": ended(signal.SIGINT),
        "SIGTERM": ended(signal.SIGTERM),
        "navigator killed": Fault(
            _kill_navigator,
            lambda rig: rig.start("navigator"),
            "no navigator heartbeat",
            s.heartbeat_timeout_s,
        ),
        "second navigator": double("navigator"),
        "second executor": double("executor"),
    }


def _ignore(_: object) -> None:
    pass


def _jumped(data: bytes) -> bytes:
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, Odometry)
    msg.pose.pose.position.x += 1.0
    return bytes(serialize_message(msg))


def _nan(data: bytes) -> bytes:
    from nav_msgs.msg import Odometry
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, Odometry)
    msg.pose.pose.position.y = math.nan
    return bytes(serialize_message(msg))


class _Frozen:
    """Says for ever what the first message said, with the stamps of those that come."""

    def __init__(self, type_: type) -> None:
        self._type = type_
        self._first: Any = None

    @property
    def seen(self) -> bool:
        return self._first is not None

    def __call__(self, data: bytes) -> bytes:
        from rclpy.serialization import deserialize_message, serialize_message

        msg = deserialize_message(data, self._type)
        if self._first is None:
            self._first = msg
            return data
        self._first.header.stamp = msg.header.stamp
        return bytes(serialize_message(self._first))


def _message_type(stream: str) -> type:
    from sensor_msgs.msg import LaserScan

    from benchmarks.measure.fault_relay import STREAMS

    return LaserScan if stream == "scan" else STREAMS[stream][0]


def _left(place: Pose, now: Pose) -> bool:
    moved_m = float(np.linalg.norm(now.position - place.position))
    return moved_m > MOVED_M or abs(wrap_angle(now.yaw_rad - place.yaw_rad)) > MOVED_RAD


def _edited(type_: type, edit: Callable[[Any], None], data: bytes) -> bytes:
    from rclpy.serialization import deserialize_message, serialize_message

    msg = deserialize_message(data, type_)
    edit(msg)
    return bytes(serialize_message(msg))


def _of_a_camera(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.child_frame_id = "zed_camera_link"

    return _edited(_message_type("odom"), edit, data)


def _in_a_map(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.header.frame_id = "map"

    return _edited(_message_type("odom"), edit, data)


def _depth(change: Callable[[Any], Any], data: bytes) -> bytes:
    from rclpy.serialization import deserialize_message, serialize_message

    from vln_ros.ros import convert

    msg = deserialize_message(data, _message_type("depth"))
    changed = np.ascontiguousarray(change(convert.depth_from_image(msg)), np.float32)
    stamp_ns = convert.stamp_ns_from_time(msg.header.stamp)
    return bytes(serialize_message(convert.image_from_depth(changed, stamp_ns, msg.header.frame_id)))


def _odd_encoding(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.encoding = "64FC1"

    return _edited(_message_type("depth"), edit, data)


def _no_calibration(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.k, msg.p = [0.0] * 9, [0.0] * 12

    return _edited(_message_type("info"), edit, data)


def _aside(data: bytes) -> bytes:
    """The calibration of a camera that sees only what is far to the left."""

    def edit(msg: Any) -> None:
        msg.k[2] += 1e4
        msg.p[2] += 1e4

    return _edited(_message_type("info"), edit, data)


def _scan(range_m: float, data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.ranges = [range_m] * len(msg.ranges)

    return _edited(_message_type("scan"), edit, data)


def _contradicting_scan(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.angle_max = 3.0

    return _edited(_message_type("scan"), edit, data)


def _scan_aside(data: bytes) -> bytes:
    def edit(msg: Any) -> None:
        msg.angle_min, msg.angle_max = 0.5, 1.1

    return _edited(_message_type("scan"), edit, data)


def _near(data: bytes) -> bytes:
    """Somebody stands right in front."""
    from rclpy.serialization import deserialize_message, serialize_message
    from sensor_msgs.msg import Image

    from vln_ros.ros import convert

    msg = deserialize_message(data, Image)
    depth_m = convert.depth_from_image(msg).copy()
    rows, columns = depth_m.shape
    depth_m[rows // 3 : 2 * rows // 3, columns // 3 : 2 * columns // 3] = 0.22
    near = convert.image_from_depth(
        depth_m, convert.stamp_ns_from_time(msg.header.stamp), msg.header.frame_id
    )
    return bytes(serialize_message(near))


def _nan_queue(rig: Rig) -> float:
    from vln_ros.ros import convert

    msg = convert.trajectory_from_chunk(ActionChunk(1, 1, 0, (Action(forward_m=1.0),)), "base_link", 0.5, 1.0)
    msg.points[0].positions[0] = math.nan
    begun_s = time.monotonic()
    rig.relay.queue_pub.publish(msg)
    return begun_s


def _pause(node: str, paused: bool, rig: Rig) -> float:
    from std_srvs.srv import SetBool

    return rig.call(f"{node}/pause", SetBool, SetBool.Request(data=paused))


def _go_on(rig: Rig) -> None:
    _pause("executor", False, rig)


def _cancel(rig: Rig) -> float:
    from std_srvs.srv import Trigger

    return rig.call("navigator/cancel", Trigger, Trigger.Request())


def _tell(rig: Rig) -> float:
    from vln_ros.ros import convert

    begun_s = time.monotonic()
    rig.relay.instruction_pub.publish(convert.string_from_instruction(rig.relay.instruction))
    return begun_s


def _tell_again(rig: Rig) -> None:
    _tell(rig)


def _change(rig: Rig, step: int) -> float:
    from lifecycle_msgs.msg import Transition
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request(transition=Transition(id=step))
    return rig.call("executor/change_state", ChangeState, request)


def _deactivate(rig: Rig) -> float:
    from lifecycle_msgs.msg import Transition

    return _change(rig, Transition.TRANSITION_DEACTIVATE)


def _activate(rig: Rig) -> None:
    from lifecycle_msgs.msg import Transition

    _change(rig, Transition.TRANSITION_ACTIVATE)


def _kill_navigator(rig: Rig) -> float:
    os.kill(rig.graph.pid("navigator"), signal.SIGKILL)
    rig.graph.wait("navigator")
    return rig.relay.forwarded_s["heartbeat"] + CONTROL.safety.heartbeat_timeout_s


def _header() -> str:
    columns = f"{'n':>4}{'time-out':>10}{'p50 ms':>9}{'max ms':>9}"
    columns += f"{'reason':>9}{'flushed':>9}{'still':>8}{'resumed':>9}{'anew':>6}{'stood':>7}"
    return f"from the fault (after its time-out) to zero; allowed: {LIMIT_MS:.0f} ms\n{'fault':<23}{columns}"


def _line(name: str, f: FaultFigures) -> str:
    def of(count: int | None) -> str:
        return "-" if count is None else f"{count}/{f.injections}"

    times = f"{f.injections:>4}{f.due_ms:>10.0f}{f.p50_ms:>9.0f}{f.max_ms:>9.0f}"
    counts = f"{of(f.reason):>9}{of(f.flushed):>9}{of(f.still):>8}{of(f.resumed):>9}"
    return f"{name:<23}{times}{counts}{f.placed_anew:>6}{f.stood:>7}"


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = [(name, f["p50_ms"], f["p50_ms"], f["max_ms"]) for name, f in figures.items()]
    plot_bars(folder / "faults.png", TITLE, f"ms to zero, median to longest; allowed: {LIMIT_MS:.0f}", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    def row(name: str, f: FaultFigures) -> tuple[str, ...]:
        def of(count: int | None) -> str:
            return "-" if count is None else f"{count}/{f.injections}"

        due = f"{f.due_ms:.0f} ms" if f.due_ms else "-"
        times = (f"{f.p50_ms:.0f} ms", f"{f.max_ms:.0f} ms")
        anew = f", {f.placed_anew} elsewhere" if f.placed_anew else ""
        return name, due, *times, of(f.reason), of(f.flushed), of(f.still), of(f.resumed) + anew

    rows = [row(name, FaultFigures(**f)) for name, f in figures.items()]
    columns = ("fault", "time-out", "zero after, median", "longest", "reason said", "queue empty",
               "stood still", "went on afterwards")  # fmt: skip
    worst = max(figures, key=lambda name: float(figures[name]["max_ms"]))
    return table(columns, rows) + (
        "\nFrom the fault, or the end of its time-out, until the base hears zero; two control periods and "
        f"50 ms are allowed: {LIMIT_MS:.0f} ms. The longest was {figures[worst]['max_ms']:.0f} ms ({worst}). "
        "Real processes and topics, the embedded world in real time, a relay between robot and graph. An "
        "injection counts only if the robot drove when the fault came"
        f"{_stood(figures)}. *Elsewhere*: the fault was over, but the robot stood before something else or "
        "at its goal, and drove again where it was placed anew.\n"
    )


def _stood(figures: dict[str, Any]) -> str:
    stood = sum(f.get("stood", 0) for f in figures.values())
    return f" ({stood} more met one that stood already)" if stood else ""
