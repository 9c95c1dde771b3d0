"""``vln_ros node``: runs one node; the executables for ``ros2 run`` and ``ros2 launch`` call it."""

from __future__ import annotations

import argparse
import importlib
import signal
import sys

from vln_ros.config import NODES, ConfigError
from vln_ros.nodes import MODULES
from vln_ros.ros.interpreter import CHECK, missing_modules, missing_text

HELP = "Run one node, as `ros2 run vln_ros NODE` does"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("node", choices=list(NODES), help="the node to run")
    parser.add_argument(
        "arguments",
        nargs=argparse.REMAINDER,
        metavar="ARGUMENT",
        help=f"for the node, as after `ros2 run`; {CHECK}: only say which Python runs it, or what that lacks",
    )


def run(options: argparse.Namespace) -> int:
    if options.arguments[:1] == [CHECK]:
        missing = missing_modules(options.node, *options.arguments[1:2])
        if missing:
            raise ConfigError(f"{options.node}: {missing_text(missing)}")
        print(sys.executable)
        return 0
    sys.argv[1:] = options.arguments  # where rclpy looks
    for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, signal.SIG_DFL)  # nothing moves yet: no traceback from half an import
    try:
        module = importlib.import_module(MODULES[options.node])
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("vln_ros"):
            raise
        raise ConfigError(f"{options.node}: {missing_text([error.name])}") from error
    module.main()
    return 0
