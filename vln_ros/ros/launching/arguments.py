"""The arguments of the launch files, as data: each one stands here once, for every file that takes it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from vln_ros.config import NAME_ARGUMENTS, NODES, ConfigError, Scalar, check_value, walk_options
from vln_ros.config.options import OptionEntry

BOOL = ("true", "false")


@dataclass(frozen=True, kw_only=True)
class LaunchArgument:
    """One argument.

    Attributes:
        name: of the argument.
        default: None: it has to be given. Empty: files and the parameters' defaults are left alone.
        description: for ``--show-args``.
        parameters: node to the parameter that it becomes.
        choices: where they are not those of the parameter.
        preset: the choices are the files ``config/PRESET_*.yaml``.
    """

    name: str
    default: str | None = ""
    description: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    choices: tuple[str, ...] = ()
    preset: str = ""

    @property
    def allowed(self) -> tuple[str, ...]:
        """The values that there are; none where any text will do. A preset's are files, and not here."""
        found = self.choices
        for node, parameter in self.parameters.items():
            entry = _entry(node, parameter)
            found = found or (BOOL if entry.type is bool else entry.option.choices)
        return ("", *found) if found and self.default == "" and "" not in found else found


@dataclass(frozen=True, kw_only=True)
class LaunchFile:
    """What one launch file takes and starts.

    Attributes:
        nodes: of this package that it may start itself.
        includes: launch files that it may start, whose arguments may be given to it, too.
        arguments: its own; they win over those of the same name in what it includes.
    """

    nodes: tuple[str, ...]
    includes: tuple[str, ...] = ()
    arguments: tuple[LaunchArgument, ...]


def _entry(node: str, parameter: str) -> OptionEntry:
    return next(e for e in walk_options(NODES[node]) if e.name == parameter)


NAMESPACE = LaunchArgument(
    name="namespace",
    description="Namespace of every node and topic; /tf and /tf_static are taken from there too",
)
USE_SIM_TIME = LaunchArgument(
    name="use_sim_time", default="false", choices=BOOL, description="Take time from /clock"
)
LOG_LEVEL = LaunchArgument(
    name="log_level",
    default="info",
    choices=("debug", "info", "warn", "error", "fatal"),
    description="Least severity that is logged",
)
MACHINE = LaunchArgument(
    name="machine",
    default="all",
    choices=("all", "robot", "gpu"),
    description="all: every node here; robot: all but the navigator; gpu: only the navigator",
)
TRANSPORT = LaunchArgument(
    name="transport",
    default="raw",
    choices=("raw", "compressed"),
    description="How the navigator takes images; compressed where they come by network",
)
EPISODES = LaunchArgument(
    name="episodes",
    default=None,
    description="Episode file (VLN-CE json.gz) to run",
    parameters={"sim_bridge": "episodes"},
)
HABITAT_PYTHON = LaunchArgument(
    name="habitat_python",
    description="Python interpreter of the environment that has habitat_sim",
    parameters={"sim_bridge": "habitat.python"},
)
MODE = LaunchArgument(
    name="mode",
    default="realtime",
    description="realtime: cmd_vel moves the robot; lockstep: the queue does, nothing hurries; "
    "manual: services do, and only the bridge is started; live: as realtime, for sentences of your own",
    parameters={"sim_bridge": "mode"},
)
PROTOCOL = LaunchArgument(
    name="protocol",
    description="Named rules of the evaluation (docs/evaluate/habitat.md)",
    parameters={"sim_bridge": "protocol"},
)
CAMERA = LaunchArgument(
    name="camera",
    default="generic",
    preset="camera",
    description="Preset of the camera's topics and extrinsics (config/camera_*.yaml)",
)
BASE = LaunchArgument(
    name="base",
    default="generic",
    preset="base",
    description="Preset of the base's speeds and accelerations (config/base_*.yaml)",
)
PARAMS_FILE = LaunchArgument(
    name="params_file", description="Parameter file of your own; it wins over the presets"
)
AUTOSTART = LaunchArgument(
    name="autostart",
    default="true",
    description="Configure and activate the nodes; false: a lifecycle manager does",
    parameters={"navigator": "autostart", "executor": "autostart"},
)
RESPAWN = LaunchArgument(
    name="respawn",
    default="false",
    choices=BOOL,
    description="Start a node that has died again, unless it refuses its parameters; "
    "false: end everything, the robot stands",
)
ENGINE = LaunchArgument(
    name="engine",
    default="qwen",
    description="What decides",
    parameters={"navigator": "engine"},
)
CHECKPOINT = LaunchArgument(
    name="checkpoint",
    description="Folder or hub name of a Qwen2.5-VL checkpoint",
    parameters={"navigator": "qwen.checkpoint"},
)
PROFILE = LaunchArgument(
    name="profile",
    description="Profile of the checkpoint: a shipped name or a YAML file",
    parameters={"navigator": "qwen.profile"},
)
DEVICE = LaunchArgument(
    name="device",
    description="Torch device: auto, cpu, cuda, cuda:1 ...",
    parameters={"navigator": "qwen.device"},
)
NAMES = tuple(
    LaunchArgument(name=a.name, default=a.default, description=a.description, parameters=a.parameters)
    for a in NAME_ARGUMENTS
)
"""Topics and frames."""

