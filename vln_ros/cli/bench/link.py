"""``vln_ros bench link``: cuts the link between robot and navigator, and times what follows; needs root."""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.demo import write_split
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import ConfigError, ExecutorConfig, Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.ros.terminal.environment import FAST_DDS_PROFILE

TITLE = "The link between robot and navigator is cut"
HELP = "Cut the link between robot and navigator, and time how the robot stops and goes on (needs root)"
MOVING_S = 1.0
"""The robot has moved for so long when the link is cut."""
WAIT_S = 120.0
BASE_REACTION_S = 0.5
"""After the zero it may take the simulated base this long to have heard it."""


@dataclass(frozen=True)
class CutFigures:
    """One cut.

    Attributes:
        cut_s: how long the link was down.
        to_zero_s: from the cut to the first velocity of zero; None: it was not commanded to stop.
        moved_m: way from :data:`BASE_REACTION_S` after that to the end of the cut.
        said: the executor's state while the link was down, the last one.
        to_moving_s: from the link's return to the next velocity; None: it did not go on.
    """

    cut_s: float
    to_zero_s: float | None
    moved_m: float
    said: str
    to_moving_s: float | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--cuts-s",
        type=float,
        nargs="+",
        default=[1.0, 5.0, 30.0],
        help="lengths of the cuts, seconds (default: 1 5 30)",
    )
    add_json(parser)
    rename_options(parser, {"--cuts": "--cuts-s"})


def run(options: argparse.Namespace) -> int:
    if reason := cannot():
        raise ConfigError(reason)
    with tempfile.TemporaryDirectory() as name:
        figures = [measure(Path(name) / f"cut-{i}", cut_s) for i, cut_s in enumerate(options.cuts_s)]
    c = ExecutorConfig()
    print(f"\nheartbeat_timeout_s {c.safety.heartbeat_timeout_s:g}, control period {1e3 / c.rate_hz:.0f} ms")
    print(f"{'cut':>6}{'to zero':>10}{'moved while down':>18}{'going on after':>16}  said")
    for f in figures:
        to_zero, to_moving = _seconds(f.to_zero_s), _seconds(f.to_moving_s)
        print(f"{f.cut_s:>4g} s{to_zero:>10}{f.moved_m:>16.3f} m{to_moving:>16}  {f.said}")
    if options.json is not None:
        write_atomically(options.json, json.dumps({"cuts": [asdict(f) for f in figures]}, indent=2) + "\n")
    return 0 if all(f.to_zero_s is not None and f.to_moving_s is not None for f in figures) else 1


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.2f} s"


def cannot() -> str:
    """Why this machine cannot make network namespaces; empty if it can."""
    if shutil.which("ip") is None:
        return "network namespaces need the command ip (iproute2)"
    name = f"vln-try-{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, text=True, check=False)
    if made.returncode:
        return f"network namespaces need root (CAP_SYS_ADMIN): {made.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return ""


class Link:
    """Two network namespaces with a cable between them. Use as a context."""

    def __init__(self) -> None:
        self.robot, self.gpu = f"vln-robot-{os.getpid()}", f"vln-gpu-{os.getpid()}"

    def __enter__(self) -> Link:
        with contextlib.ExitStack() as undo:
            for name in (self.robot, self.gpu):
                _ip("netns", "add", name)
                undo.callback(_ip, "netns", "del", name)
            _ip(
                "link",
                "add",
                "robot0",
                "netns",
                self.robot,
                "type",
                "veth",
                "peer",
                "gpu0",
                "netns",
                self.gpu,
            )
            for name, device, address in (
                (self.robot, "robot0", "10.99.0.1/24"),
                (self.gpu, "gpu0", "10.99.0.2/24"),
            ):
                _ip("-n", name, "link", "set", "lo", "up")
                _ip("-n", name, "address", "add", address, "dev", device)
                self._up(name, device)
            self._undo = undo.pop_all()
        return self

    def _up(self, name: str, device: str) -> None:
        _ip("-n", name, "link", "set", device, "up")
        _ip("-n", name, "route", "replace", "224.0.0.0/4", "dev", device)

    def cut(self) -> None:
        """Pull the cable, at the far end from the robot."""
        _ip("-n", self.gpu, "link", "set", "gpu0", "down")

    def mend(self) -> None:
        self._up(self.gpu, "gpu0")

    def __exit__(self, *_: object) -> None:
        self._undo.close()


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)


def measure(folder: Path, cut_s: float) -> CutFigures:
    """An episode in real time with the link cut once, while the robot moves.

    Raises:
        ConfigError: the robot never moved.
    """
    folder.mkdir()
    episodes = write_split(folder, "val_unseen", 1)
    environment = graph_environment() | {
        "FASTRTPS_DEFAULT_PROFILES_FILE": str(FAST_DDS_PROFILE),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": "SUBNET",
    }
    navigator: dict[str, Scalar] = {
        "engine": "expert",
        "extrinsics": "parameters",
        "expert.episodes": str(episodes),
        "color_transport": "compressed",
        "depth_transport": "compressed",
        "use_sim_time": True,
    }
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": "realtime",
        "transport": "compressed",
        "camera.width": 160,
        "camera.height": 120,
        "image_hz": 5.0,
    }
    executor: dict[str, Scalar] = {"use_sim_time": True, "safety.obstacles": "none"}
    with (
        Link() as link,
        Graph(folder / "gpu", environment, ("ip", "netns", "exec", link.gpu)) as far,
        Graph(folder / "robot", environment, ("ip", "netns", "exec", link.robot)) as near,
        Witness(environment, link.robot) as witness,
    ):
        near.start(NodeSpec("sim_bridge", bridge))
        near.start(NodeSpec("executor", executor))
        far.start(NodeSpec("navigator", navigator))
        if witness.wait("moving", 0.0) is None:
            raise ConfigError(f"the robot did not move, the logs are in {folder}")
        time.sleep(MOVING_S)
        witness.wait_moving()
        link.cut()
        cut_at_s = time.monotonic()
        time.sleep(cut_s)
        link.mend()
        mended_at_s = time.monotonic()
        going_on_s = witness.wait("moving", mended_at_s)
        near.check()
        far.check()
        return witness.figures(cut_s, cut_at_s, mended_at_s, going_on_s)


