"""The launch files under ROS's own launch, where it is installed (it is not on PyPI)."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("launch_ros", reason="needs ROS's launch and launch_ros, which come from apt only")

import rclpy
from habitat_fakes import fake_python
from launch.actions import IncludeLaunchDescription
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import launch_config
from launch_ros.actions import Node
from rclpy.context import Context
from recorded_drives import write_bag

from vln_ros.cli.graph import graph_environment
from vln_ros.config import NAME_ARGUMENTS
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream
from vln_ros.ros.launching.arguments import LAUNCH_FILES
from vln_ros.ros.launching.files import view_file
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import first_seeds, make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
FILES = sorted(p.name for p in (ROOT / "launch").glob("*.launch.py"))
PRESETS = {
    kind: sorted(p.stem.removeprefix(f"{kind}_") for p in (ROOT / "config").glob(f"{kind}_*.yaml"))
    for kind in ("camera", "base")
}
RUN = """
import sys
from launch import LaunchDescription, LaunchService
from launch.actions import IncludeLaunchDescription
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
path, *given = sys.argv[1:]
service = LaunchService(argv=given)
service.include_launch_description(LaunchDescription([IncludeLaunchDescription(
    PythonLaunchDescriptionSource(path), launch_arguments=[tuple(g.split(":=", 1)) for g in given])]))
sys.exit(service.run())
"""
"""What `ros2 launch` does."""
END_S = 100.0
STANDS = ["camera:=sim", "base:=sim", "engine:=paced"]
"""A robot that needs no weights, no transforms and no ground."""


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As colcon installs the package, by links."""
    prefix = tmp_path_factory.mktemp("install")
    index = prefix / "share/ament_index/resource_index/packages"
    index.mkdir(parents=True)
    (index / "vln_ros").touch()
    (prefix / "lib/vln_ros").mkdir(parents=True)
    for script in (ROOT / "scripts").iterdir():
        (prefix / "lib/vln_ros" / script.name).symlink_to(script)
    (prefix / "bin").mkdir()
    command = prefix / "bin/vln_ros"
    command.write_text(f"#!{sys.executable}\nfrom vln_ros.cli import main\nmain()\n")
    command.chmod(0o755)
    share = prefix / "share/vln_ros"
    share.mkdir()
    for folder in ("config", "launch"):
        (share / folder).symlink_to(ROOT / folder)
    return prefix


def environment_of(prefix: Path) -> dict[str, str]:
    """Of a terminal in which the package is sourced."""
    environment = graph_environment()
    environment["AMENT_PREFIX_PATH"] = f"{prefix}:{environment['AMENT_PREFIX_PATH']}"
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment["ROS_LOG_DIR"] = str(prefix / "log")
    return environment


