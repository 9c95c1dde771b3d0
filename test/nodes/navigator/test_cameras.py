"""Frames of a robot whose cameras are not ideal, against rays cast from where an ideal one would be."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from vln_ros.config import CameraConfig, LensName, NavigatorConfig, SensorsConfig, from_flat
from vln_ros.datatypes import Frame, Pose
from vln_ros.geometry.correspondence import TokenGrid, correspond
from vln_ros.nodes.navigator.cameras import CameraPair, ImageMsg, frame_of
from vln_ros.ros import convert
from vln_ros.ros.convert import MessageError
from vln_ros.ros.extrinsics import FixedExtrinsics, depth_extrinsics_of, extrinsics_of
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.sensors import SensorRig
from vln_ros.sim.splits import first_seeds, make_scene_episodes
from vln_ros.sim.worlds import camera_and_extrinsics
from vln_ros.sync.aligner import Aligned

pytestmark = pytest.mark.ros

SIZE = CameraConfig(width=320, height=240)
GRID = TokenGrid(8, 11)
"""Tokens of 28 to 30 pixels, as the model's."""
STEPS = [Pose.identity(), Pose.planar(0.2, 0.0, 0.0), Pose.planar(0.3, 0.1, math.radians(12.0))]
NAVIGATOR = {"extrinsics": "parameters", "color_topic": "camera/color/image_raw"}


@pytest.fixture(scope="module")
def world() -> EmbeddedWorld:
    made = EmbeddedWorld(*camera_and_extrinsics(SIZE))
    episode = make_scene_episodes("val_unseen", first_seeds("val_unseen", 1)[0])[0]
    made.load(episode.scene_id)
    made.place(episode.start)
    return made


class Robot:
    """What its drivers publish, taken apart again as the navigator does it."""

    def __init__(self, world: EmbeddedWorld, sensors: SensorsConfig, **navigator: object) -> None:
        self.world = world
        self.rig = SensorRig(world, sensors)
        own = sensors.depth == "own"
        options = {
            **NAVIGATOR,
            "depth_camera_info_topic": "camera/depth/camera_info" if own else "",
            "depth_camera.y_m": sensors.depth_left_m if own else 0.0,
            **navigator,
        }
        self.config = from_flat(NavigatorConfig, options)  # type: ignore[arg-type]
        self.cameras = CameraPair(
            self.config,
            FixedExtrinsics(extrinsics_of(self.config)),
            FixedExtrinsics(depth_extrinsics_of(self.config)),
        )
        self.cameras.take_color_info(convert.info_from_lens(self.rig.color, 1, "color"))
        if self.rig.depth is not None and self.config.depth_camera_info_topic:
            self.cameras.depth.take(convert.info_from_lens(self.rig.depth, 1, "depth"))

    def frame(self, index: int = 0, compression: str = "") -> Frame:
        rgb, depth_m = self.rig.take(*self.world.render())
        depth_frame = "color" if self.rig.depth is None else "depth"
        depth: ImageMsg = convert.image_from_depth(depth_m, 1, depth_frame)
        if compression:
            depth = convert.compressed_from_depth(depth_m, 1, depth_frame, compression)
        color = convert.image_from_rgb(rgb, 1, "color")
        raw = self.cameras.raw_frame(Aligned(1 + index, color, depth, self.world.pose))
        assert raw is not None
        return frame_of(raw, index)


def ideal(world: EmbeddedWorld, index: int = 0) -> Frame:
    rgb, depth_m = world.render()
    pose = world.pose
    return Frame(index, 1 + index, rgb, depth_m, world.camera, pose, pose @ world.base_from_optical)


LENSES: list[LensName] = ["none", "plumb_bob", "rational_polynomial", "equidistant"]
SENSORS = [
    *(SensorsConfig(distortion=lens) for lens in LENSES),
    *(SensorsConfig(distortion=lens, depth="own") for lens in LENSES),
    SensorsConfig(depth="own", depth_width=320, depth_height=240, depth_hfov_deg=79.0, depth_left_m=0.0),
    SensorsConfig(depth="own", depth_width=160, depth_height=120, depth_hfov_deg=79.0, depth_left_m=0.0),
    SensorsConfig(depth="own", depth_width=640, depth_height=400, depth_hfov_deg=95.0, depth_left_m=-0.08),
]


def name_of(sensors: SensorsConfig) -> str:
    return f"{sensors.distortion}-{sensors.depth}-{sensors.depth_width}-{sensors.depth_left_m}"


@pytest.mark.parametrize("sensors", SENSORS, ids=name_of)
def test_depth_is_what_an_ideal_camera_would_have_measured(
    world: EmbeddedWorld, sensors: SensorsConfig
) -> None:
    frame, truth = Robot(world, sensors).frame(), ideal(world)
    assert frame.camera == truth.camera
    assert frame.depth_m is not None
    assert truth.depth_m is not None
    measured = frame.depth_m > 0.0
    off = np.abs(frame.depth_m - truth.depth_m)[measured] / truth.depth_m[measured]
    # Beside an edge a reading of the next pixel is right there, and far off here.
    assert np.median(off) < 0.004
    assert (off < 0.02).mean() > 0.97
    assert measured.mean() > 0.7


