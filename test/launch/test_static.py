"""Launch files and parameter files without ROS's launch: arguments, parameters, presets, executables."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from vln_ros.cli.replay.command import REMAPS
from vln_ros.config import (
    NAME_ARGUMENTS,
    NODES,
    ConfigError,
    PlaceConfig,
    SafetyConfig,
    from_flat,
    name_parameters,
    name_remappings,
    to_flat,
    walk_options,
)
from vln_ros.nodes import MODULES
from vln_ros.ros.launching.arguments import LAUNCH_FILES, NAMES, LaunchArgument, argument_values

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "launch").glob("*.launch.py"))
PRESETS = sorted((ROOT / "config").glob("*.yaml"))


class LaunchFile:
    """What a launch file takes, and what its text does with that.

    Attributes:
        arguments: its own, by name.
        nodes: of this package that it starts.
        includes: name of each launch file that it includes, and the arguments that it hands on.
        used: arguments whose value is asked for.
        started: nodes that its text starts by name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name.removesuffix(".launch.py")
        self.tree = ast.parse(path.read_text("utf-8"))
        self.arguments = {a.name: a for a in LAUNCH_FILES[self.name].arguments}
        self.nodes = LAUNCH_FILES[self.name].nodes
        self.assigned = {
            n.targets[0].id: n.value
            for n in ast.walk(self.tree)
            if isinstance(n, ast.Assign) and isinstance(n.targets[0], ast.Name)
        }
        self.includes = dict(self._includes())
        self.used = {
            ast.literal_eval(n.slice)
            for n in ast.walk(self.tree)
            if isinstance(n, ast.Subscript)
            and isinstance(n.value, ast.Name)
            and n.value.id == "given"
            and isinstance(n.slice, ast.Constant)
        }
        self.started = set(self._first_words("package_node"))

    def _first_words(self, function: str) -> Iterator[str]:
        """The first argument of each call of a function, where that is text."""
        for call in (n for n in ast.walk(self.tree) if isinstance(n, ast.Call)):
            named = isinstance(call.func, ast.Name) and call.func.id == function
            if named and isinstance(call.args[0], ast.Constant):
                yield str(call.args[0].value)

    @property
    def says_which_it_is(self) -> set[str]:
        """The launch file whose arguments its text asks for."""
        calls = ("declare", "given_arguments", "check_arguments", "node_parameters")
        return {
            str(a.value)
            for call in ast.walk(self.tree)
            if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id in calls
            for a in call.args[:2]
            if isinstance(a, ast.Constant) and a.value in LAUNCH_FILES
        }

    @property
    def required(self) -> set[str]:
        return {name for name, argument in self.arguments.items() if argument.default is None}

    def _includes(self) -> Iterator[tuple[str, set[str]]]:
        for call in (n for n in ast.walk(self.tree) if isinstance(n, ast.Call)):
            if isinstance(call.func, ast.Name) and call.func.id == "IncludeLaunchDescription":
                (file,) = re.findall(r"[\w.]+\.launch\.py", ast.unparse(self._resolved(self._file_of(call))))
                (handed_on,) = [k.value for k in call.keywords if k.arg == "launch_arguments"]
                yield file.removesuffix(".launch.py"), self._names(handed_on)

    def _file_of(self, include: ast.Call) -> ast.expr:
        """PythonLaunchDescriptionSource(str(FILE)), in place or by a name."""
        source = self._resolved(include.args[0])
        assert isinstance(source, ast.Call)
        text = source.args[0]
        assert isinstance(text, ast.Call)
        return text.args[0]

    def _resolved(self, expression: ast.expr) -> ast.expr:
        return self.assigned[expression.id] if isinstance(expression, ast.Name) else expression

    def _names(self, expression: ast.expr) -> set[str]:
        """The names of arguments in an expression like [("world", "habitat"), *given.items()]."""
        if isinstance(expression, ast.Call) and ast.unparse(expression.func) == "list":
            return self._names(expression.args[0])
        if isinstance(expression, ast.Call) and isinstance(expression.func, ast.Attribute):
            assert expression.func.attr == "items"
            return self._names(self._resolved(expression.func.value))
        if isinstance(expression, ast.List):
            return set().union(*(self._names(e) for e in expression.elts))
        if isinstance(expression, ast.Starred):
            return self._names(expression.value)
        if isinstance(expression, ast.Tuple):
            return {ast.literal_eval(expression.elts[0])}
        if isinstance(expression, ast.Dict):
            return {ast.literal_eval(key) for key in expression.keys if key is not None}
        assert isinstance(expression, ast.DictComp), f"teach this test to read {ast.unparse(expression)}"
        assert ast.unparse(expression.generators[0].iter) == "arguments"
        return set(self.arguments)


