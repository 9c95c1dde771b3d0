"""Prepares the environment of a ROS process before ``rclpy.init``."""

from __future__ import annotations

import functools
import os
import re
import socket
import sys
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path

from vln_ros.config import ConfigError

FAST_DDS_PROFILE = Path(__file__).with_name("fastdds.xml")
"""Fast DDS without shared memory: a killed process can keep a lock in it that stops its publishers."""
FAST_DDS_LOCALHOST_PROFILE = Path(__file__).with_name("fastdds_localhost.xml")
"""The same, within this machine."""
SOCKET_BUFFER_BYTES = 4 * 2**20
"""What both ask the kernel for; it gives at most net.core.rmem_max."""
_PROFILES = ("FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE")
_RANGE = "ROS_AUTOMATIC_DISCOVERY_RANGE"
_LOCALHOST_ONLY = "ROS_LOCALHOST_ONLY"
DOMAIN = "ROS_DOMAIN_ID"
"""Environment variable: the domain that a ROS process talks in."""
LARGEST_DOMAIN = 232
"""Beyond it the ports would lie above 65535."""

_PREFIXES = "AMENT_PREFIX_PATH"
AMENT_INDEX = Path("share/ament_index/resource_index")
"""Below a prefix: what of ROS is installed there."""

PARENT = "VLN_ROS_PARENT"
"""Environment variable: the process number with whose end a node ends, too."""

DOMAINS = range(1, 101)
"""In these all ports of Fast DDS lie below those that Linux hands out to anybody."""
_PORT, _DOMAIN_PORTS = 7400, 250
_PARTICIPANTS_LOOKED_FOR = 8

_LEADS_ELSEWHERE = (
    _LOCALHOST_ONLY,
    _RANGE,
    "ROS_STATIC_PEERS",
    "ROS_DISCOVERY_SERVER",
    "ROS_SUPER_CLIENT",
    "ROS_SECURITY_ENABLE",
    *_PROFILES,
    "FASTDDS_ENVIRONMENT_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
    "CYCLONEDDS_URI",
)
"""What a terminal may have set for a robot's sake: with whom a process of it talks, and how."""


def prepare_environment() -> None:
    """Fill in what is not set. Whatever the user has set stays.

    * ``AMENT_PREFIX_PATH``: rclpy from wheels has no setup script that sets it, and fails without. Where it
      is set and leaves the wheels out, they come last.
    * ``FASTRTPS_DEFAULT_PROFILES_FILE``: :data:`FAST_DDS_PROFILE`.
    """
    prefixes = [p for p in os.environ.get(_PREFIXES, "").split(os.pathsep) if p]
    if not prefixes or ((Path(sys.prefix) / AMENT_INDEX).is_dir() and sys.prefix not in prefixes):
        os.environ[_PREFIXES] = os.pathsep.join([*prefixes, sys.prefix])
    if users_fast_dds_profile(os.environ) is None:
        os.environ.setdefault(_PROFILES[0], str(FAST_DDS_PROFILE))


def users_fast_dds_profile(environment: Mapping[str, str]) -> str | None:
    """The Fast DDS profile that the user has named, if it is none of ours."""
    ours = (str(FAST_DDS_PROFILE), str(FAST_DDS_LOCALHOST_PROFILE))
    named = [environment[name] for name in _PROFILES if name in environment]
    return next((path for path in named if path not in ours), None)


def uses_fast_dds(environment: Mapping[str, str]) -> bool:
    """Whether ROS talks by Fast DDS there; so it does where nothing else is named."""
    return (environment.get("RMW_IMPLEMENTATION") or "rmw_fastrtps_cpp").startswith("rmw_fastrtps")


def stay_on_this_machine(environment: MutableMapping[str, str]) -> None:
    """Whoever talks in this environment is heard on this machine only. What the user has set stays.

    With Fast DDS this is a matter of the profile: ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST, and
    ROS_LOCALHOST_ONLY=1, which say the same, would add shared memory to it, whatever it says.
    """
    here = environment.get(_RANGE, "LOCALHOST") == "LOCALHOST" or environment.get(_LOCALHOST_ONLY) == "1"
    if here and uses_fast_dds(environment) and users_fast_dds_profile(environment) is None:
        for name in (_RANGE, _LOCALHOST_ONLY):
            environment.pop(name, None)
        environment[_PROFILES[0]] = str(FAST_DDS_LOCALHOST_PROFILE)
    else:
        environment.setdefault(_RANGE, "LOCALHOST")


