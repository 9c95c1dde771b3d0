"""A recording instead of a robot: the player, and the navigator of robot.launch.py.

    ros2 launch vln_ros replay.launch.py bag:=BAG instruction:="walk to the fridge" checkpoint:=CKPT

It runs in the domain of this terminal, so that rviz and ros2 see it. What would move a robot (cmd_vel, the
action queue) goes under replay/, where no base and no executor of a robot listens.

The camera's mounting comes from the recording's /tf_static. Every argument of robot.launch.py may be given
too: transport:=compressed where the recording has compressed images, rviz:=true to watch. For a report and
a video use `vln_ros replay`.
"""

from pathlib import Path

from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import SetRemap

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_remappings
from vln_ros.ros.launching.files import (
    check_arguments,
    check_before_start,
    check_handed_on,
    check_robot,
    declare,
    given_arguments,
    node_parameters,
    package_node,
)

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = Path(__file__).with_name("robot.launch.py")

MOVING = ["cmd_vel", "action_queue"]
"""Topics that move a robot."""


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    check_arguments(context, "replay", CONFIG)
    given = given_arguments(context, "replay")
    robot = {
        "machine": "gpu",
        "decide_on": "frame",
        "namespace": given["namespace"],
        "log_level": given["log_level"],
    }
    check_handed_on(context, "replay", CONFIG, robot)
    checked = [
        *check_before_start(["bag_player"], files={"bag": given["bag"]}),
        *check_robot(context, CONFIG, robot),
    ]
    started = [
        *(SetRemap(name, f"replay/{name}") for name in MOVING),
        package_node(
            "bag_player",
            finished="the recording is at its end",
            namespace=given["namespace"],
            parameters=[node_parameters("replay", "bag_player", given)],
            remappings=[("/tf_static", "tf_static"), *name_remappings(given, publishes_camera=True)],
            ros_arguments=["--log-level", given["log_level"]],
        ),
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROBOT)), launch_arguments=list(robot.items())
        ),
    ]
    return [*checked, GroupAction(started)]  # beside it, in a larger launch file, nothing is renamed


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declare("replay", CONFIG), OpaqueFunction(function=nodes)])
