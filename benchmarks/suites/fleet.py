"""``vln_ros bench fleet``: several simulated robots with one fleet, against as many navigators."""

from __future__ import annotations

import argparse
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.record import write_unfinished
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, write_laps
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import ConfigError, SafetyConfig, Scalar
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from benchmarks.measure.fleet import FleetListener

TITLE = "Several robots on one model"
HELP = "Run robots with one fleet and with a navigator each: rate, latency, memory, fairness, stopping"
SHARED, EACH = "one fleet", "a navigator each"
LAPS = 400
START_S = 240.0
MOST_DRIVEN = 4
"""So many robots have a simulator and an executor in real time. Eight of them need more than two cores, and
their safety then holds all."""
HALF_DRIVES_S, DRIVES_S = 30.0, 120.0
"""It is waited so long for half of them, and for one as long as the second says."""
WATCHED_S = 3.0
"""So long after a kill it is looked at whether a robot still drives."""
OWN_CLOCK = {"/clock": "clock"}
POLICY: dict[str, Scalar] = {
    "engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.profile": "tiny", "qwen.device": "cpu",
}  # fmt: skip
NAVIGATOR: dict[str, Scalar] = {"extrinsics": "parameters", "reliability": "reliable"}


@dataclass(frozen=True)
class _Size:
    """What is run where nothing else is asked for."""

    robots: tuple[int, ...]
    seconds: float
    kills: int


FULL, QUICK = _Size((1, 2, 4, 8), 30.0, 5), _Size((2,), 5.0, 1)


@dataclass(frozen=True, kw_only=True)
class FleetFigures:
    """So many robots, served in one way.

    Attributes:
        way: :data:`SHARED` or :data:`EACH`.
        decisions_per_s: of all robots together.
        p50_ms, p95_ms: from a frame's calibration to its queue, as a bystander hears them.
        memory_mb: of the navigators' processes; what they share counts once.
        least_share: decisions of the robot that got the fewest, of those of the one that got the most.
        stood_ms: from the kill of a navigator until each robot that it drove was told to stand, the time-out
            included.
        heartbeat_timeout_ms: that time-out.
    """

    robots: int
    way: str
    decisions_per_s: float
    p50_ms: float
    p95_ms: float
    memory_mb: float
    least_share: float
    stood_ms: list[float]
    heartbeat_timeout_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--robots",
        type=int,
        nargs="+",
        default=None,
        help=f"how many (default: {' '.join(map(str, FULL.robots))})",
    )
    parser.add_argument(
        "--seconds", type=float, default=None, help=f"that decisions are counted (default: {FULL.seconds:g})"
    )
    parser.add_argument(
        "--kills",
        type=int,
        default=None,
        help=f"number of times that navigators are killed (default: {FULL.kills})",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only try the command: figures are too few to mean anything"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    size = QUICK if options.quick else FULL
    robots = size.robots if options.robots is None else options.robots
    seconds = size.seconds if options.seconds is None else options.seconds
    kills = size.kills if options.kills is None else options.kills
    if min(robots) < 1 or seconds <= 0.0 or kills < 1:
        raise ConfigError("--robots, --seconds and --kills must be positive")
    figures: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="vln_ros-fleet-") as name:
        folder = Path(name)
        environment = enter_graph(folder / "logs")  # the listener is in this process
        episodes = write_laps(folder / "dataset", LAPS)
        for count in robots:
            for way in (SHARED, EACH):
                found = _measure(folder / f"{count}-{way}", environment, episodes, count, way, seconds, kills)
                figures.append(asdict(found))
                if options.json is not None:  # what comes later may fail
                    write_unfinished("fleet", figures, options.json)
                print(section([figures[-1]]).splitlines()[-1], flush=True)
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def section(figures: Sequence[dict[str, Any]]) -> str:
    """The figures as Markdown."""
    from vln_ros.cli.bench.page import table

    rows = []
    for f in figures:
        stood = f["stood_ms"]
        cells = (
            f"{f['decisions_per_s']:.1f}",
            f"{f['p50_ms']:.0f} / {f['p95_ms']:.0f}",
            f"{f['memory_mb']:.0f}",
            f"{f['least_share']:.2f}",
            f"{np.median(stood):.0f} / {max(stood):.0f} ({len(stood)})",
        )
        rows.append((f["robots"], f["way"], *cells))
    columns = (
        "robots", "navigators", "decisions [1/s]", "a decision p50 / p95 [ms]", "memory [MB]", "least share",
        "killed, until zero: median / most [ms] (robots)",
    )  # fmt: skip
    timeout_ms = figures[0]["heartbeat_timeout_ms"]
    return (
        "Robots in lockstep in the embedded world, which ask again as soon as they are answered: the most "
        "that they can ask, of the shipped policy. A decision: from its frame to its queue. Least share: "
        "decisions of the robot that got the fewest, of those of the one that got the most. Until zero: "
        f"robots in real time that drove when their navigator was killed (-9), of {MOST_DRIVEN} at most, the "
        "time-out of "
        f"{timeout_ms:.0f} ms included; with one fleet all stop, with a navigator each its own robot.\n\n"
    ) + table(columns, rows)


