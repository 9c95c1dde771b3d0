"""Builds with colcon (ament_python) and with pip; dependencies stand in package.xml and requirements*.txt."""

import re
from pathlib import Path

from setuptools import find_packages, setup

PACKAGE = "vln_ros"
HERE = Path(__file__).parent
VERSION = re.search(r"<version>([^<]+)</version>", (HERE / "package.xml").read_text("utf-8"))
assert VERSION, "package.xml holds the version"


def shared(folder: str, pattern: str) -> tuple[str, list[str]]:
    """data_files entry that installs ``folder/pattern`` under share/."""
    return f"share/{PACKAGE}/{folder}", sorted(
        str(p.relative_to(HERE)) for p in (HERE / folder).glob(pattern)
    )


setup(
    name=PACKAGE,
    version=VERSION.group(1),
    description="Vision-language navigation for ROS 2 with a streaming Qwen2.5-VL",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=[PACKAGE, f"{PACKAGE}.*"]),
    package_data={
        PACKAGE: ["profiles/*.yaml", "ros/*.xml", "training/*.yaml", "checkpoints/*/*", "py.typed"]
    },
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        (f"share/{PACKAGE}", ["package.xml"]),
        (f"lib/{PACKAGE}", sorted(f"scripts/{p.name}" for p in (HERE / "scripts").iterdir())),
        shared("config", "*"),
        shared("launch", "*.launch.py"),
    ],
    install_requires=["setuptools"],
    extras_require={"test": ["pytest"]},  # tells `colcon test` to run pytest
    zip_safe=False,
    entry_points={"console_scripts": ["vln_ros = vln_ros.__main__:main"]},
)
