"""Finds the Python that the nodes run under, and what it lacks."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import vln_ros
from vln_ros.config import ConfigError

PYTHON = "VLN_ROS_PYTHON"
"""Environment variable: the interpreter of installed nodes, instead of the one they were built with."""
CHECK = "--check"
"""A node's first argument, then the engine: only say which interpreter runs it, or what that lacks."""
CHECK_TIMEOUT_S = 60.0

_OF_ROS = re.compile(r"rclpy$|tf2_ros$|\w+_msgs$|\w+_interfaces$|std_srvs$")
_ALL = ("rclpy", "numpy", "yaml", "cv2")
NEEDS: Mapping[str, tuple[str, ...]] = {
    "navigator": _ALL,
    "executor": _ALL,
    "fleet": _ALL,
    "sim_bridge": (*_ALL, "scipy", "matplotlib", "PIL", "jinja2", "tqdm", "av", "shapely", "trimesh"),
    "bag_player": (*_ALL, "scipy", "matplotlib", "PIL", "tqdm", "rosbags"),
    "inspector": (*_ALL, "matplotlib", "PIL"),
    "recorder": (*_ALL, "rosbags"),
    "web": (*_ALL, "aiohttp"),
}
"""Per node, the modules outside the package that it does not run without."""
ENGINE_NEEDS: Mapping[str, tuple[str, ...]] = {
    "qwen": ("torch", "transformers", "PIL", "scipy"),
    "expert": ("scipy",),
    "pixel_oracle": ("torch", "transformers", "PIL", "scipy"),
    "paced": (),
}
"""What a navigator needs besides, by its engine; so does a fleet. (scipy: of pruning, and of the simulated
flats.)"""


def missing_modules(node: str, engine: str = "qwen") -> list[str]:
    """What this interpreter lacks for a node; ``engine`` is the navigator's option."""
    needed = NEEDS[node] + (ENGINE_NEEDS.get(engine, ()) if node in ("navigator", "fleet") else ())
    return [name for name in needed if importlib.util.find_spec(name) is None]


def missing_text(modules: Iterable[str]) -> str:
    """What is missing in this interpreter, and what to do about it."""
    modules = list(modules)
    remedy = (
        "source /opt/ros/jazzy/setup.bash first"
        if all(_OF_ROS.match(m) for m in modules)
        else f"install them ({sys.executable} -m pip install -r requirements.txt), or build the package "
        f"with the Python that has them (.venv/bin/python -m colcon build), or name that one in {PYTHON}"
    )
    return f"not installed for {sys.executable}, which runs this node: {', '.join(modules)}; {remedy}"


def find_executable(package: str, executable: str) -> Path:
    """Where `ros2 run` finds it. Raises ConfigError if it does not."""
    from ament_index_python.packages import get_package_prefix

    remedy = (
        "build it, and source install/setup.bash"
        if package == vln_ros.__name__
        else f"install it (sudo apt install ros-$ROS_DISTRO-{package.replace('_', '-')}), or leave it out"
    )
    try:
        path = Path(get_package_prefix(package)) / "lib" / package / executable
    except LookupError as error:
        raise ConfigError(f"the package {package} is not installed: {remedy}") from error
    if not os.access(path, os.X_OK):
        raise ConfigError(f"{path} cannot be run: {remedy}")
    return path


def installed_interpreter(executable: Path, engine: str = "qwen") -> str:
    """The interpreter that an installed node's executable runs under.

    Raises:
        ConfigError: it does not run, or lacks something that the node needs; the message says what to do.
    """
    try:
        done = subprocess.run(
            [executable, CHECK, engine],
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{executable} does not run: {error}") from error
    if done.returncode != 0:
        raise ConfigError(done.stderr.strip() or f"{executable} ended with status {done.returncode}")
    return done.stdout.strip()
