"""``vln_ros record``: records sensors and nodes to a bag, as the terminal hears them."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import yaml

from vln_ros.cli.arguments.parsing import flag_of, given_options
from vln_ros.cli.arguments.places import output_folder
from vln_ros.cli.output.next_steps import print_next
from vln_ros.config import (
    NAME_ARGUMENTS,
    OptionEntry,
    RecorderConfig,
    Scalar,
    from_flat,
    name_parameters,
    name_remappings,
    walk_options,
)

HELP = "Record what a robot's sensors and these nodes say, in this terminal's ROS domain"
_OF_THE_BAG = (
    "storage", "color_format", "depth_format", "jpeg_quality", "compression", "split_mb", "split_s",
    "min_free_mb", "duration_s", "color_transport", "depth_transport", "stamped_cmd_vel",
)  # fmt: skip
"""Parameters of the recorder that are arguments here, under the same names."""
_SENSORS = {
    "sensor_msgs/msg/Image", "sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/CameraInfo",
    "nav_msgs/msg/Odometry",
}  # fmt: skip
"""Types of messages without which nobody can play a recording."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=output_folder,
        default=Path(RecorderConfig().folder),
        help="folder in which the recording gets a folder of its own, named by date and time (default: "
        "%(default)s)",
    )
    for name, entry in _entries_of_the_bag().items():
        flag, text = flag_of(name), f"{entry.option.doc} (default: {entry.default})"
        text = text.replace("%", "%%")
        if entry.type is bool:
            parser.add_argument(flag, action="store_true", help=text)
        elif entry.option.choices:
            parser.add_argument(flag, choices=entry.option.choices, default=entry.default, help=text)
        else:
            parser.add_argument(flag, type=entry.type, default=entry.default, help=text)
    parser.add_argument("--namespace", default="", help="namespace of the robot (default: none)")
    for argument in NAME_ARGUMENTS:
        if argument.known_as or "recorder" in argument.parameters:
            parser.add_argument(flag_of(argument.name), default=argument.default, help=argument.description)


def _entries_of_the_bag() -> dict[str, OptionEntry]:
    entries = {e.name: e for e in walk_options(RecorderConfig)}
    return {name: entries[name] for name in _OF_THE_BAG}


def run(options: argparse.Namespace) -> int:
    from vln_ros.cli.graph import Graph, NodeSpec, graph_environment

    given = {a.name: getattr(options, a.name, "") for a in NAME_ARGUMENTS}
    parameters: dict[str, Scalar] = {
        "folder": str(options.out.absolute()),
        **given_options(options, _entries_of_the_bag()),
        **name_parameters("recorder", given),
    }
    from_flat(RecorderConfig, parameters)
    spec = NodeSpec(
        "recorder",
        parameters,
        quiet=False,
        verbose=True,
        namespace=options.namespace and f"/{options.namespace.strip('/')}",
        remaps={"/tf": "tf", "/tf_static": "tf_static", **dict(name_remappings(given))},
    )
    status, before = 0, set(options.out.glob("*/metadata.yaml"))
    with tempfile.TemporaryDirectory(prefix="vln_ros-record-") as logs:
        try:
            with Graph(Path(logs), graph_environment(join=True)) as graph:
                graph.start(spec)
                status = graph.wait(spec.key)
        except KeyboardInterrupt:  # the way to end it
            pass
    for metadata in sorted(set(options.out.glob("*/metadata.yaml")) - before):
        status = status or _say_what_came(metadata)
    return status


def _say_what_came(metadata: Path) -> int:
    """Of the sensors, above all; returns the status: 1 if nothing came of any."""
    bag, sensors, messages = metadata.parent, {}, 0
    information = yaml.safe_load(metadata.read_text("utf-8"))["rosbag2_bagfile_information"]
    for topic in information["topics_with_message_count"]:
        messages += topic["message_count"]
        if topic["topic_metadata"]["type"] in _SENSORS:
            sensors[topic["topic_metadata"]["name"]] = topic["message_count"]
    if silent := [name for name, count in sensors.items() if not count]:
        print(
            f"{bag}: nothing came on {', '.join(silent)}: is the robot in this ROS domain (ROS_DOMAIN_ID), "
            "and are namespace and names those of `ros2 topic list`?",
            file=sys.stderr,
        )
    if len(silent) == len(sensors):
        return 1
    size_mb = sum(p.stat().st_size for p in bag.iterdir()) / 2**20
    print(f"{bag}: {messages} messages, {size_mb:.1f} MB")
    print_next(f"vln_ros replay {bag} plays it to the nodes, and reports")
    return 0
