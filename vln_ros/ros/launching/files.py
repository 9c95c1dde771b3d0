"""What the launch files share: checks before anything starts, and nodes that end with their launch.

An exception while launch starts things leaves what it has started behind. So whatever may be missing is
looked for before anything starts, and said.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument, LogInfo
from launch.launch_context import LaunchContext
from launch.logging import launch_config
from launch_ros.parameter_descriptions import ParameterValue

import vln_ros
from vln_ros.config import NAME_ARGUMENTS, ConfigError
from vln_ros.ros.launching.arguments import (
    LAUNCH_FILES,
    argument_values,
    every_argument,
    nearest_argument,
)
from vln_ros.ros.launching.status import PackageNode
from vln_ros.ros.parameter_files import check_parameter_file
from vln_ros.ros.terminal.environment import PARENT
from vln_ros.ros.terminal.interpreter import find_executable, installed_interpreter

ALIKE, AT_ALL_ALIKE = 0.8, 0.6
"""How similar a name is to one that was mistyped, and to one that may have been meant."""
_OF_LAUNCH = {
    "sigterm_timeout", "sigkill_timeout", "emulate_tty", "launch-prefix", "launch-prefix-filter",
    "ros_namespace", "ros_params", "ros_remaps", "global_params",
}  # fmt: skip
"""Arguments that launch itself takes, and what actions of launch_ros keep in their place."""


def package_node(
    name: str,
    *,
    respawn: bool = False,
    finished: str = "",
    last: Callable[[], bool] = lambda: True,
    **arguments: Any,
) -> PackageNode:
    """A node of this package. It ends when launch ends, however that ends, and a failure of it ends launch.

    Args:
        respawn: start it again when it has died; not if it refuses its parameters.
        finished: why launch shuts down when the node is done; empty for a node that never is.
        last: asked when it is done: whether no other one is waited for.
        arguments: of launch_ros's Node.
    """
    return PackageNode(
        name,
        respawn=respawn,
        finished=finished,
        last=last,
        package=vln_ros.__name__,
        executable=name,
        output="screen",
        additional_env={PARENT: str(os.getpid())},
        **arguments,
    )


def declare(file: str, config: Path) -> list[DeclareLaunchArgument]:
    """The arguments of a launch file as launch wants them.

    Args:
        file: its name, without .launch.py.
        config: folder of the presets.
    """
    return [
        DeclareLaunchArgument(
            a.name,
            default_value=a.default,
            description=a.description,
            choices=presets(config, a.preset) if a.preset else list(a.allowed) or None,
        )
        for a in LAUNCH_FILES[file].arguments
    ]


def given_arguments(context: LaunchContext, file: str) -> dict[str, str]:
    """The value of every argument of a launch file, in its declarations' order."""
    return {a.name: context.launch_configurations[a.name] for a in LAUNCH_FILES[file].arguments}


def node_parameters(file: str, node: str, given: Mapping[str, str]) -> dict[str, Any]:
    """As :func:`argument_values`; text stays text, where launch reads YAML."""
    return {
        name: ParameterValue(value, value_type=str) if isinstance(value, str) else value
        for name, value in argument_values(file, node, given).items()
    }


def presets(folder: Path, kind: str) -> list[str]:
    """The names of the presets of a kind: whatever lies there as ``KIND_NAME.yaml``."""
    return sorted(p.stem.removeprefix(f"{kind}_") for p in folder.glob(f"{kind}_*.yaml"))


def parameter_file(name: str, values: Mapping[str, Mapping[str, object]]) -> Path:
    """A parameter file for several nodes in one process, by node; written to the launch's log folder."""
    path = Path(launch_config.get_log_file_path(name))
    sections = {f"/**/{node}": {"ros__parameters": dict(own)} for node, own in values.items()}
    path.write_text(yaml.safe_dump(sections), "utf-8")
    return path


