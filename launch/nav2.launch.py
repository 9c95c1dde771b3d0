"""The robot of robot.launch.py with Nav2's velocity smoother and collision monitor between it and its base.

    ros2 launch vln_ros nav2.launch.py camera:=realsense checkpoint:=CKPT cmd_vel_topic:=cmd_vel

    executor -> cmd_vel_vln -> velocity_smoother -> cmd_vel_smoothed -> collision_monitor -> the base

One lifecycle manager of Nav2 configures and activates all four. Every argument of robot.launch.py but
autostart may be given too. Who plans, who stops and who owns cmd_vel: docs/robot/nav2.md.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import ConfigError
from vln_ros.ros.launching import (
    check_arguments,
    check_before_start,
    check_robot,
    declared_in,
    name_arguments,
)

ROBOT = Path(__file__).with_name("robot.launch.py")
NAV2_PARAMETERS = Path(__file__).parents[1] / "config" / "nav2" / "behind_the_executor.yaml"

ARGUMENTS = [
    DeclareLaunchArgument(
        "nav2_params_file",
        default_value="",
        description="Parameters of smoother, monitor and lifecycle manager; empty: those in config/nav2",
    ),
    DeclareLaunchArgument("namespace", default_value="", description="Of every node and topic"),
    DeclareLaunchArgument(
        "machine",
        default_value="all",
        choices=["all", "robot"],
        description="robot: the navigator runs elsewhere, and is managed from here all the same",
    ),
    DeclareLaunchArgument(
        "use_sim_time",
        default_value="false",
        choices=["true", "false"],
        description="Take time from /clock",
    ),
    DeclareLaunchArgument(
        "log_level",
        default_value="info",
        description="Least severity that is logged",
        choices=["debug", "info", "warn", "error", "fatal"],
    ),
    # cmd_vel_topic is the base's, behind the collision monitor.
    *name_arguments(),
]

PARAMETERS = {}
"""Of the nodes of this package, robot.launch.py sets them."""
MANAGED = ["velocity_smoother", "collision_monitor", "navigator", "executor"]
"""In this order: what stands between executor and base is active before the executor is."""
NAV2 = {
    "velocity_smoother": "nav2_velocity_smoother",
    "collision_monitor": "nav2_collision_monitor",
    "lifecycle_manager": "nav2_lifecycle_manager",
}
"""Executables of Nav2, and the package of each."""


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    given = {a.name: LaunchConfiguration(a.name).perform(context) for a in ARGUMENTS}
    robot = {
        "autostart": "false",
        "drive": "queue",
        "cmd_vel_topic": "cmd_vel_vln",
        "namespace": given["namespace"],
        "machine": given["machine"],
        "use_sim_time": given["use_sim_time"],
        "log_level": given["log_level"],
    }
    of_robot = declared_in(context, ROBOT)
    check_arguments(context, Path(__file__), [*ARGUMENTS, *of_robot])
    if context.launch_configurations.get("drive", "queue") != "queue":
        raise ConfigError(
            "drive:=nav2: there Nav2 drives and no executor is started, so there is nothing to put behind "
            "one; start robot.launch.py beside your Nav2"
        )
    checked = [
        *check_before_start([], files={"nav2_params_file": given["nav2_params_file"]}, tools=NAV2),
        *check_robot(context, of_robot, robot),
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
    return LaunchDescription([*ARGUMENTS, OpaqueFunction(function=nodes)])
