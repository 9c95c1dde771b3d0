"""``vln_ros doctor``: checks this machine and prints every finding with its remedy."""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from vln_ros.cli.arguments.parsing import rename_options, seconds
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.doctor.findings import Finding, Verdict
from vln_ros.cli.output.next_steps import print_next

if TYPE_CHECKING:
    from vln_ros.datatypes import ActionChunk
    from vln_ros.protocols import Engine

HELP = "Say whether this machine can run vln_ros, and what to do if not"
LISTEN_S = 3.0
_CAMERA_SIZE = (640, 480)
"""Of a picture where the profile takes any."""
_HFOV_DEG = 79.0
_OTHER_WEIGHTS = (
    "a robot would stand: fetch the checkpoint again, or try another number format (qwen.dtype) than float16"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", default="", help="also load this checkpoint and take one decision")
    parser.add_argument(
        "--profile", default="", help="profile of the checkpoint (default: the one made for it, or else tiny)"
    )
    parser.add_argument(
        "--habitat-python",
        default="",
        metavar="PYTHON",
        help="also check Habitat under this Python interpreter",
    )
    parser.add_argument(
        "--listen-s",
        type=seconds,
        default=LISTEN_S,
        help=f"seconds to listen for topics (default: {LISTEN_S:g})",
    )
    add_json(parser, "findings")
    rename_options(parser, {"--habitat": "--habitat-python", "--listen": "--listen-s"})


def run(options: argparse.Namespace) -> int:
    from vln_ros.cli.doctor.nodes import look_at_nodes
    from vln_ros.cli.doctor.places import look_at_places
    from vln_ros.cli.doctor.ros import look_at_ros

    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": look_at_python,
        "packages": look_at_packages,
        "torch": look_at_torch,
        "places": look_at_places,
        "ROS": lambda: look_at_ros(options.listen_s),
    }
    if importlib.util.find_spec("ament_index_python") is not None:
        checks["nodes"] = look_at_nodes
    if options.checkpoint:
        checks["checkpoint"] = lambda: [look_at_checkpoint(options.checkpoint, options.profile)]
    if options.habitat_python:
        checks["habitat"] = lambda: [look_at_habitat(options.habitat_python)]
    findings = []
    for name, check in checks.items():
        for finding in findings_of(name, check):
            findings.append(finding)
            print(f"{finding.verdict:>4}  {finding.name:<22} {finding.text}", flush=True)
            if finding.remedy:
                print(f"{'':>4}  {'':<22} -> {finding.remedy}", flush=True)
    if options.json is not None:
        options.json.write_text(json.dumps([asdict(f) for f in findings], indent=2) + "\n", "utf-8")
        print_next(f"{options.json} holds the findings: attach it to a report of a fault")
    failed = [f.name for f in findings if f.verdict == "fail"]
    print(f"cannot run: {', '.join(failed)}" if failed else "this machine can run vln_ros")
    return 1 if failed else 0


def findings_of(name: str, check: Callable[[], list[Finding]]) -> list[Finding]:
    """What a check finds; one that fails itself is a finding, and the others go on."""
    try:
        return check()
    except Exception as error:
        text = f"cannot be looked at: {type(error).__name__}: {error}"
        return [Finding(name, "fail", text, "is the installation whole? make clean setup makes it anew")]


def look_at_python() -> list[Finding]:
    version = platform.python_version()
    if (3, 10) <= sys.version_info[:2] <= (3, 13):
        return [Finding("python", "ok", f"{version} on {platform.machine()}")]
    return [Finding("python", "fail", version, "use Python 3.10 to 3.13: make PYTHON=python3.12 setup")]


def look_at_packages() -> list[Finding]:
    from vln_ros.config import ConfigError
    from vln_ros.sim.embedded.render import check_ray_caster

    needed = {
        "transformers": "the engine",
        "cv2": "compressed images",
        "rosbags": "replay",
        "av": "videos",
    }
    findings = []
    for module, purpose in needed.items():
        if importlib.util.find_spec(module) is None:
            remedy = "python -m pip install vln_ros"
            findings.append(Finding(module, "fail", f"not installed; needed for {purpose}", remedy))
    try:  # a robot drives without it
        if importlib.util.find_spec("shapely") is None or importlib.util.find_spec("trimesh") is None:
            raise ConfigError("not installed; needed for demo, eval, scenes and sim.launch.py")
        check_ray_caster()
    except ConfigError as e:
        findings.append(Finding("embedded world", "warn", str(e), "python -m pip install 'vln_ros[sim]'"))
    if importlib.util.find_spec("cv_bridge") is None:
        text = "not here; the common encodings are converted without it"
        findings.append(Finding("cv_bridge", "ok", text))
    return findings or [Finding("packages", "ok", "all there")]


