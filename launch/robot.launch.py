"""Navigator and executor on a robot, or one of the two on each of two machines.

    ros2 launch vln_ros robot.launch.py camera:=realsense base:=turtlebot4 checkpoint:=CKPT

Drivers of camera and base are not started here. `--show-args` describes every argument. What may be missing
(files, rviz2, torch) is looked for before anything starts; a node that fails ends the launch with status 1.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, LogInfo, OpaqueFunction
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_parameters, name_remappings
from vln_ros.ros.launching import (
    check_arguments,
    check_robot,
    name_arguments,
    package_node,
    presets,
    robot_nodes,
    view_file,
)

CONFIG = Path(__file__).parents[1] / "config"
BOOL = ["true", "false"]
TF = [("/tf", "tf"), ("/tf_static", "tf_static")]

ARGUMENTS = [
    DeclareLaunchArgument(
        "camera",
        default_value="generic",
        description="Preset of the camera's topics and extrinsics (config/camera_*.yaml)",
        choices=presets(CONFIG, "camera"),
    ),
    DeclareLaunchArgument(
        "base",
        default_value="generic",
        description="Preset of the base's speeds and accelerations (config/base_*.yaml)",
        choices=presets(CONFIG, "base"),
    ),
    DeclareLaunchArgument(
        "params_file", default_value="", description="Parameter file of your own; it wins over the presets"
    ),
    DeclareLaunchArgument(
        "namespace",
        default_value="",
        description="Namespace of every node and topic; /tf and /tf_static are taken from there too",
    ),
    DeclareLaunchArgument(
        "machine",
        default_value="all",
        choices=["all", "robot", "gpu"],
        description="all: every node here; robot: all but the navigator; gpu: only the navigator",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="How the navigator takes images; compressed where they come by network",
    ),
    DeclareLaunchArgument(
        "use_sim_time", default_value="false", choices=BOOL, description="Take time from /clock"
    ),
    DeclareLaunchArgument(
        "autostart",
        default_value="true",
        choices=BOOL,
        description="Configure and activate the nodes; false: a lifecycle manager does",
    ),
    DeclareLaunchArgument(
        "respawn",
        default_value="false",
        choices=BOOL,
        description="Start a node that has died again, unless it refuses its parameters; "
        "false: end everything, the robot stands",
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
    DeclareLaunchArgument(
        "decide_on",
        default_value="",
        choices=["", "progress", "frame"],
        description="When the engine is asked: progress, as the queue runs out, or frame, for recordings",
    ),
    DeclareLaunchArgument(
        "drive",
        default_value="queue",
        choices=["queue", "nav2"],
        description="Who drives: queue, the executor; nav2, Nav2 by goals, and no executor is started",
    ),
    DeclareLaunchArgument(
        "episodes", default_value="", description="Episode file that the oracle policy (engine expert) knows"
    ),
    DeclareLaunchArgument(
        "inspect",
        default_value="true",
        choices=BOOL,
        description="Start the inspector: markers, annotated image, trail, plots",
    ),
    DeclareLaunchArgument(
        "rviz", default_value="false", choices=BOOL, description="Open rviz with config/vln.rviz"
    ),
    DeclareLaunchArgument(
        "web",
        default_value="false",
        choices=BOOL,
        description="Serve the page in the browser (docs/robot/web.md)",
    ),
    DeclareLaunchArgument(
        "web_host",
        default_value="",
        description="Address that the page is served at; 0.0.0.0: the network, with a token in its address",
    ),
    DeclareLaunchArgument("web_port", default_value="", description="TCP port of the page"),
    DeclareLaunchArgument(
        "record",
        default_value="false",
        choices=BOOL,
        description="Record inputs, queues, commands and diagnostics",
    ),
    DeclareLaunchArgument("record_folder", default_value="bags", description="Where recordings go"),
    *name_arguments(),
]

PARAMETERS = {
    "navigator": {
        "autostart": "autostart",
        "engine": "engine",
        "checkpoint": "qwen.checkpoint",
        "profile": "qwen.profile",
        "device": "qwen.device",
        "decide_on": "decide_on",
        "drive": "drive",
        "episodes": "expert.episodes",
    },
    "executor": {"autostart": "autostart"},
    "inspector": {},
    "recorder": {"record_folder": "folder"},
    "web": {"web_host": "host", "web_port": "port"},
}
"""Per node: which argument becomes which parameter. One that is empty leaves file and default alone."""
NUMBERS = {"web_port": int}


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    check_arguments(context, Path(__file__), ARGUMENTS)
    started: list[LaunchDescriptionEntity] = [*check_robot(context, ARGUMENTS, given)]
    for name in robot_nodes(given):
        values: dict[str, object] = {"use_sim_time": given["use_sim_time"] == "true"}
        for parameter, topic_or_frame in name_parameters(name, given).items():
            values[parameter] = ParameterValue(topic_or_frame, value_type=str)
        for argument, parameter in PARAMETERS[name].items():
            if given[argument] in BOOL:
                values[parameter] = given[argument] == "true"
            elif given[argument] and argument in NUMBERS:
                values[parameter] = NUMBERS[argument](given[argument])
            elif given[argument]:
                values[parameter] = ParameterValue(given[argument], value_type=str)
        if given["transport"] == "compressed" and name == "navigator":
            values |= {"color_transport": "compressed", "depth_transport": "compressed"}
        if given["transport"] == "compressed" and name == "web":
            values["color_transport"] = "compressed"
        files = [CONFIG / f"camera_{given['camera']}.yaml", CONFIG / f"base_{given['base']}.yaml"]
        if given["params_file"]:
            files.append(Path(given["params_file"]))
        started.append(
            package_node(
                name,
                respawn=given["respawn"] == "true",
                namespace=given["namespace"],
                parameters=[*map(str, files), values],
                remappings=[*TF, *name_remappings(given)],
                ros_arguments=["--log-level", given["log_level"]],
            )
        )
    if given["rviz"] == "true":
        started.append(
            Node(
                package="rviz2",
                executable="rviz2",
                namespace=given["namespace"],
                arguments=["-d", str(view_file(CONFIG, "vln.rviz", given))],
                parameters=[{"use_sim_time": given["use_sim_time"] == "true"}],
                remappings=TF,
            )
        )
    if given["inspect"] == "true" and given["machine"] != "gpu":
        perspective = view_file(CONFIG, "vln.perspective", given)
        started.append(LogInfo(msg=f"for rqt: rqt --perspective-file {perspective}"))
    return started


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
