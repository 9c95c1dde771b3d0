"""Checks ROS parameter files before anything starts.

To ROS a file that is not there is a warning, and a section that fits no node is nothing at all: a robot would
then drive with the presets' speeds instead of the slow ones that somebody wrote down.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from vln_ros.config import NODES, ConfigError, check_value, flatten, walk_options

_OF_EVERY_NODE = re.compile(r"use_sim_time$|start_type_description_service$|qos_overrides\.")
"""Declared by rclpy itself."""
_SECTION = "ros__parameters"


class _Loader(yaml.SafeLoader):
    """YAML as ROS reads it: 1e-3 is a number; and a key that stands twice is a mistake."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"{key!r} stands twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def check_parameter_file(
    path: Path, namespace: str, started: Collection[str], others: Collection[str] = ()
) -> dict[str, list[str]]:
    """Raise what is wrong with a file for the nodes of this package.

    Args:
        namespace: of the nodes.
        started: names of those that will be started with it.
        others: further namespaces that they are in, too: of a fleet.

    Returns:
        Per started node, the names of the parameters that it takes from the file.

    Raises:
        ConfigError: the file cannot be read, holds nothing, names a node or a parameter that nobody has, has
            a value that the node would refuse, or a section that fits no node in this namespace.
    """
    taken: dict[str, list[str]] = {node: [] for node in started}
    for key, values in _sections(path, _read(path)):
        nodes = _nodes_of(path, key, (namespace, *others), started)
        for node in nodes:
            _check_values(path, key, node, values)
            if node in taken:
                taken[node] += values
    return taken


def _read(path: Path) -> Mapping[str, object]:
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; a parameter file is wanted")
    try:
        tree = yaml.load(path.read_text("utf-8"), _Loader)  # a SafeLoader
    except OSError as error:
        raise ConfigError(f"cannot read the parameter file {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, Mapping) or not tree:
        found = "is empty" if not tree else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{path} {found}; wanted: /**/executor: {{{_SECTION}: {{max_linear_m_s: 0.15}}}}")
    return tree


def _sections(
    path: Path, tree: Mapping[str, object], prefix: str = ""
) -> Iterator[tuple[str, dict[str, object]]]:
    """Every node's name, with its namespace as it is written, and its parameters."""
    for name, inner in tree.items():
        key = f"{prefix}/{name}".replace("//", "/") if prefix else str(name)
        if not isinstance(inner, Mapping) or not inner:
            raise ConfigError(f"{path}: {key} holds no {_SECTION}")
        if _SECTION not in inner:
            yield from _sections(path, inner, key)
            continue
        others = [other for other in inner if other != _SECTION]
        if others:
            raise ConfigError(f"{path}: {key}: {others[0]!r} belongs below {_SECTION}")
        parameters = inner[_SECTION]
        if not isinstance(parameters, Mapping) or not parameters:
            raise ConfigError(f"{path}: {key}: {_SECTION} is empty")
        yield key, flatten(parameters)


def _nodes_of(path: Path, key: str, namespaces: Sequence[str], started: Collection[str]) -> list[str]:
    """The nodes that a section is for: started ones, or one that is started elsewhere."""
    pattern = key if key.startswith("/") else f"/{key}"
    wildcards = re.escape(pattern).replace(r"/\*\*", r"(/\w+)*").replace(r"/\*", r"/\w+")
    full = {n: [f"/{ns.strip('/')}/{n}".replace("//", "/") for ns in namespaces] for n in NODES}
    fitting = [node for node, names in full.items() if any(re.fullmatch(wildcards, n) for n in names)]
    last = pattern.rsplit("/", 1)[-1]
    if not fitting:
        if last in NODES:
            wanted = f"the node here is {' or '.join(full[last])}: write /**/{last}, which fits any namespace"
        else:
            near = difflib.get_close_matches(last, NODES, n=1)
            every = ", ".join(name for names in full.values() for name in names)
            wanted = f"did you mean /**/{near[0]}?" if near else f"the nodes here are {every}"
        raise ConfigError(f"{path}: {key} fits no node; {wanted}")
    return fitting if last in NODES else [node for node in fitting if node in started]


def _check_values(path: Path, key: str, node: str, values: Mapping[str, object]) -> None:
    entries = {entry.name: entry for entry in walk_options(NODES[node])}
    for name, value in values.items():
        if _OF_EVERY_NODE.match(name):
            continue
        if name not in entries:
            near = difflib.get_close_matches(name, entries, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"vln_ros params {node} lists them"
            raise ConfigError(f"{path}: {key}: {node} has no parameter {name!r}; {hint}")
        try:
            check_value(entries[name], value)
        except ConfigError as error:
            raise ConfigError(f"{path}: {key}: {error}") from error
