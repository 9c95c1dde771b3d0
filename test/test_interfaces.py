"""The packages in interfaces/: what they declare, and what of them is named elsewhere."""

from __future__ import annotations

import ast
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import yaml

import vln_ros
from vln_ros.config import ExecutorConfig

ROOT = Path(__file__).parents[1]
INTERFACES = ROOT / "interfaces"
PACKAGES = sorted(path.parent for path in INTERFACES.glob("*/package.xml"))
MESSAGES = INTERFACES / "vln_msgs"
NAV2 = INTERFACES / "vln_nav2"
FIELD = re.compile(r"^([\w/]+(?:\[\])?) (\w+)(?: = (\d+))?")


def fields(path: Path) -> list[dict[str, str]]:
    """Name and type of the fields of each part of a message, service or action."""
    parts = path.read_text("utf-8").split("\n---\n")
    found = [[m for line in part.splitlines() if (m := FIELD.match(line))] for part in parts]
    return [{m[2]: m[1] for m in part if m[3] is None} for part in found]


def constants(path: Path, part: int) -> dict[str, int]:
    text = path.read_text("utf-8").split("\n---\n")[part]
    return {m[2]: int(m[3]) for line in text.splitlines() if (m := FIELD.match(line)) and m[3]}


def test_the_packages_are_there() -> None:
    assert [p.name for p in PACKAGES] == ["vln_msgs", "vln_nav2"]


@pytest.mark.parametrize("package", PACKAGES, ids=lambda p: p.name)
def test_they_have_the_version_and_licence_of_the_whole(package: Path) -> None:
    tree = ET.parse(package / "package.xml").getroot()
    assert tree.findtext("name") == package.name
    assert tree.findtext("version") == vln_ros.__version__
    assert tree.findtext("license") == "Apache-2.0"
    cmake = (package / "CMakeLists.txt").read_text("utf-8")
    depends = {e.text for tag in ("depend", "buildtool_depend", "test_depend") for e in tree.iter(tag)}
    assert set(re.findall(r"find_package\((\w+)", cmake)) == depends


def test_every_message_is_built_and_has_its_line_for_people() -> None:
    files = {
        f"{p.parent.name}/{p.name}" for p in MESSAGES.glob("*/*") if p.suffix in (".msg", ".srv", ".action")
    }
    assert len(files) == 4
    cmake = (MESSAGES / "CMakeLists.txt").read_text("utf-8")
    assert set(re.findall(r"^  (\w+/\w+\.\w+)$", cmake, re.M)) == files
    readme = (MESSAGES / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for name in files)


def test_names_carry_units() -> None:
    for path in MESSAGES.glob("*/*.*"):
        for part in fields(path):
            for name, kind in part.items():
                bare = {"amounts", "probabilities"}
                assert not kind.startswith("float") or name.endswith(("_s", "_m")) or name in bare, name


def test_every_outcome_is_documented_with_its_status() -> None:
    outcomes = constants(MESSAGES / "action/FollowInstruction.action", 1)
    assert sorted(outcomes.values()) == list(range(1, len(outcomes) + 1))
    page = (ROOT / "docs/reference/nodes.md").read_text("utf-8")
    assert all(f"`{name}`" in page for name in outcomes)


def test_the_navigator_fills_in_every_field() -> None:
    """rclpy's messages take no notice of a name that they do not have."""
    tree = ast.parse((ROOT / "vln_ros/nodes/navigator/follow_instruction.py").read_text("utf-8"))
    _, result, feedback = fields(MESSAGES / "action/FollowInstruction.action")
    (chunk,) = fields(MESSAGES / "msg/ActionChunk.msg")
    wanted = {"Result": set(result), "Feedback": set(feedback), "_type": set(chunk)}
    given = {
        node.func.attr: {keyword.arg for keyword in node.keywords}
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in wanted
    }
    assert given == wanted