LAUNCH_FILES: Mapping[str, LaunchFile] = {
    "robot": LaunchFile(
        nodes=("navigator", "executor", "inspector", "recorder", "web"),
        arguments=(
            CAMERA,
            BASE,
            PARAMS_FILE,
            NAMESPACE,
            MACHINE,
            TRANSPORT,
            USE_SIM_TIME,
            AUTOSTART,
            RESPAWN,
            LOG_LEVEL,
            ENGINE,
            CHECKPOINT,
            PROFILE,
            DEVICE,
            LaunchArgument(
                name="decide_on",
                description="When the engine is asked: progress, as the queue runs out, or frame, for "
                "recordings",
                parameters={"navigator": "decide_on"},
            ),
            LaunchArgument(
                name="drive",
                default="queue",
                description="Who drives: queue, the executor; nav2, Nav2 by goals, and no executor starts",
                parameters={"navigator": "drive"},
            ),
            LaunchArgument(
                name="episodes",
                description="Episode file that the oracle policy (engine expert) knows",
                parameters={"navigator": "expert.episodes"},
            ),
            LaunchArgument(
                name="inspect",
                default="true",
                choices=BOOL,
                description="Start the inspector: markers, annotated image, trail, plots",
            ),
            LaunchArgument(
                name="rviz", default="false", choices=BOOL, description="Open rviz with config/vln.rviz"
            ),
            LaunchArgument(
                name="web",
                default="false",
                choices=BOOL,
                description="Serve the page in the browser (docs/robot/web.md)",
            ),
            LaunchArgument(
                name="web_host",
                description="Address that the page is served at; 0.0.0.0: the network, with a token in its "
                "address",
                parameters={"web": "host"},
            ),
            LaunchArgument(name="web_port", description="TCP port of the page", parameters={"web": "port"}),
            LaunchArgument(
                name="record",
                default="false",
                choices=BOOL,
                description="Record inputs, queues, commands and diagnostics",
            ),
            LaunchArgument(
                name="record_folder",
                default="bags",
                description="Where recordings go",
                parameters={"recorder": "folder"},
            ),
            *NAMES,
        ),
    ),
    "sim": LaunchFile(
        nodes=("sim_bridge",),
        includes=("robot",),
        arguments=(
            EPISODES,
            MODE,
            LaunchArgument(
                name="world",
                default="embedded",
                description="What simulates",
                parameters={"sim_bridge": "world"},
            ),
            PROTOCOL,
            HABITAT_PYTHON,
            LaunchArgument(
                name="habitat_scenes",
                description="Folder that the scene ids of episodes are below",
                parameters={"sim_bridge": "habitat.scenes"},
            ),
            LaunchArgument(
                name="habitat_gpu",
                description="CUDA number of the GPU that Habitat renders with; -1: none",
                parameters={"sim_bridge": "habitat.gpu"},
            ),
            LaunchArgument(
                name="episode_count",
                default="0",
                description="Number of episodes to run; 0 runs all",
                parameters={"sim_bridge": "episode_count"},
            ),
            LaunchArgument(
                name="run_folder",
                description="Folder for results; empty writes none",
                parameters={"sim_bridge": "run_folder"},
            ),
            LaunchArgument(
                name="realtime_factor",
                default="1.0",
                description="Simulated seconds per second, if the machine keeps up",
                parameters={"sim_bridge": "realtime_factor"},
            ),
            replace(
                TRANSPORT,
                description="How images are published and taken",
                parameters={"sim_bridge": "transport"},
            ),
            NAMESPACE,
            LaunchArgument(name="bridge_params_file", description="Parameter file for the bridge"),
            LOG_LEVEL,
            *NAMES,
        ),
    ),
    "habitat": LaunchFile(
        nodes=(),
        includes=("sim", "robot"),
        arguments=(
            EPISODES,
            replace(HABITAT_PYTHON, default=None),
            replace(MODE, default="lockstep"),
            replace(PROTOCOL, default="r2r-vlnce"),
            *NAMES,
        ),
    ),
    "replay": LaunchFile(
        nodes=("bag_player",),
        includes=("robot",),
        arguments=(
            LaunchArgument(
                name="bag",
                default=None,
                description="rosbag2 folder, or .db3 or .mcap file",
                parameters={"bag_player": "bag"},
            ),
            LaunchArgument(
                name="instruction",
                default=None,
                description="Instruction that the robot is told",
                parameters={"bag_player": "instruction"},
            ),
            LaunchArgument(
                name="rate",
                default="1.0",
                description="Speed of the playback; 0: each frame as soon as the one before is processed",
                parameters={"bag_player": "rate"},
            ),
            *(
                LaunchArgument(
                    name=name,
                    description=f"{what} topic in the bag; empty: the only one",
                    parameters={"bag_player": name},
                )
                for name, what in (
                    ("color", "Colour"),
                    ("depth", "Depth"),
                    ("camera_info", "camera_info"),
                    ("odometry", "Odometry"),
                )
            ),
            LaunchArgument(
                name="report",
                description="JSON file for what was seen; empty: none",
                parameters={"bag_player": "report"},
            ),
            NAMESPACE,
            LOG_LEVEL,
            *NAMES,
        ),
    ),
    "fleet": LaunchFile(
        nodes=("fleet", "sim_bridge"),
        includes=("robot",),
        arguments=(
            LaunchArgument(
                name="robots",
                default=None,
                description="Namespaces of the robots, separated by commas",
                parameters={"fleet": "robots"},
            ),
            LaunchArgument(
                name="episodes",
                description="Episode file: start a simulated robot in each namespace, which runs all of "
                "them; empty: the robots are real, and elsewhere",
                parameters={"sim_bridge": "episodes", "navigator": "expert.episodes"},
            ),
            replace(
                MODE,
                choices=("realtime", "lockstep", "live"),
                description="Of simulated robots: realtime, cmd_vel moves them; lockstep, the queues do; "
                "live: as realtime, for sentences of your own",
            ),
            replace(
                CAMERA,
                description="Preset of the cameras' topics and extrinsics; of simulated robots always sim",
            ),
            replace(BASE, description="Preset of the bases; of simulated robots always sim"),
            replace(
                PARAMS_FILE,
                description="Parameter file of your own; it wins over the presets. /**/navigator is for all "
                "robots, /left/navigator for one",
            ),
            replace(TRANSPORT, parameters={"sim_bridge": "transport"}),
            USE_SIM_TIME,
            replace(AUTOSTART, parameters={"navigator": "autostart"}),
            replace(
                RESPAWN,
                description="Start the fleet again when it has died, unless it refuses its parameters",
            ),
            LOG_LEVEL,
            ENGINE,
            CHECKPOINT,
            PROFILE,
            DEVICE,
            *NAMES,
        ),
    ),
    "nav2": LaunchFile(
        nodes=(),
        includes=("robot",),
        arguments=(
            LaunchArgument(
                name="nav2_params_file",
                description="Parameters of smoother, monitor and lifecycle manager; empty: those in "
                "config/nav2",
            ),
            NAMESPACE,
            replace(
                MACHINE,
                choices=("all", "robot"),
                description="robot: the navigator runs elsewhere, and is managed from here all the same",
            ),
            USE_SIM_TIME,
            LOG_LEVEL,
            # cmd_vel_topic is the base's, behind the collision monitor.
            *NAMES,
        ),
    ),
}
"""By name, without .launch.py."""


