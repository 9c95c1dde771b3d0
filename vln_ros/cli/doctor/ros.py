"""Checks ROS: its settings, then two nodes that talk, then what else is heard."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from vln_ros.cli.doctor.findings import Finding, Verdict
from vln_ros.cli.doctor.probe import CLOCK, HEARD_IN_S, SENSORS, Heard, heard_from_output
from vln_ros.cli.graph import START_TIMEOUT_S, last_words
from vln_ros.ros.environment import (
    DOMAIN,
    SOCKET_BUFFER_BYTES,
    domain_of,
    prepare_environment,
    users_fast_dds_profile,
    uses_fast_dds,
)
from vln_ros.ros.settings import (
    LOG_FOLDER,
    LOGS,
    SettingFault,
    find_setting_faults,
    why_died,
    why_no_loopback,
)

RECEIVE_BUFFER_LIMIT = Path("/proc/sys/net/core/rmem_max")
NODES = "nodes"
DDS_GROUP = "239.255.0.1"
"""Where DDS participants announce themselves."""
MULTICAST_IN_S = 1.0
_PROBE = "vln_ros.cli.doctor.probe"


def look_at_ros(listen_s: float) -> list[Finding]:
    """Whether nodes start and hear each other with what this terminal has set, and which topics they hear.

    Nothing of ROS runs in this process: where it hangs or ends the process, that is a finding.
    """
    spec = importlib.util.find_spec("rclpy")
    if spec is None or spec.origin is None:
        remedy = "source /opt/ros/jazzy/setup.bash, or python -m pip install 'vln_ros[ros]'"
        return [Finding("rclpy", "fail", "not importable", remedy)]
    prepare_environment()  # as the nodes do
    environment = dict(os.environ)
    faults = find_setting_faults(environment)
    middleware = environment.get("RMW_IMPLEMENTATION") or "the default RMW"
    findings = [Finding("rclpy", "ok", f"{Path(spec.origin).parent}, {middleware}")]
    findings += [Finding(f.name, "fail" if f.fatal else "warn", f.text, f.remedy) for f in faults]
    findings += _what_is_fine(environment, faults)
    if (why := why_no_loopback()) is not None:
        text = f"nothing that is sent to 127.0.0.1 arrives ({why}): no graph can run on this machine alone"
        return [*findings, Finding("loopback", "fail", text, "sudo ip link set lo up")]
    if any(f.fatal and f.name != LOGS for f in faults):
        text = "not tried: with these settings none starts, or none is heard"
        return [*findings, Finding(NODES, "warn", text, "see above, and ask again")]
    with contextlib.ExitStack() as stack:
        if any(f.name == LOGS for f in faults):  # that is said; what else is there?
            try:
                environment[LOG_FOLDER] = stack.enter_context(tempfile.TemporaryDirectory())
            except OSError:
                return findings
        return findings + _talk(environment, listen_s)


def _what_is_fine(environment: dict[str, str], faults: list[SettingFault]) -> list[Finding]:
    findings = []
    named = {f.name for f in faults}
    if not uses_fast_dds(environment):
        findings.append(Finding("Fast DDS profile", "ok", "not Fast DDS: none needed"))
    elif users_fast_dds_profile(environment) is None:
        findings.append(Finding("Fast DDS profile", "ok", "this package's nodes set it"))
        if RECEIVE_BUFFER_LIMIT.exists():
            limit = int(RECEIVE_BUFFER_LIMIT.read_text("ascii"))
            enough = limit >= SOCKET_BUFFER_BYTES
            remedy = f"or images are lost: sudo sysctl -w net.core.rmem_max={SOCKET_BUFFER_BYTES}"
            text = f"net.core.rmem_max is {limit}"
            verdict: Verdict = "ok" if enough else "warn"
            findings.append(Finding("receive buffer", verdict, text, "" if enough else remedy))
    if "domain" not in named:
        default = "" if environment.get(DOMAIN) else " (default)"
        text = f"{domain_of(environment)}{default}; demo, replay and benches take one of their own"
        findings.append(Finding("domain", "ok", text))
    if "discovery" not in named:
        reach = environment.get("ROS_AUTOMATIC_DISCOVERY_RANGE") or "SUBNET (default)"
        findings.append(Finding("discovery", "ok", f"range {reach}"))
    return findings


def _talk(environment: dict[str, str], listen_s: float) -> list[Finding]:
    """Two nodes in processes of their own: one speaks, the other listens, to it and to everything else."""
    token = secrets.token_hex(8)
    speaker = subprocess.Popen(
        [sys.executable, "-m", _PROBE, "speak", token], env=environment, stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        listener = subprocess.run(
            [sys.executable, "-m", _PROBE, "listen", token, str(listen_s)], env=environment,
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
            timeout=START_TIMEOUT_S + HEARD_IN_S + listen_s,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        text = f"a node did not come up in {START_TIMEOUT_S:g} s"
        return [Finding(NODES, "fail", text, "try with RMW_IMPLEMENTATION=rmw_fastrtps_cpp")]
    finally:
        speaker.kill()
        speaker.communicate()
    if listener.returncode:
        return [Finding(NODES, "fail", _why(listener), "correct what ROS complains about, and ask again")]
    heard = heard_from_output(listener.stdout)
    if heard is None:
        return [Finding(NODES, "fail", "a node came up and said nothing", "ask again")]
    return [judge_nodes(heard), *_topics(heard, listen_s)]


def _why(process: subprocess.CompletedProcess[str]) -> str:
    if words := last_words(process.stderr):
        return f"no node starts: {words}"
    code = process.returncode
    return f"no node starts: status {code}" if code > 0 else why_died(code)


def judge_nodes(heard: Heard) -> Finding:
    if heard.after_s is not None:
        return Finding(NODES, "ok", f"two of them hear each other, after {heard.after_s:.1f} s")
    text = f"two of them on this machine did not hear each other in {HEARD_IN_S:g} s"
    if multicast_arrives():
        remedy = (
            "does a firewall drop UDP from port 7400 on? does a profile or a discovery server lead elsewhere?"
        )
    else:
        text += ", and no multicast arrives"
        remedy = (
            "sudo ip link set lo multicast on && sudo ip route add 224.0.0.0/4 dev lo; or, where every node "
            "is on this machine, export ROS_STATIC_PEERS=127.0.0.1"
        )
    return Finding(NODES, "fail", text, remedy)


def multicast_arrives() -> bool:
    """Whether what one socket sends to DDS's group of addresses comes to another one on this machine."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sending,
    ):
        try:
            hearing.bind(("", 0))
            member = socket.inet_aton(DDS_GROUP) + socket.inet_aton("0.0.0.0")
            hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            hearing.settimeout(MULTICAST_IN_S)
            sending.sendto(b"vln_ros", (DDS_GROUP, hearing.getsockname()[1]))
            return hearing.recv(16) == b"vln_ros"
        except OSError:  # no route, no interface that does it, or nothing in time
            return False


def _topics(heard: Heard, listen_s: float) -> list[Finding]:
    """What the navigator would subscribe to: is it there, how often, with which quality of service."""
    findings = []
    for topic in heard.topics:
        text = f"{topic.rate_hz:.1f} Hz; {'; '.join(topic.quality) or 'no publisher'}"
        silent = "" if topic.messages else "nothing arrived: is its publisher alive?"
        findings.append(Finding(topic.name, "ok" if topic.messages else "warn", text, silent))
    for wanted in SENSORS:
        if not any(topic.name.lstrip("/").startswith(wanted) for topic in heard.topics):
            remedy = (
                "start the camera and base drivers, or remap their topics; in simulation nothing is missing"
            )
            findings.append(Finding(wanted, "warn", f"not seen in {listen_s:g} s", remedy))
    simulated = any(topic.name == CLOCK and topic.messages for topic in heard.topics)
    text = "simulated: start nodes with use_sim_time" if simulated else "system time"
    return [*findings, Finding("clock", "ok", text)]
