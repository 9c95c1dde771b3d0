"""Options as parameters of a real node: declared, described, checked, changed while running."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)

from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

from vln_ros.config import ConfigError, group, option
from vln_ros.ros import qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import bind_live_parameters, declare_config

pytestmark = pytest.mark.ros


@dataclass(frozen=True)
class Inner:
    gain: float = option(0.5, "Gain of the loop", unit="1/s", minimum=0.0, maximum=2.0, live=True)
    count: int = option(3, "How many", minimum=1, live=True)


@dataclass(frozen=True)
class Outer:
    mode: str = option("fast", "What to prefer", choices=("fast", "exact"), live=True)
    enabled: bool = option(True, "Whether to run")
    inner: Inner = group(Inner)

    def __post_init__(self) -> None:
        if self.mode == "exact" and self.inner.count > 5:
            raise ConfigError("inner.count: at most 5 when mode is exact")


@pytest.fixture
def make_node() -> Iterator[Callable[..., Node]]:
    context = Context()
    context.init(args=[])
    nodes: list[Node] = []

    def make(*overrides: str, use_overrides: tuple[Parameter, ...] = ()) -> Node:
        arguments = ["--ros-args", *(a for o in overrides for a in ("-p", o))] if overrides else []
        nodes.append(
            Node("tested", context=context, cli_args=arguments, parameter_overrides=list(use_overrides))
        )
        return nodes[-1]

    yield make
    for node in nodes:
        node.destroy_node()
    context.shutdown()


def test_defaults_are_declared_with_their_description(make_node: Callable[..., Node]) -> None:
    node = make_node()
    assert declare_config(node, Outer) == Outer()
    assert node.get_parameter("inner.gain").value == 0.5
    gain = node.describe_parameter("inner.gain")
    assert gain.description == "Gain of the loop [1/s]"
    assert (gain.floating_point_range[0].from_value, gain.floating_point_range[0].to_value) == (0.0, 2.0)
    assert not gain.read_only
    count = node.describe_parameter("inner.count").integer_range[0]
    assert (count.from_value, count.to_value) == (1, 2**63 - 1)
    assert node.describe_parameter("mode").additional_constraints == "one of: fast, exact"
    assert node.describe_parameter("enabled").read_only


def test_overrides_are_read_and_a_whole_number_serves_as_a_float(make_node: Callable[..., Node]) -> None:
    node = make_node("inner.gain:=1", "mode:=exact", "enabled:=false", "use_sim_time:=true")
    assert declare_config(node, Outer) == Outer("exact", False, Inner(gain=1.0))
    assert node.get_parameter("inner.gain").value == 1.0
    assert node.get_parameter("use_sim_time").value is True


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.gian:=1.0", r"tested: unknown parameter 'inner.gian'; did you mean 'inner.gain'"),
        ("zzz:=1.0", r"unknown parameter 'zzz'; known: enabled, inner.count"),
        ("inner.gain:=2.5", r"parameter inner.gain = 2.5: must be in \[0.0, 2.0\] 1/s"),
        ("inner.gain:=.nan", r"inner.gain = nan: must be finite"),
        ("inner.count:=1.5", r"inner.count = 1.5: expected int"),
        ("mode:=slow", r"mode = 'slow': choose one of fast, exact"),
        ("mode:=[1, 2]", r"mode = .*: expected str"),
    ],
)
def test_bad_overrides_are_refused(make_node: Callable[..., Node], override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        declare_config(make_node(override), Outer)


def test_qos_overrides_are_left_to_rclpy(make_node: Callable[..., Node]) -> None:
    name = "qos_overrides./image.subscription.depth"
    node = make_node(use_overrides=(Parameter(name, value=3),))
    assert declare_config(node, Outer) == Outer()


def test_live_changes_reach_the_node_and_bad_ones_are_refused(make_node: Callable[..., Node]) -> None:
    node = make_node("inner.count:=4")
    applied: list[Outer] = []
    bind_live_parameters(node, declare_config(node, Outer), applied.append)

    def change(**values: object) -> tuple[bool, str]:
        parameters = [Parameter(n.replace("__", "."), value=v) for n, v in values.items()]
        result = node.set_parameters_atomically(parameters)
        return result.successful, result.reason

    assert change(inner__gain=1.5) == (True, "")
    assert applied == [Outer(inner=Inner(1.5, 4))]
    for values in ({"inner__gain": 3.0}, {"inner__gain": "x"}, {"enabled": False}, {"mode": "slow"}):
        ok, why = change(**values)
        assert not ok
        assert why
    assert change(mode="exact", inner__count=6) == (False, "inner.count: at most 5 when mode is exact")
    assert len(applied) == 1
    assert node.get_parameter("inner.count").value == 4
    # Changes add up, and one that changes nothing is not handed on.
    assert change(mode="exact", inner__count=5)[0]
    assert change(mode="exact")[0]
    assert applied[1:] == [Outer("exact", True, Inner(1.5, 5))]
    # Parameters of other parts of the node pass.
    assert change(use_sim_time=True)[0]
    assert len(applied) == 2


def test_qos_profiles() -> None:
    camera = qos.sensor("best_effort", 5)
    assert (camera.reliability, camera.depth) == (ReliabilityPolicy.BEST_EFFORT, 5)
    assert qos.sensor("reliable", 1).reliability == ReliabilityPolicy.RELIABLE
    assert camera.durability == qos.commands().durability == DurabilityPolicy.VOLATILE
    assert qos.latched().durability == DurabilityPolicy.TRANSIENT_LOCAL
    for profile in (qos.latched(), qos.commands(), qos.diagnostics()):
        assert profile.reliability == ReliabilityPolicy.RELIABLE
    assert qos.latched().depth == qos.commands().depth == 1
    with pytest.raises(ConfigError, match="best_effort, reliable"):
        qos.sensor("sometimes", 5)
    with pytest.raises(ConfigError, match="depth = 0"):
        qos.sensor("reliable", 0)


def test_diagnostics() -> None:
    health = Health(Level.WARN, "slow", (("latency [ms]", 12.34567), ("drops", 3), ("engine", "qwen")))
    msg = diagnostics_from_health(health, "navigator", "robot", 1_500_000_000)
    assert (msg.header.stamp.sec, msg.header.stamp.nanosec) == (1, 500_000_000)
    (status,) = msg.status
    assert (status.level, status.name, status.message, status.hardware_id) == (
        b"\x01",
        "navigator",
        "slow",
        "robot",
    )
    assert [(v.key, v.value) for v in status.values] == [
        ("latency [ms]", "12.35"),
        ("drops", "3"),
        ("engine", "qwen"),
    ]