def _measure(
    folder: Path,
    environment: dict[str, str],
    episodes: Path,
    count: int,
    way: str,
    seconds: float,
    kills: int,
) -> FleetFigures:
    robots = [f"robot{i}" for i in range(1, count + 1)]
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "camera.width": 160, "camera.height": 120, "answer_timeout_s": 600.0,
    }  # fmt: skip
    with _running(folder / "rate", environment, robots, way, bridge, POLICY) as (graph, listener):
        answered = listener.wait(lambda: all(len(a) > 1 for a in listener.answers.values()), START_S)
        graph.check()
        if not answered:
            raise RuntimeError(f"not every robot was answered within {START_S:g} s")
        begun_s = time.monotonic()
        time.sleep(seconds)
        ended_s = time.monotonic()
        graph.check()
        memory_mb = sum(process_memory_mb(graph.pid(key)) for key in _navigators(robots, way))
        found = {r: [ms for at_s, ms in listener.answers[r] if begun_s < at_s <= ended_s] for r in robots}
    every = [ms for latencies in found.values() for ms in latencies]
    p50_ms, p95_ms = np.percentile(every, [50, 95])
    decisions = [len(latencies) for latencies in found.values()]
    return FleetFigures(
        robots=count,
        way=way,
        decisions_per_s=len(every) / (ended_s - begun_s),
        p50_ms=float(p50_ms),
        p95_ms=float(p95_ms),
        memory_mb=memory_mb,
        least_share=min(decisions) / max(decisions),
        stood_ms=_kill(folder / "kill", environment, episodes, robots, way, kills),
        heartbeat_timeout_ms=SafetyConfig().heartbeat_timeout_s * 1e3,
    )


def _kill(
    folder: Path, environment: dict[str, str], episodes: Path, robots: Sequence[str], way: str, kills: int
) -> list[float]:
    """Until each robot stood that drove when its navigator was killed."""
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "realtime", "camera.width": 64, "camera.height": 48,
        "image_hz": 5.0, "odometry_hz": 20.0,  # no more than the executor needs
        "max_episode_s": 3600.0, "max_steps": 10000, "answer_timeout_s": 600.0,
    }  # fmt: skip
    expert: dict[str, Scalar] = {
        "engine": "expert", "expert.episodes": str(episodes), "expert.clearance_m": EXPERT_CLEARANCE_M,
        "decide_ahead": 1, "use_sim_time": True,
    }  # fmt: skip
    stood_ms: list[float] = []
    driven = robots[:MOST_DRIVEN]
    served = robots if way == SHARED else driven
    with _running(folder, environment, driven, way, bridge, expert, served) as (graph, listener):
        for _ in range(kills):
            drove = drivers(listener, len(driven))
            graph.check()
            if not drove:
                raise RuntimeError(f"none of {len(driven)} robots drives within {DRIVES_S:g} s")
            key = _navigators(drove, way)[0]
            begun_s = time.monotonic()
            os.kill(graph.pid(key), signal.SIGKILL)
            graph.wait(key)
            time.sleep(WATCHED_S)
            affected = drove if way == SHARED else drove[:1]
            stood_ms += [listener.stood_ms(robot, begun_s) for robot in affected]
            if not np.isfinite(stood_ms).all():
                raise RuntimeError(f"a robot drives on {WATCHED_S:g} s after {key} was killed")
            graph.start(next(s for s in _specs(served, way, expert) if s.key == key))
    return stood_ms


def drivers(listener: FleetListener, robots: int) -> list[str]:
    """Half of so many robots that drive at once; where they do not, those that do. Empty: none in time."""
    found: list[str] = []

    def drive(wanted: int) -> bool:
        found[:] = listener.moving()
        return len(found) >= wanted

    if not listener.wait(lambda: drive((robots + 1) // 2), HALF_DRIVES_S):
        listener.wait(lambda: drive(1), DRIVES_S - HALF_DRIVES_S)
    return found


def _navigators(robots: Sequence[str], way: str) -> list[str]:
    """The processes that serve these robots, as the graph knows them."""
    return ["fleet"] if way == SHARED else [f"{robot}.navigator" for robot in robots]


def _specs(robots: Sequence[str], way: str, navigator: dict[str, Scalar]) -> list[NodeSpec]:
    own: dict[str, Scalar] = {**NAVIGATOR, **navigator}
    if way == SHARED:
        names = {"robots": ",".join(robots)}
        return [NodeSpec("fleet", names, beside={"navigator": own}, remaps=OWN_CLOCK)]
    return [NodeSpec("navigator", own, namespace=f"/{robot}", remaps=OWN_CLOCK) for robot in robots]


@contextmanager
def _running(
    folder: Path,
    environment: dict[str, str],
    robots: Sequence[str],
    way: str,
    bridge: dict[str, Scalar],
    navigator: dict[str, Scalar],
    served: Sequence[str] = (),
) -> Iterator[tuple[Graph, FleetListener]]:
    """The graph of so many robots; in real time each with its executor.

    Args:
        served: whom the navigators are for; empty: for these robots.
    """
    from rclpy.context import Context

    from benchmarks.measure.fleet import FleetListener

    context = Context()
    context.init()
    listener = FleetListener(context, robots)
    try:
        with Graph(folder, environment) as graph:
            for robot in robots:
                graph.start(NodeSpec("sim_bridge", bridge, namespace=f"/{robot}", remaps=OWN_CLOCK))
                if bridge.get("mode") == "realtime":
                    # Its own clock, as on a robot: a busy simulator's is late.
                    executor: dict[str, Scalar] = {"safety.obstacles": "none", "extrinsics": "parameters"}
                    graph.start(NodeSpec("executor", executor, namespace=f"/{robot}"))
            for spec in _specs(served or robots, way, navigator):
                graph.start(spec)
            yield graph, listener
    finally:
        listener.close()
        context.try_shutdown()


def process_memory_mb(pid: int) -> float:
    """What a process holds; of what it shares with others its part."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii").splitlines()
    return next(int(line.split()[1]) / 1024.0 for line in lines if line.startswith("Pss:"))
