"""What the environment of a ROS process needs before ``rclpy.init``; on a sourced robot, nothing."""

from __future__ import annotations

import functools
import os
import socket
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path

FAST_DDS_PROFILE = Path(__file__).with_name("fastdds.xml")
"""Fast DDS without shared memory: a killed process can keep a lock in it that stops its publishers."""
FAST_DDS_LOCALHOST_PROFILE = Path(__file__).with_name("fastdds_localhost.xml")
"""The same, within this machine."""
SOCKET_BUFFER_BYTES = 4 * 2**20
"""What both ask the kernel for; it gives at most net.core.rmem_max."""
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"

PARENT = "VLN_ROS_PARENT"
"""Environment variable: the process number with whose end a node ends, too."""

DOMAINS = range(1, 101)
"""In these all ports of Fast DDS lie below those that Linux hands out to anybody."""
_PORT, _DOMAIN_PORTS = 7400, 250
_PARTICIPANTS_LOOKED_FOR = 8


def prepare_environment() -> None:
    """Fill in what is not set. Whatever the user has set stays.

    * ``AMENT_PREFIX_PATH``: rclpy from wheels has no setup script that sets it, and fails without.
    * ``FASTRTPS_DEFAULT_PROFILES_FILE``: :data:`FAST_DDS_PROFILE`.
    """
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    if users_fast_dds_profile(os.environ) is None:
        os.environ.setdefault(_PROFILES[0], str(FAST_DDS_PROFILE))


def users_fast_dds_profile(environment: Mapping[str, str]) -> str | None:
    """The Fast DDS profile that the user has named, if it is none of ours."""
    ours = (str(FAST_DDS_PROFILE), str(FAST_DDS_LOCALHOST_PROFILE))
    named = [environment[name] for name in _PROFILES if name in environment]
    return next((path for path in named if path not in ours), None)


def stay_on_this_machine(environment: MutableMapping[str, str]) -> None:
    """Whoever talks in this environment is heard on this machine only. Whatever the user has set stays.

    With Fast DDS this is a matter of the profile: ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST would add shared
    memory to it, whatever it says.
    """
    fast_dds = environment.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp").startswith("rmw_fastrtps")
    if fast_dds and _RANGE not in environment and users_fast_dds_profile(environment) is None:
        environment[_PROFILES[0]] = str(FAST_DDS_LOCALHOST_PROFILE)
    else:
        environment.setdefault(_RANGE, "LOCALHOST")


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