class Launched:
    """A launch file that runs, in a session of its own as in a terminal of its own."""

    def __init__(self, prefix: Path, name: str, *arguments: str, **environment: str) -> None:
        self.text = ""
        self.process = subprocess.Popen(
            [sys.executable, "-c", RUN, str(prefix / "share/vln_ros/launch" / name), *arguments],
            env={**environment_of(prefix), **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_for(self, pattern: str, count: int = 1) -> None:
        """Until so many lines that match have come."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.text += line
            count -= re.search(pattern, line) is not None
            if count == 0:
                return
        raise AssertionError(f"ended before {pattern!r}:\n{self.text}")

    def wait(self) -> int:
        """Until it has ended by itself."""
        out, _ = self.process.communicate(timeout=END_S)
        self.text += out
        return self.process.returncode

    @property
    def nodes(self) -> dict[str, int]:
        """Process number by name, of all that were started."""
        started = re.findall(r"\[(\w+)-\d+\]: process started with pid \[(\d+)\]", self.text)
        return {name: int(pid) for name, pid in started}

    def close(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def launching(prefix: Path, name: str, *arguments: str, **environment: str) -> Iterator[Launched]:
    launched = Launched(prefix, name, *arguments, **environment)
    try:
        yield launched
    finally:
        launched.close()


def launched(prefix: Path, name: str, *arguments: str, **environment: str) -> tuple[int, str]:
    with launching(prefix, name, *arguments, **environment) as running:
        return running.wait(), running.text


def is_alive(pid: int) -> bool:
    """Runs, and is not only waiting to be counted."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text("ascii")
    except FileNotFoundError:
        return False


def wait_until_dead(pids: list[int]) -> None:
    until_s = time.monotonic() + END_S
    while any(map(is_alive, pids)):
        assert time.monotonic() < until_s, "they outlive their launch"
        time.sleep(0.05)


@pytest.mark.parametrize("name", FILES)
def test_launch_itself_reads_every_argument(name: str) -> None:
    source = PythonLaunchDescriptionSource(str(ROOT / "launch" / name))
    description = source.get_launch_description(LaunchContext())
    arguments = {a.name: a for a in description.get_launch_arguments()}
    assert arguments
    for argument in arguments.values():
        assert argument.description


def test_a_simulated_run_from_its_beginning_to_its_end(prefix: Path, tmp_path: Path) -> None:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    shortest = min(every, key=lambda e: e.geodesic_distance_m)
    episodes = write_episodes(tmp_path, "val_unseen", [shortest])
    parameters = tmp_path / "bridge.yaml"
    parameters.write_text(
        "/**/sim_bridge:\n  ros__parameters:\n    camera.width: 64\n    camera.height: 48\n    video: false\n"
    )
    status, text = launched(
        prefix, "sim.launch.py", f"episodes:={episodes}", "engine:=expert", "mode:=lockstep",
        f"bridge_params_file:={parameters}", f"run_folder:={tmp_path / 'run'}", "namespace:=left",
    )  # fmt: skip
    assert status == 0, text
    assert '"success": true' in (tmp_path / "run/episodes.jsonl").read_text("utf-8")
    assert "[sim_bridge-1]: process has finished cleanly" in text


def test_a_wrong_choice_and_a_wrong_parameter_file_are_said(prefix: Path, tmp_path: Path) -> None:
    status, text = launched(prefix, "robot.launch.py", "camera:=polaroid")
    assert status != 0
    assert "polaroid" in text
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**/navigator:\n  ros__parameters:\n    engin: paced\n")
    status, text = launched(
        prefix, "robot.launch.py", "machine:=gpu", "inspect:=false", f"params_file:={parameters}"
    )
    assert status == 1
    assert "did you mean 'engine'" in text
    assert "process started" not in text


# ---------------------------------------------------------------------- what each file starts


def expand(entity: LaunchDescriptionEntity, context: LaunchContext, nodes: list[Node]) -> None:
    """Visit a description as launch does, and collect the nodes instead of starting them."""
    if isinstance(entity, Node):
        entity._perform_substitutions(context)
        nodes.append(entity)
        return
    for inner in entity.visit(context) or []:
        expand(inner, context, nodes)


@pytest.fixture
def started(prefix: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """The full names of the nodes that a launch file starts with some arguments."""
    for name, value in environment_of(prefix).items():
        monkeypatch.setenv(name, value)

    def expanded(name: str, *arguments: str) -> list[str]:
        context = LaunchContext(argv=list(arguments))
        source = PythonLaunchDescriptionSource(str(prefix / "share/vln_ros/launch" / name))
        given = [tuple(a.split(":=", 1)) for a in arguments]
        nodes: list[Node] = []
        expand(IncludeLaunchDescription(source, launch_arguments=given), context, nodes)
        # Of a node in no namespace launch_ros says in some versions that none was given.
        return [str(node.node_name).replace("<node_namespace_unspecified>", "") for node in nodes]

    return expanded


SIM = ("episodes:=EPISODES", "engine:=expert")
HABITAT = ("habitat_python:=/usr/bin/env", "episodes:=EPISODES", "engine:=expert")
FLEET = ("robots:=left,right", "engine:=paced")
REPLAY = ("bag:=EPISODES", "instruction:=go on", "engine:=paced")
EXPANDED = [
    ("robot", (), "navigator executor inspector"),
    ("robot", ("machine:=robot",), "executor inspector"),
    ("robot", ("machine:=gpu",), "navigator"),
    ("robot", ("machine:=gpu", "record:=true"), "navigator recorder"),
    ("robot", ("record:=true", "inspect:=false"), "navigator executor recorder"),
    ("robot", ("web:=true", "web_host:=0.0.0.0", "web_port:=0"), "navigator executor inspector web"),
    ("robot", ("machine:=gpu", "web:=true", "transport:=compressed"), "navigator web"),
    ("robot", ("autostart:=false", "use_sim_time:=true", "namespace:=left"), "navigator executor inspector"),
    ("robot", ("respawn:=true", "transport:=compressed"), "navigator executor inspector"),
    ("sim", SIM, "sim_bridge navigator executor inspector"),
    ("sim", (*SIM, "namespace:=left", "record:=true"), "sim_bridge navigator executor inspector recorder"),
    ("sim", (*SIM, "mode:=lockstep"), "sim_bridge navigator"),
    ("sim", (*SIM, "web:=true"), "sim_bridge navigator executor inspector web"),
    ("sim", (*SIM, "mode:=manual"), "sim_bridge"),
    ("habitat", HABITAT, "sim_bridge navigator"),
    ("habitat", (*HABITAT, "mode:=realtime"), "sim_bridge navigator executor inspector"),
    ("habitat", (*HABITAT, "mode:=manual", "namespace:=/a/b"), "sim_bridge"),
    ("replay", REPLAY, "bag_player navigator"),
    ("replay", (*REPLAY, "namespace:=left", "transport:=compressed"), "bag_player navigator"),
    *(
        ("robot", (f"{kind}:={preset}",), "navigator executor inspector")
        for kind, presets in PRESETS.items()
        for preset in presets
    ),
]


@pytest.mark.parametrize(
    ("name", "arguments", "nodes"), EXPANDED, ids=lambda v: " ".join(v) if isinstance(v, tuple) else v
)
def test_every_file_expands_to_its_nodes(
    name: str, arguments: tuple[str, ...], nodes: str, started: object, tmp_path: Path
) -> None:
    assert callable(started)
    episodes = tmp_path / "episodes.json.gz"
    episodes.touch()
    found = started(f"{name}.launch.py", *(a.replace("EPISODES", str(episodes)) for a in arguments))
    namespace = next((a.split(":=")[1] for a in arguments if a.startswith("namespace:=")), "")
    assert found == [f"/{namespace.strip('/')}/{n}".replace("//", "/") for n in nodes.split()]


@pytest.mark.parametrize(
    ("arguments", "own"),
    [
        ((), []),
        (("autostart:=false", "transport:=compressed", "respawn:=true", "odom_frame:=map"), []),
        (("episodes:=EPISODES",), ["sim_bridge", "executor"]),
        (("episodes:=EPISODES", "params_file:=OWN"), ["sim_bridge", "executor"]),
        (("episodes:=EPISODES", "mode:=lockstep"), ["sim_bridge"]),
    ],
    ids=" ".join,
)
def test_a_fleet_is_one_process_and_what_each_simulated_robot_has(
    arguments: tuple[str, ...], own: list[str], started: object, tmp_path: Path
) -> None:
    assert callable(started)
    episodes, own_parameters = tmp_path / "episodes.json.gz", tmp_path / "own.yaml"
    episodes.touch()
    own_parameters.write_text("/right/executor: {ros__parameters: {max_linear_m_s: 0.15}}\n")
    given = [a.replace("EPISODES", str(episodes)) for a in (*FLEET, *arguments)]
    given = [a.replace("OWN", str(own_parameters)) for a in given]
    found = started("fleet.launch.py", *given)
    assert found == ["/fleet", *(f"/{robot}/{node}" for robot in ("left", "right") for node in own)]


def test_a_simulated_fleet_ends_when_every_robot_is_done(prefix: Path, tmp_path: Path) -> None:
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    shortest = min(every, key=lambda e: e.geodesic_distance_m)
    episodes = write_episodes(tmp_path, "val_unseen", [shortest])
    status, text = launched(
        prefix, "fleet.launch.py", "robots:=left,right", "engine:=expert", "mode:=lockstep",
        f"episodes:={episodes}",
    )  # fmt: skip
    assert status == 0, text
    assert len(re.findall(r"\[sim_bridge-\d\]: process has finished cleanly", text)) == 2, text
    assert "episodes of every robot are done" in text


@pytest.mark.parametrize(
    ("robots", "sections", "said"),
    [
        ("", "", "robots is empty"),
        ("left,left", "", "/left stands twice"),
        ("left,right", "/middle/navigator:\n  ros__parameters:\n    decide_ahead: 1\n", "fits no node"),
    ],
)
def test_a_fleet_without_robots_does_not_start(
    robots: str, sections: str, said: str, prefix: Path, tmp_path: Path
) -> None:
    given = [f"robots:={robots}", "engine:=paced"]
    if sections:
        (tmp_path / "own.yaml").write_text(sections)
        given.append(f"params_file:={tmp_path / 'own.yaml'}")
    status, text = launched(prefix, "fleet.launch.py", *given)
    assert status == 1
    assert said in text


@pytest.fixture
def with_nav2(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The executables of Nav2 that launch looks for. They are looked at, not started."""
    for executable in ("velocity_smoother", "collision_monitor", "lifecycle_manager"):
        package = f"nav2_{executable}"
        index = tmp_path / "share/ament_index/resource_index/packages"
        for folder in (index, tmp_path / "lib" / package):
            folder.mkdir(parents=True, exist_ok=True)
        (index / package).touch()
        (tmp_path / "lib" / package / executable).touch(0o755)
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{os.environ['AMENT_PREFIX_PATH']}:{tmp_path}")


@pytest.mark.parametrize(
    ("arguments", "topic"),
    [((), "cmd_vel"), (("cmd_vel_topic:=base/cmd_vel", "namespace:=left"), "base/cmd_vel")],
)
@pytest.mark.usefixtures("started", "with_nav2")
def test_nav2_stands_between_executor_and_base(arguments: tuple[str, ...], topic: str, prefix: Path) -> None:
    context = LaunchContext(argv=list(arguments))
    source = PythonLaunchDescriptionSource(str(prefix / "share/vln_ros/launch/nav2.launch.py"))
    given = [tuple(a.split(":=", 1)) for a in (*arguments, "engine:=paced", "inspect:=false")]
    found: list[Node] = []
    expand(IncludeLaunchDescription(source, launch_arguments=given), context, found)
    nodes = {str(node.node_name).rsplit("/", 1)[1]: node for node in found}
    assert list(nodes) == [
        "velocity_smoother", "collision_monitor", "lifecycle_manager", "navigator", "executor",
    ]  # fmt: skip

    def renamed(name: str) -> dict[str, str]:
        return dict(nodes[name].expanded_remapping_rules or [])

    assert renamed("executor")["cmd_vel"] == renamed("velocity_smoother")["cmd_vel"] == "cmd_vel_vln"
    assert "cmd_vel" not in renamed("collision_monitor"), "its topics are parameters"

    def parameters(name: str) -> dict[str, object]:
        values: dict[str, object] = {}
        words = ["".join(getattr(part, "text", "") for part in word) for word in nodes[name].cmd]
        for flag, path in pairwise(words):
            if flag == "--params-file":
                # Launch writes lists as Python's tuples.
                for key, value in yaml.full_load(Path(path).read_text("utf-8")).items():
                    if key.rsplit("/", 1)[-1] in (name, "**"):
                        values |= value["ros__parameters"]
        return values

    assert parameters("collision_monitor")["cmd_vel_out_topic"] == topic
    assert parameters("collision_monitor")["cmd_vel_in_topic"] == "cmd_vel_smoothed"
    assert set(parameters("lifecycle_manager")["node_names"]) == {*nodes} - {"lifecycle_manager"}  # type: ignore[call-overload]
    assert parameters("lifecycle_manager")["bond_timeout"] == 0.0
    for name in ("navigator", "executor"):
        assert parameters(name)["autostart"] is False


@pytest.mark.usefixtures("with_nav2")
def test_nav2_behind_an_executor_needs_one(prefix: Path) -> None:
    status, text = launched(prefix, "nav2.launch.py", *STANDS, "drive:=nav2")
    assert status == 1
    assert "no executor is started" in text
    assert "process started" not in text


def test_without_nav2_nothing_starts(prefix: Path) -> None:
    status, text = launched(prefix, "nav2.launch.py", *STANDS)
    assert status == 1
    assert "nav2_velocity_smoother is not installed" in text
    assert "apt install ros-$ROS_DISTRO-nav2-velocity-smoother" in text
    assert "process started" not in text


# ---------------------------------------------------------------------- before anything starts

MISSING = [
    (("rviz:=true",), "rviz2 is not installed"),
    (("params_file:=FOLDER/mine.yml",), "cannot read the parameter file"),
    (("params_file:=FOLDER",), "is a folder"),
    (("params_file:=FOLDER/empty.yaml",), "is empty"),
    (("params_file:=FOLDER/wrong.yaml",), "did you mean /**/executor"),
    (("params_file:=FOLDER/right.yaml", "namespace:=left"), "the node here is /left/executor"),
    (("param_file:=FOLDER/right.yaml",), "did you mean 'params_file'"),
    (("speed:=slow",), "no argument 'speed'"),
    (("record:=true", "record_folder:=FOLDER/right.yaml/bags"), "is no folder"),
    (("log_level:=loud",), "loud"),
    (("episodes:=FOLDER/none.json.gz",), "no such file"),
]


@pytest.mark.parametrize(
    ("arguments", "said"), MISSING, ids=lambda v: " ".join(v) if isinstance(v, tuple) else ""
)
@pytest.mark.parametrize("name", ["robot", "sim", "replay"])
def test_nothing_starts_where_something_is_missing(
    name: str, arguments: tuple[str, ...], said: str, prefix: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty.yaml").touch()
    (tmp_path / "wrong.yaml").write_text("/**/executr: {ros__parameters: {max_linear_m_s: 0.15}}\n")
    (tmp_path / "right.yaml").write_text("/executor: {ros__parameters: {max_linear_m_s: 0.15}}\n")
    (tmp_path / "episodes.json.gz").touch()
    own = {
        "robot": ["engine:=paced", "camera:=sim", "base:=sim"],
        "sim": [
            "engine:=paced",
            *(() if "episodes" in arguments[0] else [f"episodes:={tmp_path}/episodes.json.gz"]),
        ],
        "replay": ["engine:=paced", f"bag:={tmp_path}", "instruction:=go"],
    }[name]
    given = [a.replace("FOLDER", str(tmp_path)) for a in arguments]
    status, text = launched(prefix, f"{name}.launch.py", *own, *given)
    assert status == 1, text
    assert said in text
    assert "process started" not in text
    assert "Traceback" not in text


@pytest.mark.parametrize("python", ["bare", "/nowhere/python"])
def test_nothing_starts_where_the_nodes_python_lacks_something(
    python: str, prefix: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nexec "{sys.executable}" -I -S "$@"\n')
    bare.chmod(0o755)
    named = str(bare) if python == "bare" else python
    status, text = launched(prefix, "robot.launch.py", *STANDS, VLN_ROS_PYTHON=named)
    assert status == 1
    assert "process started" not in text
    assert named in text or "No module named 'vln_ros'" in text


# ---------------------------------------------------------------------- how it ends


@pytest.mark.parametrize("respawn", ["false", "true"])
def test_a_node_that_refuses_its_checkpoint_ends_the_launch_with_a_status(respawn: str, prefix: Path) -> None:
    """Also where nodes are started again: this would change nothing."""
    options = ["machine:=gpu", "camera:=sim", "base:=sim", "checkpoint:=/nowhere"]
    status, text = launched(prefix, "robot.launch.py", *options, f"respawn:={respawn}")
    assert status == 1
    assert "navigator has ended with status 2" in text
    assert text.count("process started") == 1


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize("victim", ["navigator", "executor", "inspector"])
def test_a_node_that_dies_ends_the_launch_with_a_status(
    victim: str, how: signal.Signals, prefix: Path
) -> None:
    with launching(prefix, "robot.launch.py", *STANDS) as running:
        running.wait_for(r"\]: active$", 2)
        os.kill(running.nodes[victim], how)
        assert running.wait() == 1
        assert f"{victim} has ended with status" in running.text
        assert not any(map(is_alive, running.nodes.values()))


def test_a_node_that_dies_is_started_again_on_demand(prefix: Path) -> None:
    with launching(
        prefix, "robot.launch.py", *STANDS, "respawn:=true", "machine:=robot", "inspect:=false"
    ) as running:
        running.wait_for(r"\]: active$")
        os.kill(running.nodes["executor"], signal.SIGKILL)
        running.wait_for(r"\]: active$")
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text


@pytest.mark.parametrize("autostart", ["true", "false"])
@pytest.mark.parametrize("machine", ["all", "robot", "gpu"])
def test_ctrl_c_ends_everything_without_a_traceback(machine: str, autostart: str, prefix: Path) -> None:
    with launching(
        prefix,
        "robot.launch.py",
        *STANDS,
        f"machine:={machine}",
        f"autostart:={autostart}",
        "namespace:=left",
    ) as running:
        managed = {"all": 2, "robot": 1, "gpu": 1}[machine]
        if autostart == "true":
            running.wait_for(r"\]: active$", managed)
        else:
            # Not "process started": launch itself hangs when it is interrupted amid starting a process.
            running.wait_for(r": unconfigured", managed)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text
        assert "Traceback" not in running.text
        assert "BrokenPipeError" not in running.text
        assert "escalating" not in running.text
        assert not any(map(is_alive, running.nodes.values()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name)
def test_nodes_end_with_their_launch(how: signal.Signals, prefix: Path) -> None:
    with launching(prefix, "robot.launch.py", *STANDS) as running:
        running.wait_for(r"\]: active$", 2)
        running.process.send_signal(how)
        running.process.wait(END_S)
        assert set(running.nodes) == {"navigator", "executor", "inspector"}
        wait_until_dead(list(running.nodes.values()))


# ---------------------------------------------------------------------- every file, to its end


def test_habitat_from_its_beginning_to_its_end(prefix: Path, tmp_path: Path) -> None:
    """By the command of its own description; the stand-in takes the place of habitat_sim."""
    made = make_scene_episodes("val_unseen", 900_003, "small")[:1]
    write_scene(tmp_path / "scenes", Scene(made[0].scene_id, AGENT_RADIUS_M))
    episodes = write_episodes(tmp_path, "val_unseen", made)
    parameters = tmp_path / "bridge.yaml"
    parameters.write_text(
        "/**/sim_bridge: {ros__parameters: {camera.width: 64, camera.height: 48, video: false, "
        f"habitat.radius_m: {AGENT_RADIUS_M}}}}}\n"
    )
    status, text = launched(
        prefix, "habitat.launch.py", f"habitat_python:={fake_python(tmp_path)}", f"episodes:={episodes}",
        f"habitat_scenes:={tmp_path / 'scenes'}", "engine:=expert", f"bridge_params_file:={parameters}",
        f"run_folder:={tmp_path / 'run'}", "protocol:=custom",
    )  # fmt: skip
    assert status == 0, text
    assert (tmp_path / "run/episodes.jsonl").read_text("utf-8").count("\n") == 1


def test_a_recording_from_its_beginning_to_its_end(prefix: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=True)
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**/navigator: {ros__parameters: {extrinsics: parameters}}\n")
    status, text = launched(
        prefix, "replay.launch.py", f"bag:={bag}", "instruction:=go to the door", "engine:=paced", "rate:=0",
        f"params_file:={parameters}", f"report:={tmp_path / 'report.json'}", "namespace:=left",
    )  # fmt: skip
    assert status == 0, text
    assert (tmp_path / "report.json").is_file()
    assert "[bag_player-1]: process has finished cleanly" in text


def test_a_simulation_that_has_no_episodes_fails(prefix: Path, tmp_path: Path) -> None:
    episodes = tmp_path / "episodes.json.gz"
    episodes.write_bytes(b"no episodes")
    status, text = launched(prefix, "sim.launch.py", f"episodes:={episodes}", "engine:=paced")
    assert status == 1
    assert "sim_bridge has ended with status" in text


# ---------------------------------------------------------------------- names of topics and frames


NAMES = [
    "odom_topic:=wheel/odom",
    "cmd_vel_topic:=/base/cmd_vel",
    "instruction_topic:=told",
    "color_topic:=rgb/image_raw",
    "depth_topic:=rgb/depth",
    "camera_info_topic:=rgb/camera_info",
    "base_frame:=body",
    "odom_frame:=wheel_odom",
]


@pytest.mark.parametrize("name", ["robot", "sim"])
def test_every_node_talks_under_the_names_that_are_given(name: str, prefix: Path, tmp_path: Path) -> None:
    own = STANDS
    if name == "sim":
        made = make_scene_episodes("val_unseen", 900_003, "small")[:1]
        own = ["engine:=paced", f"episodes:={write_episodes(tmp_path, 'val_unseen', made)}"]
    context = Context()
    context.init(args=[])
    looker = rclpy.create_node("looker", context=context)
    domain = {"ROS_DOMAIN_ID": os.environ["ROS_DOMAIN_ID"]}
    try:
        with launching(prefix, f"{name}.launch.py", *own, *NAMES, "namespace:=left", **domain) as running:
            running.wait_for(r"\]: active$", 2)
            heard = {
                "/left/wheel/odom": 3,  # navigator, executor, inspector
                "/left/rgb/image_raw": 1,
                "/left/rgb/depth": 2,
                "/left/rgb/camera_info": 2,
                "/left/told": 2,
                "/base/cmd_vel": 0,
            }
            spoken = ["/base/cmd_vel"]
            if name == "sim":
                spoken += ["/left/wheel/odom", "/left/rgb/image_raw", "/left/rgb/depth", "/left/told"]
            until_s = time.monotonic() + END_S
            while not (
                all(looker.count_subscribers(t) >= n for t, n in heard.items())
                and all(looker.count_publishers(t) == 1 for t in spoken)
            ):
                assert time.monotonic() < until_s, {t: looker.count_subscribers(t) for t in heard}
                time.sleep(0.05)
            for old in ("odom", "cmd_vel", "instruction", COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC):
                assert looker.count_subscribers(f"/left/{old}") == 0, old
                assert looker.count_publishers(f"/left/{old}") == 0, old
    finally:
        looker.destroy_node()
        context.shutdown()


def test_a_simulated_run_under_other_names_reaches_its_end(prefix: Path, tmp_path: Path) -> None:
    """What the bridge publishes under these names is what navigator and recorder hear, frames included."""
    every = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])
    episodes = write_episodes(tmp_path, "val_unseen", [min(every, key=lambda e: e.geodesic_distance_m)])
    parameters = tmp_path / "bridge.yaml"
    parameters.write_text(
        "/**/sim_bridge: {ros__parameters: {camera.width: 64, camera.height: 48, video: false}}\n"
    )
    status, text = launched(
        prefix, "sim.launch.py", f"episodes:={episodes}", "engine:=expert", "mode:=lockstep", *NAMES,
        f"bridge_params_file:={parameters}", f"run_folder:={tmp_path / 'run'}", "namespace:=left",
        "record:=true", f"record_folder:={tmp_path / 'bags'}",
    )  # fmt: skip
    assert status == 0, text
    assert '"success": true' in (tmp_path / "run/episodes.jsonl").read_text("utf-8")
    (bag,) = (tmp_path / "bags").iterdir()
    with Bag(bag, BagTopics()) as recorded:
        assert recorded.connections[Stream.COLOR].topic == "/left/rgb/image_raw/compressed"
        assert recorded.connections[Stream.DEPTH].topic == "/left/rgb/depth/compressedDepth"
        assert recorded.connections[Stream.ODOMETRY].topic == "/left/wheel/odom"
        assert recorded.frames().odometry == "wheel_odom"
        assert recorded.frames().base == "body"


def test_rviz_and_rqt_follow_the_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch_config, "get_log_file_path", lambda name: str(tmp_path / name))
    given = dict(argument.split(":=") for argument in NAMES)
    given = {a.name: a.default for a in NAME_ARGUMENTS} | given | {"namespace": "left/robot"}
    before = (ROOT / "config/vln.rviz").read_text("utf-8")
    after = view_file(ROOT / "config", "vln.rviz", given).read_text("utf-8")
    was, now = yaml.safe_load(before), yaml.safe_load(after)

    def told(tree: Any) -> list[str]:
        manager = tree["Visualization Manager"]
        topics = [d["Topic"]["Value"] for d in manager["Displays"] if "Topic" in d]
        return [
            *topics,
            manager["Global Options"]["Fixed Frame"],
            manager["Views"]["Current"]["Target Frame"],
        ]

    renamed = {"odom": "wheel/odom", "base_link": "body"}
    assert told(now)[:-2] == [renamed.get(t, t) for t in told(was)[:-2]]
    assert told(now)[-2:] == ["wheel_odom", "body"]
    perspective = view_file(ROOT / "config", "vln.perspective", given).read_text("utf-8")
    assert json.loads(perspective)
    assert "'/inspector/" not in perspective
    assert "'/left/robot/inspector/annotated_image'" in perspective


# ---------------------------------------------------------------------- arguments that there are none of

TYPOS = [
    ("robot", "camra:=sim", "camera"),
    ("robot", "checkpoint_:=x", "checkpoint"),
    ("robot", "Namespace:=left", "namespace"),
    ("robot", "odom-topic:=wheel", "odom_topic"),
    ("sim", "episode:=x", "episodes"),
    ("sim", "world_:=habitat", "world"),
    ("sim", "chekpoint:=x", "checkpoint"),  # of robot.launch.py
    ("habitat", "habitat_pyton:=x", "habitat_python"),
    ("habitat", "realtime_facto:=2.0", "realtime_factor"),  # of sim.launch.py
    ("habitat", "respwan:=true", "respawn"),  # of robot.launch.py
    ("replay", "instrucion:=go", "instruction"),
    ("replay", "extrinsics_file:=x", ""),
    ("replay", "web_prt:=80", "web_port"),
    ("fleet", "robts:=a", "robots"),
    ("fleet", "episode:=x", "episodes"),
    ("nav2", "nav2_params:=x", "nav2_params_file"),
    ("nav2", "cmd_vel:=base", "cmd_vel_topic"),
    ("nav2", "enigne:=paced", "engine"),
]
STARTABLE: dict[str, list[str]] = {
    "robot": STANDS,
    "sim": ["engine:=paced"],
    "habitat": ["engine:=paced"],
    "replay": ["camera:=sim", "base:=sim", "engine:=paced"],
    "nav2": ["camera:=sim", "base:=generic", "engine:=paced"],
    "fleet": ["engine:=paced"],
}
"""With what else their robot could start."""
REQUIRED = {
    "sim": ["episodes:=FILE"],
    "habitat": ["episodes:=FILE", "habitat_python:=/usr/bin/env"],
    "replay": ["bag:=FILE", "instruction:=go"],
    "fleet": ["robots:=left,right"],
}


def test_every_file_is_mistyped() -> None:
    assert {f"{name}.launch.py" for name, *_ in TYPOS} == set(FILES)


@pytest.mark.parametrize(("name", "typo", "meant"), TYPOS, ids=lambda v: v)
def test_a_mistyped_argument_ends_the_launch_before_a_node_starts(
    name: str, typo: str, meant: str, prefix: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    given = [a.replace("FILE", str(tmp_path / "file")) for a in REQUIRED.get(name, [])]
    status, text = launched(prefix, f"{name}.launch.py", *given, typo)
    assert status == 1, text
    assert f"{name}.launch.py has no argument {typo.split(':=')[0]!r}" in text
    assert (f"did you mean {meant!r}?" if meant else "known: ") in text
    assert "process started" not in text
    assert "Traceback" not in text


OVERRULED = [
    ("sim", "camera:=realsense", "camera:=sim"),
    ("sim", "machine:=gpu", "machine:=all"),
    ("sim", "use_sim_time:=false", "use_sim_time:=true"),
    ("sim", "mode:=lockstep machine:=all", "machine:=gpu"),
    ("sim", "mode:=manual web:=true", "'web'"),
    ("sim", "mode:=manual checkpoint:=CKPT", "'checkpoint'"),
    ("sim", "mode:=lockstep inspect:=true", "inspect:=false"),
    ("sim", "record_folder:=here", "'record_folder'"),
    ("robot", "record_folder:=here", "'record_folder'"),  # and nothing is recorded
    ("robot", "record:=true web_port:=80", "'web_port'"),
    ("robot", "machine:=gpu inspect:=true", "inspect:=false"),
    ("habitat", "base:=generic", "base:=sim"),
    ("habitat", "world:=embedded", "world:=habitat"),
    ("replay", "machine:=all", "machine:=gpu"),
    ("replay", "decide_on:=progress", "decide_on:=frame"),
    ("replay", "inspect:=true", "inspect:=false"),
    ("nav2", "autostart:=true", "autostart:=false"),
    ("fleet", "namespace:=a", "'namespace'"),  # it has one for each robot
    ("fleet", "drive:=nav2", "'drive'"),
    ("fleet", "web:=true", "'web'"),
    ("fleet", "mode:=live", "'mode'"),
    ("fleet", "episodes:=FILE camera:=realsense", "camera:=sim"),
    ("fleet", "episodes:=FILE base:=turtlebot4", "base:=sim"),
    ("fleet", "episodes:=FILE use_sim_time:=false", "use_sim_time:=true"),
    ("fleet", "episodes:=FILE mode:=lockstep use_sim_time:=true", "use_sim_time:=false"),
    ("fleet", "episodes:=FILE web_port:=80", "'web_port'"),
    ("fleet", "episodes:=FILE drive:=nav2", "'drive'"),
    ("fleet", "episodes:=FILE machine:=gpu", "machine:=robot"),
    ("fleet", "episodes:=FILE mode:=lockstep inspect:=true", "'inspect'"),
]


def test_every_file_that_includes_ours_overrules() -> None:
    including = {f"{name}.launch.py" for name, file in LAUNCH_FILES.items() if file.includes}
    assert {f"{name}.launch.py" for name, *_ in OVERRULED} >= including


@pytest.mark.parametrize(("name", "given", "said"), OVERRULED, ids=lambda v: v)
def test_an_argument_that_would_be_overruled_or_ignored_ends_the_launch_before_a_node_starts(
    name: str, given: str, said: str, prefix: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    arguments = [*REQUIRED.get(name, []), *given.split(), *STARTABLE[name]]
    arguments = [a.replace("FILE", str(tmp_path / "file")) for a in arguments]
    status, text = launched(prefix, f"{name}.launch.py", *arguments)
    assert status == 1, text
    assert f"{given.split()[-1]}: " in text and said in text, text
    assert "process started" not in text
    assert "Traceback" not in text


def including(folder: Path, inner: Path, given: str, name: str = "mine.launch.py", first: str = "") -> Path:
    """A launch file that includes one of ours, as somebody's bring-up does."""
    outer = folder / name
    outer.write_text(f"""
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import PushRosNamespace
def generate_launch_description():
    source = PythonLaunchDescriptionSource({str(inner)!r})
    return LaunchDescription([{first} IncludeLaunchDescription(source, launch_arguments={given})])
""")
    return outer


@pytest.mark.parametrize("name", ["robot", "sim"])
def test_a_mistyped_argument_of_an_included_file_ends_it(name: str, prefix: Path, tmp_path: Path) -> None:
    inner = prefix / f"share/vln_ros/launch/{name}.launch.py"
    given = '[("camra", "sim"), ("base", "sim"), ("episodes", "/dev/null"), ("mine", "1")]'
    status, text = launched(prefix, str(including(tmp_path, inner, given)))
    assert status == 1
    assert f"{name}.launch.py has no argument 'camra'; did you mean 'camera'?" in text
    assert "'mine'" not in text
    assert "process started" not in text


@pytest.mark.parametrize("outer", ["mine.launch.py", "robot.launch.py"])
def test_arguments_of_the_file_that_includes_ours_are_its_own(
    outer: str, prefix: Path, tmp_path: Path
) -> None:
    """Also where it has the same name, and where it puts what it includes in a namespace."""
    inner = prefix / "share/vln_ros/launch/robot.launch.py"
    given = '[("camera", "sim"), ("base", "sim"), ("engine", "paced"), ("inspect", "false")]'
    first = 'DeclareLaunchArgument("fleet", default_value="1"), PushRosNamespace("left"),'
    path = including(tmp_path, inner, given, outer, first)
    with launching(prefix, str(path), "fleet:=2") as running:
        running.wait_for(r"\]: left/(navigator|executor): active after", 2)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text
    assert "no argument" not in running.text


# ---------------------------------------------------------------------- what became of each node


def said_of(node: str, text: str) -> list[str]:
    return re.findall(rf"\[vln_ros\]: {re.escape(node)}: (.*)", text)


@pytest.mark.parametrize("log_level", ["info", "error"])
def test_the_launch_says_which_state_each_node_has_reached(log_level: str, prefix: Path) -> None:
    """In plain lines, whatever the nodes log."""
    with launching(
        prefix, "robot.launch.py", *STANDS, f"log_level:={log_level}", "namespace:=left"
    ) as running:
        running.wait_for(r"\]: left/\w+: (active|running) after \d+\.\d s$", 3)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text
    for node in ("left/navigator", "left/executor"):
        starting, inactive, active, ended = said_of(node, running.text)
        assert (starting, inactive, ended) == ("starting", "inactive", "ended")
        assert active.startswith("active after ")
    starting, is_running, ended = said_of("left/inspector", running.text)
    assert (starting, is_running[:14], ended) == ("starting", "running after ", "ended")
    (last,) = re.findall(r"\[vln_ros\]: everything has ended: (.*)", running.text)
    assert set(last.split("; ")) == {f"left/{n} ended" for n in ("navigator", "executor", "inspector")}


def test_nodes_that_wait_for_a_manager_say_so(prefix: Path) -> None:
    with launching(prefix, "robot.launch.py", *STANDS, "autostart:=false", "inspect:=false") as running:
        running.wait_for(r"\]: (navigator|executor): unconfigured, a lifecycle manager brings it up after", 2)
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text


def test_why_a_node_failed_is_said_of_it_and_at_the_end(prefix: Path) -> None:
    status, text = launched(
        prefix, "robot.launch.py", "camera:=sim", "base:=sim", "checkpoint:=/nowhere", "inspect:=false"
    )
    assert status == 1
    failed = next(line for line in said_of("navigator", text) if line.startswith("failed: "))
    assert failed.startswith("failed: cannot configure: ")
    assert "/nowhere" in failed
    (last,) = re.findall(r"\[vln_ros\]: everything has ended: (.*)", text)
    assert f"navigator {failed}" in last
    assert "executor ended" in last
    assert text.rindex("everything has ended") > text.rindex("process has")


def test_a_node_that_is_killed_is_said_by_what(prefix: Path) -> None:
    with launching(prefix, "robot.launch.py", *STANDS, "respawn:=true", "inspect:=false") as running:
        running.wait_for(r"\]: \w+: active after", 2)
        os.kill(running.nodes["executor"], signal.SIGKILL)
        running.wait_for(r"\]: executor: active after")
        os.killpg(running.process.pid, signal.SIGINT)
        assert running.wait() == 0, running.text
    said = said_of("executor", running.text)
    assert said[3] == "failed: ended by SIGKILL; it is started again"
    assert said[4:6] == ["starting", "inactive"]


def test_a_recording_that_is_at_its_end_is_done(prefix: Path, tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=True)
    parameters = tmp_path / "mine.yaml"
    parameters.write_text("/**/navigator: {ros__parameters: {extrinsics: parameters}}\n")
    status, text = launched(
        prefix, "replay.launch.py", f"bag:={bag}", "instruction:=go", "engine:=paced", "rate:=0",
        f"params_file:={parameters}",
    )  # fmt: skip
    assert status == 0, text
    assert said_of("bag_player", text)[-1] == "done, the recording is at its end"
    assert "everything has ended: bag_player done, the recording is at its end; navigator ended" in text


def test_who_has_started_launch_is_told_as_systemd_is(prefix: Path, tmp_path: Path) -> None:
    """A unit of Type=notify is active when every node is."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.bind(str(tmp_path / "notify"))
        told.settimeout(END_S)
        address = {"NOTIFY_SOCKET": str(tmp_path / "notify")}
        with launching(prefix, "robot.launch.py", *STANDS, "inspect:=false", **address) as running:
            heard: list[str] = []
            while not heard or "READY=1" not in heard[-1]:
                heard.append(told.recv(4096).decode())
            os.killpg(running.process.pid, signal.SIGINT)
            assert running.wait() == 0, running.text
    assert "navigator starting" in heard[0]
    assert re.search("navigator active after .*; executor active after ", heard[-1])
