"""What the environment of a ROS process needs before ``rclpy.init``; on a sourced robot, nothing."""

from __future__ import annotations

import functools
import os
import socket
import sys
from pathlib import Path

FAST_DDS_PROFILE = Path(__file__).with_name("fastdds.xml")
"""Raises Fast DDS's shared-memory segment to 16 MB: without it 640x480 RGB-D at 30 Hz loses frames."""

PARENT = "VLN_ROS_PARENT"
"""Environment variable: the process number with whose end a node ends, too."""

DOMAINS = range(1, 101)
"""In these all ports of Fast DDS lie below those that Linux hands out to anybody."""
_PORT, _DOMAIN_PORTS = 7400, 250
_PARTICIPANTS_LOOKED_FOR = 8


def prepare_environment() -> None:
    """Fill in what is not set. Whatever the user has set stays.

    * ``AMENT_PREFIX_PATH``: rclpy from wheels has no setup script that sets it, and fails without.
    * ``FASTRTPS_DEFAULT_PROFILES_FILE``: the shipped shared-memory profile.
    """
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    if "FASTDDS_DEFAULT_PROFILES_FILE" not in os.environ:
        os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(FAST_DDS_PROFILE))


_claims: list[socket.socket] = []


@functools.cache
def own_domain() -> int:
    """A ROS domain that nobody else on this machine uses, for this process and its children until it ends.

    It is claimed by the name of a socket, which the kernel keeps unique and frees when the process has ended,
    however it ends. A domain in which somebody talks already who has claimed nothing (a robot, a graph whose
    parent was killed) is left alone.

    Raises:
        RuntimeError: all domains are in use.
    """
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + step) % len(DOMAINS)]
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0vln_ros/domain/{domain}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)  # also where somebody talks: no need to look there again
        if not _somebody_talks_in(domain):
            return domain
    raise RuntimeError(f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use; set ROS_DOMAIN_ID")


def _somebody_talks_in(domain: int) -> bool:
    """Whether one of the first participants' ports, as the DDS specification counts them, is taken."""
    for participant in range(_PARTICIPANTS_LOOKED_FOR):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", _PORT + _DOMAIN_PORTS * domain + 10 + 2 * participant))
            except OSError:
                return True
    return False
