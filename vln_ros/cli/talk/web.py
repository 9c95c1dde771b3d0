"""``vln_ros web``: serves the page in the browser for the robot of this terminal's domain."""

from __future__ import annotations

import argparse

from vln_ros.cli import node
from vln_ros.config import WebConfig

HELP = "Serve the page in the browser: watch the robot, tell it where to go, stop it"
_DEFAULTS = WebConfig()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--host",
        default=_DEFAULTS.host,
        help="address to serve the page at; 0.0.0.0 serves the network, with a token (default: %(default)s)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=_DEFAULTS.port,
        help="TCP port to serve the page at; 0 takes a free one (default: %(default)s)",
    )
    parser.add_argument(
        "--namespace", default="", help="namespace that the robot's nodes and topics are in (default: none)"
    )
    parser.add_argument(
        "--sim-time", action="store_true", help="take time from /clock, as the robot of a simulation does"
    )
    parser.add_argument(
        "--hold-when-gone",
        action="store_true",
        help="stop the robot when the driver's page is gone (parameter driver_gone)",
    )
    parser.add_argument(
        "--params-file",
        default="",
        metavar="FILE",
        help="parameter file of your own, as robot.launch.py takes it",
    )


def run(options: argparse.Namespace) -> int:
    arguments = ["--ros-args"]
    if options.params_file:
        arguments += ["--params-file", options.params_file]
    arguments += ["-p", f"host:={options.host}", "-p", f"port:={options.port}"]
    arguments += ["-p", f"use_sim_time:={str(options.sim_time).lower()}"]
    if options.hold_when_gone:
        arguments += ["-p", "driver_gone:=hold"]
    if options.namespace:
        arguments += ["-r", f"__ns:=/{options.namespace.strip('/')}"]
    return node.run(argparse.Namespace(node="web", arguments=arguments))
