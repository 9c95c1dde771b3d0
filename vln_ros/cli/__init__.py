"""The commands a person types: ``vln_ros COMMAND``."""

from __future__ import annotations

import _thread
import argparse
import contextlib
import errno
import importlib
import io
import os
import signal
import sys
import threading
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import vln_ros

if TYPE_CHECKING:
    from vln_ros.cli.arguments.parsing import Parser

COMMANDS = (
    "ask",
    "compare",
    "completion",
    "demo",
    "doctor",
    "eval",
    "habitat",
    "live",
    "node",
    "params",
    "plan",
    "profile",
    "record",
    "replay",
    "report",
    "say",
    "scenes",
    "stop",
    "tiny",
    "train",
    "web",
)
_FOLDERS = ("doctor", "habitat", "replay")
"""The commands that are more than one file."""
_TALK = ("ask", "live", "say", "stop", "web")
"""Those by which a person talks with a robot."""
BENCHES = (
    "collisions",
    "engine",
    "eval",
    "faults",
    "fleet",
    "graph",
    "history",
    "kill",
    "link",
    "nodes",
    "overlap",
    "places",
    "policy",
    "profiling",
    "prune",
    "reuse",
    "roofline",
    "setup",
    "soak",
    "standstill",
    "startup",
    "stream",
    "tracking",
    "web",
    "world",
)


_THE_PLACE_IS_AT_FAULT = (
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EISDIR, errno.ENAMETOOLONG, errno.ENOENT,
    errno.ENOSPC, errno.ENOTDIR, errno.EPERM, errno.EROFS,
)  # fmt: skip
"""Of an OSError: not the program."""


_SWALLOWING = "trimesh"
"""While it is imported it takes any exception for the absence of what it could use."""
_IMPORT_LOOK_S = 0.02
"""How often one looks whether an import is over."""


def _discard_output() -> None:
    """What is still waiting for the terminal goes nowhere, or the interpreter would complain at its end."""
    if sys.stdout is not None:
        with contextlib.suppress(OSError, ValueError):
            output = sys.stdout.fileno()
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)


def interrupt(number: int, frame: FrameType | None) -> None:
    """KeyboardInterrupt; while a library is imported that would swallow it, behind that import."""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")  # what exec runs may have none
        if frame.f_code.co_name == "<module>" and module.startswith(_SWALLOWING):
            again = threading.Timer(_IMPORT_LOOK_S, _thread.interrupt_main, (number,))
            again.daemon = True
            again.start()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _add(subparsers: argparse._SubParsersAction[Any], name: str, command: Any) -> Any:
    parser = subparsers.add_parser(name, help=command.HELP, description=command.HELP)
    command.add_arguments(parser)
    parser.set_defaults(run=command.run)
    return command


def build_parser(only: str = "", bench_only: str = "") -> Parser:
    """Every command with its options. Commands import what they need when they run.

    Args:
        only: this command alone, without benches.
        bench_only: ``bench`` alone, with this bench alone.
    """
    from vln_ros.cli.arguments.parsing import Parser
    from vln_ros.cli.arguments.places import output_folder
    from vln_ros.cli.bench import bench_module, is_here
    from vln_ros.cli.bench.record import run_bench

    parser = Parser("vln_ros", description=vln_ros.__doc__)
    parser.add_argument("--version", action="version", version=vln_ros.__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name in [only] if only else () if bench_only else COMMANDS:
        place = f"talk.{name}" if name in _TALK else f"{name}.command" if name in _FOLDERS else name
        _add(commands, name, importlib.import_module(f"vln_ros.cli.{place}"))
    if only:
        return parser
    bench = commands.add_parser("bench", help="Measure this machine", description="Measure this machine")
    benches = bench.add_subparsers(required=True, metavar="BENCH")
    for name in [bench_only] if bench_only else BENCHES:
        if not is_here(name):
            # Whatever follows the name is taken, so that it can be said what is missing.
            absent = benches.add_parser(
                name, help="only in a checkout of the repository", add_help=False, prefix_chars="\0"
            )
            absent.add_argument("arguments", nargs="*")
            absent.set_defaults(run=partial(_needs_checkout, name))
            continue
        module = _add(benches, name, bench_module(name))
        plot = getattr(module, "plot", None)
        if plot is not None:
            benches.choices[name].add_argument(
                "--plots", type=output_folder, metavar="DIR", help="also draw plots (PNG) into this folder"
            )
        benches.choices[name].set_defaults(run=partial(run_bench, name, module.run, plot=plot))
    for name in () if bench_only else ("all", "page"):
        _add(benches, name, bench_module(name))
    return parser


def _needs_checkout(name: str, _: argparse.Namespace) -> int:
    from vln_ros.cli.bench import bench_module

    bench_module(name)
    return 2


def main(arguments: Sequence[str] | None = None) -> None:
    """Exits with the command's status: 0 fine, 1 it ran and something is wrong, 2 it could not run, 130
    interrupted."""
    try:
        status = _run(arguments)
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # another one would leave a traceback
        print("vln_ros: interrupted", file=sys.stderr)
        _discard_output()
        status = 128 + signal.SIGINT
    sys.exit(status)


def _run(arguments: Sequence[str] | None) -> int:
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # what the terminal cannot write is written in another way
            stream.reconfigure(errors="backslashreplace")
    given = sys.argv[1:] if arguments is None else arguments
    try:
        from vln_ros.config import ConfigError

        # What is not asked for is not imported: the first line comes the sooner.
        only = next((name for name in given[:1] if name in COMMANDS), "")
        bench_only = next((name for name in given[1:2] if given[0] == "bench" and name in BENCHES), "")
        parser = build_parser(only, bench_only)
    except ModuleNotFoundError as missing:  # an interpreter with nothing at all
        print(
            f"vln_ros: {missing.name} is not installed for {sys.executable}: install it there "
            f"({sys.executable} -m pip install -r requirements.txt), or build the package with the Python "
            f"that "
            "has it (.venv/bin/python -m colcon build), or name that one in VLN_ROS_PYTHON",
            file=sys.stderr,
        )
        return 2
    try:
        options = parser.parse_args(given)
        # So that what a command has started is ended with it.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(ending) is not signal.SIG_IGN:  # as under nohup
                signal.signal(ending, interrupt)
        status: int = options.run(options)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # who read the output has enough, as `| head`
        _discard_output()
        status = 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in _THE_PLACE_IS_AT_FAULT:
            raise
        place = f": {error.filename}" if error.filename else " while writing"
        print(f"vln_ros: {error.strerror}{place}", file=sys.stderr)
        _discard_output()
        status = 2
    except ConfigError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        status = 2
    return status
