"""Launch files and parameter files without ROS's launch: arguments, parameters, presets, executables."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from vln_ros.cli.replay import REMAPS
from vln_ros.config import NODES, from_flat, walk_options

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PRESETS = sorted((ROOT / "config").glob("*.yaml"))


class LaunchFile:
    """What a launch file declares, read from its text.

    Attributes:
        arguments: name to the keywords of its declaration.
        parameters: per node, argument to parameter.
        executables: of this package that it starts.
    """

    def __init__(self, path: Path) -> None:
        self.tree = ast.parse(path.read_text("utf-8"))
        constants: dict[str, Any] = {}
        for node in self.tree.body:
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                try:
                    constants[node.targets[0].id] = ast.literal_eval(node.value)
                except ValueError:
                    continue
        self.parameters: dict[str, dict[str, str]] = constants["PARAMETERS"]
        self.arguments: dict[str, dict[str, Any]] = {}
        self.executables = {*self.parameters}
        for call in (n for n in ast.walk(self.tree) if isinstance(n, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "DeclareLaunchArgument":
                name = ast.literal_eval(call.args[0])
                self.arguments[name] = {
                    k.arg: constants[k.value.id]
                    if isinstance(k.value, ast.Name)
                    else ast.literal_eval(k.value)
                    for k in call.keywords
                    if k.arg is not None
                }


LAUNCH = {p.name.removesuffix(".launch.py"): LaunchFile(p) for p in FILES}


def test_the_launch_files_are_there() -> None:
    assert set(LAUNCH) == {"robot", "sim", "habitat", "replay"}


@pytest.mark.parametrize("name", LAUNCH)
def test_every_argument_is_described_and_its_default_is_a_choice(name: str) -> None:
    assert LAUNCH[name].arguments
    for argument, keywords in LAUNCH[name].arguments.items():
        assert len(keywords["description"]) > 10, argument
        if "choices" in keywords and "default_value" in keywords:
            assert keywords["default_value"] in keywords["choices"], argument


@pytest.mark.parametrize("name", LAUNCH)
def test_arguments_become_parameters_that_the_nodes_have(name: str) -> None:
    launch = LAUNCH[name]
    for node, mapping in launch.parameters.items():
        options = {e.name: e for e in walk_options(NODES[node])}
        for argument, parameter in mapping.items():
            assert argument in launch.arguments
            assert parameter in options, f"{node} has no parameter {parameter}"
            choices = launch.arguments[argument].get("choices")
            known = options[parameter].option.choices
            if known:
                assert set(choices or ()) - {""} == set(known), f"{argument} of {name}"


def test_what_is_asked_for_everywhere_is_an_argument() -> None:
    wanted = {
        "params_file",
        "namespace",
        "use_sim_time",
        "autostart",
        "log_level",
        "profile",
        "checkpoint",
        "device",
    }
    assert wanted <= set(LAUNCH["robot"].arguments)


@pytest.mark.parametrize("name", LAUNCH)
def test_executables_exist(name: str) -> None:
    for executable in LAUNCH[name].executables:
        script = ROOT / "scripts" / executable
        assert script.stat().st_mode & 0o111
        assert f"vln_ros.nodes.{executable} " in script.read_text("utf-8")


def test_every_preset_is_a_choice_and_every_choice_a_preset() -> None:
    for kind in ("camera", "base"):
        files = {p.stem.removeprefix(f"{kind}_") for p in PRESETS if p.stem.startswith(f"{kind}_")}
        assert files == set(LAUNCH["robot"].arguments[kind]["choices"])


def test_launch_files_do_not_install_download_or_evaluate() -> None:
    for path in FILES:
        assert not re.search(
            r"\b(eval|exec|subprocess|os\.system|urllib|pip|getenv)\b", path.read_text("utf-8")
        )


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_hold_options_of_the_nodes_they_name(path: Path) -> None:
    tree = yaml.safe_load(path.read_text("utf-8"))
    assert tree
    for key, value in tree.items():
        config = NODES[key.removeprefix("/**/")]
        from_flat(config, value["ros__parameters"])
    assert path.read_text("utf-8").startswith("# "), "says what it is for"


def test_rviz_shows_topics_that_somebody_publishes() -> None:
    text = (ROOT / "config/vln.rviz").read_text("utf-8")
    shown = {d["Name"]: d for d in yaml.safe_load(text)["Visualization Manager"]["Displays"]}
    topics = {d["Topic"]["Value"] for d in shown.values() if "Topic" in d}
    documented = (ROOT / "docs/nodes.md").read_text("utf-8")
    assert topics
    for topic in topics:
        assert f"`{topic}`" in documented
        assert not topic.startswith("/"), "relative, so that a namespace holds"


def test_a_replay_renames_what_moves_a_robot_as_the_command_does() -> None:
    tree = ast.parse((ROOT / "launch/replay.launch.py").read_text("utf-8"))
    (moving,) = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "MOVING"
    ]
    assert {name: f"replay/{name}" for name in moving} == REMAPS
    renames = [n for n in ast.walk(tree) if isinstance(n, ast.Call) and ast.unparse(n.func) == "SetRemap"]
    assert [ast.unparse(argument) for n in renames for argument in n.args] == ["name", "f'replay/{name}'"]