def isolate(environment: MutableMapping[str, str], domain: int) -> None:
    """Whoever talks in this environment does so in ``domain``, on this machine, and with nobody beyond it.

    Everything that the user has set for other machines and other programs is left out.
    """
    for name in _LEADS_ELSEWHERE:
        environment.pop(name, None)
    environment["SKIP_DEFAULT_XML"] = "1"  # Fast DDS: no profile of the current folder either
    environment[DOMAIN] = str(domain)
    stay_on_this_machine(environment)


def domain_as_read(text: str) -> int | None:
    """A ROS_DOMAIN_ID as ROS reads it: a number as in C, whatever follows it; None: it begins with none."""
    number = re.match(r"\s*\+?(?:0[xX]([0-9a-fA-F]+)|0([0-7]*)|([1-9][0-9]*))", text)
    if number is None:
        return None
    base = (16, 8, 10)[(number.lastindex or 2) - 1]
    return int(number.group(number.lastindex or 2) or "0", base)


def domain_of(environment: Mapping[str, str]) -> int:
    """The domain of whoever talks in this environment; 0 where none is named.

    Raises:
        ConfigError: no ROS process can start there.
    """
    text = environment.get(DOMAIN, "")
    domain = domain_as_read(text) if text else 0
    if domain is None or domain > LARGEST_DOMAIN:
        raise ConfigError(f"{DOMAIN} = {text!r}: no ROS domain; export a number from 0 to 101, as {DOMAIN}=7")
    return domain


_claims: list[socket.socket] = []


@functools.cache
def own_domain() -> int:
    """A ROS domain that nobody else on this machine uses, for this process and its children until it ends.

    It is claimed by the name of a socket, which the kernel keeps unique and frees when the process has ended,
    however it ends. A domain in which somebody talks already who has claimed nothing (a robot, a graph whose
    parent was killed) is left alone.

    The domain that ``ROS_DOMAIN_ID`` names when this is first asked is the user's, and never chosen.

    Raises:
        RuntimeError: all domains are in use.
    """
    return claim_domain(_claims)


def claim_domain(claims: list[socket.socket], talks: Callable[[int], bool] | None = None) -> int:
    """As :func:`own_domain`, each time another one.

    Args:
        claims: gets the sockets that hold it; it is free again when they are closed.
        talks: whether somebody talks in a domain already; None looks at its ports.
    """
    talks = _somebody_talks_in if talks is None else talks
    users = domain_as_read(os.environ.get(DOMAIN, ""))
    for step in range(len(DOMAINS)):
        domain = DOMAINS[(os.getpid() + step) % len(DOMAINS)]
        if domain == users:
            continue
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0vln_ros/domain/{domain}")
        except OSError:
            claim.close()
            continue
        claims.append(claim)  # also where somebody talks: no need to look there again
        if not talks(domain):
            return domain
    raise RuntimeError(
        f"all ROS domains from {DOMAINS[0]} to {DOMAINS[-1]} are in use on this machine: end some of the "
        f"graphs in them, or join the one of {DOMAIN} with --join"
    )


def is_own_domain(domain: int) -> bool:
    """Whether :func:`own_domain` has given this process that one."""
    return own_domain.cache_info().currsize > 0 and own_domain() == domain


def _somebody_talks_in(domain: int) -> bool:
    """Whether a port of the domain, as the DDS specification counts them, is taken: one that all participants
    hear by multicast, or one of the first participants' own."""
    first = _PORT + _DOMAIN_PORTS * domain
    own = (first + 10 + 2 * participant for participant in range(_PARTICIPANTS_LOOKED_FOR))
    for port in (first, first + 1, *own):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind(("", port))
            except OSError:
                return True
    return False
