"""A simulated robot instead of a real one: the bridge, and the nodes of robot.launch.py around it.

    vln_ros scenes --out scenes
    ros2 launch vln_ros sim.launch.py episodes:=FILE engine:=expert

Every argument of robot.launch.py may be given too (`ros2 launch vln_ros robot.launch.py --show-args`).
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource

from launch import LaunchContext, LaunchDescription, LaunchDescriptionEntity
from vln_ros.config import name_remappings
from vln_ros.ros.launching.arguments import LAUNCH_FILES
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


def nodes(context: LaunchContext) -> list[LaunchDescriptionEntity]:
    check_arguments(context, "sim", CONFIG)
    given = given_arguments(context, "sim")
    values = node_parameters("sim", "sim_bridge", given)
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
    of_robot = {a.name for a in LAUNCH_FILES["robot"].arguments}
    check_handed_on(context, "sim", CONFIG, robot, of_robot - {*given} if given["mode"] == "manual" else ())
    entities: list[LaunchDescriptionEntity] = [
        *check_before_start(
            ["sim_bridge"],
            parameter_file=given["bridge_params_file"],
            namespace=given["namespace"],
            files={"episodes": given["episodes"]},
        ),
        *([] if given["mode"] == "manual" else check_robot(context, CONFIG, robot)),
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
    return LaunchDescription([*declare("sim", CONFIG), OpaqueFunction(function=nodes)])
