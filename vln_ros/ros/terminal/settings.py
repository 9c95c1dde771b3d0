"""Finds settings of a terminal that keep nodes from starting or from hearing each other."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from vln_ros.config import ConfigError
from vln_ros.ros.terminal.environment import (
    AMENT_INDEX,
    DOMAIN,
    DOMAINS,
    FAST_DDS_PROFILE,
    domain_of,
    users_fast_dds_profile,
    uses_fast_dds,
)

RANGES = ("SUBNET", "LOCALHOST", "OFF", "SYSTEM_DEFAULT")
LOG_FOLDER = "ROS_LOG_DIR"
"""Environment variable: where nodes write what ROS logs."""
LOGS = "logs"
"""Name of a fault of that folder."""
_SHARED_MEMORY = (
    "with it Fast DDS uses shared memory, where a killed process can stop others (docs/robot/bringup.md)"
)
_PROFILE_ROOTS = {"dds", "profiles", "types", "log", "library_settings"}
_HANDED_OUT_BY_LINUX = range(102, 215)
"""Domains whose ports lie among those that Linux gives to any program that asks for one."""
_PEER_LENGTH = 255
_RESOLVED_IN_S = 3.0
_LOOPED_IN_S = 2.0
SHARED_MEMORY = Path("/dev/shm")
"""Every ROS process has a little of it: its tracing does, whatever the middleware."""


@dataclass(frozen=True)
class SettingFault:
    """A setting that does harm.

    Attributes:
        name: of what it is about.
        text: the setting, and what is wrong with it.
        remedy: what to do.
        fatal: no node starts, or none is heard; otherwise it goes on in another way than it says.
    """

    name: str
    text: str
    remedy: str
    fatal: bool


def find_setting_faults(environment: Mapping[str, str]) -> list[SettingFault]:
    """Everything that is wrong with the settings of ROS in an environment; nothing is started to find out."""
    checks: tuple[Callable[[Mapping[str, str]], Iterator[SettingFault]], ...] = (
        _middleware, _domain, _reach, _peers, _server, _profile, _security, _prefixes, _logging, _log_folder,
    )  # fmt: skip
    return [fault for check in checks for fault in check(environment)]


def installed_middleware(environment: Mapping[str, str]) -> set[str]:
    """The RMW implementations below the prefixes of an environment."""
    folders = (Path(p) / AMENT_INDEX / "rmw_typesupport" for p in _prefixes_of(environment))
    return {f.name for folder in folders if folder.is_dir() for f in folder.iterdir()} - {
        "rmw_implementation"
    }


def log_folder(environment: Mapping[str, str]) -> Path | None:
    """Where ROS nodes write their logs; None: ROS cannot tell, for there is no home."""
    if given := environment.get(LOG_FOLDER):
        return Path(given).expanduser()
    if given := environment.get("ROS_HOME"):
        return Path(given).expanduser() / "log"
    home = environment.get("HOME")
    return Path(home) / ".ros" / "log" if home else None


def why_not_writable(folder: Path) -> str | None:
    """Why nothing can be written into a folder, or into the one that it would be made in; None: it can."""
    there = next((p for p in (folder, *folder.parents) if os.path.lexists(p)), Path("/"))
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(4096))
            file.flush()
    except OSError as error:
        return f"{there}: {error.strerror}"
    return None


def why_no_loopback() -> str | None:
    """Why nothing that is sent to 127.0.0.1 arrives, by which a graph of its own talks; None: it does."""
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
        ):
            hearing.bind(("127.0.0.1", 0))
            hearing.settimeout(_LOOPED_IN_S)
            sending.sendto(b"vln_ros", hearing.getsockname())
            hearing.recv(16)
    except OSError as error:
        return error.strerror or "nothing arrives"
    return None


def why_died(status: int) -> str:
    """What is known of a ROS process that a signal has ended without a word: its negative return code."""
    text = f"a node died by {signal.Signals(-status).name}"
    if -status == signal.SIGBUS and (why := why_not_writable(SHARED_MEMORY)) is not None:
        text += f", for there is no shared memory ({why}): remove what nobody uses there"
    return text


def _prefixes_of(environment: Mapping[str, str]) -> list[str]:
    return [p for p in environment.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if p]


def _middleware(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    name, there = environment.get("RMW_IMPLEMENTATION"), installed_middleware(environment)
    if name and there and name not in there:
        apt = f"sudo apt install ros-jazzy-{name.replace('_', '-')}"
        yield SettingFault(
            "RMW_IMPLEMENTATION",
            f"{name} is not installed; there is {', '.join(sorted(there))}",
            f"unset RMW_IMPLEMENTATION, or {apt}",
            True,
        )


def _domain(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    text = environment.get(DOMAIN, "")
    try:
        domain = domain_of(environment)
    except ConfigError as error:
        what, _, remedy = str(error).partition("; ")
        yield SettingFault("domain", what, remedy, True)
        return
    if text and str(domain) != text.strip():
        yield SettingFault(
            "domain", f"ROS reads {DOMAIN} = {text!r} as {domain}", f"export {DOMAIN}={domain}", False
        )
    if domain in _HANDED_OUT_BY_LINUX:
        yield SettingFault(
            "domain",
            f"{domain}: its ports are among those that Linux gives to any program, so a node may miss one",
            f"use a domain up to {DOMAINS[-1] + 1}",
            False,
        )


def _reach(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    reach, only = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE", ""), environment.get("ROS_LOCALHOST_ONLY")
    if only == "1":
        text = (
            "ROS_LOCALHOST_ONLY=1: nodes hear this machine alone, and other settings of the kind are ignored"
        )
        remedy = "unset ROS_LOCALHOST_ONLY"
        yield SettingFault("discovery", text, _shared(remedy, environment), False)
        return
    if only not in (None, "", "0"):
        text = f"ROS_LOCALHOST_ONLY={only!r} is neither 0 nor 1: ROS takes it for 0"
        yield SettingFault("discovery", text, "unset ROS_LOCALHOST_ONLY", False)
    match reach:
        case "" | "SUBNET":
            return
        case "OFF":
            text, fatal = "ROS_AUTOMATIC_DISCOVERY_RANGE=OFF: nodes do not find each other", True
            remedy = "unset ROS_AUTOMATIC_DISCOVERY_RANGE, or export it as SUBNET"
        case "SYSTEM_DEFAULT":
            text, fatal = (
                "ROS_AUTOMATIC_DISCOVERY_RANGE=SYSTEM_DEFAULT: the middleware's own file decides",
                False,
            )
            remedy = "unset it where you have no such file"
        case "LOCALHOST":
            text, fatal = "ROS_AUTOMATIC_DISCOVERY_RANGE=LOCALHOST: nodes hear this machine alone", False
            remedy = _shared("unset it", environment)
        case _:
            text = f"ROS_AUTOMATIC_DISCOVERY_RANGE={reach!r} is none of {', '.join(RANGES)}: "
            text, fatal = text + "ROS takes it for LOCALHOST", False
            remedy = _shared("export ROS_AUTOMATIC_DISCOVERY_RANGE=SUBNET", environment)
    yield SettingFault("discovery", text, remedy, fatal)


def _shared(remedy: str, environment: Mapping[str, str]) -> str:
    return f"{remedy}: {_SHARED_MEMORY}" if uses_fast_dds(environment) else remedy


def _peers(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    text = environment.get("ROS_STATIC_PEERS", "")
    if not text or environment.get("ROS_LOCALHOST_ONLY") == "1":
        return
    peers = [p for p in text.split(";") if p]
    wrong = [f"{p[:40]!r} is too long" for p in peers if len(p) > _PEER_LENGTH]
    wrong += [
        f"{p!r} is no machine that is known here" for p in peers if len(p) <= _PEER_LENGTH and not _known(p)
    ]
    if wrong:
        remedy = "give addresses, with ; between them, or unset ROS_STATIC_PEERS"
        yield SettingFault("ROS_STATIC_PEERS", "; ".join(wrong), remedy, True)
    else:
        remedy = "nodes look for each other there, too; unset it where no other machine is wanted"
        yield SettingFault("ROS_STATIC_PEERS", ", ".join(peers), remedy, False)


def _server(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    if (server := environment.get("ROS_DISCOVERY_SERVER")) and uses_fast_dds(environment):
        text = f"ROS_DISCOVERY_SERVER={server}: nodes find each other only by that server"
        yield SettingFault("discovery server", text, "start it (fastdds discovery), or unset it", False)


def _known(peer: str) -> bool:
    """Whether a peer's name has an address; a name server that does not answer has a few seconds."""
    found: list[object] = []

    def ask() -> None:
        with contextlib.suppress(OSError, UnicodeError):
            found.extend(socket.getaddrinfo(peer, None))

    asking = threading.Thread(target=ask, name="resolver", daemon=True)
    asking.start()
    asking.join(_RESOLVED_IN_S)
    return bool(found)


