"""What the launch files share: checks before anything starts, and nodes that end with their launch.

An exception while launch starts things leaves what it has started behind. So whatever may be missing is
looked for before anything starts, and said.
"""

from __future__ import annotations

import difflib
import os
import signal
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from launch.actions import DeclareLaunchArgument, LogInfo, Shutdown
from launch.events.process import ProcessExited
from launch.launch_context import LaunchContext
from launch.launch_description_entity import LaunchDescriptionEntity
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.logging import get_logger, launch_config
from launch.utilities import perform_substitutions
from launch_ros.actions import Node

import vln_ros
from vln_ros.config import NAME_ARGUMENTS, ConfigError
from vln_ros.ros.parameter_files import check_parameter_file
from vln_ros.ros.terminal.environment import PARENT
from vln_ros.ros.terminal.interpreter import find_executable, installed_interpreter

ALIKE = 0.8
"""Names that are so similar are taken for a slip of the fingers."""
_LOGGER = get_logger("vln_ros")
CANNOT_BE_CONFIGURED = 2
"""The status of a node that refuses its parameters: starting it again would change nothing."""
_ASKED_TO_END = {0, 128 + signal.SIGINT, -signal.SIGINT, -signal.SIGTERM}
_OF_LAUNCH = {"sigterm_timeout", "sigkill_timeout", "emulate_tty", "launch-prefix", "launch-prefix-filter"}
"""Arguments that launch itself takes."""


def package_node(
    name: str,
    *,
    respawn: bool = False,
    finished: str = "",
    last: Callable[[], bool] = lambda: True,
    **arguments: Any,
) -> Node:
    """A node of this package. It ends when launch ends, however that ends, and a failure of it ends launch.

    Args:
        respawn: start it again when it has died; not if it refuses its parameters.
        finished: why launch shuts down when the node is done; empty for a node that never is.
        last: asked when it is done: whether no other one is waited for.
        arguments: of launch_ros's Node.
    """
    return Node(
        package=vln_ros.__name__,
        executable=name,
        name=name,
        output="screen",
        additional_env={PARENT: str(os.getpid())},
        respawn=respawn,
        respawn_delay=2.0,
        on_exit=_on_exit(name, respawn, finished, last),
        **arguments,
    )


def _on_exit(
    name: str, respawn: bool, finished: str, last: Callable[[], bool]
) -> Callable[[ProcessExited, LaunchContext], LaunchDescriptionEntity | None]:
    """Raising is the one way to a status of `ros2 launch` other than 0; all else is shut down in order."""

    def handle(event: ProcessExited, context: LaunchContext) -> LaunchDescriptionEntity | None:
        status = event.returncode
        if context.is_shutdown:
            if status not in _ASKED_TO_END:
                raise RuntimeError(f"{name} was told to end and ended with status {status}")
            return None
        if status == 0 and finished:
            return Shutdown(reason=finished) if last() else None
        if respawn and status != CANNOT_BE_CONFIGURED:
            return None
        raise RuntimeError(f"{name} has ended with status {status}: everything ends, the robot stands")

    return handle


def name_arguments() -> list[DeclareLaunchArgument]:
    """Topics and frames, of every launch file alike."""
    return [
        DeclareLaunchArgument(a.name, default_value=a.default, description=a.description)
        for a in NAME_ARGUMENTS
    ]


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
        given: by argument: those of :func:`name_arguments`, and namespace.
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


def declared_in(context: LaunchContext, *files: Path) -> list[DeclareLaunchArgument]:
    """The arguments of launch files, in their order."""
    sources = [PythonLaunchDescriptionSource(str(file)) for file in files]
    return [a for s in sources for a in s.get_launch_description(context).get_launch_arguments()]


def check_arguments(context: LaunchContext, file: Path, declared: Sequence[DeclareLaunchArgument]) -> None:
    """Refuse what launch would find out when some nodes run already, or ignore.

    Of a file that another one includes nobody can know whose an argument is: what looks like a mistyped one
    of these is said.

    Args:
        file: the launch file.
        declared: by it, and by those that it includes.

    Raises:
        ConfigError: a value is none of the choices; or the file itself is launched, and is given an argument
            that it does not have. In another launch file that includes it, this may be one of that one's.
    """
    for argument in declared:
        value = context.launch_configurations.get(argument.name)
        if value is not None and argument.choices and value not in argument.choices:
            raise ConfigError(
                f"{argument.name}:={value}: choose one of {', '.join(map(repr, argument.choices))}"
            )
    names = [argument.name for argument in declared]
    if file.name not in {Path(word).name for word in sys.argv}:
        for name in sorted(set(context.launch_configurations) - set(names)):
            if near := difflib.get_close_matches(name, names, n=1, cutoff=ALIKE):
                _LOGGER.warning(f"{file.name} has no argument {name!r}; did you mean {near[0]!r}?")
        return
    for name in (word.split(":=", 1)[0] for word in context.argv if ":=" in word):
        if name not in names and name not in _OF_LAUNCH:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(names))}"
            raise ConfigError(f"{file.name} has no argument {name!r}; {hint}")


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


def check_robot(
    context: LaunchContext, declared: Sequence[DeclareLaunchArgument], handed_on: Mapping[str, str]
) -> list[LogInfo]:
    """As :func:`check_before_start`, for robot.launch.py with its defaults and what it will be given.

    Args:
        declared: its arguments.
        handed_on: what another launch file gives it.
    """
    defaults = {a.name: perform_substitutions(context, a.default_value or []) for a in declared}
    given = {**defaults, **context.launch_configurations, **handed_on}
    return check_before_start(
        robot_nodes(given),
        parameter_file=given["params_file"],
        namespace=given["namespace"],
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
