"""Navigators of several robots in one process, on one model (docs/fleet.md).

    ros2 launch vln_ros fleet.launch.py robots:=left,right camera:=realsense checkpoint:=CKPT

On each robot runs the rest: robot.launch.py with machine:=robot and its namespace. With an episode file there
is a simulated robot in each namespace instead:

    ros2 launch vln_ros fleet.launch.py robots:=left,right episodes:=FILE engine:=expert
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_parameters, name_remappings
from vln_ros.ros.launching import (
    check_arguments,
    check_before_start,
    name_arguments,
    package_node,
    parameter_file,
    presets,
)

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = Path(__file__).with_name("robot.launch.py")
BOOL = ["true", "false"]
TF = [("/tf", "tf"), ("/tf_static", "tf_static")]
OWN_CLOCK = ("/clock", "clock")

ARGUMENTS = [
    DeclareLaunchArgument("robots", description="Namespaces of the robots, separated by commas"),
    DeclareLaunchArgument(
        "episodes",
        default_value="",
        description="Episode file: start a simulated robot in each namespace, which runs all of them; empty: "
        "the robots are real, and elsewhere",
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="realtime",
        choices=["realtime", "lockstep", "live"],
        description="Of simulated robots: realtime, cmd_vel moves them; lockstep, the queues do; live: as "
        "realtime, for sentences of your own",
    ),
    DeclareLaunchArgument(
        "camera",
        default_value="generic",
        description="Preset of the cameras' topics and extrinsics; of simulated robots always sim",
        choices=presets(CONFIG, "camera"),
    ),
    DeclareLaunchArgument(
        "base",
        default_value="generic",
        description="Preset of the bases; of simulated robots always sim",
        choices=presets(CONFIG, "base"),
    ),
    DeclareLaunchArgument(
        "params_file",
        default_value="",
        description="Parameter file of your own; it wins over the presets. /**/navigator is for all robots, "
        "/left/navigator for one",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="How images are taken; compressed where they come by network",
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOL, description="Take time from /clock"
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=BOOL,
        description="Configure and activate the navigators; false: a lifecycle manager does",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=BOOL,
        description="Start the fleet again when it has died, unless it refuses its parameters",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severity that is logged",
        choices=["debug", "info", "warn", "error", "fatal"],
    ),
    DeclareLaunchArgument(
        "engine",
        default_value="qwen",
        description="What decides",
        choices=["qwen", "expert", "pixel_oracle", "paced"],
    ),
    DeclareLaunchArgument(
        "checkpoint", default_value="", description="Folder or hub name of a Qwen2.5-VL checkpoint"
    ),
    DeclareLaunchArgument(
        "profile", default_value="", description="Profile of the checkpoint: a shipped name or a YAML file"
    ),
    DeclareLaunchArgument(
        "device", default_value="", description="Torch device: auto, cpu, cuda, cuda:1 ..."
    ),
    *name_arguments(),
]

PARAMETERS = {
    "fleet": {"robots": "robots"},
    "navigator": {
        "autostart": "autostart",
        "engine": "engine",
        "checkpoint": "qwen.checkpoint",
        "profile": "qwen.profile",
        "device": "qwen.device",
        "episodes": "expert.episodes",
    },
    "sim_bridge": {"episodes": "episodes", "transport": "transport"},
}
"""Per node: which argument becomes which parameter. One that is empty leaves file and default alone."""


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    check_arguments(context, Path(__file__), ARGUMENTS)
    simulated = bool(given["episodes"])
    realtime = given["mode"] != "lockstep"
    robots = [robot.strip() for robot in given["robots"].split(",")]
    said = check_before_start(
        ["fleet", "navigator"],
        parameter_file=given["params_file"],
        namespace=robots[0],
        others=robots[1:],
        engine=given["engine"],
        files={"episodes": given["episodes"]},
    )
    values: dict[str, dict[str, object]] = {"fleet": {}, "navigator": {}}
    for node in ("fleet", "navigator"):
        for argument, parameter in PARAMETERS[node].items():
            if given[argument]:
                values[node][parameter] = (
                    given[argument] == "true" if given[argument] in BOOL else given[argument]
                )
    navigator = values["navigator"]
    navigator |= name_parameters("navigator", given)
    navigator["use_sim_time"] = realtime if simulated else given["use_sim_time"] == "true"
    if given["transport"] == "compressed":
        navigator |= {"color_transport": "compressed", "depth_transport": "compressed"}
    files = [CONFIG / f"{kind}_{'sim' if simulated else given[kind]}.yaml" for kind in ("camera", "base")]
    if given["params_file"]:
        files.append(Path(given["params_file"]))
    started: list[LaunchDescriptionEntity] = [*said]
    started.append(
        package_node(
            "fleet",
            respawn=given["respawn"] == "true",
            parameters=[*map(str, files), str(parameter_file("fleet.yaml", values))],
            remappings=[*TF, *([OWN_CLOCK] if simulated else []), *name_remappings(given)],
            ros_arguments=["--log-level", given["log_level"]],
        )
    )
    if not simulated:
        return started
    left = list(robots)

    def last() -> bool:
        left.pop()
        return not left

    handed_on = {
        "camera": "sim",
        "base": "sim",
        "machine": "robot",
        "inspect": "false",
        "use_sim_time": "true",
        "transport": given["transport"],
        "log_level": given["log_level"],
        **{a.name: given[a.name] for a in name_arguments()},
    }
    bridge = {parameter: given[argument] for argument, parameter in PARAMETERS["sim_bridge"].items()}
    bridge |= {"mode": given["mode"], **name_parameters("sim_bridge", given)}
    as_text = {name: ParameterValue(value, value_type=str) for name, value in bridge.items()}
    source = PythonLaunchDescriptionSource(str(ROBOT))
    for robot in robots:
        started.append(
            package_node(
                "sim_bridge",
                finished="the episodes of every robot are done",
                last=last,
                namespace=robot,
                parameters=[as_text],
                remappings=[OWN_CLOCK, *name_remappings(given, publishes_camera=True)],
                ros_arguments=["--log-level", given["log_level"]],
            )
        )
        if realtime:  # in lockstep the bridge executes the queue
            rest = IncludeLaunchDescription(
                source, launch_arguments=[*handed_on.items(), ("namespace", robot)]
            )
            started.append(GroupAction([SetRemap(*OWN_CLOCK), rest]))
    return started


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