def _profile(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    if not uses_fast_dds(environment) or (path := users_fast_dds_profile(environment)) is None:
        return
    name = "Fast DDS profile"
    if (why := _why_no_profile(path)) is not None:
        remedy = f"unset FASTRTPS_DEFAULT_PROFILES_FILE, for Fast DDS ignores it; or use {FAST_DDS_PROFILE}"
        yield SettingFault(name, f"{path or 'an empty name'}: {why}", remedy, True)
    else:
        remedy = f"it should do without shared memory, as {FAST_DDS_PROFILE} does (docs/robot/bringup.md)"
        yield SettingFault(name, f"yours: {path}", remedy, False)


def _why_no_profile(path: str) -> str | None:
    try:
        root = ElementTree.fromstring(Path(path).read_bytes())
    except OSError as error:
        return str(error.strerror)
    except ElementTree.ParseError as error:
        return f"no XML, {error}"
    tag = root.tag.rpartition("}")[2]
    return None if tag in _PROFILE_ROOTS else f"no profile: it holds <{tag}>, not <dds>"


def _security(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    if environment.get("ROS_SECURITY_ENABLE") == "true" and not environment.get("ROS_SECURITY_KEYSTORE"):
        text = "ROS_SECURITY_ENABLE=true without ROS_SECURITY_KEYSTORE: there are no keys"
        fatal = environment.get("ROS_SECURITY_STRATEGY") == "Enforce"
        yield SettingFault("security", text, "name the keystore, or unset ROS_SECURITY_ENABLE", fatal)


def _prefixes(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    prefixes = _prefixes_of(environment)
    missing = [p for p in prefixes if not (Path(p) / AMENT_INDEX).is_dir()]
    if missing:
        text = f"nothing of ROS is installed in {', '.join(missing)}"
        remedy = (
            "in a new terminal: source /opt/ros/jazzy/setup.bash, then the workspace's install/setup.bash"
        )
        yield SettingFault("AMENT_PREFIX_PATH", text, remedy, len(missing) == len(prefixes))


def _logging(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    for name in ("RCUTILS_LOGGING_USE_STDOUT", "RCUTILS_LOGGING_BUFFERED_STREAM", "RCUTILS_COLORIZED_OUTPUT"):
        value = environment.get(name, "")
        if value not in ("", "0", "1"):
            yield SettingFault("logging", f"{name}={value!r} is neither 0 nor 1", f"unset {name}", True)


def _log_folder(environment: Mapping[str, str]) -> Iterator[SettingFault]:
    folder = log_folder(environment)
    remedy = f"export {LOG_FOLDER}=FOLDER, one that can be written: no node starts without its log"
    if folder is None:
        yield SettingFault(LOGS, "HOME is not set", remedy, True)
    elif (why := why_not_writable(folder)) is not None:
        yield SettingFault(LOGS, f"{folder} cannot be written ({why})", remedy, True)
