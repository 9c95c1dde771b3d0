"""``vln_ros bench collisions``: how often the robot touches boxes that appear before it while it drives."""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, run_graph, write_split
from vln_ros.config import ConfigError, Scalar
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import share
from vln_ros.sim.embedded.flat import ROBOT_RADIUS_M

TITLE = "Boxes that appear before the robot"
KIND = "room"
"""Of the flats: a hundred ways of a few metres are driven in half an hour."""
HELP = "Real-time episodes with boxes that appear before the driving robot: does it touch any?"

CAMERA_HEIGHT_M, CAMERA_PITCH_DEG = 0.8, 35.0
"""It sees the floor a hand's breadth before the robot, so what has gone is seen to have gone. A camera that
looks straight ahead leaves the robot standing before the memory of it."""


@dataclass(frozen=True)
class CollisionFigures:
    """All episodes of one setting.

    Attributes:
        boxes: how many appeared, 0.2 to 1 m ahead of the robot's front.
        box_contacts: how often one was touched.
        collisions: contacts with anything, walls included.
    """

    episodes: int
    boxes: int
    box_contacts: int
    collisions: int
    success: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--episodes", type=int, default=100, help="episodes with obstacle stops (default: 100)"
    )
    parser.add_argument("--boxes", type=int, default=4, help="most boxes per episode (default: 4)")
    parser.add_argument("--speed", type=float, default=1.0, help="simulated seconds per second (default: 1)")
    add_json(parser)


def run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        all_of_them = write_split(folder / "all", "val_unseen", options.episodes, KIND)
        # That boxes are touched where nobody looks for them is soon seen.
        few = write_split(folder / "few", "val_unseen", max(1, options.episodes // 4), KIND)
        figures = {
            obstacles: _measure(folder, episodes, obstacles, options.boxes, options.speed)
            for obstacles, episodes in (("none", few), ("depth", all_of_them))
        }
    columns = f"{'episodes':>10}{'boxes':>8}{'boxes touched':>15}{'collisions':>12}{'success':>9}"
    print(f"{'safety.obstacles':<18}{columns}")
    for obstacles, f in figures.items():
        print(
            f"{obstacles:<18}{f.episodes:>10}{f.boxes:>8}{f.box_contacts:>15}{f.collisions:>12}{f.success:>9.2f}"
        )
    if options.json is not None:
        values = {o: asdict(f) for o, f in figures.items()}
        write_atomically(options.json, json.dumps(values, indent=2) + "\n")
    return 0 if figures["depth"].box_contacts == 0 else 1


def _measure(folder: Path, episodes: Path, obstacles: str, boxes: int, speed: float) -> CollisionFigures:
    from vln_ros.evaluation.runs.lines import read_episodes

    out = folder / obstacles
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes), "mode": "realtime", "run_folder": str(out), "video": False,
        "camera.width": 160, "camera.height": 120, "image_hz": 15.0, "surprises": boxes,
        "realtime_factor": speed, "max_episode_s": 120.0, "camera.height_m": CAMERA_HEIGHT_M,
        "camera.pitch_down_deg": CAMERA_PITCH_DEG,
    }  # fmt: skip
    extrinsics: dict[str, Scalar] = {
        "extrinsics": "parameters", "camera_z_m": CAMERA_HEIGHT_M, "camera_pitch_down_deg": CAMERA_PITCH_DEG,
    }  # fmt: skip
    navigator: dict[str, Scalar] = {
        **extrinsics, "engine": "expert", "expert.episodes": str(episodes),
        "expert.clearance_m": EXPERT_CLEARANCE_M, "decide_ahead": 1, "reliability": "reliable",
        "use_sim_time": True,
    }  # fmt: skip
    executor: dict[str, Scalar] = {
        **extrinsics, "safety.obstacles": obstacles, "safety.robot_radius_m": ROBOT_RADIUS_M
    }  # fmt: skip
    if run_graph(out / "logs", bridge, navigator, executor):
        raise ConfigError(f"the graph failed, its logs are in {out / 'logs'}")
    told = [json.loads(line) for line in (out / "surprises.jsonl").read_text("utf-8").splitlines()]
    results = read_episodes(out / "episodes.jsonl", repair=False)
    measured = [r.metrics for r in results if r.metrics is not None]
    return CollisionFigures(
        len(results),
        sum(t["put"] for t in told),
        sum(t["contacts"] for t in told),
        round(sum(m.collisions for m in measured)),
        sum(m.success for m in measured) / max(1, len(measured)),
    )


def plot(figures: dict[str, Any], folder: Path) -> None:
    bars = []
    for obstacles, f in figures.items():
        touched = share(f["box_contacts"], f["boxes"])
        bars.append(
            (f"safety.obstacles: {obstacles}", 100 * touched.mean, 100 * touched.low, 100 * touched.high)
        )
    plot_bars(folder / "collisions.png", TITLE, "boxes touched [%], 95 % interval", bars)


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    rows = []
    for obstacles, values in figures.items():
        f = CollisionFigures(**values)
        e = share(f.box_contacts, f.boxes)
        touched = f"{f.box_contacts} = {100 * e.mean:.1f} % ({e.interval('.1f', 100.0)})"
        rows.append((obstacles, f.episodes, f.boxes, touched, f.collisions, f"{f.success:.0%}"))
    return (
        "Real time, the expert, boxes that appear 0.2 to 1 m ahead of the driving robot's front. Shares with "
        "95 % intervals (Wilson).\n\n"
    ) + table(
        ("`safety.obstacles`", "episodes", "boxes", "touched", "contacts with anything", "success"), rows
    )