def look_at_torch() -> list[Finding]:
    if importlib.util.find_spec("torch") is None:
        return [Finding("torch", "fail", "not installed", "python -m pip install vln_ros")]
    import torch

    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        text = f"{torch.__version__}, {device.name}, {device.total_memory / 2**30:.0f} GiB"
        verdict: Verdict = "ok" if device.total_memory > 8 * 2**30 else "warn"
        return [
            Finding("torch", verdict, text, "" if verdict == "ok" else "a 3B model in bfloat16 needs 8 GiB")
        ]
    remedy = "small checkpoints run on the CPU; for 3B and 7B install torch for your GPU"
    return [
        Finding("torch", "warn", f"{torch.__version__}, no GPU, {torch.get_num_threads()} threads", remedy)
    ]


def look_at_checkpoint(name: str, profile_name: str) -> Finding:
    """Load it, and let it decide once on a picture of the size that its profile asks for."""
    from vln_ros.config import ConfigError, QwenConfig
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.qwen import QwenEngine

    defaults = QwenConfig()
    begun_s = time.monotonic()
    try:
        profile = load_profile(profile_name or _profile_made_for(name))
        model = load_model(
            name,
            device=defaults.device,
            dtype=defaults.dtype,
            attention=defaults.attention,
            quantisation=defaults.quantisation,
        )
        parameters = sum(p.numel() for p in model.network.parameters())
        loaded_s = time.monotonic()
        text = (
            f"{name}: {parameters / 1e6:.1f} M parameters, {model.dtype} on {model.device}, "
            f"loaded in {loaded_s - begun_s:.1f} s"
        )
        engine = QwenEngine(
            model, profile, temperature=0.0, seed=0, stream=defaults.stream, reuse=defaults.reuse
        )
        try:
            chunk = _decide(engine, profile.image.resize or _CAMERA_SIZE)
        finally:
            engine.close()
    except ConfigError as error:
        return Finding("checkpoint", "fail", name, str(error))
    except Exception as error:  # whatever the engine meets in these weights, a robot would meet it
        words = str(error).partition("\n")[0] or type(error).__name__
        return Finding("checkpoint", "fail", f"{name} cannot decide: {words}", _OTHER_WEIGHTS)
    if not all(math.isfinite(p) for p in chunk.probabilities):
        words = f"probabilities {', '.join(str(p) for p in chunk.probabilities)}"
        return Finding("checkpoint", "fail", f"{name} cannot decide: {words}", _OTHER_WEIGHTS)
    said = ", ".join(str(action) for action in chunk.actions) or "hold"
    decided_s = time.monotonic() - loaded_s
    return Finding(
        "checkpoint", "ok", f"{text}; under profile {profile.name} decided {said!r} in {decided_s:.1f} s"
    )


def _profile_made_for(checkpoint: str) -> str:
    from vln_ros.config import QwenConfig
    from vln_ros.engine.checkpoint.profile import list_profiles, load_profile

    made = (name for name in list_profiles() if load_profile(name).checkpoint == checkpoint)
    return next(made, QwenConfig().profile)


def _decide(engine: Engine, size: tuple[int, int]) -> ActionChunk:
    """One decision on noise: nothing in it is smooth enough to hide a number that is none."""
    import numpy as np

    from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose

    width, height = size
    camera = CameraModel.from_hfov(width, height, math.radians(_HFOV_DEG))
    rgb = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    depth_m = np.full((height, width), 2.0, np.float32)
    engine.start(Instruction(1, "go to the door and stop"))
    engine.observe(Frame(0, 1, rgb, depth_m, camera, Pose.identity(), Pose.identity()))
    return engine.decide(1)


def look_at_habitat(python: str) -> Finding:
    from vln_ros.config import ConfigError, HabitatConfig
    from vln_ros.sim.habitat.process import HabitatProcess

    try:
        process = HabitatProcess(python, 1, HabitatConfig().timeout_s)
    except ConfigError as error:
        return Finding("habitat", "fail", python, str(error))
    process.close()
    i = process.interpreter
    text = f"Python {i.python}, numpy {i.numpy}, habitat_sim {i.habitat_sim} in {Path(i.path).parent}"
    remedy = f"whether it also renders right: vln_ros habitat selftest --python {python}"
    return Finding("habitat", "ok", text, remedy)
