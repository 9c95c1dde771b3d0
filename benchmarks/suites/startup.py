"""``vln_ros bench startup``: until a robot's node is active, and what its process holds then."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.graph import graph_environment
from vln_ros.config import ConfigError
from vln_ros.evaluation.files import write_atomically
from vln_ros.ros.terminal.environment import PARENT

TITLE = "Start-up of the robot's nodes"
HELP = "Seconds and memory until navigator and executor are active; by turns with another checkout"
ROOT = Path(__file__).parents[2]
THIS = "this checkout"
NODES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "executor": ("executor", ()),
    "navigator, no model": ("navigator", ("engine:=paced",)),
    "navigator, shipped policy": (
        "navigator",
        ("engine:=qwen", "qwen.checkpoint:=shipped:tiny", "qwen.profile:=tiny", "qwen.device:=cpu"),
    ),
}
"""What is started: a node, and its options."""
TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Start:
    """One process, when its node said that it is active.

    Attributes:
        active_s: wall clock since the process was started.
        cpu_s: of all of its threads.
        resident_mb: memory, with what it shares with others.
    """

    active_s: float
    cpu_s: float
    resident_mb: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeats", type=int, default=7, help="starts of each node (default: %(default)s)")
    parser.add_argument(
        "--against", type=Path, default=None, metavar="CHECKOUT", help="another checkout, started by turns"
    )
    add_json(parser)
    rename_options(parser, {"--runs": "--repeats"})


def run(options: argparse.Namespace) -> int:
    if options.repeats < 1:
        raise ConfigError(f"--repeats = {options.repeats}: at least 1")
    trees = {THIS: ROOT}
    if options.against is not None:
        if not (options.against / "vln_ros" / "__main__.py").is_file():
            raise ConfigError(f"--against = {options.against}: no checkout of this repository")
        trees[_commit(options.against)] = options.against
    figures = measure(trees, options.repeats)
    print(section(figures))
    if options.json is not None:
        write_atomically(options.json, json.dumps(figures, indent=1) + "\n")
    return 0


def _commit(tree: Path) -> str:
    """What another checkout is called."""
    done = subprocess.run(
        ["git", "-C", tree, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return f"commit {done.stdout.strip()}" if done.returncode == 0 else tree.name


def measure(trees: Mapping[str, Path], runs: int) -> dict[str, dict[str, list[dict[str, float]]]]:
    """``figures[node][tree]``, a list of starts. The first of each, which writes bytecode, does not count."""
    from tqdm import tqdm

    found: dict[str, dict[str, list[dict[str, float]]]] = {n: {t: [] for t in trees} for n in NODES}
    turns = [(r, node, tree) for r in range(runs + 1) for node in NODES for tree in trees]
    with tempfile.TemporaryDirectory() as folder:
        for number, node, tree in tqdm(turns, desc="start", unit="node", disable=None):
            start = start_node(trees[tree], *NODES[node], Path(folder) / "node.log")
            if number:
                found[node][tree].append(asdict(start))
    return found


def start_node(tree: Path, node: str, options: tuple[str, ...], log: Path) -> Start:
    """A node from its own checkout, ended as soon as it is active.

    Raises:
        RuntimeError: it ended, or was not active in time; with what it said.
    """
    command = [sys.executable, "-m", "vln_ros", "node", node, "--ros-args"]
    for option in ("extrinsics:=parameters", *options):
        command += ["-p", option]
    environment = {**graph_environment(), PARENT: str(os.getpid()), "PYTHONPATH": _path_without_us()}
    begun_s = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(command, cwd=tree, env=environment, stdout=output, stderr=output)
    try:
        while not any(line.endswith("]: active") for line in _lines(log)):
            if process.poll() is not None or time.monotonic() - begun_s > TIMEOUT_S:
                raise RuntimeError(f"{node} did not become active:\n{log.read_text('utf-8', 'replace')}")
            time.sleep(0.005)
        active_s = time.monotonic() - begun_s
        return Start(active_s, _cpu_s(process.pid), _resident_mb(process.pid))
    finally:
        process.terminate()
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _lines(log: Path) -> list[str]:
    """Without the colours that a terminal would see."""
    return [line.replace("\x1b[0m", "").strip() for line in log.read_text("utf-8", "replace").splitlines()]


def _path_without_us() -> str:
    """What the user has set: the checkout is the folder that a process is started in."""
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return os.pathsep.join(p for p in given if p and Path(p).resolve() != ROOT)


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text("utf-8").splitlines()
    return next(int(line.split()[1]) / 1024.0 for line in lines if line.startswith("VmRSS:"))


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = []
    for node, trees in figures.items():
        for tree, starts in trees.items():
            values = [s["active_s"] for s in starts]
            bars.append((f"{node}, {tree}", median(values), min(values), max(values)))
    plot_bars(folder / "startup.png", TITLE, "s until active, median, least to most", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    rows = []
    for node, trees in figures.items():
        for tree, starts in trees.items():
            cells = [
                f"{median(values):.{digits}f} ({min(values):.{digits}f} – {max(values):.{digits}f})"
                for key, digits in (("active_s", 2), ("cpu_s", 2), ("resident_mb", 0))
                if (values := [s[key] for s in starts])
            ]
            rows.append((node, tree, *cells, len(starts)))
    return (
        "From the start of a process to the word that its node is active: interpreter, imports, ROS and, "
        "with a model, its weights. Median (least – most); the checkouts are started by turns.\n\n"
    ) + table(("node", "code", "active after [s]", "processor [s]", "resident [MB]", "starts"), rows)
