"""Adds ``--sensors``: the simulated robot has the sensors of a real one, and the nodes are told of it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field

from vln_ros.cli.arguments.parsing import did_you_mean
from vln_ros.config import OWN_DEPTH_INFO_TOPIC, ConfigError, Scalar, SensorsConfig
from vln_ros.sim.sensors import OWN_DEPTH_TOPIC


@dataclass(frozen=True)
class SensorKind:
    """One way in which sensors differ from ideal ones.

    Attributes:
        bridge, nodes, navigator: parameters by name; ``nodes`` are those of navigator and executor.
    """

    bridge: Mapping[str, Scalar]
    nodes: Mapping[str, Scalar] = field(default_factory=dict)
    navigator: Mapping[str, Scalar] = field(default_factory=dict)


KINDS = {
    "distorted": SensorKind({"sensors.distortion": "plumb_bob"}),
    "fisheye": SensorKind({"sensors.distortion": "equidistant"}),
    "own-depth": SensorKind(
        {"sensors.depth": "own"},
        {
            "depth_topic": OWN_DEPTH_TOPIC,
            "depth_camera_info_topic": OWN_DEPTH_INFO_TOPIC,
            "depth_camera.y_m": SensorsConfig().depth_left_m,
        },
    ),
    "rvl": SensorKind(
        {"transport": "compressed", "sensors.depth_compression": "rvl"},
        navigator={"color_transport": "compressed", "depth_transport": "compressed"},
    ),
    "tf-odometry": SensorKind({"sensors.odometry": "tf"}, {"odometry.source": "tf"}),
}


def add_sensors(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sensors",
        default="",
        metavar="KIND[,KIND...]",
        help="sensors of the robot that are not ideal: distorted (the lens of colour), fisheye, own-depth "
        "(not registered, of another size), rvl (compressed depth), tf-odometry (no odom topic); default: "
        "none of them",
    )


def sensor_parameters(text: str) -> SensorKind:
    """The parameters of several kinds together. Raises ConfigError: an unknown one, or two that exclude
    each other."""
    chosen = [name for name in text.split(",") if name]
    for name in chosen:
        if name not in KINDS:
            raise ConfigError(
                f"--sensors = {name!r}: choose among {', '.join(KINDS)}{did_you_mean(name, list(KINDS))}"
            )
    together = SensorKind({}, {}, {})
    for name in chosen:
        kind = KINDS[name]
        for option, value in kind.bridge.items():
            if together.bridge.get(option, value) != value:
                raise ConfigError(f"--sensors {text}: only one of them can be, {option} is set twice")
        together = SensorKind(
            {**together.bridge, **kind.bridge},
            {**together.nodes, **kind.nodes},
            {**together.navigator, **kind.navigator},
        )
    return together
