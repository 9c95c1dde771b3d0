"""Two graphs on one machine do not hear each other, and the processes of one share no memory."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from vln_ros.ros import environment
from vln_ros.ros.environment import (
    DOMAINS,
    FAST_DDS_LOCALHOST_PROFILE,
    FAST_DDS_PROFILE,
    SOCKET_BUFFER_BYTES,
    claim_domain,
    own_domain,
    prepare_environment,
    stay_on_this_machine,
)

PROFILE, RANGE = "FASTRTPS_DEFAULT_PROFILES_FILE", "ROS_AUTOMATIC_DISCOVERY_RANGE"
ONLY = "ROS_LOCALHOST_ONLY"

ANOTHER = """
import sys
from vln_ros.ros import environment
environment.os.getpid = lambda: {pid}
print(environment.own_domain(), flush=True)
sys.stdin.read()
"""


def test_processes_with_the_same_number_get_domains_of_their_own() -> None:
    code = ANOTHER.format(pid=own_domain() - 1)  # all want what this process has
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) for _ in range(3)
    ]
    try:
        domains = []
        for process in processes:
            assert process.stdout is not None
            domains.append(int(process.stdout.readline()))
    finally:
        for process in processes:
            process.communicate()
    assert len({own_domain(), *domains}) == 4
    assert all(d in DOMAINS for d in domains)


@pytest.mark.parametrize("offset", [0, 1, 10, 12, 24], ids=lambda o: f"port {o} of the domain")
def test_a_domain_in_which_somebody_talks_is_left_alone(monkeypatch: pytest.MonkeyPatch, offset: int) -> None:
    claims: list[socket.socket] = []
    monkeypatch.setattr(os, "getpid", lambda: 40)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        somebody.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as DDS does where many hear
        try:
            somebody.bind(("", 7400 + 250 * 41 + offset))
        except OSError:
            pytest.skip("somebody really talks there")
        assert claim_domain(claims) != 41
    for claim in claims:
        claim.close()


@pytest.mark.parametrize("users", ["61", " 61", "0x3d", "075", "61abc"])
def test_the_users_domain_is_never_chosen(monkeypatch: pytest.MonkeyPatch, users: str) -> None:
    claims: list[socket.socket] = []
    monkeypatch.setattr(os, "getpid", lambda: 60)
    monkeypatch.setenv("ROS_DOMAIN_ID", users)
    assert claim_domain(claims, lambda _: False) != 61
    for claim in claims:
        claim.close()


AT_ONCE = """
import sys
from vln_ros.ros import environment
environment.os.getpid = lambda: 77
sys.stdin.readline()
print(environment.own_domain(), flush=True)
sys.stdin.read()
"""


def test_processes_that_start_at_the_same_moment_get_domains_of_their_own() -> None:
    count = 12
    processes = [
        subprocess.Popen([sys.executable, "-c", AT_ONCE], stdin=-1, stdout=-1, text=True)
        for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        domains = [int(p.stdout.readline()) for p in processes if p.stdout is not None]
    finally:
        for process in processes:
            process.communicate()
    assert len(set(domains)) == count


def test_when_all_are_taken_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="ROS_DOMAIN_ID"):
        claim_domain([], lambda _: True)


TALKING = """
import rclpy
rclpy.init()
node = rclpy.create_node("who")
print([line.split()[-1] for line in open("/proc/self/maps") if "/dev/shm/fast" in line])
"""


@pytest.mark.ros
@pytest.mark.parametrize("profile", [FAST_DDS_PROFILE, FAST_DDS_LOCALHOST_PROFILE])
def test_a_node_shares_no_memory(profile: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    variables = {**os.environ, PROFILE: str(profile)}
    done = subprocess.run([sys.executable, "-c", TALKING], env=variables, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_the_two_profiles_differ_in_their_reach_alone() -> None:
    def transport(path: Path) -> dict[str, str]:
        described = ElementTree.parse(path).find(".//{*}transport_descriptor")
        assert described is not None
        return {field.tag.split("}")[1]: "".join(field.itertext()).strip() for field in described}

    local = transport(FAST_DDS_LOCALHOST_PROFILE)
    assert local.pop("interfaceWhiteList") == "127.0.0.1"
    assert int(local.pop("maxInitialPeersRange")) == 32
    assert local == transport(FAST_DDS_PROFILE)
    assert local["receiveBufferSize"] == str(SOCKET_BUFFER_BYTES)


@pytest.mark.parametrize(
    ("given", "then"),
    [
        ({}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)}),
        ({PROFILE: str(FAST_DDS_PROFILE)}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)}),
        ({PROFILE: "mine.xml"}, {PROFILE: "mine.xml", RANGE: "LOCALHOST"}),
        ({RANGE: "SUBNET"}, {RANGE: "SUBNET"}),
        ({RANGE: "OFF"}, {RANGE: "OFF"}),
        ({RANGE: "SUBNET", ONLY: "0"}, {RANGE: "SUBNET", ONLY: "0"}),
        ({RANGE: "LOCALHOST"}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)}),
        ({ONLY: "1"}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)}),
        ({RANGE: "SUBNET", ONLY: "1"}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)}),
        ({PROFILE: "mine.xml", ONLY: "1"}, {PROFILE: "mine.xml", ONLY: "1", RANGE: "LOCALHOST"}),
        (
            {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
            {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp", RANGE: "LOCALHOST"},
        ),
    ],
)
def test_what_the_user_has_set_stays(given: dict[str, str], then: dict[str, str]) -> None:
    environment = dict(given)
    stay_on_this_machine(environment)
    assert environment == then
    stay_on_this_machine(environment)
    assert environment == then


def test_a_profile_of_the_users_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROFILE, raising=False)
    prepare_environment()
    assert os.environ[PROFILE] == str(FAST_DDS_PROFILE)
    monkeypatch.delenv(PROFILE)
    monkeypatch.setenv("FASTDDS_DEFAULT_PROFILES_FILE", "mine.xml")
    prepare_environment()
    assert PROFILE not in os.environ


@pytest.mark.parametrize("given", [None, "", "/nowhere", f"/nowhere{os.pathsep}/dev"])
def test_prefixes_of_the_users_stay_and_the_wheels_are_among_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: str | None
) -> None:
    (tmp_path / environment.AMENT_INDEX).mkdir(parents=True)
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    monkeypatch.delenv("AMENT_PREFIX_PATH", raising=False)
    if given is not None:
        monkeypatch.setenv("AMENT_PREFIX_PATH", given)
    prepare_environment()
    prepare_environment()
    kept = [p for p in (given or "").split(os.pathsep) if p]
    assert os.environ["AMENT_PREFIX_PATH"].split(os.pathsep) == [*kept, str(tmp_path)]


def test_on_a_robot_the_prefixes_are_those_of_its_setup_script(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))  # a venv beside ROS from apt
    monkeypatch.setenv("AMENT_PREFIX_PATH", "/opt/ros/jazzy")
    prepare_environment()
    assert os.environ["AMENT_PREFIX_PATH"] == "/opt/ros/jazzy"
