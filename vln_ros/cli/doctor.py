"""``vln_ros doctor``."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

HELP = "Say whether this machine can run vln_ros, and what to do if not"
LISTEN_S = 3.0
LEAST_SHARED_MEMORY_MB = 64
RECEIVE_BUFFER_LIMIT = Path("/proc/sys/net/core/rmem_max")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        verdict: ``ok``; ``warn``: it runs, but see the remedy; ``fail``: it does not.
        text: what was found.
        remedy: what to do; empty when fine.
    """

    name: str
    verdict: str
    text: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", help="also look at this checkpoint")
    parser.add_argument("--habitat", default="", metavar="PYTHON", help="also look at this Habitat Python")
    parser.add_argument(
        "--listen", type=float, default=LISTEN_S, help=f"seconds to listen for topics (default: {LISTEN_S:g})"
    )
    parser.add_argument("--json", type=Path, default=None, help="also write the findings there")


def run(options: argparse.Namespace) -> int:
    from vln_ros.cli.doctor_nodes import look_at_nodes

    checks: list[Callable[[], list[Finding]]] = [_python, _packages, _torch, _shared_memory, _ros]
    if importlib.util.find_spec("ament_index_python") is not None:
        checks.append(look_at_nodes)
    if options.checkpoint:
        checks.append(lambda: [_checkpoint(options.checkpoint)])
    if options.habitat:
        checks.append(lambda: [_habitat(options.habitat)])
    if importlib.util.find_spec("rclpy") is not None:
        checks.append(lambda: _topics(options.listen))
    findings = []
    for check in checks:
        for finding in check():
            findings.append(finding)
            print(f"{finding.verdict:>4}  {finding.name:<22} {finding.text}")
            if finding.remedy:
                print(f"{'':>4}  {'':<22} -> {finding.remedy}")
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(f) for f in findings], indent=2) + "\n", "utf-8")
    failed = [f.name for f in findings if f.verdict == "fail"]
    print(f"cannot run: {', '.join(failed)}" if failed else "this machine can run vln_ros")
    return 1 if failed else 0


def _python() -> list[Finding]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return [Finding("python", "ok", f"{version} on {platform.machine()}")]
    return [Finding("python", "fail", version, "use Python 3.10 to 3.13: make PYTHON=python3.12 setup")]


def _packages() -> list[Finding]:
    needed = {
        "transformers": "the engine",
        "cv2": "compressed images",
        "rosbags": "replay",
        "av": "videos",
        "embreex": "the embedded world",
        "shapely": "the embedded world",
    }
    findings = []
    for module, purpose in needed.items():
        if importlib.util.find_spec(module) is None:
            remedy = "python -m pip install -r requirements.txt"
            findings.append(Finding(module, "fail", f"not installed; needed for {purpose}", remedy))
    if importlib.util.find_spec("cv_bridge") is None:
        text = "not here; the common encodings are converted without it"
        findings.append(Finding("cv_bridge", "ok", text))
    return findings or [Finding("packages", "ok", "all there")]


def _torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "fail", "not installed", "python -m pip install -r requirements.txt")]
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        text = f"{torch.__version__}, {device.name}, {device.total_memory / 2**30:.0f} GiB"
        verdict = "ok" if device.total_memory > 8 * 2**30 else "warn"
        return [
            Finding("torch", verdict, text, "" if verdict == "ok" else "a 3B model in bfloat16 needs 8 GiB")
        ]
    remedy = "small checkpoints run on the CPU; for 3B and 7B install torch for your GPU"
    return [
        Finding("torch", "warn", f"{torch.__version__}, no GPU, {torch.get_num_threads()} threads", remedy)
    ]


def _shared_memory() -> list[Finding]:
    path = Path("/dev/shm")
    if not path.exists():
        return [Finding("shared memory", "warn", "no /dev/shm", "Habitat and training workers need it")]
    free_mb = shutil.disk_usage(path).free / 2**20
    if free_mb < LEAST_SHARED_MEMORY_MB:
        remedy = "in a container, start it with --shm-size=1g or --ipc=host"
        return [Finding("shared memory", "warn", f"{free_mb:.0f} MB free in /dev/shm", remedy)]
    return [Finding("shared memory", "ok", f"{free_mb:.0f} MB free in /dev/shm")]