class Witness:
    """A process on the robot's side that tells when velocities, states and places change."""

    def __init__(self, environment: dict[str, str], namespace: str) -> None:
        code = "from vln_ros.cli.bench.link import watch; watch()"
        self._process = subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, "-c", code],
            env=environment, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self._changed = threading.Condition()
        self._events: list[tuple[float, str, Any]] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            at_s, kind, value = json.loads(line)
            with self._changed:
                self._events.append((at_s, kind, value))
                self._changed.notify_all()

    def _first(self, kind: str, after_s: float) -> float | None:
        return next((t for t, k, _ in self._events if k == kind and t >= after_s), None)

    def wait(self, kind: str, after_s: float) -> float | None:
        """When it happened first after a time; None if not within :data:`WAIT_S`."""
        with self._changed:
            self._changed.wait_for(lambda: self._first(kind, after_s) is not None, WAIT_S)
            return self._first(kind, after_s)

    def wait_moving(self) -> None:
        """Between two actions it stands; only a robot that moves can be seen to stop."""

        def is_moving() -> bool:
            kinds = [kind for _, kind, _ in self._events]
            last = next((k for k in reversed(kinds) if k in ("moving", "standing")), None)
            return last == "moving"

        with self._changed:
            self._changed.wait_for(is_moving, WAIT_S)

    def figures(
        self, cut_s: float, cut_at_s: float, mended_at_s: float, going_on_s: float | None
    ) -> CutFigures:
        with self._changed:
            down = [(t, k, v) for t, k, v in self._events if cut_at_s <= t < mended_at_s]
        zero_s = next((t for t, k, _ in down if k == "standing"), None)
        rest_s = math.inf if zero_s is None else zero_s + BASE_REACTION_S
        places = [v for t, k, v in down if k == "at" and t >= rest_s]
        way_m = sum(abs(complex(*b) - complex(*a)) for a, b in pairwise(places))
        said = [v for _, k, v in down if k == "state"]
        return CutFigures(
            cut_s,
            None if zero_s is None else zero_s - cut_at_s,
            way_m,
            said[-1] if said else "",
            None if going_on_s is None else going_on_s - mended_at_s,
        )

    def __enter__(self) -> Witness:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._thread.join()


def watch() -> None:
    """Print every change as ``[monotonic seconds, kind, value]``. Runs in a process of its own."""
    from vln_ros.ros.terminal.environment import prepare_environment

    prepare_environment()
    import rclpy
    from geometry_msgs.msg import Twist
    from nav_msgs.msg import Odometry
    from rclpy.signals import SignalHandlerOptions
    from std_msgs.msg import String

    from vln_ros.ros import qos

    # SIGTERM just ends it: there is nothing to put in order.
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = rclpy.create_node("witness")
    last: dict[str, object] = {}

    def tell(slot: str, kind: str, value: object) -> None:
        if last.get(slot) != (kind, value):
            last[slot] = (kind, value)
            print(json.dumps([time.monotonic(), kind, value]), flush=True)

    def on_velocity(msg: Twist) -> None:
        moving = msg.linear.x != 0.0 or msg.angular.z != 0.0
        tell("velocity", "moving" if moving else "standing", None)

    def on_odometry(msg: Odometry) -> None:
        p = msg.pose.pose.position
        tell("place", "at", [round(p.x, 3), round(p.y, 3)])

    def on_state(msg: Any) -> None:
        tell("state", "state", msg.data)

    node.create_subscription(Twist, "cmd_vel", on_velocity, qos.commands())
    node.create_subscription(Odometry, "odom", on_odometry, qos.sensor("best_effort", 1))
    node.create_subscription(String, "executor_state", on_state, qos.latched())
    with contextlib.suppress(KeyboardInterrupt):
        rclpy.spin(node)


def plot(figures: dict[str, Any], folder: Path) -> None:
    times = [(f"{f['cut_s']:g} s, {what}", f[key]) for f in figures["cuts"]
             for what, key in (("to zero", "to_zero_s"), ("going on after", "to_moving_s"))]  # fmt: skip
    bars = [(name, s, s, s) for name, s in times if s is not None]
    plot_bars(folder / "link.png", TITLE, "s", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (
            f"{f['cut_s']:g} s",
            _seconds(f["to_zero_s"]),
            f"{f['moved_m']:.3f} m",
            _seconds(f["to_moving_s"]),
            f["said"],
        )
        for f in figures["cuts"]
    ]
    columns = ("cut for", "velocity zero after", "moved later", "went on after", "executor said")
    return table(columns, rows) + (
        "\nAfter 20 s without a sign of life DDS forgets the navigator; the simulated world then waits until "
        "somebody listens again, and with it odometry and clock.\n"
    )