def view_file(folder: Path, name: str, given: Mapping[str, str]) -> Path:
    """The file of rviz or rqt with the topics and frames that were given; written to the launch's log folder.

    Args:
        folder: where the shipped one lies.
        name: ``vln.rviz`` or ``vln.perspective``.
        given: by argument: those that name topics and frames, and namespace.
    """
    text = (folder / name).read_text("utf-8")
    if name.endswith(".rviz"):
        text = yaml.safe_dump(_renamed(yaml.safe_load(text), given), sort_keys=False)
    else:  # rqt takes names as they are: it is in no namespace
        namespace = f"/{given['namespace'].strip('/')}".rstrip("/")
        text = text.replace("'/inspector/", f"'{namespace}/inspector/")
    path = Path(launch_config.get_log_file_path(name))
    path.write_text(text, "utf-8")
    return path


def _renamed(tree: Any, given: Mapping[str, str]) -> Any:
    """rviz's settings with other topics and frames."""
    topics = {a.known_as: given[a.name] for a in NAME_ARGUMENTS if a.known_as and given[a.name]}
    frames = {"Fixed Frame": given["odom_frame"], "Target Frame": given["base_frame"]}
    if isinstance(tree, list):
        return [_renamed(inner, given) for inner in tree]
    if not isinstance(tree, dict):
        return tree
    renamed: dict[str, Any] = {}
    for key, value in tree.items():
        if key == "Topic" and isinstance(value, dict):
            renamed[key] = {**value, "Value": topics.get(value["Value"], value["Value"])}
        elif frames.get(key) and isinstance(value, str):
            renamed[key] = frames[key]
        else:
            renamed[key] = _renamed(value, given)
    return renamed


def check_arguments(context: LaunchContext, file: str, config: Path) -> None:
    """Refuse what launch would find out when some nodes run already, or ignore.

    Args:
        file: the launch file, without .launch.py; the arguments of what it includes are its own, too.
        config: folder of the presets.

    Raises:
        ConfigError: a value is none of the choices or of the wrong type; the file itself is launched, and is
            given an argument that it does not have; or another launch file includes it, and hands on one
            that looks like one of its arguments mistyped.
    """
    for argument in every_argument(file):
        value = context.launch_configurations.get(argument.name)
        choices = presets(config, argument.preset) if argument.preset else argument.allowed
        if value is not None and choices and value not in choices:
            raise ConfigError(f"{argument.name}:={value}: choose one of {', '.join(map(repr, choices))}")
    for inner in (file, *LAUNCH_FILES[file].includes):
        for node in LAUNCH_FILES[inner].nodes:
            argument_values(inner, node, context.launch_configurations)
    launched, known = f"{file}.launch.py", {a.name for a in every_argument(file)}
    if not _is_launched(config.parent / "launch" / launched):
        # What other names are for, only the launch file knows that includes this one.
        of_ours = {a.name for other in LAUNCH_FILES.values() for a in other.arguments}
        for name in sorted(set(context.launch_configurations) - of_ours - _OF_LAUNCH):
            if near := nearest_argument(name, file, ALIKE):
                raise ConfigError(
                    f"{launched} has no argument {name!r}; did you mean {near!r}? If it is an argument of "
                    "the launch file that includes this one, give it a name that is less alike"
                )
        return
    given = {word.split(":=", 1)[0] for word in context.argv if ":=" in word}
    for name in sorted(given - known - _OF_LAUNCH):
        near = nearest_argument(name, file, AT_ALL_ALIKE)
        hint = f"did you mean {near!r}?" if near else f"known: {', '.join(sorted(known))}"
        raise ConfigError(f"{launched} has no argument {name!r}; {hint}")


def check_handed_on(
    context: LaunchContext,
    file: str,
    config: Path,
    handed_on: Mapping[str, str],
    unused: Collection[str] = (),
) -> None:
    """Refuse an argument that a launch file would overrule, or do nothing with.

    Args:
        file: which, without .launch.py.
        config: folder of the presets.
        handed_on: what its nodes and the files that it includes are given, whatever is said.
        unused: arguments that nothing comes of here.

    Raises:
        ConfigError: the command line gives such an argument, with another value than is handed on.
    """
    ours = (name for name, other in LAUNCH_FILES.items() if name == file or file in other.includes)
    if not any(_is_launched(config.parent / "launch" / f"{name}.launch.py") for name in ours):
        return
    for word in context.argv:
        name, given, value = word.partition(":=")
        if not given:
            continue
        if name in unused:
            raise ConfigError(f"{word}: nothing comes of {name!r} in {file}.launch.py as it is launched here")
        if (fixed := handed_on.get(name, value)) != value:
            raise ConfigError(f"{word}: {file}.launch.py has {name}:={fixed}, whatever is given")


