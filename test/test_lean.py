"""What a robot's processes carry: nothing of evaluation, simulation, training and plotting."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

import pytest
from test_architecture import every_import

import vln_ros

OURS = (
    "vln_ros.evaluation",
    "vln_ros.sim",
    "vln_ros.training",
    "vln_ros.capacity",
    "vln_ros.cli",
    "benchmarks",
)
OF_EVALUATION = (
    "matplotlib",
    "scipy",
    "pandas",
    "jinja2",
    "tqdm",
    "trimesh",
    "shapely",
    "av",
    "rosbags",
)
MODEL = ("torch", "transformers", "PIL")
ON_ROBOTS = 40
"""Our own modules in a robot's process, at least: the list is of something."""

CLASSES = {"navigator": "Navigator", "executor": "ExecutorNode"}

START = """
import json, sys
import rclpy
NODE, CLASS, *arguments = sys.argv[1:]
importers = {}
class Watch:
    def find_spec(self, name, path=None, target=None):
        frame = sys._getframe(1)
        while frame is not None and "importlib" in frame.f_code.co_filename:
            frame = frame.f_back
        importers.setdefault(name.split(".")[0], set()).add(frame.f_code.co_filename if frame else "")
sys.meta_path.insert(0, Watch())
module = __import__(NODE, fromlist=[CLASS])
rclpy.init(args=["node", "--ros-args", *arguments])
node = getattr(module, CLASS)()
assert node.start(), node.failure
print("LOADED" + json.dumps([sorted(sys.modules), {k: sorted(v) for k, v in importers.items()}]))
node.close()
node.destroy_node()
rclpy.shutdown()
"""


@dataclass(frozen=True)
class Process:
    """What an active node's process has in it.

    Attributes:
        modules: names of all.
        importers: of a package's modules, the files that have asked for them.
    """

    modules: frozenset[str]
    importers: dict[str, list[str]]

    def of(self, *packages: str) -> set[str]:
        """Those of these packages."""
        return {m for m in self.modules for p in packages if m == p or m.startswith(f"{p}.")}


def active(node: str, *options: str) -> Process:
    """A node that has been configured and activated in a fresh interpreter."""
    pytest.importorskip("rclpy", reason="needs ROS")
    arguments = [f"vln_ros.nodes.{node}.node", CLASSES[node]]
    for option in options:
        arguments += ["-p", option]
    done = subprocess.run(
        [sys.executable, "-c", START, *arguments], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if one.startswith("LOADED")]
    modules, importers = json.loads(line.removeprefix("LOADED"))
    assert len([m for m in modules if m.startswith("vln_ros.")]) >= ON_ROBOTS
    return Process(frozenset(modules), importers)


LAZY = {
    # The expert drives by what the simulator knows. Where no option names it, it is not there.
    ("vln_ros.engines", "vln_ros.sim.episodes.episode.read_episodes"),
    ("vln_ros.engines", "vln_ros.sim.experts.build_oracle"),
    # Of pruning, which is off unless options say otherwise; transformers has loaded scipy by then.
    ("vln_ros.reuse.accounting", "scipy.optimize"),
}
"""What a robot's process loads later, if its options ask for it: who imports what."""


def later(process: Process) -> set[tuple[str, str]]:
    """Imports within functions, of what has no place there, in all of our modules in a process."""
    heavy = (*OURS, *OF_EVALUATION)
    return {
        (i.module, i.target)
        for i in every_import()
        if i.module in process.modules and not i.typing_only
        for package in heavy
        if i.target == package or i.target.startswith(f"{package}.")
    }


@pytest.mark.ros
@pytest.mark.parametrize(
    ("node", "options"),
    [("navigator", ("engine:=paced", "extrinsics:=parameters")), ("executor", ("extrinsics:=parameters",))],
)
def test_a_node_without_a_model_is_lean(node: str, options: tuple[str, ...]) -> None:
    process = active(node, *options)
    assert process.of("rclpy")
    assert not process.of(*OURS)
    assert not process.of(*OF_EVALUATION)
    assert not process.of(*MODEL)
    assert later(process) <= LAZY


@pytest.mark.ros
@pytest.mark.slow
def test_a_navigator_with_a_model_is_lean() -> None:
    """What others load is theirs: transformers takes in scipy where it finds it."""
    pytest.importorskip("torch")
    process = active(
        "navigator",
        "engine:=qwen",
        "qwen.checkpoint:=shipped:tiny",
        "qwen.profile:=tiny",
        "qwen.device:=cpu",
        "extrinsics:=parameters",
    )
    assert process.of("vln_ros.engine.qwen", "torch", "transformers")
    assert not process.of(*OURS)
    assert not process.of("matplotlib", "pandas", "shapely", "trimesh", "av", "rosbags")
    assert later(process) <= LAZY
    own = vln_ros.__file__.removesuffix("__init__.py")
    asked = {name: files for name, files in process.importers.items() if name in OF_EVALUATION}
    assert not {n: f for n, f in asked.items() if any(file.startswith(own) for file in f)}


def test_every_way_to_be_lazy_is_one() -> None:
    """What stands in LAZY is there: an entry that is not needed any more goes."""
    modules = {i.module for i in every_import()}
    everything = Process(frozenset(modules), {})
    robots = {"vln_ros.engines", "vln_ros.reuse.accounting"}
    assert {one for one in later(everything) if one[0] in robots} == LAZY
