"""What the navigator says of itself on /diagnostics."""

from __future__ import annotations

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from ros_endings import lone_node

from vln_ros.config import NavigatorConfig
from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.engine.worker import EngineWorker
from vln_ros.engines import SharedEngines, build_loop
from vln_ros.nodes.navigator.report import NavigatorFigures, health
from vln_ros.nodes.navigator.sensors import SensorInput
from vln_ros.ros.diagnostics import Health, Level

pytestmark = pytest.mark.ros


class Unheard:
    """Nobody is told anything."""

    def on_frame(self, frame: Frame, observe_ms: float) -> None: ...
    def on_chunk(self, chunk: ActionChunk, frame: Frame | None, decide_ms: float) -> None: ...
    def on_bad_frame(self, error: ValueError) -> None: ...
    def on_failure(self, error: BaseException) -> None: ...


def test_simulated_time_that_nobody_tells_is_said() -> None:
    """Whatever is limited by the node's clock would last for ever."""
    config = NavigatorConfig(engine="paced", extrinsics="parameters")
    with lone_node("navigator") as (node, _):
        sensors = SensorInput(node, config, lambda _: None)
        worker = EngineWorker(build_loop(SharedEngines().build(config), config), sensors.decode, Unheard())

        def at(now_ns: int) -> Health:
            return health(NavigatorFigures(), sensors, worker, "", now_ns)

        assert at(10**9).level is Level.OK
        assert at(0).level is Level.WARN
        assert "use_sim_time" in at(0).summary
