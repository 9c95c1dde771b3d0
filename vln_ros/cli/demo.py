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

from vln_ros.cli.arguments.parsing import SIZE, check_option
from vln_ros.cli.arguments.places import add_json, check_model, output_folder, run_folder
from vln_ros.cli.arguments.recording import add_switch, node_parameters, print_recordings
from vln_ros.cli.arguments.sensors import add_sensors, sensor_parameters
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, add_join, graph_environment
from vln_ros.cli.output.next_steps import print_next, print_report
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import (
    BridgeConfig,
    CameraConfig,
    ConfigError,
    NavigatorConfig,
    QwenConfig,
    RecorderConfig,
    Scalar,
    from_flat,
    to_flat,
    walk_options,
)
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.embedded.flat import KINDS, ROBOT_RADIUS_M

HELP = "Let a simulated robot follow instructions over real ROS 2 topics; leaves a report page"
ENGINES = ("expert", "pixel_oracle", "qwen")
SIMULATED_ROBOT: dict[str, Scalar] = {
    "extrinsics": "parameters",
    "safety.obstacles": "depth",
    "safety.robot_radius_m": ROBOT_RADIUS_M,
    "safety.stop_distance_m": 0.1,
    "safety.slow_distance_m": 0.4,
}
"""Of the executor, as in config/base_sim.yaml."""
SIMULATED_PLACES: dict[str, Scalar] = {
    "place.robot_radius_m": ROBOT_RADIUS_M,
    "place.stop_distance_m": SIMULATED_ROBOT["safety.stop_distance_m"],
}
"""Of the navigator: ways are planned for the robot that the executor protects."""
LOOKING_DOWN_DEG = 30.0
"""The camera's tilt for answers in pixels: a level one up there sees no floor nearer than two metres."""
RECORDING = "recording"
"""Folder of the recording in the run folder."""
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
        help="what decides: qwen, a model (default); expert, the oracle policy that knows the map; "
        "pixel_oracle, the same with pixels for answers, and a camera that looks down by 30 degrees",
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
    parser.add_argument(
        "--size", metavar=SIZE, default="320x240", help="size of the camera's images (default: 320x240)"
    )
    parser.add_argument(
        "--speed",
        type=float,
        default=1.0,
        help="simulated seconds per second, with --mode realtime (default: %(default)g)",
    )
    add_sensors(parser)
    add_switch(parser)
    add_join(parser)
    parser.add_argument(
        "--record",
        action="store_true",
        help="record what the nodes say into the run folder: a bag for `vln_ros replay`",
    )
    parser.add_argument("--no-video", action="store_true", help="write no videos")
    parser.add_argument(
        "--out", type=output_folder, default=None, help="run folder (default: runs/demo-DATE)"
    )
    add_json(parser, "summary")


def run(options: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    out = run_folder(options.out, "demo")
    width, height = parse_size(options.size)
    factor = next(e for e in walk_options(BridgeConfig) if e.name == "realtime_factor")
    check_option("--speed", factor, options.speed)
    environment = graph_environment(join=options.join)
    with waiting("loading the embedded simulator"):
        check_split(options.split, options.episodes)
    episodes = split_path(out / "dataset", options.split)
    sensors = sensor_parameters(options.sensors)
    navigator: dict[str, Scalar] = {
        **sensors.nodes,
        **sensors.navigator,
        "engine": options.engine,
        "extrinsics": "parameters",  # the default is where the bridge mounts its camera
        "expert.episodes": str(episodes),
        "expert.clearance_m": EXPERT_CLEARANCE_M if options.mode == "realtime" else 0.0,
        "reliability": "reliable",
        **SIMULATED_PLACES,
        **node_parameters(options, out),
    }
    tilt_deg = LOOKING_DOWN_DEG if options.engine == "pixel_oracle" else CameraConfig().pitch_down_deg
    tilted: dict[str, Scalar] = {"camera_pitch_down_deg": tilt_deg}
    if options.engine == "qwen":
        navigator |= named_model(options.profile, options.checkpoint)
        check_model(str(navigator["qwen.checkpoint"]), options.profile)
    decides = out / "navigator.json"
    bridge: dict[str, Scalar] = {
        **sensors.bridge,
        "episodes": str(episodes),
        "mode": options.mode,
        "run_folder": str(out),
        "command": shlex.join(["vln_ros", *sys.argv[1:]]),
        "navigator_info": str(decides),
        "video": not options.no_video,
        "camera.width": width,
        "camera.height": height,
        "camera.pitch_down_deg": tilt_deg,
        "realtime_factor": options.speed,
    }
    from_flat(BridgeConfig, bridge)
    navigator |= tilted
    decided = to_flat(from_flat(NavigatorConfig, navigator), "navigator.")
    write_split(out / "dataset", options.split, options.episodes, options.kind)
    fingerprint = ""
    if options.engine == "qwen":
        from vln_ros.engine.checkpoint.files import checkpoint_fingerprint

        fingerprint = checkpoint_fingerprint(str(navigator["qwen.checkpoint"]))
    write_atomically(decides, json.dumps({"config": decided, "checkpoint": fingerprint}))
    navigator["use_sim_time"] = options.mode == "realtime"  # of every node, not one of its own options
    executor = {**sensors.nodes, **node_parameters(options, out), **tilted}
    recorder: dict[str, Scalar] | None = None
    if options.record:
        bridge["listeners"] = 2  # navigator and recorder
        known = {e.name for e in walk_options(RecorderConfig)}
        heard = {**sensors.nodes, **sensors.navigator}
        recorder = {name: value for name, value in heard.items() if name in known}
        recorder["folder"] = str(out / RECORDING)
    status = run_graph(out / "logs", bridge, navigator, executor, environment, recorder)
    if status == 0:
        print_recordings(options, out)
    print(f"{time.monotonic() - begun_s:.1f} s")
    print_report(out)
    if options.record:
        for bag in sorted((out / RECORDING).glob("*/")):
            print_next(f"vln_ros replay {bag} --exact repeats its decisions")
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
    recorder: Mapping[str, Scalar] | None = None,
) -> int:
    """Bridge and navigator, and the executor where the bridge is in real time, until the bridge is done.

    With a recorder, where its parameters are given.

    The environment is that of :func:`~vln_ros.cli.graph.graph_environment` where none is given.
    """
    try:
        chosen = graph_environment() if environment is None else environment
        loads = f"starting the nodes and {navigator.get('qwen.checkpoint') or navigator['engine']}"
        with waiting(f"{loads} (logs: {logs})") as begun, Graph(logs, chosen, on_output=begun) as graph:
            if recorder is not None:
                graph.start(NodeSpec("recorder", recorder))
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
