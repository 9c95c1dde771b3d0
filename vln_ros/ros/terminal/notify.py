"""Says how far a process is to whoever has started it, as services tell systemd (sd_notify(3))."""

from __future__ import annotations

import contextlib
import os
import socket

ADDRESS = "NOTIFY_SOCKET"
"""Environment variable: where it is told; nobody is told where it is not set."""
READY, STATUS = "READY", "STATUS"


def notify(status: str, *, ready: bool = False) -> None:
    """Tell the state in words; ``ready``: what it was started for is there. Never waits, never fails."""
    address = os.environ.get(ADDRESS, "")
    if not address:
        return
    if address.startswith("@"):  # of the abstract namespace
        address = f"\0{address[1:]}"
    words = " ".join(status.split())  # a line of its own is another message
    text = f"{STATUS}={words}" + (f"\n{READY}=1" if ready else "")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as told:
        told.setblocking(False)
        with contextlib.suppress(OSError):  # nobody listens any more
            told.sendto(text.encode(), address)
