"""``vln_ros bench soak``: memory, missed control periods and dropped frames over a long run."""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vln_ros.cli.arguments.parsing import SIZE
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import Point, plot_lines
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, write_laps
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import ConfigError, Scalar
from vln_ros.datatypes import Float64Array
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.embedded.flat import ROBOT_RADIUS_M

TITLE = "A long run"
HELP = "Run the whole graph for half an hour: memory of each process, missed deadlines, lost frames"
NODES = ("sim_bridge", "navigator", "executor")
EPISODES_PER_MINUTE = 3
STRETCHES = 60
SETTLED_SHARE = 0.2
"""Memory is judged after this share of the time: imports, caches and scenes come first."""


@dataclass(frozen=True)
class SoakFigures:
    """One run.

    Attributes:
        minutes: how long.
        memory_mb: by process, minute and resident memory, median of each of about sixty stretches.
        slope_mb_per_h: by process, of the line through the judged ones.
        control_periods, missed: of the executor; missed began more than 20 ms late.
        late_p999_ms, late_worst_ms: of the executor's control periods.
        frames: the navigator's books: received = aligned + dropped + pending, aligned = processed +
            replaced + refused + waiting.
        unexplained: frames that the books do not account for; one may be under way.
    """

    minutes: float
    memory_mb: dict[str, list[tuple[float, float]]]
    slope_mb_per_h: dict[str, float]
    control_periods: int
    missed: int
    late_p999_ms: float
    late_worst_ms: float
    frames: dict[str, int]
    unexplained: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--minutes", type=float, default=30.0, help="minutes to run (default: 30)")
    parser.add_argument(
        "--size", metavar=SIZE, default="320x240", help="size of the camera's images (default: 320x240)"
    )
    parser.add_argument(
        "--checkpoint", default="", help="checkpoint that drives instead of the oracle policy"
    )
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        figures = _soak(Path(name), options)
    print(f"\n{figures.minutes:g} minutes in real time")
    for node, slope in figures.slope_mb_per_h.items():
        first, last = ends(figures, node)
        print(f"{node:<12}{first:>9.1f} MB -> {last:>7.1f} MB{slope:>+9.1f} MB/h")
    print(
        f"control: {figures.control_periods} periods, {figures.missed} more than 20 ms late, p99.9 "
        f"{figures.late_p999_ms:.0f} ms, worst {figures.late_worst_ms:.0f} ms"
    )
    print(f"frames: {figures.frames}, unexplained {figures.unexplained}")
    if options.json is not None:
        write_atomically(options.json, json.dumps(asdict(figures), indent=2) + "\n")
    return 0


def _soak(folder: Path, options: argparse.Namespace) -> SoakFigures:
    from tqdm import tqdm

    width, height = (int(v) for v in options.size.split("x"))
    episodes = write_laps(folder / "dataset", math.ceil(EPISODES_PER_MINUTE * options.minutes))
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "realtime", "camera.width": width, "camera.height": height,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {
        "use_sim_time": True, "extrinsics": "parameters", "engine": "expert",
        "expert.episodes": str(episodes), "expert.clearance_m": EXPERT_CLEARANCE_M, "decide_ahead": 1,
        "reliability": "reliable",
    }  # fmt: skip
    if options.checkpoint:
        navigator |= {"engine": "qwen", "qwen.checkpoint": options.checkpoint}
    # Its own clock, as on a robot: with the simulator's, its periods are late whenever that one's are.
    executor: dict[str, Scalar] = {
        "extrinsics": "parameters", "safety.robot_radius_m": ROBOT_RADIUS_M, "safety.stop_distance_m": 0.05,
        "safety.slow_distance_m": 0.3,
    }  # fmt: skip
    specs = [NodeSpec("sim_bridge", bridge), NodeSpec("navigator", navigator), NodeSpec("executor", executor)]
    memory: dict[str, list[tuple[float, float]]] = {n: [] for n in NODES}
    logs = folder / "logs"
    with Graph(logs, enter_graph(logs)) as graph, Listener() as listener:
        for spec in specs:
            graph.start(spec)
        begun_s = time.monotonic()
        seconds = options.minutes * 60.0
        with tqdm(total=round(seconds), unit="s", disable=None) as progress:
            while (elapsed_s := time.monotonic() - begun_s) < seconds:
                graph.check()
                for node in NODES:
                    memory[node].append((elapsed_s, resident_mb(graph.pid(node))))
                listener.spin(1.0)
                progress.update(round(elapsed_s) - progress.n)
        said = listener.newest
    if not {"vln_ros: executor", "vln_ros: navigator"} <= set(said):
        raise ConfigError(f"only {sorted(said)} said how they are: was the run too short?")
    books, unexplained = accounts(said["vln_ros: navigator"])
    control = said["vln_ros: executor"]
    course = {n: stretches(np.array(m)) for n, m in memory.items()}
    settled = {
        n: np.array([s for s in m if s[0] > SETTLED_SHARE * options.minutes]) for n, m in course.items()
    }
    return SoakFigures(
        options.minutes,
        course,
        {n: float(np.polyfit(m[:, 0], m[:, 1], 1)[0] * 60.0) for n, m in settled.items()},
        int(control["control periods"]),
        int(control["control periods 20 ms late"]),
        float(control["control late p99.9 [ms]"]),
        float(control["control late worst [ms]"]),
        books,
        unexplained,
    )


