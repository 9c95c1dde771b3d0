"""The robot of robot.launch.py with Nav2's velocity smoother and collision monitor between it and its base.

    ros2 launch vln_ros nav2.launch.py camera:=realsense checkpoint:=CKPT cmd_vel_topic:=cmd_vel

    executor -> cmd_vel_vln -> velocity_smoother -> cmd_vel_smoothed -> collision_monitor -> the base

One lifecycle manager of Nav2 configures and activates all four. Every argument of robot.launch.py but
autostart may be given too. Who plans, who stops and who owns cmd_vel: docs/robot/nav2.md.
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import ConfigError
from vln_ros.ros.launching.files import (
    check_arguments,
    check_before_start,
    check_handed_on,
    check_robot,
    declare,
    given_arguments,
)

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = Path(__file__).with_name("robot.launch.py")
NAV2_PARAMETERS = CONFIG / "nav2" / "behind_the_executor.yaml"

MANAGED = ["velocity_smoother", "collision_monitor", "navigator", "executor"]
"""In this order: what stands between executor and base is active before the executor is."""
NAV2 = {
    "velocity_smoother": "nav2_velocity_smoother",
    "collision_monitor": "nav2_collision_monitor",
    "lifecycle_manager": "nav2_lifecycle_manager",
}
"""Executables of Nav2, and the package of each."""


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    check_arguments(context, "nav2", CONFIG)
    given = given_arguments(context, "nav2")
    robot = {
        "autostart": "false",
        "drive": "queue",
        "namespace": given["namespace"],
        "machine": given["machine"],
        "use_sim_time": given["use_sim_time"],
        "log_level": given["log_level"],
    }
    if context.launch_configurations.get("drive", "queue") != "queue":
        raise ConfigError(
            "drive:=nav2: there Nav2 drives and no executor is started, so there is nothing to put behind "
            "one; start robot.launch.py beside your Nav2"
        )
    check_handed_on(context, "nav2", CONFIG, robot)
    robot["cmd_vel_topic"] = "cmd_vel_vln"  # what is given is the base's
    checked = [
        *check_before_start([], files={"nav2_params_file": given["nav2_params_file"]}, tools=NAV2),
        *check_robot(context, CONFIG, robot),
    ]
    simulated = given["use_sim_time"] == "true"
    values = {
        "velocity_smoother": {"use_sim_time": simulated, "odom_topic": given["odom_topic"]},
        "collision_monitor": {
            "use_sim_time": simulated,
            "cmd_vel_out_topic": given["cmd_vel_topic"],
            "scan.topic": given["scan_topic"],
            **{f"{frame}_id": given[frame] for frame in ("base_frame", "odom_frame") if given[frame]},
        },
        "lifecycle_manager": {"use_sim_time": simulated, "node_names": MANAGED},
    }
    started: list[LaunchDescriptionEntity] = [
        Node(
            package=package,
            executable=executable,
            name=executable,
            namespace=given["namespace"],
            output="screen",
            parameters=[given["nav2_params_file"] or str(NAV2_PARAMETERS), values[executable]],
            remappings=[("cmd_vel", "cmd_vel_vln"), ("/tf", "tf"), ("/tf_static", "tf_static")]
            if executable == "velocity_smoother"
            else [("/tf", "tf"), ("/tf_static", "tf_static")],
            ros_arguments=["--log-level", given["log_level"]],
        )
        for executable, package in NAV2.items()
    ]
    started.append(
        IncludeLaunchDescription(
            PythonLaunchDescriptionSource(str(ROBOT)), launch_arguments=list(robot.items())
        )
    )
    return [*checked, *started]


def generate_launch_description() -> LaunchDescription:
    return LaunchDescription([*declare("nav2", CONFIG), OpaqueFunction(function=nodes)])
