"""Reads and writes where people may put a simulated robot, and what is there, seen from above."""

from __future__ import annotations

import array
import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from diagnostic_msgs.msg import DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseWithCovarianceStamped
from nav_msgs.msg import OccupancyGrid
from std_msgs.msg import Header

from vln_ros.datatypes import Float64Array, Pose
from vln_ros.ros.convert import MessageError, pose_from_pose, pose_to_pose, time_from_stamp_ns

INITIAL_POSE_TOPIC = "initialpose"
"""As rviz's "2D Pose Estimate" publishes it."""
MAP_TOPIC = "sim_bridge/map"
PLAN_TOPIC = "sim_bridge/plan"
STARTS_TOPIC = "sim_bridge/starts"
NOT_PUT = "not put there: "
"""How what the world says begins where it has refused a place."""
_STATUS = "starts"
_LONGEST_M = 10_000.0
_FREE, _TAKEN = 0, 100
_UPRIGHT = 0.999


@dataclass(frozen=True)
class Starts:
    """What a world offers.

    Attributes:
        current: id of the start that the robot was put at last.
        here: rooms and things of the loaded scene, for people; empty: nothing is known of them.
        offered: id and name of each start.
    """

    current: str
    here: str
    offered: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class MapArea:
    """The rectangle that a map covers, in metres of ``frame``; ``x_m, y_m`` is its lower left corner."""

    frame: str
    x_m: float
    y_m: float
    width_m: float
    height_m: float


def status_from_starts(starts: Starts) -> DiagnosticStatus:
    values = [KeyValue(key=start, value=name) for start, name in starts.offered]
    return DiagnosticStatus(name=_STATUS, hardware_id=starts.current, message=starts.here, values=values)


def starts_from_status(msg: DiagnosticStatus) -> Starts:
    """Raises MessageError (``no_starts``) for a status of something else."""
    if msg.name != _STATUS:
        raise MessageError("no_starts", f"a status of {msg.name!r}, expected one of {_STATUS!r}")
    return Starts(msg.hardware_id, msg.message, tuple((v.key, v.value) for v in msg.values))


def grid_from_free_space(
    free: npt.NDArray[np.bool_], metres_per_pixel: float, corner: Float64Array, stamp_ns: int, frame_id: str
) -> OccupancyGrid:
    """A map of where the middle of a robot can be.

    Args:
        free: ``[H, W]``, the first row the farthest along y.
        corner: ``[2]`` x, y of the upper left corner, metres.
    """
    rows, columns = free.shape
    msg = OccupancyGrid(header=Header(stamp=time_from_stamp_ns(stamp_ns), frame_id=frame_id))
    msg.info.map_load_time = msg.header.stamp
    msg.info.resolution, msg.info.width, msg.info.height = metres_per_pixel, columns, rows
    msg.info.origin.position.x = float(corner[0])
    msg.info.origin.position.y = float(corner[1]) - rows * metres_per_pixel
    cells = np.where(free[::-1], _FREE, _TAKEN).astype(np.int8)
    msg.data = array.array("b", cells.tobytes())
    return msg


def area_of_grid(msg: OccupancyGrid) -> MapArea:
    """Raises MessageError: ``bad_map``, for one that is turned, empty, endless or no number."""
    info, origin = msg.info, msg.info.origin
    width_m, height_m = info.width * info.resolution, info.height * info.resolution
    values = (origin.position.x, origin.position.y, width_m, height_m)
    if not all(math.isfinite(v) and abs(v) <= _LONGEST_M for v in values) or min(width_m, height_m) <= 0.0:
        raise MessageError("bad_map", f"a map of {width_m} x {height_m} m at {values[:2]}")
    if abs(origin.orientation.w) < _UPRIGHT:
        raise MessageError("bad_map", "the map is turned against its frame")
    return MapArea(msg.header.frame_id.lstrip("/"), *values)


def pose_from_estimate(msg: PoseWithCovarianceStamped, frame: str) -> Pose:
    """Where a robot shall stand, upright, in ``frame``; the covariance says nothing of a simulated one.

    Raises:
        MessageError: as :func:`vln_ros.ros.convert.pose_from_pose`; ``frame``: it is of another one;
            ``not_upright``; ``too_far``.
    """
    named = msg.header.frame_id.lstrip("/")
    if named != frame.lstrip("/"):
        raise MessageError("frame", f"the place is in the frame {named!r}, and the robot's map is {frame!r}")
    pose = pose_from_pose(msg.pose.pose)
    if pose.rotation[2, 2] < _UPRIGHT:
        raise MessageError("not_upright", "the robot stands upright; the orientation must be about z alone")
    if float(np.abs(pose.position).max()) > _LONGEST_M:
        raise MessageError("too_far", f"the place is farther away than {_LONGEST_M:g} m")
    return pose


def estimate_from_pose(pose: Pose, stamp_ns: int, frame_id: str) -> PoseWithCovarianceStamped:
    msg = PoseWithCovarianceStamped(header=Header(stamp=time_from_stamp_ns(stamp_ns), frame_id=frame_id))
    msg.pose.pose = pose_to_pose(pose)
    return msg