def every_argument(file: str) -> Iterator[LaunchArgument]:
    """The arguments of a launch file, and then those of what it includes."""
    yield from LAUNCH_FILES[file].arguments
    for inner in LAUNCH_FILES[file].includes:
        yield from LAUNCH_FILES[inner].arguments


def argument_values(file: str, node: str, given: Mapping[str, str]) -> dict[str, Scalar]:
    """The parameters that arguments set, by name. What is empty sets none.

    Args:
        file: the launch file that starts the node.
        node: which.
        given: by argument, as text.

    Raises:
        ConfigError: a value is of the wrong type or out of range; the message names the argument.
    """
    found: dict[str, Scalar] = {}
    for argument in LAUNCH_FILES[file].arguments:
        parameter, text = argument.parameters.get(node), given.get(argument.name, "")
        if parameter is None or not text:
            continue
        entry = _entry(node, parameter)
        try:
            value: Scalar = text
            if entry.type is bool:
                value = text == "true"
            elif entry.type is not str:
                value = entry.type(text)
            found[parameter] = check_value(entry, value)
        except ConfigError as error:
            raise ConfigError(f"{argument.name}:={text}: {error}") from None
        except ValueError:
            kind = "a whole number" if entry.type is int else "a number"
            raise ConfigError(f"{argument.name}:={text}: expected {kind}") from None
    return found


def nearest_argument(name: str, file: str, alike: float) -> str | None:
    """The argument of a launch file, or of what it includes, that was probably meant.

    Args:
        alike: how similar it has to be, from 0 to 1.
    """
    names = {argument.name for argument in every_argument(file)}
    return next(iter(difflib.get_close_matches(name, names, n=1, cutoff=alike)), None)
