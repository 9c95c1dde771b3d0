"""A node that records: report by service, levels in its diagnostics, a page to scrape, files at the end."""

from __future__ import annotations

import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from vln_ros.config import Scalar

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.context import Context
from robots import WaitingNode
from ros_endings import gone_afterwards
from std_msgs.msg import String
from std_srvs.srv import Trigger

from vln_ros.cli.graph import Graph, NodeSpec, graph_environment
from vln_ros.profiling.files import read_recordings
from vln_ros.ros import qos

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 30.0


@pytest.fixture
def context(monkeypatch: pytest.MonkeyPatch) -> Iterator[Context]:
    for name, value in graph_environment().items():
        monkeypatch.setenv(name, value)
    context = Context()
    context.init()
    yield context
    context.try_shutdown()


def test_a_node_tells_where_its_time_goes(context: Context, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    parameters: dict[str, Scalar] = {
        "engine": "paced",
        "extrinsics": "parameters",
        "profiling.level": "spans",
        "profiling.folder": str(tmp_path / "profiling"),
        "profiling.prometheus_port": port,
    }
    observer = WaitingNode(context, "observer", deadline_s=DEADLINE_S)
    values: dict[str, str] = {}

    def hear(msg: DiagnosticArray) -> None:
        values.update((v.key, v.value) for v in msg.status[0].values)

    observer.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.diagnostics())
    instruction = observer.create_publisher(String, "instruction", qos.latched())
    client = observer.create_client(Trigger, "navigator/profile")

    with gone_afterwards(context, observer), Graph(tmp_path / "logs", graph_environment()) as graph:
        graph.start(NodeSpec("navigator", parameters))
        instruction.publish(String(data="go to the red chair"))
        observer.wait(lambda: "share of rest of instruction [%]" in values, "not in the diagnostics")
        answer = observer.response(client, Trigger.Request())
        assert answer.success
        assert "thread engine: busy" in answer.message
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            assert 'vln_ros_span_total{process="navigator",thread="engine"' in page.read().decode()
    (timings,) = read_recordings(tmp_path / "profiling")
    assert timings.process == "navigator"
    assert timings.count("instruction") == 1