def choices_of(argument: LaunchArgument) -> list[str]:
    """What may be given; nothing where any text will do."""
    kind = argument.preset
    if not kind:
        return list(argument.allowed)
    return sorted(p.stem.removeprefix(f"{kind}_") for p in PRESETS if p.stem.startswith(f"{kind}_"))


LAUNCH = {p.name.removesuffix(".launch.py"): LaunchFile(p) for p in FILES}


def test_the_launch_files_are_there() -> None:
    assert set(LAUNCH) == set(LAUNCH_FILES) == {"robot", "sim", "habitat", "replay", "nav2", "fleet"}
    for name, launch in LAUNCH.items():
        assert launch.says_which_it_is == {name}


def within(name: str) -> list[str]:
    """A launch file and those that it includes, by whatever way."""
    found = [name]
    for inner in LAUNCH[name].includes:
        found += within(inner)
    return found


def test_what_includes_what_is_seen() -> None:
    assert within("habitat") == ["habitat", "sim", "robot"]
    assert within("sim") == ["sim", "robot"]
    assert within("replay") == ["replay", "robot"]
    assert within("nav2") == ["nav2", "robot"]
    assert within("fleet") == ["fleet", "robot"]
    assert LAUNCH["habitat"].required == {"episodes", "habitat_python"}
    assert {"camera", "use_sim_time"} <= LAUNCH["sim"].includes["robot"]
    for name in LAUNCH:
        assert within(name)[1:] == list(LAUNCH_FILES[name].includes)


@pytest.mark.parametrize("name", LAUNCH)
def test_every_required_argument_of_an_included_file_is_handed_on(name: str) -> None:
    """Launch looks at what the include itself hands on: given on the command line is not enough."""
    for inner, handed_on in LAUNCH[name].includes.items():
        assert LAUNCH[inner].required <= handed_on
        assert handed_on <= set(LAUNCH[inner].arguments), "handed on, and nobody there takes it"


@pytest.mark.parametrize("name", LAUNCH)
def test_every_argument_that_is_used_is_declared(name: str) -> None:
    launch = LAUNCH[name]
    assert launch.used <= set(launch.arguments)
    # robot.launch.py starts whatever robot_nodes() names.
    assert launch.started <= set(launch.nodes)
    assert name == "robot" or launch.started == set(launch.nodes)
    if name != "habitat":  # it hands everything on by a loop
        assert launch.used


@pytest.mark.parametrize("name", LAUNCH)
def test_an_argument_means_the_same_in_every_file(name: str) -> None:
    for inner in within(name)[1:]:
        for argument in set(LAUNCH[name].arguments) & set(LAUNCH[inner].arguments):
            ours, theirs = (choices_of(LAUNCH[n].arguments[argument]) for n in (name, inner))
            assert set(ours) <= set(theirs or ours), argument


