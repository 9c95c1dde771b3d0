"""A recording instead of a robot: the player, and the navigator of robot.launch.py.

    ros2 launch vln_ros replay.launch.py bag:=BAG instruction:="walk to the fridge" checkpoint:=CKPT

It runs in the domain of this terminal, so that rviz and ros2 see it. What would move a robot (cmd_vel, the
action queue) goes under replay/, where no base and no executor of a robot listens.

The camera's mounting comes from the recording's /tf_static. Every argument of robot.launch.py may be given
too: transport:=compressed where the recording has compressed images, rviz:=true to watch. For a report and
a video use `vln_ros replay`.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import SetRemap
from launch_ros.parameter_descriptions import ParameterValue

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.ros.launching import (
    check_arguments,
    check_before_start,
    check_robot,
    declared_in,
    package_node,
)

ROBOT = Path(__file__).with_name("robot.launch.py")

ARGUMENTS = [
    DeclareLaunchArgument("bag", description="rosbag2 folder, or .db3 or .mcap file"),
    DeclareLaunchArgument("instruction", description="Instruction that the robot is told"),
    DeclareLaunchArgument(
        "rate",
        default_value="1.0",
        description="Speed of the playback; 0: each frame as soon as the one before is processed",
    ),
    DeclareLaunchArgument(
        "color", default_value="", description="Colour topic in the bag; empty: the only one"
    ),
    DeclareLaunchArgument(
        "depth", default_value="", description="Depth topic in the bag; empty: the only one"
    ),
    DeclareLaunchArgument(
        "camera_info", default_value="", description="camera_info topic in the bag; empty: the only one"
    ),
    DeclareLaunchArgument(
        "odometry", default_value="", description="Odometry topic in the bag; empty: the only one"
    ),
    DeclareLaunchArgument("report", default_value="", description="JSON file for what was seen; empty: none"),
    DeclareLaunchArgument("namespace", default_value="", description="Namespace of every node and topic"),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severity that is logged",
        choices=["debug", "info", "warn", "error", "fatal"],
    ),
]

MOVING = ["cmd_vel", "action_queue"]
"""Topics that move a robot."""
PARAMETERS = {
    "bag_player": {
        "bag": "bag",
        "instruction": "instruction",
        "rate": "rate",
        "color": "color",
        "depth": "depth",
        "camera_info": "camera_info",
        "odometry": "odometry",
        "report": "report",
    }
}
"""Per node: which argument becomes which parameter. One that is empty leaves file and default alone."""


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    values = {
        parameter: float(given[argument])
        if argument == "rate"
        else ParameterValue(given[argument], value_type=str)
        for argument, parameter in PARAMETERS["bag_player"].items()
        if given[argument]
    }
    robot = {
        "machine": "gpu",
        "decide_on": "frame",
        "namespace": given["namespace"],
        "log_level": given["log_level"],
    }
    of_robot = declared_in(context, ROBOT)
    check_arguments(context, Path(__file__), [*ARGUMENTS, *of_robot])
    checked = [
        *check_before_start(["bag_player"], files={"bag": given["bag"]}),
        *check_robot(context, of_robot, robot),
    ]
    started = [
        *(SetRemap(name, f"replay/{name}") for name in MOVING),
        package_node(
            "bag_player",
            finished="the recording is at its end",
            namespace=given["namespace"],
            parameters=[values],
            remappings=[("/tf_static", "tf_static")],
            ros_arguments=["--log-level", given["log_level"]],
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROBOT)), launch_arguments=list(robot.items())
        ),
    ]
    return [*checked, GroupAction(started)]  # beside it, in a larger launch file, nothing is renamed


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
