"""``vln_ros demo``: a simulated robot follows instructions over real ROS 2 topics."""

from __future__ import annotations

import argparse
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from vln_ros.cli.arguments.places import check_model, output_file, output_folder, print_report, run_folder
from vln_ros.cli.arguments.recording import add_switch, node_parameters, print_recordings
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, add_join, graph_environment
from vln_ros.config import BridgeConfig, ConfigError, NavigatorConfig, QwenConfig, Scalar, from_flat, to_flat
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.embedded.flat import KINDS, ROBOT_RADIUS_M

HELP = "Let a simulated robot follow instructions over real ROS 2 topics; leaves a report page"
ENGINES = ("expert", "qwen")
SIMULATED_ROBOT: dict[str, Scalar] = {
    "extrinsics": "parameters",
    "safety.obstacles": "depth",
    "safety.robot_radius_m": ROBOT_RADIUS_M,
    "safety.stop_distance_m": 0.1,
    "safety.slow_distance_m": 0.4,
}
"""Of the executor, as in config/base_sim.yaml."""
EXPERT_CLEARANCE_M = 0.15
"""The expert keeps this far from walls where there is room: closer, the executor would stop it."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--episodes", type=int, default=5, help="number of episodes (default: 5)")
    parser.add_argument("--split", default="val_unseen", help="train, val_seen or val_unseen (default)")
    parser.add_argument(
        "--mode",
        choices=("lockstep", "realtime"),
        default="lockstep",
        help="what moves the robot; lockstep: its queue, and the world waits for the model, so that runs are "
        "repeatable (default); realtime: the executor by cmd_vel, and nothing waits",
    )
    parser.add_argument(
        "--kind", choices=KINDS, default="room", help="size of the flats: room, small or flat (default: room)"
    )
    parser.add_argument(
        "--engine",
        choices=ENGINES,
        default="qwen",
        help="what decides: qwen, a model (default), or expert, the oracle policy that knows the map",
    )
    parser.add_argument(
        "--profile",
        default=QwenConfig().profile,
        help="profile of the model: how it is prompted (default: %(default)s)",
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        help="folder or hub name of a checkpoint (default: the one that the profile names)",
    )
    parser.add_argument("--size", default="320x240", help="size of the camera's images (default: 320x240)")
    parser.add_argument(
        "--speed", type=float, default=1.0, help="simulated seconds per second, with --mode realtime"
    )
    add_switch(parser)
    add_join(parser)
    parser.add_argument("--no-video", action="store_true", help="write no videos")
    parser.add_argument(
        "--out", type=output_folder, default=None, help="run folder (default: runs/demo-DATE)"
    )
    parser.add_argument(
        "--json", type=output_file, default=None, help="also write the summary to this file (JSON)"
    )


def run(options: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    out = run_folder(options.out, "demo")
    width, height = parse_size(options.size)
    environment = graph_environment(join=options.join)
    check_split(options.split, options.episodes)
    episodes = split_path(out / "dataset", options.split)
    navigator: dict[str, Scalar] = {
        "engine": options.engine,
        "extrinsics": "parameters",  # the default is where the bridge mounts its camera
        "expert.episodes": str(episodes),
        "expert.clearance_m": EXPERT_CLEARANCE_M if options.mode == "realtime" else 0.0,
        "reliability": "reliable",
        **node_parameters(options, out),
    }
    if options.engine == "qwen":
        navigator |= named_model(options.profile, options.checkpoint)
        check_model(str(navigator["qwen.checkpoint"]), options.profile)
    decides = out / "navigator.json"
    bridge: dict[str, Scalar] = {
        "episodes": str(episodes),
        "mode": options.mode,
        "run_folder": str(out),
        "command": shlex.join(["vln_ros", *sys.argv[1:]]),
        "navigator_info": str(decides),
        "video": not options.no_video,
        "camera.width": width,
        "camera.height": height,
        "realtime_factor": options.speed,
    }
    from_flat(BridgeConfig, bridge)
    decided = to_flat(from_flat(NavigatorConfig, navigator), "navigator.")
    write_split(out / "dataset", options.split, options.episodes, options.kind)
    fingerprint = ""
    if options.engine == "qwen":
        from vln_ros.engine.checkpoint.model import checkpoint_fingerprint

        fingerprint = checkpoint_fingerprint(str(navigator["qwen.checkpoint"]))
    write_atomically(decides, json.dumps({"config": decided, "checkpoint": fingerprint}))
    navigator["use_sim_time"] = options.mode == "realtime"  # of every node, not one of its own options
    status = run_graph(out / "logs", bridge, navigator, node_parameters(options, out), environment)
    if status == 0:
        print_recordings(options, out)
    print(f"{time.monotonic() - begun_s:.1f} s")
    print_report(out)
    if options.json is not None and status == 0:
        write_atomically(options.json, (out / "result.json").read_text("utf-8"))
    return status


def named_model(profile: str, checkpoint: str) -> dict[str, Scalar]:
    """The navigator's parameters for a profile, and a checkpoint if not the profile's own."""
    from vln_ros.engine.checkpoint.profile import load_profile

    return {"qwen.profile": profile, "qwen.checkpoint": checkpoint or load_profile(profile).checkpoint}


def run_graph(
    logs: Path,
    bridge: Mapping[str, Scalar],
    navigator: Mapping[str, Scalar],
    executor: Mapping[str, Scalar] | None = None,
    environment: Mapping[str, str] | None = None,
) -> int:
    """Bridge and navigator, and the executor where the bridge is in real time, until the bridge is done.

    The environment is that of :func:`~vln_ros.cli.graph.graph_environment` where none is given.
    """
    try:
        with Graph(logs, graph_environment() if environment is None else environment) as graph:
            graph.start(NodeSpec("sim_bridge", bridge, quiet=False))
            graph.start(NodeSpec("navigator", navigator))
            if bridge["mode"] == "realtime":
                simulated: dict[str, Scalar] = {"use_sim_time": True, **SIMULATED_ROBOT}
                graph.start(NodeSpec("executor", {**simulated, **(executor or {})}))
            return graph.wait("sim_bridge")
    except GraphError as error:
        print(error, file=sys.stderr)
        return 1


def parse_size(text: str) -> tuple[int, int]:
    """``640x480`` as width and height. Raises ConfigError for anything else."""
    try:
        width, height = (int(part) for part in text.split("x"))
    except ValueError:
        raise ConfigError(f"--size = {text!r}: expected WIDTHxHEIGHT, as in 640x480") from None
    return width, height


def check_split(split: str, count: int) -> None:
    """Raises ConfigError: no such split, or no episodes of it are asked for."""
    from vln_ros.sim.splits import SPLITS

    if split not in SPLITS:
        raise ConfigError(f"--split = {split!r}: choose one of {', '.join(SPLITS)}")
    if count < 1:
        raise ConfigError(f"--episodes = {count}: must be at least 1")


def split_path(root: Path, split: str) -> Path:
    """Where :func:`write_split` writes."""
    return root / split / f"{split}.json.gz"


def write_split(root: Path, split: str, count: int, kind: str = "flat") -> Path:
    """The first episodes of a split as a file that bridge and expert read."""
    from functools import partial

    from tqdm import tqdm

    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import make_episodes

    progress = partial(tqdm, desc="making episodes", unit="episode", delay=2.0, leave=False)
    return write_episodes(root, split, make_episodes(split, count, kind, wrap=progress))


def write_laps(root: Path, count: int) -> Path:
    """At least so many episodes of val_unseen in four flats by turns, the same ones lap after lap.

    For long runs: the simulator soon has all these flats in its cache, and they are made in seconds.
    """
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import first_seeds, make_scene_episodes

    split = "val_unseen"
    flats = [make_scene_episodes(split, seed) for seed in first_seeds(split, 4)]
    lap = [episode for turn in zip(*flats, strict=True) for episode in turn]
    laps = range(math.ceil(count / len(lap)))
    named = [replace(e, episode_id=f"{e.episode_id}-{k + 1}") for k in laps for e in lap]
    return write_episodes(root, split, named)
