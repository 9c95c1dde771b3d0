"""Provides frames for the benches of reuse: generated motions, recordings, pairs with a known truth."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vln_ros.axes import base_from_optical
from vln_ros.config import ConfigError
from vln_ros.datatypes import CameraModel, Float64Array, Frame, Pose
from vln_ros.geometry.correspondence import Correspondence, Fate
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
from vln_ros.sim.embedded.world import Scene

_HIDDEN = 0.05
"""Something that much of the way before a place hides it."""


def _look(
    scene: Scene, camera: CameraModel, extrinsics: Pose, pose: Pose, index: int, stamp_ns: int
) -> Frame:
    """What a camera sees from a pose of the base; ``extrinsics`` is base_from_optical."""
    rgb, depth_m = scene.renderer.render(camera, pose @ extrinsics)
    return Frame(index, stamp_ns, rgb, depth_m, camera, pose, pose @ extrinsics)


def motion_frames(motion: str, count: int) -> list[Frame]:
    """A generated motion in the largest room of the first flat, 640x480 with depth and exact poses.

    It begins in the middle, towards where there is most room.
    """
    camera, extrinsics = (
        CameraModel.from_hfov(640, 480, math.radians(79.0)),
        base_from_optical(0.0, 0.0, 1.25),
    )
    scene = Scene(scene_id(0), AGENT_RADIUS_M)
    x0, y0, x1, y1 = max((r.inner for r in scene.flat.rooms), key=lambda r: (r[2] - r[0]) * (r[3] - r[1]))
    x, y = (float(v) for v in scene.walkable.nearest(np.array([(x0 + x1) / 2, (y0 + y1) / 2])))
    headings = [Pose.planar(x, y, math.radians(30.0) * k) for k in range(12)]
    glance = CameraModel.from_hfov(64, 48, math.radians(79.0))
    start = max(headings, key=lambda p: float(np.median(scene.renderer.render(glance, p @ extrinsics)[1])))
    frames = []
    for index in range(count):
        step = Pose.identity()
        match motion:
            case "pan":
                step = Pose.planar(0.0, 0.0, math.radians(15.0) * index)
            case "forward":
                step = Pose.planar(0.1 * index, 0.0, 0.0)
            case "orbit":
                turn = math.radians(6.0) * index
                step = Pose.planar(1.0 - math.cos(turn), -math.sin(turn), turn)
            case "teleport":
                step = Pose.planar(2.0 * (index % 2), 0.0, math.pi * (index % 2))
        frame = _look(scene, camera, extrinsics, start @ step, index, index * 500_000_000)
        assert frame.depth_m is not None
        if motion == "moving object":  # a red plate of 120 x 160 pixels, 0.8 m ahead, comes from the left
            left = 40 * index
            near = frame.depth_m[160:320, left : left + 120]
            hidden = (near == 0) | (near > 0.8)
            frame.rgb[160:320, left : left + 120][hidden] = (200, 30, 30)
            near[hidden] = 0.8
        frames.append(frame)
    return frames


def bag_frames(path: Path) -> list[Frame]:
    """The frames of a recording that have colour, depth and pose of one stamp."""
    from vln_ros.ros.bag.reader import Bag, BagTopics, Stream

    try:
        from nav_msgs.msg import Odometry
        from rclpy.serialization import deserialize_message
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        from vln_ros.ros import convert
    except ImportError as error:
        raise ConfigError(f"--bag needs ROS's Python packages: {error}") from error
    kinds = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
    found: dict[Stream, dict[int, Any]] = {s: {} for s in Stream}
    camera: CameraModel | None = None
    with Bag(path, BagTopics()) as bag:
        names = bag.frames()
        extrinsics = bag.static_transform(names.base, names.camera)
        if extrinsics is None:
            raise ConfigError(f"bag {path}: nothing on /tf_static connects {names.base} and {names.camera}")
        types = {s: bag.connections[s].msgtype for s in (Stream.COLOR, Stream.DEPTH)}
        for message in bag.messages():
            match message.stream:
                case Stream.CAMERA_INFO:
                    camera = convert.camera_from_info(deserialize_message(message.data, CameraInfo))
                    continue
                case Stream.ODOMETRY:
                    value = deserialize_message(message.data, Odometry)
                case _:
                    value = deserialize_message(message.data, kinds[types[message.stream]])
            found[message.stream][convert.stamp_ns_from_time(value.header.stamp)] = value
    if camera is None:
        raise ConfigError(f"bag {path} has no camera_info")
    stamps = sorted(set.intersection(*(set(found[s]) for s in found if s is not Stream.CAMERA_INFO)))
    frames = []
    for index, stamp in enumerate(stamps):
        colour, depth = found[Stream.COLOR][stamp], found[Stream.DEPTH][stamp]
        rgb = (
            convert.rgb_from_compressed(colour)
            if isinstance(colour, CompressedImage)
            else convert.rgb_from_image(colour)
        )
        depth_m = (
            convert.depth_from_compressed(depth)
            if isinstance(depth, CompressedImage)
            else convert.depth_from_image(depth)
        )
        pose = convert.pose_from_odometry(found[Stream.ODOMETRY][stamp])
        frames.append(Frame(index, stamp, rgb, depth_m, camera, pose, pose @ extrinsics))
    return frames


@dataclass(frozen=True)
class View:
    """Two frames of one scene, some way apart."""

    scene: Scene
    old: Frame
    new: Frame


def random_views(
    seed: int, count: int, camera: CameraModel, *, pitch_down_rad: float, spread_m: float, spread_rad: float
) -> Iterator[View]:
    """Frames anywhere in flat ``seed``, and others near them: through doors, behind furniture, beyond walls.

    Args:
        spread_m, spread_rad: standard deviation of the way and of the turn between the two.
    """
    extrinsics = base_from_optical(0.05, 0.02, 1.25, pitch_down_rad=pitch_down_rad)
    scene, rng = Scene(scene_id(seed), AGENT_RADIUS_M), np.random.default_rng(seed)

    def look(index: int, place: Float64Array, yaw_rad: float) -> Frame:
        base = Pose.planar(float(place[0]), float(place[1]), yaw_rad)
        return _look(scene, camera, extrinsics, base, index, index)

    for index in range(count):
        x0, y0, x1, y1 = scene.flat.rooms[index % len(scene.flat.rooms)].inner
        begin = scene.walkable.nearest(rng.uniform((x0, y0), (x1, y1)))
        end = scene.walkable.nearest(begin + rng.normal(0.0, spread_m, 2))
        yaw_rad = rng.uniform(-math.pi, math.pi)
        yield View(scene, look(0, begin, yaw_rad), look(1, end, yaw_rad + rng.normal(0.0, spread_rad)))


def moves(count: int) -> list[tuple[Frame, Frame]]:
    """Pairs of frames, 640x480, one move of a robot apart, in turn: forward 0.25 m, left 15 degrees, both."""
    camera, extrinsics = (
        CameraModel.from_hfov(640, 480, math.radians(79.0)),
        base_from_optical(0.0, 0.0, 1.25),
    )
    pairs = []
    for index in range(count):
        scene, rng = Scene(scene_id(index // 3), AGENT_RADIUS_M), np.random.default_rng(index)
        x0, y0, x1, y1 = scene.flat.rooms[index % len(scene.flat.rooms)].inner
        x, y = scene.walkable.nearest(rng.uniform((x0, y0), (x1, y1)))
        begin = Pose.planar(float(x), float(y), rng.uniform(-math.pi, math.pi))
        step = Pose.planar(0.25 * (index % 3 != 1), 0.0, math.radians(15.0) * (index % 3 != 0))
        pairs.append(
            (
                _look(scene, camera, extrinsics, begin, 0, 0),
                _look(scene, camera, extrinsics, begin @ step, 1, 1),
            )
        )
    return pairs


@dataclass(frozen=True, eq=False)
class Truth:
    """Accepted correspondences against the rays of the scene; arrays of ``[accepted]``.

    Attributes:
        error: float64, between where the source shows the place and where it was said to, in tokens.
        hidden: bool, something stands before the place in the source.
        occluded: how many tokens were rejected because something does.
    """

    error: Float64Array
    hidden: np.ndarray[Any, np.dtype[np.bool_]]
    occluded: int


def hold_against_rays(view: View, found: Correspondence) -> Truth:
    """What was accepted of ``view.new`` in ``view.old``, and what is true, without depth images."""
    old, new, camera, grid = view.old, view.new, view.new.camera, found.grid
    tokens = np.flatnonzero(found.found)
    pixel = found.anchors.pixel[tokens]
    lens, middle = np.array([camera.fx, camera.fy]), np.array([camera.cx, camera.cy])
    ways = np.concatenate([(pixel - middle) / lens, np.ones((len(tokens), 1))], 1)
    ways = ways @ new.odom_from_optical.rotation.T
    eye = new.odom_from_optical.position
    places = eye + ways * view.scene.renderer.first_hits(eye, ways)[:, None]
    seen = old.odom_from_optical.inverse().transform(places)
    there = lens * seen[:, :2] / seen[:, 2:] + middle
    true = grid.middles()[tokens] + (there - pixel) * grid.per_pixel(camera)
    said = grid.middles()[found.token[tokens]] + found.offset[tokens]
    from_old = view.scene.renderer.first_hits(
        old.odom_from_optical.position, places - old.odom_from_optical.position
    )
    return Truth(np.hypot(*(true - said).T), from_old < 1.0 - _HIDDEN, found.counts()[Fate.OCCLUDED])
