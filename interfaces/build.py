"""Builds vln_msgs beside the wheels of ROS from PyPI.

    pip install -r requirements-msgs.txt
    python interfaces/build.py             # into the environment of this Python, where every node finds it
    python interfaces/build.py PREFIX      # elsewhere

Where ROS comes from apt, colcon builds it (interfaces/vln_msgs/README.md).
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "prefix", nargs="?", type=Path, default=Path(sys.prefix), help="where it is installed"
    )
    parser.add_argument(
        "--package", type=Path, default=HERE / "vln_msgs", help="folder of another package of messages"
    )
    options = parser.parse_args()
    prefix, package = options.prefix.absolute(), options.package.absolute()
    if importlib.util.find_spec("ament_package") is None:
        print(f"{sys.executable} has no generators: pip install -r requirements-msgs.txt", file=sys.stderr)
        return 2
    environment = dict(os.environ)
    environment["AMENT_PREFIX_PATH"] = sys.prefix
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    for name in ("LD_LIBRARY_PATH", "PYTHONPATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE"):
        environment.pop(
            name, None
        )  # as rclpy's wheels leave them; compilers and CMake want their own libraries
    with tempfile.TemporaryDirectory(prefix=package.name) as folder:
        configure = [
            "cmake",
            "-S",
            str(package),
            "-B",
            folder,
            "-DCMAKE_BUILD_TYPE=Release",
            "-DBUILD_TESTING=OFF",
        ]
        configure += [f"-DCMAKE_INSTALL_PREFIX={prefix}", f"-DCMAKE_PREFIX_PATH={sys.prefix}"]
        configure += [f"-DPython3_EXECUTABLE={sys.executable}"]
        configure += [f"-DCMAKE_PROJECT_{package.name}_INCLUDE={HERE / 'wheels.cmake'}"]
        build = ["cmake", "--build", folder, "--target", "install", "--parallel", str(os.cpu_count() or 1)]
        for command in (configure, build):
            try:
                done = subprocess.run(command, env=environment, check=False)
            except FileNotFoundError:
                print("cmake is missing: apt install cmake g++, or pip install cmake", file=sys.stderr)
                return 2
            if done.returncode:
                return done.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
