"""A robot in Habitat: sim.launch.py with its world, and what that world cannot do without.

    ros2 launch vln_ros habitat.launch.py habitat_python:=ENV/bin/python episodes:=FILE checkpoint:=CKPT

Habitat runs in a process of its own, under the interpreter named here (docs/evaluate/habitat.md). Every
argument of sim.launch.py and robot.launch.py may be given too.
"""

from pathlib import Path

from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription, OpaqueFunction
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

from launch import LaunchContext, LaunchDescription
from vln_ros.ros.launching import check_arguments, declared_in, name_arguments

SIM = Path(__file__).with_name("sim.launch.py")
ROBOT = Path(__file__).with_name("robot.launch.py")

ARGUMENTS = [
    DeclareLaunchArgument("episodes", description="Episode file (VLN-CE json.gz) to run"),
    DeclareLaunchArgument(
        "habitat_python", description="Python interpreter of the environment that has habitat_sim"
    ),
    DeclareLaunchArgument(
        "mode",
        default_value="lockstep",
        choices=["lockstep", "realtime", "manual", "live"],
        description="lockstep: the queue moves the robot, as in an evaluation; realtime: cmd_vel does; "
        "manual: services do, and only the bridge is started; live: as realtime, for sentences of your own",
    ),
    DeclareLaunchArgument(
        "protocol",
        default_value="r2r-vlnce",
        choices=["custom", "r2r-vlnce", "rxr-vlnce", "streamvln"],
        description="Named rules of the evaluation (docs/evaluate/habitat.md)",
    ),
    *name_arguments(),
]

PARAMETERS = {
    "sim_bridge": {
        "episodes": "episodes",
        "habitat_python": "habitat.python",
        "mode": "mode",
        "protocol": "protocol",
    },
}
"""Which argument becomes which parameter; sim.launch.py sees to it."""


def check(context: LaunchContext) -> None:
    check_arguments(context, Path(__file__), [*ARGUMENTS, *declared_in(context, SIM, ROBOT)])


def generate_launch_description() -> LaunchDescription:
    given = {a.name: LaunchConfiguration(a.name) for a in ARGUMENTS}
    return LaunchDescription(
        [
            *ARGUMENTS,
            OpaqueFunction(function=check),
            IncludeLaunchDescription(
                PythonLaunchDescriptionSource(str(SIM)),
                launch_arguments=[("world", "habitat"), *given.items()],
            ),
        ]
    )
