"""What a terminal may have set for ROS: every member of each kind is found, named, and has a remedy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vln_ros.config import ConfigError
from vln_ros.ros.terminal.environment import (
    AMENT_INDEX,
    DOMAIN,
    FAST_DDS_LOCALHOST_PROFILE,
    FAST_DDS_PROFILE,
    domain_as_read,
    domain_of,
    isolate,
)
from vln_ros.ros.terminal.settings import find_setting_faults, log_folder, why_not_writable

RANGE, ONLY, PEERS = "ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS"
PROFILE, PROFILE_TOO = "FASTRTPS_DEFAULT_PROFILES_FILE", "FASTDDS_DEFAULT_PROFILES_FILE"
RMW = "RMW_IMPLEMENTATION"


@pytest.fixture
def sound(tmp_path: Path) -> dict[str, str]:
    """A terminal in which nothing is wrong: a home, and a prefix with two implementations of RMW."""
    index = tmp_path / "ros" / AMENT_INDEX / "rmw_typesupport"
    index.mkdir(parents=True)
    for name in ("rmw_implementation", "rmw_fastrtps_cpp", "rmw_cyclonedds_cpp"):
        (index / name).touch()
    (tmp_path / "home").mkdir()
    return {"HOME": str(tmp_path / "home"), "AMENT_PREFIX_PATH": str(tmp_path / "ros")}


def test_a_sound_terminal_has_no_fault(sound: dict[str, str]) -> None:
    assert find_setting_faults(sound) == []


@pytest.mark.parametrize(
    "given",
    [
        {RMW: "rmw_cyclonedds_cpp"}, {RMW: ""}, {DOMAIN: ""}, {DOMAIN: "0"}, {DOMAIN: "101"}, {DOMAIN: "232"},
        {RANGE: "SUBNET"}, {RANGE: ""}, {ONLY: "0"}, {ONLY: ""}, {PEERS: ""},
        {PROFILE: str(FAST_DDS_PROFILE)}, {PROFILE: str(FAST_DDS_LOCALHOST_PROFILE)},
        {"RCUTILS_COLORIZED_OUTPUT": "1"},
        {RMW: "rmw_cyclonedds_cpp", PROFILE: "/nowhere.xml"}, {"ROS_SECURITY_ENABLE": "false"},
    ],
    ids=str,
)  # fmt: skip
def test_what_is_right_is_no_fault(sound: dict[str, str], given: dict[str, str]) -> None:
    assert find_setting_faults(sound | given) == []


NO_NODE_STARTS = [
    ({RMW: "rmw_zenoh_cpp"}, "rmw_fastrtps_cpp"),
    ({RMW: "rmw_fastrtps"}, "not installed"),
    ({RMW: "nonsense"}, "nonsense"),
    ({DOMAIN: "300"}, "300"),
    ({DOMAIN: "233"}, "233"),
    ({DOMAIN: "abc"}, "abc"),
    ({DOMAIN: "-1"}, "-1"),
    ({DOMAIN: " "}, DOMAIN),
    ({DOMAIN: "99999999999999999999"}, DOMAIN),
    ({RANGE: "OFF"}, "OFF"),
    ({PEERS: "nobody.invalid"}, "nobody.invalid"),
    ({PEERS: "127.0.0.1;nobody.invalid"}, "nobody.invalid"),
    ({PEERS: "a" * 300}, "too long"),
    ({PROFILE: "/nowhere.xml"}, "No such file"),
    ({PROFILE_TOO: "/nowhere.xml"}, "No such file"),
    ({PROFILE: "/"}, "directory"),
    ({PROFILE: ""}, "empty name"),
    ({"AMENT_PREFIX_PATH": "/nowhere"}, "/nowhere"),
    ({"AMENT_PREFIX_PATH": "/nowhere:/dev"}, "/dev"),
    ({"RCUTILS_COLORIZED_OUTPUT": "7"}, "RCUTILS_COLORIZED_OUTPUT"),
    ({"RCUTILS_LOGGING_USE_STDOUT": "yes"}, "RCUTILS_LOGGING_USE_STDOUT"),
    ({"RCUTILS_LOGGING_BUFFERED_STREAM": "x"}, "RCUTILS_LOGGING_BUFFERED_STREAM"),
    ({"HOME": ""}, "HOME"),
    ({"HOME": "/proc/nowhere"}, "/proc/nowhere"),
    ({"HOME": "/dev/null"}, "Not a directory"),
    ({"ROS_HOME": "/proc/nowhere"}, "/proc/nowhere/log"),
    ({"ROS_LOG_DIR": "/dev/null"}, "/dev/null"),
    ({"ROS_SECURITY_ENABLE": "true", "ROS_SECURITY_STRATEGY": "Enforce"}, "KEYSTORE"),
]


@pytest.mark.parametrize(("given", "named"), NO_NODE_STARTS, ids=str)
def test_what_keeps_nodes_from_starting_or_hearing_is_fatal(
    sound: dict[str, str], given: dict[str, str], named: str
) -> None:
    (fault,) = find_setting_faults(sound | given)
    assert fault.fatal
    assert named in fault.text
    assert fault.remedy


OTHERWISE_THAN_IT_SAYS = [
    ({ONLY: "1"}, "shared memory"),
    ({ONLY: "1", RANGE: "SUBNET"}, "shared memory"),
    ({ONLY: "true"}, "neither 0 nor 1"),
    ({RANGE: "LOCALHOST"}, "shared memory"),
    ({RANGE: "localhost"}, "shared memory"),
    ({RANGE: "nonsense"}, "shared memory"),
    ({RANGE: "SYSTEM_DEFAULT"}, "the middleware's own file"),
    ({PEERS: "10.0.0.7;127.0.0.1"}, "10.0.0.7"),
    ({DOMAIN: "0x10"}, "16"),
    ({DOMAIN: "010"}, "8"),
    ({DOMAIN: "5abc"}, "5"),
    ({DOMAIN: "1.5"}, "1"),
    ({DOMAIN: "150"}, "150"),
    ({"ROS_DISCOVERY_SERVER": "127.0.0.1:11811"}, "127.0.0.1:11811"),
    ({"ROS_SECURITY_ENABLE": "true"}, "KEYSTORE"),
]


@pytest.mark.parametrize(("given", "named"), OTHERWISE_THAN_IT_SAYS, ids=str)
def test_what_goes_on_otherwise_than_it_says_is_said(
    sound: dict[str, str], given: dict[str, str], named: str
) -> None:
    faults = find_setting_faults(sound | given)
    assert faults
    assert not any(f.fatal for f in faults)
    assert named in " ".join(f"{f.text} {f.remedy}" for f in faults)


def test_with_another_middleware_there_is_no_word_of_fast_dds(sound: dict[str, str]) -> None:
    (fault,) = find_setting_faults(sound | {RMW: "rmw_cyclonedds_cpp", RANGE: "LOCALHOST"})
    assert "shared memory" not in fault.remedy


@pytest.mark.parametrize("text", ["", "<dds", "<foo/>", "not XML", "\x00"])
def test_a_broken_profile_is_fatal(sound: dict[str, str], tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.xml"
    path.write_text(text, "utf-8")
    (fault,) = find_setting_faults(sound | {PROFILE: str(path)})
    assert fault.fatal
    assert str(path) in fault.text


def test_a_profile_of_ones_own_that_is_whole_is_named(sound: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "mine.xml"
    path.write_text(FAST_DDS_PROFILE.read_text("utf-8"), "utf-8")
    (fault,) = find_setting_faults(sound | {PROFILE: str(path)})
    assert not fault.fatal
    assert str(path) in fault.text


def test_one_prefix_that_is_not_there_is_named_and_the_others_do(sound: dict[str, str]) -> None:
    (fault,) = find_setting_faults(sound | {"AMENT_PREFIX_PATH": f"/nowhere:{sound['AMENT_PREFIX_PATH']}"})
    assert not fault.fatal
    assert "/nowhere" in fault.text


def test_where_logs_go(tmp_path: Path) -> None:
    assert log_folder({"HOME": "/home/me"}) == Path("/home/me/.ros/log")
    assert log_folder({"HOME": "/home/me", "ROS_HOME": "/ros"}) == Path("/ros/log")
    assert log_folder({"ROS_HOME": "/ros", "ROS_LOG_DIR": "/logs"}) == Path("/logs")
    assert log_folder({}) is None
    assert why_not_writable(tmp_path / "not" / "yet") is None
    assert list(tmp_path.iterdir()) == []  # nothing is made to find out


# What rclpy 7.1 of Jazzy was seen to do with each.
AS_READ = {"5": 5, " 5": 5, "+5": 5, "5abc": 5, "1.5": 1, "0x10": 16, "010": 8, "0": 0, "08": 0, "abc": None,
           "": None, "-1": None}  # fmt: skip


@pytest.mark.parametrize(("text", "domain"), AS_READ.items())
def test_a_domain_is_read_as_ros_reads_it(text: str, domain: int | None) -> None:
    assert domain_as_read(text) == domain


def test_the_domain_of_an_environment() -> None:
    assert domain_of({}) == domain_of({DOMAIN: ""}) == 0
    assert domain_of({DOMAIN: "42"}) == 42
    for text in ("abc", "300", "-1"):
        with pytest.raises(ConfigError, match=DOMAIN):
            domain_of({DOMAIN: text})


LEADS_ELSEWHERE = {
    DOMAIN: "42", RANGE: "SUBNET", ONLY: "1", PEERS: "10.0.0.7", "ROS_DISCOVERY_SERVER": "10.0.0.7:11811",
    "ROS_SUPER_CLIENT": "1", PROFILE: "/mine.xml", PROFILE_TOO: "/mine.xml", "CYCLONEDDS_URI": "file:///mine.xml",
    "FASTDDS_BUILTIN_TRANSPORTS": "SHM", "ROS_SECURITY_ENABLE": "true",
}  # fmt: skip


def test_isolated_nothing_that_the_terminal_has_set_for_a_robot_is_left() -> None:
    environment = dict(LEADS_ELSEWHERE)
    isolate(environment, 7)
    assert environment == {
        DOMAIN: "7", PROFILE: str(FAST_DDS_LOCALHOST_PROFILE), "SKIP_DEFAULT_XML": "1"
    }  # fmt: skip


WHERE = """
import rclpy
rclpy.init()
node = rclpy.create_node("who")
shared = [line.split()[-1] for line in open("/proc/self/maps") if "/dev/shm/fast" in line]
print(node.context.get_domain_id(), shared)
"""


@pytest.mark.ros
def test_an_isolated_node_is_where_it_should_be_and_shares_no_memory(tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    environment = {**os.environ, **LEADS_ELSEWHERE, PROFILE: "", PROFILE_TOO: ""}
    isolate(environment, int(os.environ[DOMAIN]))
    # Fast DDS would take this one from the current folder.
    (tmp_path / "DEFAULT_FASTRTPS_PROFILES.xml").write_text("<dds", "utf-8")
    done = subprocess.run(
        [sys.executable, "-c", WHERE], env=environment, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.strip() == f"{os.environ[DOMAIN]} []", done.stderr
    assert "XMLPARSER" not in done.stderr