def _ros() -> list[Finding]:
    if importlib.util.find_spec("rclpy") is None:
        remedy = "source /opt/ros/jazzy/setup.bash, or python -m pip install -r requirements-ros.txt"
        return [Finding("rclpy", "fail", "not importable", remedy)]
    from vln_ros.ros.environment import (
        FAST_DDS_PROFILE,
        SOCKET_BUFFER_BYTES,
        prepare_environment,
        users_fast_dds_profile,
    )

    prepare_environment()
    import rclpy
    from rclpy.utilities import get_rmw_implementation_identifier

    rclpy.init()
    rmw = get_rmw_implementation_identifier()
    findings = [Finding("rclpy", "ok", f"{Path(rclpy.__file__).parent}, {rmw}")]
    rclpy.shutdown()
    if rmw != "rmw_fastrtps_cpp":
        findings.append(Finding("Fast DDS profile", "ok", "not Fast DDS: none needed"))
    elif (given := users_fast_dds_profile(os.environ)) is not None:
        remedy = f"it should do without shared memory, as {FAST_DDS_PROFILE} does: docs/bringup.md says why"
        findings.append(Finding("Fast DDS profile", "warn", f"yours: {given}", remedy))
    else:
        findings.append(Finding("Fast DDS profile", "ok", "this package's nodes set it"))
        if RECEIVE_BUFFER_LIMIT.exists():
            limit = int(RECEIVE_BUFFER_LIMIT.read_text("ascii"))
            enough = limit >= SOCKET_BUFFER_BYTES
            remedy = f"or images are lost: sudo sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}"
            text = f"net.core.rmem_max is {limit}"
            findings.append(
                Finding("receive buffer", "ok" if enough else "warn", text, "" if enough else remedy)
            )
    domain = os.environ.get("ROS_DOMAIN_ID", "0 (default)")
    reach = os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "SUBNET (default)")
    text = f"domain {domain}, range {reach}"
    if reach == "LOCALHOST" and rmw == "rmw_fastrtps_cpp":
        remedy = "with it Fast DDS uses shared memory, where who is killed can stop others: docs/bringup.md"
        findings.append(Finding("discovery", "warn", text, remedy))
    else:
        findings.append(Finding("discovery", "ok", text))
    return findings


def _checkpoint(name: str) -> Finding:
    from vln_ros.config import ConfigError, QwenConfig
    from vln_ros.engine.model import load_model

    defaults = QwenConfig()
    begun_s = time.monotonic()
    try:
        model = load_model(
            name,
            device=defaults.device,
            dtype=defaults.dtype,
            attention=defaults.attention,
            quantisation=defaults.quantisation,
        )
    except ConfigError as error:
        return Finding("checkpoint", "fail", name, str(error))
    parameters = sum(p.numel() for p in model.network.parameters())
    text = (
        f"{name}: {parameters / 1e6:.1f} M parameters, {model.dtype} on {model.device}, "
        f"loaded in {time.monotonic() - begun_s:.1f} s"
    )
    return Finding("checkpoint", "ok", text)


def _habitat(python: str) -> Finding:
    from vln_ros.config import ConfigError, HabitatConfig
    from vln_ros.sim.habitat_process import HabitatProcess

    try:
        process = HabitatProcess(python, 1, HabitatConfig().timeout_s)
    except ConfigError as error:
        return Finding("habitat", "fail", python, str(error))
    process.close()
    i = process.interpreter
    text = f"Python {i.python}, numpy {i.numpy}, habitat_sim {i.habitat_sim} in {Path(i.path).parent}"
    remedy = f"whether it also renders right: vln_ros habitat selftest --python {python}"
    return Finding("habitat", "ok", text, remedy)


def _topics(listen_s: float) -> list[Finding]:
    """What the navigator would subscribe to: is it there, how often, with which quality of service."""
    import rclpy
    from nav_msgs.msg import Odometry
    from rclpy.qos import QoSDurabilityPolicy, QoSProfile, QoSReliabilityPolicy
    from rosgraph_msgs.msg import Clock
    from sensor_msgs.msg import CameraInfo, CompressedImage, Image

    from vln_ros.nodes.sensor_input import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC

    classes = {
        f"{c.__module__.split('.')[0]}/msg/{c.__name__}": c
        for c in (Clock, CameraInfo, CompressedImage, Image, Odometry)
    }
    rclpy.init()
    node = rclpy.create_node("vln_ros_doctor")
    wanted = [COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC, "odom", "/clock"]
    arrivals: dict[str, list[float]] = {}
    quality = QoSProfile(
        depth=10, reliability=QoSReliabilityPolicy.BEST_EFFORT, durability=QoSDurabilityPolicy.VOLATILE
    )
    until_s = time.monotonic() + listen_s
    while time.monotonic() < until_s:
        for name, types in node.get_topic_names_and_types():
            known = any(name.lstrip("/").startswith(w.lstrip("/")) for w in wanted)
            if name in arrivals or not known or types[0] not in classes:
                continue
            arrivals[name] = []
            note = partial(_note, arrivals[name])
            node.create_subscription(classes[types[0]], name, note, quality, raw=True)
        rclpy.spin_once(node, timeout_sec=0.05)
    findings = []
    for name in sorted(arrivals):
        times = arrivals[name]
        quality_texts = {
            f"{i.qos_profile.reliability.name.lower()}, {i.qos_profile.durability.name.lower()}"
            for i in node.get_publishers_info_by_topic(name)
        }
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        text = f"{rate:.1f} Hz; {'; '.join(sorted(quality_texts)) or 'no publisher'}"
        silent = "nothing arrived: is its publisher alive?"
        findings.append(Finding(name, "ok" if times else "warn", text, "" if times else silent))
    for topic in wanted[:4]:
        if not any(name.lstrip("/").startswith(topic) for name in arrivals):
            remedy = (
                "start the camera and base drivers, or remap their topics; in simulation nothing is missing"
            )
            findings.append(Finding(topic, "warn", f"not seen in {listen_s:g} s", remedy))
    has_clock = bool(arrivals.get("/clock"))
    findings.append(
        Finding("clock", "ok", "simulated: start nodes with use_sim_time" if has_clock else "system time")
    )
    node.destroy_node()
    rclpy.shutdown()
    return findings


def _note(times: list[float], _: bytes) -> None:
    times.append(time.monotonic())