def test_the_trees_use_ports_of_the_node_and_these_are_fields_of_the_action() -> None:
    source = (NAV2 / "src/follow_instruction_action.cpp").read_text("utf-8")
    ports = dict(re.findall(r'BT::(Input|Output)Port<[^>]+>\(\s*"(\w+)"', source)[i][::-1] for i in range(6))
    goal, result, _ = fields(MESSAGES / "action/FollowInstruction.action")
    assert {n for n, way in ports.items() if way == "Input"} == set(goal)
    assert {n for n, way in ports.items() if way == "Output"} <= set(result)
    assert set(re.findall(r'[gs]et(?:Input|Output)\("(\w+)"', source)) == set(ports)
    readme = (NAV2 / "README.md").read_text("utf-8")
    assert all(f"`{name}`" in readme for name in ports)
    trees = sorted((NAV2 / "behavior_trees").glob("*.xml"))
    assert len(trees) == 2
    for path in trees:
        used = list(ET.parse(path).getroot().iter("FollowInstruction"))
        assert used
        for node in used:
            assert set(node.attrib) <= set(ports)
            assert float(node.attrib["max_duration_s"]) > 0.0, "a tree that waits for ever helps nobody"


def test_what_stands_behind_the_executor_does_not_soften_its_stops() -> None:
    """config/nav2 against the executor's defaults and every preset."""
    tree = yaml.safe_load((ROOT / "config/nav2/behind_the_executor.yaml").read_text("utf-8"))
    names = ("velocity_smoother", "collision_monitor", "lifecycle_manager")
    smoother, monitor, manager = (tree[f"/**/{name}"]["ros__parameters"] for name in names)
    presets = [yaml.safe_load(p.read_text("utf-8")) for p in sorted((ROOT / "config").glob("base_*.yaml"))]
    executors = [p.get("/**/executor", {}).get("ros__parameters", {}) for p in presets]
    assert len(executors) > 2
    own = ExecutorConfig()
    for values in ({}, *executors):
        linear_m_s = values.get("max_linear_m_s", own.max_linear_m_s)
        angular_rad_s = values.get("max_angular_rad_s", own.max_angular_rad_s)
        assert smoother["max_velocity"][0] >= linear_m_s
        assert smoother["max_velocity"][2] >= angular_rad_s
        assert -smoother["max_decel"][0] >= 3.0 * values.get(
            "max_linear_accel_m_s2", own.max_linear_accel_m_s2
        )
        assert -smoother["max_decel"][2] >= 3.0 * values.get(
            "max_angular_accel_rad_s2", own.max_angular_accel_rad_s2
        )
    assert smoother["velocity_timeout"] > 3.0 / own.rate_hz
    assert monitor["cmd_vel_in_topic"] == "cmd_vel_smoothed"
    assert monitor["Stop"]["radius"] < own.safety.robot_radius_m + own.safety.stop_distance_m
    assert monitor["enable_stamped_cmd_vel"] is smoother["enable_stamped_cmd_vel"] is own.stamped_cmd_vel
    assert manager["bond_timeout"] == 0.0


def test_the_mux_lets_nav2_drive_and_the_executor_stand() -> None:
    tree = yaml.safe_load((ROOT / "config/nav2/twist_mux.yaml").read_text("utf-8"))
    topics = tree["/**/twist_mux"]["ros__parameters"]["topics"]
    by_priority = sorted(topics, key=lambda name: -topics[name]["priority"])
    assert by_priority == ["teleop", "nav2", "vln_ros"]
    assert topics["vln_ros"]["topic"] == "cmd_vel_vln"


def test_every_line_of_what_a_nav2_user_expects_names_what_holds_it() -> None:
    (page,) = (ROOT / "docs").rglob("nav2.md")
    table = page.read_text("utf-8").split("## What a Nav2 user expects")[1].split("\n## ")[0]
    rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(rows) > 8
    tests = {p: p.read_text("utf-8") for p in (ROOT / "test").rglob("test_*.py")}
    defined = {name for text in tests.values() for name in re.findall(r"^def (test_\w+)", text, re.M)}
    jobs = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]
    for expected, there, held_by in rows:
        assert there.strip()
        files = re.findall(r"test/[\w/]+\.py", held_by)
        names = re.findall(r"\btest_\w+\b(?!\.py)", re.sub(r"test/[\w/]+\.py", "", held_by))
        assert files or names, expected
        assert {ROOT / f for f in files} <= set(tests), held_by
        assert set(names) <= defined, held_by
        assert set(re.findall(r"job `(\w+)`", held_by)) <= set(jobs), held_by
