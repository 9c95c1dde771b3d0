"""The files that ROS looks for under share/ and lib/. What else is to be said stands in pyproject.toml."""

from pathlib import Path

from setuptools import setup

PACKAGE = "vln_ros"
HERE = Path(__file__).parent


def files(folder: str, pattern: str) -> list[str]:
    return sorted(str(path.relative_to(HERE)) for path in (HERE / folder).glob(pattern) if path.is_file())


setup(
    # Not in pyproject.toml: setuptools 68 wants the license there in another form than 77 does, and colcon
    # cannot read what setuptools makes of requires-python.
    license="Apache-2.0",
    python_requires=">=3.10",
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{PACKAGE}"]),
        # `colcon build --symlink-install` builds beside links to setup.py, the package and these files: what
        # pyproject.toml says is there only if it is one of them.
        (f"share/{PACKAGE}", ["package.xml", "pyproject.toml", "README.md"]),
        (f"share/{PACKAGE}/config", files("config", "*")),
        (f"share/{PACKAGE}/config/nav2", files("config/nav2", "*")),
        (f"share/{PACKAGE}/launch", files("launch", "*.launch.py")),
        (f"lib/{PACKAGE}", [path for path in files("scripts", "*") if path != "scripts/try_docs"]),
    ],
)
