"""The navigator's lifecycle through its services: what each state does, what it holds, what it says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rclpy.context import Context
from robots import WaitingNode
from ros_endings import gone_afterwards
from std_msgs.msg import Header

from benchmarks.suites.soak import resident_mb
from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.config import Scalar, TinyConfig
from vln_ros.engine.tiny import build_tiny
from vln_ros.ros import qos

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 60.0


class Operator(WaitingNode):
    """Changes the navigator's state and hears what it says."""

    def __init__(self, context: Context, graph: Graph) -> None:
        super().__init__(context, "operator", deadline_s=DEADLINE_S, graph=graph)
        self.graph = graph
        self.summaries: list[str] = []
        self.beats = 0
        self.create_subscription(DiagnosticArray, "/diagnostics", self._hear, qos.diagnostics())
        self.create_subscription(Header, "navigator_heartbeat", self._beat, qos.commands())
        self._change = self.create_client(ChangeState, "navigator/change_state")
        self._get = self.create_client(GetState, "navigator/get_state")

    def _hear(self, msg: DiagnosticArray) -> None:
        self.summaries += [s.message for s in msg.status if s.name == "vln_ros: navigator"]

    def _beat(self, _: Header) -> None:
        self.beats += 1

    def heard_more_than(self, beats: int) -> bool:
        return self.beats > beats

    def heard(self) -> object:
        return self.summaries[-3:]

    def change(self, transition: int) -> bool:
        return self.call(self._change, ChangeState.Request(transition=Transition(id=transition)))

    @property
    def state(self) -> str:
        return str(self.response(self._get, GetState.Request()).current_state.label)


@contextmanager
def operator(folder: Path, parameters: dict[str, Scalar]) -> Iterator[Operator]:
    context = Context()
    context.init()
    with Graph(folder, graph_environment()) as graph:
        common: dict[str, Scalar] = {"autostart": False, "extrinsics": "parameters", "diagnostics_hz": 10.0}
        graph.start(NodeSpec("navigator", {**common, **parameters}))
        it = Operator(context, graph)
        with gone_afterwards(context, it):
            yield it


def test_cleanup_gives_the_weights_back_and_it_can_be_configured_again(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny", TinyConfig(hidden=576, layers=8, intermediate=1536))
    weights_mb = sum(f.stat().st_size for f in (tmp_path / "tiny").glob("*.safetensors")) / 2**20
    assert weights_mb > 50.0
    checkpoint: dict[str, Scalar] = {"engine": "qwen", "qwen.checkpoint": str(tmp_path / "tiny")}
    with operator(tmp_path / "logs", checkpoint) as it:
        pid = it.graph.pid("navigator")
        assert it.state == "unconfigured"
        loaded, cleaned = [], []
        for _ in range(2):
            assert it.change(Transition.TRANSITION_CONFIGURE)
            assert it.state == "inactive"
            loaded.append(resident_mb(pid))
            beats = it.beats
            assert it.change(Transition.TRANSITION_ACTIVATE)
            it.wait(partial(it.heard_more_than, beats + 2), "no heartbeat")
            assert it.change(Transition.TRANSITION_DEACTIVATE)
            assert it.change(Transition.TRANSITION_CLEANUP)
            assert it.state == "unconfigured"
            cleaned.append(resident_mb(pid))
            beats = it.beats
        for with_weights, without in zip(loaded, cleaned, strict=True):
            # They are mapped: what nothing has asked for yet was never in memory.
            assert with_weights - without > 0.5 * weights_mb, (loaded, cleaned, weights_mb)
        assert cleaned[1] - cleaned[0] < 0.2 * weights_mb, (loaded, cleaned, weights_mb)


def test_a_failed_configure_says_what_to_do_and_can_be_repeated(tmp_path: Path) -> None:
    with operator(tmp_path / "logs", {"engine": "qwen", "qwen.checkpoint": str(tmp_path / "tiny")}) as it:
        assert not it.change(Transition.TRANSITION_CONFIGURE)
        assert it.state == "unconfigured"
        it.wait(lambda: any(str(tmp_path / "tiny") in s for s in it.summaries), "no reason was given")
        build_tiny(tmp_path / "tiny", TinyConfig(layers=2))
        assert it.change(Transition.TRANSITION_CONFIGURE)
        assert it.change(Transition.TRANSITION_ACTIVATE)
        assert it.state == "active"
