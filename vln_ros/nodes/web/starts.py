"""Puts a simulated robot where a driver wants it. Of a robot that is not simulated nothing of this exists."""

from __future__ import annotations

import time
from collections.abc import Callable

from diagnostic_msgs.msg import DiagnosticStatus
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid
from rcl_interfaces.srv import SetParameters
from rclpy.client import Client
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.publisher import Publisher
from rclpy.task import Future
from sensor_msgs.msg import CompressedImage

from vln_ros.datatypes import Pose
from vln_ros.ros import convert, qos
from vln_ros.ros.starts import (
    INITIAL_POSE_TOPIC,
    MAP_TOPIC,
    NOT_PUT,
    PLAN_TOPIC,
    STARTS_TOPIC,
    MapArea,
    Starts,
    area_of_grid,
    estimate_from_pose,
    starts_from_status,
)
from vln_ros.web import messages
from vln_ros.web.feed import Feed

LOOK_PERIOD_S = 1.0
"""How often one looks whether the world is still there."""
NO_WORLD = f"{NOT_PUT}only a simulated robot can be put somewhere, and no world is there that takes it"


class StartTopics:
    """Shows what the bridge of a world that waits for people offers, and asks it for a place.

    On a robot a message on ``initialpose`` would tell its localisation that it is elsewhere: so this has a
    publisher there only while a simulated world is heard.

    Args:
        node: gets subscriptions, and while a world is there the rest.
        feed: gets what is shown.
        refuse: gets messages that cannot be used.
    """

    def __init__(self, node: Node, feed: Feed, refuse: Callable[[convert.MessageError], None]) -> None:
        self._node, self._feed, self._refuse = node, feed, refuse
        self._area: MapArea | None = None
        self._pose_pub: Publisher | None = None
        self._parameters: Client | None = None
        self._asked: Future | None = None
        self._looked_s = time.monotonic()
        node.create_subscription(OccupancyGrid, MAP_TOPIC, self._on_map, qos.latched())
        node.create_subscription(CompressedImage, PLAN_TOPIC, self._on_plan, qos.latched())
        node.create_subscription(DiagnosticStatus, STARTS_TOPIC, self._on_starts, qos.latched())

    def put(self, pose: Pose, who: str) -> None:
        """In the frame of the map. The world says what came of it."""
        if self._pose_pub is None or self._area is None or not self._pose_pub.get_subscription_count():
            self._feed.note("refused", NO_WORLD)
            return
        self._node.get_logger().info(f"{who} puts the robot elsewhere")
        now_ns = self._node.get_clock().now().nanoseconds
        self._pose_pub.publish(estimate_from_pose(pose, now_ns, self._area.frame))

    def begin(self, start: str, who: str) -> None:
        """By the id of a start. The world says what came of it."""
        if self._parameters is None or not self._parameters.service_is_ready():
            self._feed.note("refused", NO_WORLD)
            return
        self._node.get_logger().info(f"{who} puts the robot at the start {start!r}")
        self._forget_request()
        request = SetParameters.Request(parameters=[Parameter("episode", value=start).to_parameter_msg()])
        self._asked = self._parameters.call_async(request)
        self._asked.add_done_callback(self._on_answer)

    def tick(self) -> None:
        """Where the world has gone, nobody is offered a place in it any more."""
        now_s = time.monotonic()
        if self._pose_pub is None or now_s - self._looked_s < LOOK_PERIOD_S:
            return
        self._looked_s = now_s
        if self._node.count_publishers(STARTS_TOPIC):
            return
        self._forget_request()
        self._node.destroy_publisher(self._pose_pub)
        if self._parameters is not None:
            self._node.destroy_client(self._parameters)
        self._pose_pub = self._parameters = self._area = None
        self._feed.put(messages.Starts("", "", ()))
        self._feed.put(messages.WorldMap(0.0, 0.0, 0.0, 0.0))

    def _on_map(self, msg: OccupancyGrid) -> None:
        try:
            self._area = area = area_of_grid(msg)
        except convert.MessageError as error:
            self._refuse(error)
            return
        self._feed.put(messages.WorldMap(area.x_m, area.y_m, area.width_m, area.height_m))

    def _on_plan(self, msg: CompressedImage) -> None:
        jpeg = bytes(msg.data)
        if not jpeg.startswith(b"\xff\xd8"):
            self._refuse(convert.MessageError("unsupported_encoding", "the plan of the world is no JPEG"))
            return
        self._feed.put_picture(messages.PLAN_PICTURE, 0, jpeg)

    def _on_starts(self, msg: DiagnosticStatus) -> None:
        try:
            starts: Starts = starts_from_status(msg)
        except convert.MessageError as error:
            self._refuse(error)
            return
        if self._pose_pub is None:
            self._pose_pub = self._node.create_publisher(
                PoseWithCovarianceStamped, INITIAL_POSE_TOPIC, qos.commands()
            )
            self._parameters = self._node.create_client(SetParameters, "sim_bridge/set_parameters")
        self._feed.put(messages.Starts(starts.current, starts.here, starts.offered))

    def _on_answer(self, future: Future) -> None:
        if future is not self._asked:
            return
        response = future.result()
        for result in response.results if response is not None else ():
            if not result.successful:
                self._feed.note("refused", f"{NOT_PUT}{result.reason}")

    def _forget_request(self) -> None:
        if self._parameters is not None and self._asked is not None and not self._asked.done():
            self._parameters.remove_pending_request(self._asked)
        self._asked = None
