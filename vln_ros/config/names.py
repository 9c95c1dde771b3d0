"""Names the topics and frames that every launch file takes as arguments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from vln_ros.config.robot import NavigatorConfig

OWN_DEPTH_INFO_TOPIC = "camera/depth/camera_info"
"""Where simulations and recordings publish the calibration of depth that is not registered to colour."""


@dataclass(frozen=True, kw_only=True)
class NameArgument:
    """One argument of the launch files.

    Attributes:
        name: of the argument.
        default: empty: what the nodes' parameters say, which a preset may have set.
        description: for ``--show-args``.
        known_as: topic that nodes know it by, to be remapped; of a topic that is a parameter, how the
            publishing nodes of a simulation or a recording know it. Empty for frames.
        transports: suffixes under which image_transport publishes it, too.
        parameters: node to the parameter that holds the name.
    """

    name: str
    default: str
    description: str
    known_as: str = ""
    transports: tuple[str, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)


def _remapped(topic: str, what: str) -> NameArgument:
    return NameArgument(
        name=f"{topic}_topic",
        default=topic,
        description=f"Topic of {what}; a relative name is below the namespace",
        known_as=topic,
    )


def _of_camera(
    parameter: str, what: str, *nodes: str, known_as: str = "", transports: tuple[str, ...] = ()
) -> NameArgument:
    return NameArgument(
        name=parameter,
        default="",
        description=f"Topic of {what}; empty: as the camera preset or the parameter file says",
        known_as=known_as,
        transports=transports,
        parameters=dict.fromkeys(nodes, parameter),
    )


_EVERY = ("navigator", "executor", "inspector", "recorder")
NAME_ARGUMENTS = (
    _remapped("odom", "the robot's odometry (nav_msgs/Odometry)"),
    _remapped("cmd_vel", "the velocities that move the base"),
    _remapped("instruction", "what the robot is told (std_msgs/String)"),
    _remapped("scan", "the laser scanner, where obstacles are looked for in it"),
    _of_camera(
        "color_topic", "colour images", "navigator", "inspector", "recorder", "web",
        known_as=NavigatorConfig.color_topic, transports=("/compressed",),
    ),
    _of_camera(
        "depth_topic", "depth images", *_EVERY,
        known_as=NavigatorConfig.depth_topic, transports=("/compressedDepth",),
    ),
    _of_camera(
        "camera_info_topic", "the calibration of colour", *_EVERY, known_as=NavigatorConfig.camera_info_topic
    ),
    _of_camera(
        "depth_camera_info_topic", "the calibration of depth that is not registered", *_EVERY,
        known_as=OWN_DEPTH_INFO_TOPIC,
    ),
    NameArgument(
        name="base_frame",
        default="",
        description="Frame of the robot's base (REP 105); empty: as the parameters say, base_link by default",
        parameters=dict.fromkeys((*_EVERY, "sim_bridge"), "base_frame"),
    ),
    NameArgument(
        name="odom_frame",
        default="",
        description="Frame that odometry is in; empty: as the parameters say, odom by default",
        parameters={
            "navigator": "sync.odom_frame",
            **dict.fromkeys(("executor", "inspector", "sim_bridge"), "odom_frame"),
        },
    ),
)  # fmt: skip


def name_parameters(node: str, given: Mapping[str, str]) -> dict[str, str]:
    """The parameters of a node that the names given as arguments set. ``given``: by argument."""
    return {
        argument.parameters[node]: given[argument.name]
        for argument in NAME_ARGUMENTS
        if node in argument.parameters and given.get(argument.name)
    }


def name_remappings(given: Mapping[str, str], *, publishes_camera: bool = False) -> list[tuple[str, str]]:
    """From the topics that a node knows to those that were given.

    Args:
        publishes_camera: of a node that takes a camera's place, and has no parameters for its topics.
    """
    remappings = []
    for argument in NAME_ARGUMENTS:
        name, known_as = given.get(argument.name, ""), argument.known_as
        if not known_as or name in ("", known_as) or (argument.parameters and not publishes_camera):
            continue
        remappings += [(f"{known_as}{suffix}", f"{name}{suffix}") for suffix in ("", *argument.transports)]
    return remappings