COMMAND = re.compile(
    r"ros2 launch vln_ros (\w+)\.launch\.py((?:[ \t]+(?:\\\n\s*)?[\w.]+:=(?:\"[^\"]*\"|\S+))*)"
)
TEXTS = [*FILES, ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMANDS = [(p.name, *match) for p in TEXTS for match in COMMAND.findall(p.read_text("utf-8"))]


def test_commands_are_found() -> None:
    assert {file for file, *_ in COMMANDS} >= {"README.md", "bringup.md", *(p.name for p in FILES)}


@pytest.mark.parametrize(("source", "name", "text"), COMMANDS, ids=lambda v: v.strip()[:40])
def test_every_command_that_is_printed_can_be_typed(source: str, name: str, text: str) -> None:
    given = dict(re.findall(r"([\w.]+):=(\"[^\"]*\"|\S+)", text))
    known = {a: k for file in reversed(within(name)) for a, k in LAUNCH[file].arguments.items()}
    assert set(given) <= set(known)
    for argument, value in given.items():
        assert value in (choices_of(known[argument]) or [value]), f"{argument}:={value}"
    if source.endswith(".launch.py"):  # elsewhere the line may be about one argument
        assert LAUNCH[name].required <= set(given)


@pytest.mark.parametrize("name", LAUNCH)
def test_every_argument_is_described_and_its_default_is_a_choice(name: str) -> None:
    launch = LAUNCH[name]
    assert len(launch.arguments) == len(LAUNCH_FILES[name].arguments), "one of them twice"
    for argument in launch.arguments.values():
        assert len(argument.description) > 10, argument
        if argument.default is not None and choices_of(argument):
            assert argument.default in choices_of(argument), argument


@pytest.mark.parametrize("name", LAUNCH)
def test_arguments_become_parameters_that_the_nodes_have(name: str) -> None:
    launch = LAUNCH[name]
    for argument in launch.arguments.values():
        for node, parameter in argument.parameters.items():
            options = {e.name: e for e in walk_options(NODES[node])}
            assert parameter in options, f"{node} has no parameter {parameter}"
            known = options[parameter].option.choices
            if known:
                offered = set(argument.allowed) - {""}
                assert offered == set(known) or (argument.choices and offered < set(known)), (
                    f"{argument.name} of {name}"
                )
        if argument not in NAMES:  # those are of every file
            assert set(argument.parameters) <= {n for f in within(name) for n in LAUNCH[f].nodes}


@pytest.mark.parametrize("name", LAUNCH)
def test_defaults_are_values_of_the_parameters(name: str) -> None:
    """And what is empty sets none, so that files and the parameters' own defaults hold."""
    for node in LAUNCH_FILES[name].nodes:
        given = {a.name: a.default or "" for a in LAUNCH_FILES[name].arguments}
        from_flat(NODES[node], argument_values(name, node, given))
        assert argument_values(name, node, dict.fromkeys(given, "")) == {}


@pytest.mark.parametrize(
    ("name", "node", "given", "said"),
    [
        ("sim", "sim_bridge", {"habitat_gpu": "first"}, "habitat_gpu:=first: expected a whole number"),
        ("sim", "sim_bridge", {"realtime_factor": "fast"}, "realtime_factor:=fast: expected a number"),
        ("sim", "sim_bridge", {"realtime_factor": "-1"}, "realtime_factor:=-1: .*must be"),
        ("sim", "sim_bridge", {"realtime_factor": "nan"}, "realtime_factor:=nan: .*must be finite"),
        ("robot", "web", {"web_port": "70000"}, "web_port:=70000: .*must be"),
        ("robot", "web", {"web_port": "80.5"}, "web_port:=80.5: expected a whole number"),
        ("replay", "bag_player", {"rate": "double"}, "rate:=double: expected a number"),
    ],
)
def test_a_value_that_is_none_is_said_with_its_argument(
    name: str, node: str, given: dict[str, str], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        argument_values(name, node, given)


def test_a_text_that_looks_like_a_number_stays_text() -> None:
    assert argument_values("robot", "navigator", {"checkpoint": "1.0", "profile": "true"}) == {
        "qwen.checkpoint": "1.0",
        "qwen.profile": "true",
    }
    assert argument_values("robot", "executor", {"autostart": "false"}) == {"autostart": False}


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
    for executable in LAUNCH[name].nodes:
        script = ROOT / "scripts" / executable
        assert script.stat().st_mode & 0o111
        assert f"\nnode={executable}\n" in script.read_text("utf-8")
        assert (ROOT / (MODULES[executable].replace(".", "/") + ".py")).is_file()


def test_executables_differ_by_their_node_only() -> None:
    files = [p for p in (ROOT / "scripts").iterdir() if p.is_file() and not p.suffix]
    scripts = {p.name: p.read_text("utf-8") for p in files}
    scripts.pop("try_docs")  # of the repository; setup.py leaves it out
    assert set(scripts) == set(NODES)
    assert len({text.replace(f"node={name}\n", "") for name, text in scripts.items()}) == 1
    assert not (ROOT / "scripts/start.sh").stat().st_mode & 0o111, "`ros2 pkg executables` would list it"


def test_every_kind_of_preset_has_one_that_is_the_default() -> None:
    for kind in ("camera", "base"):
        argument = LAUNCH["robot"].arguments[kind]
        assert {"generic", "sim"} < set(choices_of(argument))
        assert argument.default in choices_of(argument)


@pytest.mark.parametrize("name", LAUNCH)
def test_every_file_takes_the_names_of_topics_and_frames(name: str) -> None:
    wanted = {"odom_topic", "cmd_vel_topic", "instruction_topic", "scan_topic", "color_topic", "depth_topic"}
    wanted |= {"camera_info_topic", "depth_camera_info_topic", "base_frame", "odom_frame"}
    assert {a.name for a in NAME_ARGUMENTS} == wanted
    assert wanted <= set(LAUNCH[name].arguments)


def test_names_become_parameters_that_the_nodes_have() -> None:
    for argument in NAME_ARGUMENTS:
        for node, parameter in argument.parameters.items():
            assert parameter in {e.name for e in walk_options(NODES[node])}, (argument.name, node)
        assert argument.known_as or argument.parameters
        assert argument.default in ("", argument.known_as)


def test_every_node_that_has_a_topic_or_frame_is_given_it() -> None:
    """A node that is left out would talk elsewhere than the others."""
    for node, config in NODES.items():
        names = {e.name for e in walk_options(config)}
        for argument in NAME_ARGUMENTS:
            for parameter in {*argument.parameters.values()} & names:
                assert argument.parameters.get(node) == parameter, (argument.name, node)


def test_where_nothing_is_given_nothing_is_renamed() -> None:
    given = {a.name: a.default for a in NAME_ARGUMENTS}
    assert name_remappings(given, publishes_camera=True) == []
    assert all(name_parameters(node, given) == {} for node in NODES)


def test_what_is_given_reaches_who_hears_and_who_speaks() -> None:
    given = {
        "odom_topic": "/wheel/odom",
        "color_topic": "rgb",
        "base_frame": "body",
        "cmd_vel_topic": "cmd_vel",
    }
    assert name_parameters("navigator", given) == {"color_topic": "rgb", "base_frame": "body"}
    assert name_parameters("executor", given) == {"base_frame": "body"}
    assert name_remappings(given) == [("odom", "/wheel/odom")]
    assert name_remappings(given, publishes_camera=True) == [
        ("odom", "/wheel/odom"),
        ("camera/color/image_raw", "rgb"),
        ("camera/color/image_raw/compressed", "rgb/compressed"),
    ]


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


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("base_*.yaml")), ids=lambda p: p.stem)
def test_ways_are_planned_for_the_robot_that_the_executor_protects(path: Path) -> None:
    given = yaml.safe_load(path.read_text("utf-8"))
    safety = {**to_flat(SafetyConfig()), **below(given, "executor", "safety.")}
    place = {**to_flat(PlaceConfig()), **below(given, "navigator", "place.")}
    for name in ("robot_radius_m", "stop_distance_m", "min_height_m", "max_height_m"):
        assert place[name] == safety[name], f"place.{name} and safety.{name}"


