"""Navigator and executor on a robot, or one of the two on each of two machines.

    ros2 launch vln_ros robot.launch.py camera:=realsense base:=turtlebot4 checkpoint:=CKPT

Drivers of camera and base are not started here. `--show-args` describes every argument. What may be missing
(files, rviz2, torch) is looked for before anything starts; a node that fails ends the launch with status 1.
"""

from pathlib import Path

from launch.actions import LogInfo, OpaqueFunction
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_remappings
from vln_ros.ros.launching.files import (
    check_arguments,
    check_robot,
    declare,
    given_arguments,
    node_parameters,
    package_node,
    robot_nodes,
    view_file,
)

CONFIG = Path(__file__).parents[1] / "config"
TF = [("/tf", "tf"), ("/tf_static", "tf_static")]


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    check_arguments(context, "robot", CONFIG)
    given = given_arguments(context, "robot")
    started: list[LaunchDescriptionEntity] = [*check_robot(context, CONFIG, given)]
    for name in robot_nodes(given):
        values = {"use_sim_time": given["use_sim_time"] == "true", **node_parameters("robot", name, given)}
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
    return LaunchDescription([*declare("robot", CONFIG), OpaqueFunction(function=nodes)])