def stretches(samples: Float64Array) -> list[tuple[float, float]]:
    """``[N, 2]`` seconds and MB, as the medians of up to :data:`STRETCHES` stretches: minutes and MB."""
    parts = np.array_split(samples, min(STRETCHES, len(samples)))
    return [(float(np.median(p[:, 0])) / 60.0, float(np.median(p[:, 1]))) for p in parts]


def ends(figures: SoakFigures, node: str) -> tuple[float, float]:
    """Memory of a process at the begin of the judged time and at its end, MB."""
    judged = [mb for minute, mb in figures.memory_mb[node] if minute > SETTLED_SHARE * figures.minutes]
    return judged[0], judged[-1]


def accounts(values: dict[str, str]) -> tuple[dict[str, int], int]:
    """The books of the frames from the navigator's diagnostics, and what they do not explain."""

    def count(name: str) -> int:
        return int(values.get(name, "0"))

    books = {
        "received": count("frames received"),
        "dropped before the mailbox": count("frames dropped before the mailbox"),
        "pending": count("sync: pending"),
        "replaced by a newer one": count("frames replaced by a newer one"),
        "processed": count("frames processed"),
        "refused": sum(int(v) for k, v in values.items() if k.startswith("refused: ")),
    }
    return books, 2 * books["received"] - sum(books.values())


def resident_mb(pid: int) -> float:
    """Resident memory of a process, mapped files (weights) included, shared memory not. Linux only."""
    lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    parts = [int(line.split()[1]) for line in lines if line.startswith(("RssAnon:", "RssFile:"))]
    if not parts:
        raise ConfigError("this system does not say how much memory a process has: the soak needs Linux")
    return sum(parts) / 1024.0


class Listener:
    """Hears /diagnostics, in the domain of this process. A context."""

    def __init__(self) -> None:
        import rclpy
        from diagnostic_msgs.msg import DiagnosticArray
        from rclpy.context import Context
        from rclpy.executors import SingleThreadedExecutor

        from vln_ros.ros import qos

        self.newest: dict[str, dict[str, str]] = {}
        self._context = Context()
        rclpy.init(context=self._context)
        self._node = rclpy.create_node("soak", context=self._context)
        self._node.create_subscription(DiagnosticArray, "/diagnostics", self._hear, qos.diagnostics())
        self._spinner = SingleThreadedExecutor(context=self._context)
        self._spinner.add_node(self._node)

    def _hear(self, msg: Any) -> None:
        for status in msg.status:
            self.newest[status.name] = {v.key: v.value for v in status.values}

    def spin(self, seconds: float) -> None:
        until_s = time.monotonic() + seconds
        while (left_s := until_s - time.monotonic()) > 0.0:
            self._spinner.spin_once(left_s)

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *_: object) -> None:
        self._spinner.shutdown()
        self._node.destroy_node()
        self._context.shutdown()


def plot(figures: dict[str, Any], folder: Path) -> None:
    lines = {node: [Point(*sample) for sample in samples] for node, samples in figures["memory_mb"].items()}
    plot_lines(folder / "soak.png", TITLE, ("minutes", "resident MB"), lines)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    f = SoakFigures(**figures)
    rows = [
        (node, *(f"{mb:.1f} MB" for mb in ends(f, node)), f"{slope:+.1f} MB/h")
        for node, slope in f.slope_mb_per_h.items()
    ]
    books = ", ".join(f"{name} {count}" for name, count in f.frames.items())
    return (
        f"The whole graph for {f.minutes:g} minutes in real time; memory after the first "
        f"{SETTLED_SHARE:.0%}.\n\n"
        + table(("process", "begin", "end", "slope"), rows)
        + "\nFour flats come by turns: the simulator keeps them, 15 to 30 MB each.\n"
        f"\n{f.control_periods} control periods, {f.missed} of them more than 20 ms late; lateness at the "
        f"99.9th percentile {f.late_p999_ms:.0f} ms, at worst {f.late_worst_ms:.0f} ms. Frames: {books}; "
        f"unexplained {f.unexplained}.\n"
    )