def _is_launched(file: Path) -> bool:
    """The command line names this file, and not one that includes it, which may have the same name."""
    return any(
        Path(word).name == file.name
        and (before == vln_ros.__name__ or Path(word).resolve() == file.resolve())
        for before, word in pairwise(["", *sys.argv])
    )


def robot_nodes(given: Mapping[str, str]) -> list[str]:
    """The nodes that robot.launch.py starts with these arguments."""
    wanted = {
        "navigator": given["machine"] != "robot",
        "executor": given["machine"] != "gpu" and given["drive"] == "queue",
        "inspector": given["machine"] != "gpu" and given["inspect"] == "true",
        "recorder": given["record"] == "true",
        "web": given["web"] == "true",
    }
    return [name for name, is_wanted in wanted.items() if is_wanted]


def check_robot(context: LaunchContext, config: Path, handed_on: Mapping[str, str]) -> list[LogInfo]:
    """As :func:`check_before_start`, for robot.launch.py with its defaults and what it will be given.

    Args:
        config: folder of the presets.
        handed_on: what another launch file gives it.
    """
    arguments = LAUNCH_FILES["robot"].arguments
    given = {**{a.name: a.default or "" for a in arguments}, **context.launch_configurations, **handed_on}
    started = robot_nodes(given)
    # Those of navigator and executor may be given where these run on the other machine.
    absent = {"web", "recorder"} - {*started}
    unused = [a.name for a in arguments if a.parameters and absent.issuperset(a.parameters)]
    check_handed_on(
        context, "robot", config, {"inspect": "false"} if given["machine"] == "gpu" else {}, unused
    )
    return check_before_start(
        started,
        parameter_file=given["params_file"],
        namespace=given["namespace"],
        others=[name for name in map(str.strip, given.get("robots", "").split(",")) if name],  # of its fleet
        record_folder=given["record_folder"] if given["record"] == "true" else "",
        engine=given["engine"],
        files={"episodes": given["episodes"]},
        tools={"rviz2": "rviz2"} if given["rviz"] == "true" else {},
    )


def check_before_start(
    nodes: Collection[str], *, parameter_file: str = "", namespace: str = "", others: Collection[str] = (),
    record_folder: str = "", engine: str = "", files: Mapping[str, str] | None = None,
    tools: Mapping[str, str] | None = None,
) -> list[LogInfo]:  # fmt: skip
    """Look for everything that may be missing, before anything starts.

    Args:
        nodes: of this package that will be started.
        parameter_file: of the user; empty for none.
        others: further namespaces that these nodes are in.
        record_folder: where the recorder would write; empty when it is not started.
        engine: of the navigator.
        files: by argument, what must be there; empty for none.
        tools: other packages' executables that are wanted, and the package of each.

    Returns:
        What is worth saying: which parameters the file sets.

    Raises:
        ConfigError: something is missing or wrong; the message says what to do.
    """
    said = []
    if parameter_file:
        taken = check_parameter_file(Path(parameter_file), namespace, nodes, others)
        texts = [f"{node}: {', '.join(names)}" for node, names in taken.items() if names]
        said.append(
            LogInfo(msg=f"{parameter_file} sets {'; '.join(texts) or 'nothing of the nodes started here'}")
        )
    for argument, path in (files or {}).items():
        if path and not Path(path).exists():
            raise ConfigError(f"{argument}:={path}: there is no such file")
    for executable, package in (tools or {}).items():
        find_executable(package, executable)
    if record_folder:
        check_folder(Path(record_folder))
    executables = [find_executable(vln_ros.__name__, node) for node in nodes]
    with ThreadPoolExecutor() as pool:
        list(pool.map(partial(installed_interpreter, engine=engine), executables))
    return said


def check_folder(folder: Path) -> None:
    """Raise ConfigError if the recorder could not make a folder in it."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if p.exists())
    if not there.is_dir() or not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"record_folder:={folder}: {there} is no folder that can be written to")
