"""What the command ``vln_ros`` and ``python -m vln_ros`` run."""

import os
import signal


def _leave(*_: object) -> None:
    os.write(2, b"vln_ros: interrupted\n")
    os._exit(128 + signal.SIGINT)


# Until a command runs, nothing is there to be ended, and an exception amidst an import would be a traceback.
if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
    signal.signal(signal.SIGINT, _leave)

from vln_ros.cli import main as main  # noqa: E402

if __name__ == "__main__":
    main()
