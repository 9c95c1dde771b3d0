"""A robot in Habitat: sim.launch.py with its world, and what that world cannot do without.

    ros2 launch vln_ros habitat.launch.py habitat_python:=ENV/bin/python episodes:=FILE checkpoint:=CKPT

Habitat runs in a process of its own, under the interpreter named here (docs/evaluate/habitat.md). Every
argument of sim.launch.py and robot.launch.py may be given too.
"""

from pathlib import Path

from launch.actions import IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from vln_ros.ros.launching.files import check_arguments, check_handed_on, declare

CONFIG = Path(__file__).parents[1] / "config"
SIM = Path(__file__).with_name("sim.launch.py")
WORLD = "habitat"


def check(context: LaunchContext) -> None:
    check_arguments(context, "habitat", CONFIG)
    check_handed_on(context, "habitat", CONFIG, {"world": WORLD})


def generate_launch_description() -> LaunchDescription:
    arguments = declare("habitat", CONFIG)
    given = {a.name: LaunchConfiguration(a.name) for a in arguments}
    return LaunchDescription(
        [
            *arguments,
            OpaqueFunction(function=check),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SIM)),
                launch_arguments=[("world", WORLD), *given.items()],
            ),
        ]
    )
