"""Publishes a simulated scene from above, and where people may put the robot in it."""

from __future__ import annotations

import numpy as np
from diagnostic_msgs.msg import DiagnosticStatus
from nav_msgs.msg import OccupancyGrid
from rclpy.node import Node
from sensor_msgs.msg import CompressedImage

from vln_ros.protocols import World
from vln_ros.ros import convert, qos
from vln_ros.ros.starts import (
    MAP_TOPIC,
    PLAN_TOPIC,
    STARTS_TOPIC,
    Starts,
    grid_from_free_space,
    status_from_starts,
)
from vln_ros.sim.worlds import free_space_of, plan_of

_JPEG_QUALITY = 90


class PlanTopics:
    """Latched: a map of where the middle of the robot can be, for rviz, a drawing of just that area, and the
    starts.

    Args:
        frame: of the map.
    """

    def __init__(self, node: Node, frame: str) -> None:
        self._frame = frame
        self._map_pub = node.create_publisher(OccupancyGrid, MAP_TOPIC, qos.latched())
        self._plan_pub = node.create_publisher(CompressedImage, PLAN_TOPIC, qos.latched())
        self._starts_pub = node.create_publisher(DiagnosticStatus, STARTS_TOPIC, qos.latched())

    def show(self, world: World, starts: Starts, stamp_ns: int) -> None:
        """The scene that is loaded now."""
        space, plan = free_space_of(world), plan_of(world)
        if space is not None and plan is not None:
            cell_px = round(space.metres_per_pixel / plan.metres_per_pixel)
            missing = [
                cell_px * cells - px for cells, px in zip(space.free.shape, plan.image.shape, strict=False)
            ]
            image = np.pad(plan.image, [(0, missing[0]), (0, missing[1]), (0, 0)], mode="edge")
            self._plan_pub.publish(convert.compressed_from_rgb(image, stamp_ns, self._frame, _JPEG_QUALITY))
            self._map_pub.publish(
                grid_from_free_space(space.free, space.metres_per_pixel, space.origin, stamp_ns, self._frame)
            )
        self._starts_pub.publish(status_from_starts(starts))