def below(given: Mapping[str, Any], node: str, prefix: str) -> dict[str, Any]:
    values = given.get(f"/**/{node}", {}).get("ros__parameters", {})
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def test_rviz_shows_topics_that_somebody_publishes() -> None:
    text = (ROOT / "config/vln.rviz").read_text("utf-8")
    shown = {d["Name"]: d for d in yaml.safe_load(text)["Visualization Manager"]["Displays"]}
    topics = {d["Topic"]["Value"] for d in shown.values() if "Topic" in d}
    documented = (ROOT / "docs/reference/nodes.md").read_text("utf-8")
    assert topics
    for topic in topics:
        assert f"`{topic}`" in documented
        assert not topic.startswith("/"), "relative, so that a namespace holds"


FOXGLOVE = json.loads((ROOT / "config/vln.foxglove.json").read_text("utf-8"))
TOPIC = re.compile(r"/[\w/]+")


def foxglove_topics() -> dict[str, str]:
    """Every topic that a panel shows or publishes, and the panel."""
    found: dict[str, str] = {}
    for name, panel in FOXGLOVE["configById"].items():
        values = [panel.get(key) for key in ("topicPath", "topicName", "topicToRender")]
        values += [path["value"] for path in panel.get("paths", [])]
        values += [*panel.get("topics", {}), panel.get("imageMode", {}).get("imageTopic")]
        for value in filter(None, values):
            topic = TOPIC.match(value)
            assert topic is not None, f"{name}: {value}"
            found[topic[0]] = name
    return found


def test_foxglove_shows_topics_and_calls_services_that_are_documented() -> None:
    documented = (ROOT / "docs/reference/nodes.md").read_text("utf-8")
    topics = foxglove_topics()
    assert len(topics) > 10
    for topic, panel in topics.items():
        name = topic if topic == "/diagnostics" else topic.removeprefix("/")
        assert f"`{name}`" in documented, panel
    services = {
        panel["serviceName"].removeprefix("/"): json.loads(panel["requestPayload"])
        for name, panel in FOXGLOVE["configById"].items()
        if name.startswith("CallService!")
    }
    assert set(services) == {"executor/pause", "navigator/cancel"}
    assert "`executor/pause`" in documented and "`~/cancel`" in documented


@pytest.mark.parametrize("name", [n for n in FOXGLOVE["configById"] if n.startswith("Publish!")])
def test_what_foxglove_publishes_is_of_the_documented_type(name: str) -> None:
    panel = FOXGLOVE["configById"][name]
    documented = (ROOT / "docs/reference/nodes.md").read_text("utf-8")
    package, _, kind = panel["datatype"].split("/")
    assert f"| `{panel['topicName'].removeprefix('/')}` | {package}/{kind}" in documented
    assert set(json.loads(panel["value"])) == {"data"}


def test_every_panel_of_foxglove_has_its_place() -> None:
    def places(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        assert node["direction"] in ("row", "column") and 0 < node["splitPercentage"] < 100
        return [*places(node["first"]), *places(node["second"])]

    assert sorted(places(FOXGLOVE["layout"])) == sorted(FOXGLOVE["configById"])


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
