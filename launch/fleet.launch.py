"""Navigators of several robots in one process, on one model (docs/robot/fleet.md).

    ros2 launch vln_ros fleet.launch.py robots:=left,right camera:=realsense checkpoint:=CKPT

On each robot runs the rest: robot.launch.py with machine:=robot and its namespace. With an episode file there
is a simulated robot in each namespace instead:

    ros2 launch vln_ros fleet.launch.py robots:=left,right episodes:=FILE engine:=expert
"""

from pathlib import Path

from launch.actions import GroupAction, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch_ros.actions import SetRemap

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_remappings
from vln_ros.ros.launching.arguments import LAUNCH_FILES, NAMES, argument_values
from vln_ros.ros.launching.files import (
    check_arguments,
    check_before_start,
    check_handed_on,
    check_robot,
    declare,
    given_arguments,
    node_parameters,
    package_node,
    parameter_file,
)

CONFIG = Path(__file__).parents[1] / "config"
ROBOT = Path(__file__).with_name("robot.launch.py")
TF = [("/tf", "tf"), ("/tf_static", "tf_static")]
OWN_CLOCK = ("/clock", "clock")


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    check_arguments(context, "fleet", CONFIG)
    given = given_arguments(context, "fleet")
    simulated = bool(given["episodes"])
    realtime = given["mode"] != "lockstep"
    # The navigators are in the fleet; what else robot.launch.py starts, only a simulated robot has here.
    unused = {a.name for a in LAUNCH_FILES["robot"].arguments} - {*given}
    overruled = {}
    if simulated:
        overruled = {"camera": "sim", "base": "sim", "use_sim_time": str(realtime).lower()}
    else:
        unused.add("mode")
    if simulated and realtime:
        unused = {"namespace", "decide_on", "drive"}
        overruled |= {"machine": "robot", "inspect": "false"}
    check_handed_on(context, "fleet", CONFIG, overruled, unused)
    handed_on = {**overruled, **{name: given[name] for name in ("transport", "log_level")}}
    handed_on |= {a.name: given[a.name] for a in NAMES}
    robots = [robot.strip() for robot in given["robots"].split(",")]
    said = check_before_start(
        ["fleet", "navigator"],
        parameter_file=given["params_file"],
        namespace=robots[0],
        others=robots[1:],
        engine=given["engine"],
        files={"episodes": given["episodes"]},
    )
    if simulated and realtime:
        check_robot(context, CONFIG, {**handed_on, "namespace": robots[0]})
    values = {node: argument_values("fleet", node, given) for node in ("fleet", "navigator")}
    navigator = values["navigator"]
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

    source = PythonLaunchDescriptionSource(str(ROBOT))
    for robot in robots:
        started.append(
            package_node(
                "sim_bridge",
                finished="the episodes of every robot are done",
                last=last,
                namespace=robot,
                parameters=[node_parameters("fleet", "sim_bridge", given)],
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
    return LaunchDescription([*declare("fleet", CONFIG), OpaqueFunction(function=nodes)])
