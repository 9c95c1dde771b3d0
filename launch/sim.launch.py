"""A simulated robot instead of a real one: the bridge, and the nodes of robot.launch.py around it.

    vln_ros scenes --out scenes
    ros2 launch vln_ros sim.launch.py episodes:=FILE engine:=expert

Every argument of robot.launch.py may be given too (`ros2 launch vln_ros robot.launch.py --show-args`).
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_parameters, name_remappings
from vln_ros.ros.launching import (
    check_arguments,
    check_before_start,
    check_robot,
    declared_in,
    name_arguments,
    package_node,
)

ROBOT = Path(__file__).with_name("robot.launch.py")

ARGUMENTS = [
    DeclareLaunchArgument("episodes", description="Episode file (VLN-CE json.gz) to run"),
    DeclareLaunchArgument(
        "mode",
        default_value="realtime",
        choices=["realtime", "lockstep", "manual", "live"],
        description="realtime: cmd_vel moves the robot; lockstep: the queue does, nothing hurries; "
        "manual: services do, and only the bridge is started; live: as realtime, for sentences of your own",
    ),
    DeclareLaunchArgument(
        "world", default_value="embedded", choices=["embedded", "habitat"], description="What simulates"
    ),
    DeclareLaunchArgument(
        "protocol",
        default_value="",
        choices=["", "custom", "r2r-vlnce", "rxr-vlnce", "streamvln"],
        description="Named rules of the evaluation (docs/evaluate/habitat.md)",
    ),
    DeclareLaunchArgument(
        "habitat_python",
        default_value="",
        description="Python interpreter of the environment that has habitat_sim",
    ),
    DeclareLaunchArgument(
        "habitat_scenes", default_value="", description="Folder that the scene ids of episodes are below"
    ),
    DeclareLaunchArgument(
        "habitat_gpu",
        default_value="",
        description="CUDA number of the GPU that Habitat renders with; -1: none",
    ),
    DeclareLaunchArgument(
        "episode_count", default_value="0", description="Number of episodes to run; 0 runs all"
    ),
    DeclareLaunchArgument(
        "run_folder", default_value="", description="Folder for results; empty writes none"
    ),
    DeclareLaunchArgument(
        "realtime_factor",
        default_value="1.0",
        description="Simulated seconds per second, if the machine keeps up",
    ),
    DeclareLaunchArgument(
        "transport",
        default_value="raw",
        choices=["raw", "compressed"],
        description="How images are published and taken",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of every node and topic"),
    DeclareLaunchArgument(
        "bridge_params_file", default_value="", description="Parameter file for the bridge"
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severity that is logged",
        choices=["debug", "info", "warn", "error", "fatal"],
    ),
    *name_arguments(),
]

PARAMETERS = {
    "sim_bridge": {
        "episodes": "episodes",
        "mode": "mode",
        "world": "world",
        "protocol": "protocol",
        "habitat_python": "habitat.python",
        "habitat_scenes": "habitat.scenes",
        "habitat_gpu": "habitat.gpu",
        "episode_count": "episode_count",
        "run_folder": "run_folder",
        "realtime_factor": "realtime_factor",
        "transport": "transport",
    }
}
"""Per node: which argument becomes which parameter. One that is empty leaves file and default alone."""
NUMBERS = {"habitat_gpu": int, "episode_count": int, "realtime_factor": float}


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    values = {
        parameter: NUMBERS[argument](given[argument])
        if argument in NUMBERS
        else ParameterValue(given[argument], value_type=str)
        for argument, parameter in PARAMETERS["sim_bridge"].items()
        if given[argument]
    }
    for parameter, frame in name_parameters("sim_bridge", given).items():
        values[parameter] = ParameterValue(frame, value_type=str)
    if context.launch_configurations.get("record") == "true":
        values["listeners"] = 2  # navigator and recorder: no frame is published before both hear it
    realtime = given["mode"] in ("realtime", "live")
    robot = {
        "camera": "sim",
        "base": "sim",
        "machine": "all" if realtime else "gpu",  # in lockstep the bridge executes the queue
        "use_sim_time": str(realtime).lower(),
        "transport": given["transport"],
        "namespace": given["namespace"],
        "log_level": given["log_level"],
        "episodes": given["episodes"],
    }
    of_robot = declared_in(context, ROBOT)
    check_arguments(context, Path(__file__), [*ARGUMENTS, *of_robot])
    entities: list[LaunchDescriptionEntity] = [
        *check_before_start(
            ["sim_bridge"],
            parameter_file=given["bridge_params_file"],
            namespace=given["namespace"],
            files={"episodes": given["episodes"]},
        ),
        *([] if given["mode"] == "manual" else check_robot(context, of_robot, robot)),
        package_node(
            "sim_bridge",
            finished="the episodes are done",
            namespace=given["namespace"],
            parameters=[*filter(None, [given["bridge_params_file"]]), values],
            remappings=name_remappings(given, publishes_camera=True),
            ros_arguments=["--log-level", given["log_level"]],
        ),
    ]
    if given["mode"] != "manual":
        source = PythonLaunchDescriptionSource(str(ROBOT))
        entities.append(IncludeLaunchDescription(source, launch_arguments=list(robot.items())))
    return entities


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
