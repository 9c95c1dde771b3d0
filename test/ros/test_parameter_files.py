"""Parameter files before anything starts: what is refused, and that ROS reads the rest in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from vln_ros.config import NODES, ConfigError
from vln_ros.ros.parameter_files import check_parameter_file

PRESETS = sorted((Path(__file__).parents[2] / "config").glob("*.yaml"))
SLOW = "ros__parameters: {max_linear_m_s: 0.15}"
REFUSED = {
    "empty": ("", "is empty"),
    "comment": ("# max_linear_m_s: 0.15\n", "is empty"),
    "list": ("- max_linear_m_s: 0.15\n", "holds a list"),
    "text": ("max_linear_m_s 0.15\n", "holds a str"),
    "yaml": ("/**/executor:\n\tros__parameters: {}\n", "not valid YAML"),
    "half": ('/**/executor: {ros__parameters: {max_linear_m_s: "0.15}}\n', "not valid YAML"),
    "twice": (f"/**/executor:\n  {SLOW}\n/**/executor:\n  {SLOW}\n", "stands twice"),
    "no section": ("/**/executor:\n  max_linear_m_s: 0.15\n", "holds no ros__parameters"),
    "null section": ("/**/executor:\n", "holds no ros__parameters"),
    "empty section": ("/**/executor: {ros__parameters: }\n", "ros__parameters is empty"),
    "section misspelt": ("/**/executor: {ros_parameters: {max_linear_m_s: 0.15}}\n", "no ros__parameters"),
    "beside": (f"/**/executor:\n  {SLOW}\n  rate_hz: 20.0\n", "'rate_hz' belongs below ros__parameters"),
    "node misspelt": (f"/**/executr:\n  {SLOW}\n", "did you mean /**/executor"),
    "node unknown": (f"/**/controller_server:\n  {SLOW}\n", "fits no node"),
    "other namespace": (f"/left/executor:\n  {SLOW}\n", "write /**/executor"),
    "no namespace": (f"/executor:\n  {SLOW}\n", "the node here is /right/executor"),
    "bare": (f"executor:\n  {SLOW}\n", "the node here is /right/executor"),
    "nested": (f"left:\n  executor:\n    {SLOW}\n", "the node here is /right/executor"),
    "wildcard of nothing": (f"/left/**:\n  {SLOW}\n", "fits no node"),
    "too deep": (f"/*/*/executor:\n  {SLOW}\n", "fits no node"),
    "parameter misspelt": ("/**/executor: {ros__parameters: {max_linear_ms: 0.1}}\n", "'max_linear_m_s'"),
    "parameter of another": (
        "/**/executor: {ros__parameters: {qwen.device: cpu}}\n",
        "no parameter",
    ),
    "not started": ("/**/navigator: {ros__parameters: {engin: paced}}\n", "did you mean 'engine'"),
    "wildcard": ("/**: {ros__parameters: {max_linear_ms: 0.1}}\n", "did you mean 'max_linear_m_s'"),
    "range": ("/**/executor: {ros__parameters: {max_linear_m_s: 15.0}}\n", "must be in"),
    "type": ("/**/executor: {ros__parameters: {max_linear_m_s: '0.15'}}\n", "expected float"),
    "NaN": ("/**/executor: {ros__parameters: {max_linear_m_s: .nan}}\n", "must be finite"),
    "choice": ("/**/executor: {ros__parameters: {safety.obstacles: radar}}\n", "choose one of"),
    "nothing": ("/**/executor: {ros__parameters: {max_linear_m_s: }}\n", "expected float"),
    "deep": ("/**/executor: {ros__parameters: {safety: {stop_distance: 0.4}}}\n", "safety.stop_distance_m"),
}
"""Text of the file, and what is said of it for an executor in /right."""


@pytest.mark.parametrize(("text", "said"), REFUSED.values(), ids=REFUSED)
def test_what_would_not_take_effect_is_refused(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as fallback_reason:
        check_parameter_file(path, "right", ["executor"])
    assert said in str(fallback_reason.value)
    assert str(path) in str(fallback_reason.value)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*No such file"):
        check_parameter_file(tmp_path / "mine.yml", "", ["executor"])
    with pytest.raises(ConfigError, match="is a folder"):
        check_parameter_file(tmp_path, "", ["executor"])
    (tmp_path / "picture").write_bytes(b"\x89PNG\xff\x00")
    with pytest.raises(ConfigError, match="not valid YAML"):
        check_parameter_file(tmp_path / "picture", "", ["executor"])


def test_what_each_node_takes_is_told(tmp_path: Path) -> None:
    path = tmp_path / "both.yaml"
    path.write_text(
        f"/**: {{ros__parameters: {{use_sim_time: true}}}}\n/**/executor:\n  {SLOW}\n"
        "/**/navigator: {ros__parameters: {decide_on: frame, qos_overrides./odom.subscription.depth: 5}}\n"
    )
    assert check_parameter_file(path, "", ["executor", "inspector"]) == {
        "executor": ["use_sim_time", "max_linear_m_s"],
        "inspector": ["use_sim_time"],
    }
    path.write_text("/**/sim_bridge: {ros__parameters: {video: false}}\n")
    assert check_parameter_file(path, "", ["executor"]) == {"executor": []}


@pytest.mark.parametrize("path", PRESETS, ids=lambda p: p.stem)
def test_presets_pass_in_every_namespace(path: Path) -> None:
    for namespace in ("", "left", "/left/robot/"):
        taken = check_parameter_file(path, namespace, list(NODES))
        for key, section in yaml.safe_load(path.read_text("utf-8")).items():
            assert taken[key.rsplit("/", 1)[1]] == list(section["ros__parameters"])


def test_of_a_fleet_every_robot_has_its_section(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "/**/navigator: {ros__parameters: {decide_ahead: 1}}\n"
        "/right/navigator: {ros__parameters: {lost_after_s: 3.0}}\n"
    )
    taken = check_parameter_file(path, "left", ["fleet", "navigator"], ["right"])
    assert taken == {"fleet": [], "navigator": ["decide_ahead", "lost_after_s"]}
    with pytest.raises(ConfigError, match="the node here is /left/navigator or /middle/navigator"):
        check_parameter_file(path, "left", ["fleet", "navigator"], ["middle"])


KEYS = """
/**/executor /** /*/executor executor /executor left/executor /left/executor /left/** /left/* /* * **
/**/left/executor **/executor /left/**/executor /**/* /*/*/executor
"""


@pytest.mark.ros
@pytest.mark.parametrize("namespace", ["", "left", "/left/robot"])
def test_a_key_fits_where_ros_says_so(namespace: str, tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    for key in KEYS.split():
        path = tmp_path / "key.yaml"
        path.write_text(f'"{key}": {{{SLOW}}}\n')
        try:
            ours = bool(check_parameter_file(path, namespace, ["executor"])["executor"])
        except ConfigError:
            ours = False
        assert ours == bool(as_ros_reads(path, namespace)), key


@pytest.mark.ros
@pytest.mark.parametrize("value", ["0.15", "1", "1e-1", "2.5e-1", ".5", "+0.5", "0.5e0", "!!float 1"])
def test_a_number_is_one_where_ros_says_so(value: str, tmp_path: Path) -> None:
    pytest.importorskip("rclpy", reason="needs ROS")
    path = tmp_path / "value.yaml"
    path.write_text(f"/**/executor:\n  ros__parameters:\n    max_linear_m_s: {value}\n")
    check_parameter_file(path, "", ["executor"])
    read = as_ros_reads(path, "")["max_linear_m_s"]
    assert isinstance(read, int | float)


def parameters_of(node: Any) -> dict[str, object]:
    return {name: parameter.value for name, parameter in node.get_parameters_by_prefix("").items()}


def as_ros_reads(path: Path, namespace: str) -> dict[str, object]:
    """What rclpy gives an executor out of a file."""
    from rclpy.context import Context
    from rclpy.node import Node

    context = Context()
    context.init(args=["--ros-args", "--params-file", str(path)])
    try:
        bare = Node("executor", namespace=namespace, context=context, use_global_arguments=False)
        own = parameters_of(bare)  # every node's
        bare.destroy_node()
        node = Node("executor", namespace=namespace, context=context,
                    automatically_declare_parameters_from_overrides=True)  # fmt: skip
        values = {name: value for name, value in parameters_of(node).items() if name not in own}
        node.destroy_node()
        return values
    finally:
        context.shutdown()
