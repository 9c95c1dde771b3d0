"""Starts the command line, for ``vln_ros`` and ``python -m vln_ros``."""

import os
import signal
import sys


def _leave(*_: object) -> None:
    os.write(2, b"vln_ros: interrupted\n")
    os._exit(128 + signal.SIGINT)


def _at_once() -> None:
    """^C ends the process where nothing is running that must be ended first: while Python imports, or exits.

    An exception there would be a traceback.
    """
    # A process of a pool imports this, too; whoever has started it ends it.
    if "multiprocessing.spawn" not in sys.modules and signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _leave)


_at_once()

from vln_ros import cli  # noqa: E402


def main() -> None:
    """Run the command of ``sys.argv`` and exit with its status."""
    try:
        cli.main()
    finally:
        _at_once()


if __name__ == "__main__":
    main()
