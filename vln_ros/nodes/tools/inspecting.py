"""Parts of the inspector: outputs on demand, the executor's zones, numbers to plot."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import ParameterType
from rcl_interfaces.srv import GetParameters
from rclpy.node import Node
from rclpy.parameter_client import AsyncParameterClient
from rclpy.publisher import Publisher
from rclpy.subscription import Subscription
from rclpy.task import Future
from std_msgs.msg import Float64

from vln_ros.datatypes import ActionChunk, PixelGoal
from vln_ros.evaluation.episode.video import mark_pixel
from vln_ros.ros import qos
from vln_ros.ros.markers import Zones

ZONE_PARAMETERS = ("safety.robot_radius_m", "safety.stop_distance_m", "safety.slow_distance_m")
"""The executor's parameters that are drawn, in the order of :class:`vln_ros.ros.markers.Zones`."""
_STATUS = "vln_ros: "
_PICTURES, _NEAR_NS = 40, 250_000_000


class OnDemand:
    """An output whose inputs are subscribed to only while somebody subscribes to it.

    Args:
        publisher: of the output.
        subscribe: makes the subscriptions to its inputs.
        publish: called at every tick while somebody listens.
    """

    def __init__(
        self, publisher: Publisher, subscribe: Callable[[], list[Subscription]], publish: Callable[[], None]
    ) -> None:
        self.publisher = publisher
        self._subscribe = subscribe
        self._publish = publish
        self._subscriptions: list[Subscription] = []

    def tick(self, node: Node) -> None:
        wanted = self.publisher.get_subscription_count() > 0
        if wanted and not self._subscriptions:
            self._subscriptions = self._subscribe()
        elif not wanted:
            for subscription in self._subscriptions:
                node.destroy_subscription(subscription)
            self._subscriptions = []
        if wanted:
            self._publish()


class ExecutorZones:
    """The executor's radius and distances, asked of it each time they are drawn: they are live."""

    def __init__(self, node: Node) -> None:
        self._client = AsyncParameterClient(node, "executor")
        self._answer: Future | None = None
        self._zones: Zones | None = None

    def get(self) -> Zones | None:
        """The newest answer; None until there is one. Asks for the next. Never waits."""
        if self._answer is not None and self._answer.done():
            response: GetParameters.Response | None = self._answer.result()
            values = response.values if response is not None else []
            if len(values) == len(ZONE_PARAMETERS) and all(
                v.type == ParameterType.PARAMETER_DOUBLE for v in values
            ):
                self._zones = Zones(*(v.double_value for v in values))
            self._answer = None
        if self._answer is None and self._client.services_are_ready():
            self._answer = self._client.get_parameters(list(ZONE_PARAMETERS))
        return self._zones


class AnsweredPicture:
    """The picture that was answered with a pixel, with the pixel, until the next answer.

    Of the pictures of the last seconds: an answer is about one that came before it. Where that one was not
    drawn (fewer are drawn than come), the nearest one within a quarter of a second is shown.
    """

    def __init__(self) -> None:
        self._recent: deque[tuple[int, npt.NDArray[np.uint8]]] = deque(maxlen=_PICTURES)
        self.picture: npt.NDArray[np.uint8] | None = None
        self.pixel: PixelGoal | None = None

    def shown(self, stamp_ns: int, rgb: npt.NDArray[np.uint8]) -> None:
        """The next picture that is drawn."""
        self._recent.append((stamp_ns, rgb))

    def told(self, chunk: ActionChunk) -> None:
        """The next queue."""
        if chunk.goes_on:
            return
        self.picture, self.pixel = None, chunk.pixel_goal
        pixel = self.pixel
        if pixel is None or not self._recent:
            return
        stamp_ns, rgb = min(self._recent, key=lambda r: abs(r[0] - pixel.stamp_ns))
        if abs(stamp_ns - pixel.stamp_ns) <= _NEAR_NS:
            self.picture = mark_pixel(rgb, pixel.row, pixel.column)


class DiagnosticPlots:
    """Every number on /diagnostics of this robot's nodes as a topic of its own, for rqt_plot."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publishers: dict[str, Publisher] = {}
        node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            mine = status.hardware_id in ("", self._node.get_namespace())
            if not mine or not status.name.startswith(_STATUS):
                continue
            for item in status.values:
                try:
                    value = float(item.value)
                except ValueError:
                    continue
                self._publish(f"{status.name.removeprefix(_STATUS)}/{topic_name(item.key)}", value)

    def _publish(self, name: str, value: float) -> None:
        if name not in self._publishers:
            topic = f"~/plot/{name}"
            self._publishers[name] = self._node.create_publisher(Float64, topic, qos.diagnostics())
        if self._publishers[name].get_subscription_count():
            self._publishers[name].publish(Float64(data=value))


def topic_name(key: str) -> str:
    """A diagnostics key as a topic name: ``decide p50 [ms]`` is ``decide_p50_ms``."""
    name = re.sub(r"[^a-z0-9]+", "_", key.lower()).strip("_")
    return name if name[:1].isalpha() else f"n_{name}"