@pytest.mark.parametrize("lens", LENSES)
def test_colour_is_what_an_ideal_camera_would_have_seen(world: EmbeddedWorld, lens: LensName) -> None:
    frame, truth = Robot(world, SensorsConfig(distortion=lens)).frame(), ideal(world)
    seen = frame.rgb.any(-1)
    off = np.abs(frame.rgb.astype(int) - truth.rgb)[seen]
    assert np.median(off) <= 3
    assert seen.mean() > 0.8
    if lens == "none":
        assert np.array_equal(frame.rgb, truth.rgb)
    else:  # and not as it was taken
        bent = world.look(Robot(world, SensorsConfig(distortion=lens)).rig.color, world.base_from_optical)[0]
        assert np.abs(frame.rgb.astype(int) - bent)[seen].mean() > 2.0 * off.mean()


@pytest.mark.parametrize("sensors", SENSORS, ids=name_of)
def test_tokens_are_found_within_half_a_token_of_where_rays_say(
    world: EmbeddedWorld, sensors: SensorsConfig
) -> None:
    """What reuse goes by: of every token that is found, where its content was in the frame before."""
    robot, start = Robot(world, sensors), world.pose
    try:
        frames = []
        for index, step in enumerate(STEPS):
            world.place(start @ step)
            frames.append((robot.frame(index), ideal(world, index)))
    finally:
        world.place(start)
    for (before, _), (after, truth) in itertools.pairwise(frames):
        found = correspond(after, [before], GRID, depth_tolerance=0.05)
        there = np.flatnonzero(found.found)
        assert len(there) > GRID.count / 3
        assert truth.depth_m is not None
        u, v = found.anchors.pixel[there].astype(int).T
        camera, depth_m = truth.camera, truth.depth_m[v, u].astype(float)
        points = np.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, np.ones(len(u))], 1)
        x, y, z = (
            (before.odom_from_optical.inverse() @ after.odom_from_optical)
            .transform(points * depth_m[:, None])
            .T
        )
        pixel = np.stack([camera.fx * x / z + camera.cx, camera.fy * y / z + camera.cy], 1)
        moved = (pixel - found.anchors.pixel[there]) * GRID.per_pixel(camera)
        expected = GRID.middles()[there] + moved
        row, column = np.divmod(found.token[there], GRID.columns)
        said = np.stack([column + 0.5, row + 0.5], 1) + found.offset[there]
        off = np.abs(said - expected).max(1)
        assert (off < 0.5).mean() > 0.98, "an anchor on an edge may take the other side's depth"
        assert np.median(off) < 0.05


@pytest.mark.parametrize("compression", ["png", "rvl"])
def test_compressed_depth_is_registered_as_well(world: EmbeddedWorld, compression: str) -> None:
    robot = Robot(world, SensorsConfig(depth="own", distortion="plumb_bob"))
    plain, packed = robot.frame().depth_m, robot.frame(compression=compression).depth_m
    assert plain is not None
    assert packed is not None
    assert (np.abs(plain - packed) <= 6e-4).mean() > 0.999


def test_depth_that_is_registered_to_the_rectified_image_is_told_by_its_name(world: EmbeddedWorld) -> None:
    """Colour is the raw one. Its own P says where depth is."""
    robot = Robot(world, SensorsConfig(distortion="plumb_bob"), depth_topic="depth_registered/image_rect")
    info = convert.info_from_lens(robot.rig.color, 1, "color")
    info.p = [*np.multiply(info.p, 0.8)]
    info.p[2], info.p[6], info.p[10] = info.k[2], info.k[5], 1.0
    robot.cameras.take_color_info(info)
    view = robot.cameras.raw_frame(
        Aligned(
            1,
            convert.image_from_rgb(world.render()[0], 1, "color"),
            convert.image_from_depth(world.render()[1], 1, "color"),
            world.pose,
        )
    )
    assert view is not None
    assert view.depth_view is not None
    assert view.depth_view.lens.is_ideal
    assert view.depth_view.lens.camera.fx == pytest.approx(0.8 * world.camera.fx)
    assert np.array_equal(view.depth_view.color_from_depth.matrix, np.eye(4))


REFUSED = [
    ({"depth": "own"}, {"depth_camera_info_topic": ""}, "depth_of_another_frame"),
    ({}, {"depth_camera_info_topic": "camera/depth/camera_info"}, "no_camera_info"),
]


@pytest.mark.parametrize(("sensors", "options", "reason"), REFUSED, ids=["no topic", "nothing on it"])
def test_without_its_calibration_depth_is_refused(
    world: EmbeddedWorld, sensors: dict[str, str], options: dict[str, str], reason: str
) -> None:
    robot = Robot(world, from_flat(SensorsConfig, sensors), **options)
    if reason == "no_camera_info":
        missing = robot.cameras.missing(True)
        assert missing is not None
        assert missing.reason == reason
        assert "camera/depth/camera_info" in str(missing)
        return
    with pytest.raises(MessageError, match="depth_camera_info_topic") as caught:
        robot.frame()
    assert caught.value.reason == reason


def test_depth_of_another_size_is_refused_with_the_remedy(world: EmbeddedWorld) -> None:
    robot = Robot(world, SensorsConfig())
    aligned = Aligned(
        1,
        convert.image_from_rgb(world.render()[0], 1, "color"),
        convert.image_from_depth(np.ones((120, 160), np.float32), 1, "color"),
        world.pose,
    )
    raw = robot.cameras.raw_frame(aligned)
    assert raw is not None
    with pytest.raises(MessageError, match="depth_camera_info_topic") as caught:
        frame_of(raw, 0)
    assert caught.value.reason == "wrong_size"
