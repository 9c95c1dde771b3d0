"""A robot that stands: noise is nothing new, everything else is."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from vln_ros.config import StandstillConfig
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.geometry.standstill import Standstill
from vln_ros.sim.embedded.flat import scene_id
from vln_ros.sim.embedded.world import Scene
from vln_ros.training.demonstrations import robot_camera

PERIOD_NS = 33_000_000
SIZE = (320, 240)
Picture = np.ndarray
Noisy = Callable[[Picture, np.random.Generator], Picture]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene(scene_id(5, "small"), 0.18)


def camera() -> CameraModel:
    return robot_camera(*SIZE)[0]


def seen(scene: Scene, turn_deg: float = 0.0, ahead_m: float = 0.0) -> tuple[Picture, Pose]:
    model, extrinsics = robot_camera(*SIZE)
    low, high = np.array(scene.flat.rooms[0].inner).reshape(2, 2)
    place = scene.walkable.nearest((low + high) / 2)
    base = Pose.planar(float(place[0]) + ahead_m, float(place[1]), math.radians(turn_deg))
    optical = base @ extrinsics
    return scene.renderer.render(model, optical)[0], optical


def gauss(sigma: float) -> Noisy:
    def noisy(picture: Picture, rng: np.random.Generator) -> Picture:
        return (picture + rng.normal(0.0, sigma, picture.shape)).round().clip(0, 255).astype(np.uint8)

    return noisy


def shot(picture: Picture, rng: np.random.Generator) -> Picture:
    """Bright pixels are noisier than dark ones."""
    spread = 0.5 + np.sqrt(picture) / 5.0
    noisy: Picture = picture + rng.normal(0.0, 1.0, picture.shape) * spread
    return noisy.round().clip(0, 255).astype(np.uint8)


def jpeg(picture: Picture, rng: np.random.Generator) -> Picture:
    held = io.BytesIO()
    Image.fromarray(gauss(2.0)(picture, rng)).save(held, "jpeg", quality=85)
    decoded: Picture = np.asarray(Image.open(held))
    return decoded


class Stand:
    """Frames of a robot that stands, and then whatever happens."""

    def __init__(self, scene: Scene, noisy: Noisy, **changes: float) -> None:
        self.gate = Standstill(StandstillConfig(enabled=True, **changes))
        self.rng = np.random.default_rng(0)
        self.noisy, self.stamp_ns, self.index = noisy, 0, 0
        self.picture, self.pose = seen(scene)

    def frame(self, picture: Picture | None = None, pose: Pose | None = None) -> Frame:
        self.stamp_ns += PERIOD_NS
        self.index += 1
        rgb = self.noisy(self.picture if picture is None else picture, self.rng)
        optical = pose or self.pose
        # Odometry wanders while the robot stands.
        wander = self.rng.normal(0.0, 0.0003, 3)
        optical = replace(optical, position=optical.position + wander)
        return Frame(self.index, self.stamp_ns, rgb, None, camera(), optical, optical)

    def ask(self, frame: Frame) -> bool:
        """Is there nothing new? What is new is shown."""
        old = self.gate.shows_nothing_new(frame)
        if not old:
            self.gate.show(frame)
        return old

    def settle(self) -> None:
        for _ in range(6):
            self.ask(self.frame())
        self.gate.show(self.frame())


@pytest.mark.parametrize("noisy", [gauss(0.4), gauss(1.0), gauss(2.5), gauss(5.0), shot, jpeg])
def test_noise_is_nothing_new(scene: Scene, noisy: Noisy) -> None:
    stand = Stand(scene, noisy)
    asked = [stand.ask(stand.frame()) for _ in range(300)]
    assert not any(asked[:5])  # the noise is not known yet
    computed = [k for k, old in enumerate(asked) if not old]
    # One whole frame a second, and no more than a few that chance made.
    seconds = 300 * PERIOD_NS / 1e9
    assert seconds + 4 <= len(computed) <= 1.5 * seconds + 6
    assert max(np.diff([*computed, 300])) * PERIOD_NS <= 1_000_000_000 + PERIOD_NS


def test_a_second_is_as_long_as_it_is_said_to_be(scene: Scene) -> None:
    for every_s in (0.0, 0.5, 3.0):
        stand = Stand(scene, gauss(1.5), whole_every_s=every_s)
        stand.settle()
        ages = []
        shown_ns = stand.stamp_ns
        for _ in range(200):
            frame = stand.frame()
            if not stand.ask(frame):
                ages.append((frame.stamp_ns - shown_ns) / 1e9)
                shown_ns = frame.stamp_ns
        assert max(ages) <= max(every_s, 0.0) + PERIOD_NS / 1e9


def moved(picture: Picture) -> Picture:
    return np.roll(picture, 3, 1)


def box(picture: Picture) -> Picture:
    """Something the size of a visual token appears."""
    changed = picture.copy()
    changed[100:132, 150:182] = 255 - changed[100:132, 150:182]
    return changed


def faint(picture: Picture) -> Picture:
    """A shadow on an eighth of the picture."""
    changed = picture.astype(int)
    changed[:, :40] -= 6
    return changed.clip(0, 255).astype(np.uint8)


def checked(picture: Picture) -> Picture:
    """A pattern whose mean is that of what was there."""
    changed = picture.astype(int)
    pattern = np.where(np.indices((64, 64)).sum(0) // 4 % 2, 15, -15)[..., None]
    changed[60:124, 60:124] += pattern
    return changed.clip(0, 255).astype(np.uint8)


def brighter(picture: Picture) -> Picture:
    return (picture * 1.05).clip(0, 255).astype(np.uint8)


def one_colour(picture: Picture) -> Picture:
    """A lamp that changes its colour: the mean over the colours stays."""
    changed = picture.astype(int)
    changed[40:120, 40:120] += [12, 0, -12]
    return changed.clip(0, 255).astype(np.uint8)


def corner(picture: Picture) -> Picture:
    changed = picture.copy()
    changed[-34:, -34:] = 255 - changed[-34:, -34:]
    return changed


@pytest.mark.parametrize("noisy", [gauss(0.5), gauss(2.0), jpeg])
@pytest.mark.parametrize("change", [moved, box, faint, checked, brighter, one_colour, corner])
def test_what_changes_in_the_picture_is_new(
    scene: Scene, noisy: Noisy, change: Callable[[Picture], Picture]
) -> None:
    stand = Stand(scene, noisy)
    stand.settle()
    assert stand.ask(stand.frame())
    assert not stand.ask(stand.frame(change(stand.picture)))


@pytest.mark.parametrize("turn_deg, ahead_m", [(0.4, 0.0), (-3.0, 0.0), (0.0, 0.01), (15.0, 0.25)])
def test_a_robot_that_moves_sees_something_new(scene: Scene, turn_deg: float, ahead_m: float) -> None:
    stand = Stand(scene, gauss(2.0))
    stand.settle()
    picture, pose = seen(scene, turn_deg, ahead_m)
    assert not stand.ask(stand.frame(picture, pose))
    # Also where the odometry says nothing of it, if it can be seen; and where it can not, if it says so.
    stand.settle()
    if abs(turn_deg) >= 3.0:
        assert not stand.ask(stand.frame(picture))
    stand.settle()
    assert not stand.ask(stand.frame(pose=pose))


def test_a_slow_start_is_noticed(scene: Scene) -> None:
    """Every frame is near the one before: what counts is how far it is from what was shown."""
    stand = Stand(scene, gauss(2.0), whole_every_s=60.0)
    stand.settle()
    travelled_m = [0.002 * k for k in range(12)]
    old = [stand.gate.shows_nothing_new(stand.frame(*seen(scene, ahead_m=m))) for m in travelled_m]
    assert old[0] and not any(old[4:])


def test_what_moves_is_not_taken_for_noise(scene: Scene) -> None:
    """Somebody walks through half of the picture; and a camera turns whose odometry is frozen."""
    stand = Stand(scene, gauss(1.0))
    half = stand.picture.copy()
    for k in range(30):
        half[:, 160:] = np.roll(stand.picture, 7 * k, 0)[:, 160:]
        stand.ask(stand.frame(half))
    assert stand.gate.noise == pytest.approx(math.sqrt(2.0), rel=0.25)
    frozen = Stand(scene, gauss(1.0))
    turned = [seen(scene, turn_deg=2.0 * k)[0] for k in range(8)]
    assert not any(frozen.ask(frozen.frame(picture)) for picture in turned)
    # Even that does not spoil it for long.
    frozen.settle()
    for _ in range(30):
        frozen.ask(frozen.frame())
    frozen.gate.show(frozen.frame())
    assert frozen.ask(frozen.frame()) and not frozen.ask(frozen.frame(faint(frozen.picture)))


def test_other_cameras_sizes_clocks_and_runs_are_new(scene: Scene) -> None:
    stand = Stand(scene, gauss(1.0))

    def again() -> Frame:
        stand.settle()
        frame = stand.frame()
        assert stand.gate.shows_nothing_new(frame)
        return stand.frame()

    frame = again()
    assert not stand.gate.shows_nothing_new(replace(frame, camera=replace(camera(), fx=camera().fx + 1.0)))
    frame = again()
    smaller = replace(frame, camera=camera().resized(160, 120), rgb=frame.rgb[::2, ::2])
    assert not stand.gate.shows_nothing_new(smaller)
    frame = again()
    assert not stand.gate.shows_nothing_new(replace(frame, stamp_ns=0))
    frame = again()
    stand.gate.begin()
    assert not stand.gate.shows_nothing_new(frame)
    assert stand.gate.noise is not None  # the camera is the same


def test_equal_pictures_say_nothing_about_noise(scene: Scene) -> None:
    """A simulator's, or those of a driver that sends each one twice."""
    stand = Stand(scene, gauss(2.0))
    frame = stand.frame()
    for _ in range(40):
        stand.stamp_ns += PERIOD_NS
        assert not stand.ask(replace(frame, stamp_ns=stand.stamp_ns))
    assert stand.gate.noise is None
    assert not stand.gate.shows_nothing_new(frame)  # asked twice of one frame
    stand.settle()
    assert stand.ask(stand.frame())
    twice = stand.frame()
    stand.ask(twice)
    stand.ask(replace(twice, stamp_ns=twice.stamp_ns + 1))
    assert stand.ask(stand.frame())


@pytest.mark.parametrize("size", [(16, 12), (31, 33), (640, 480)])
def test_pictures_of_any_size(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    base = rng.integers(60, 200, (*size[::-1], 3)).astype(np.uint8)
    model = robot_camera(*size)[0]
    gate = Standstill(StandstillConfig(enabled=True))
    frames = [
        Frame(k, k, gauss(1.5)(base, rng), None, model, Pose.identity(), Pose.identity()) for k in range(8)
    ]
    for frame in frames[:6]:
        if not gate.shows_nothing_new(frame):
            gate.show(frame)
    assert gate.shows_nothing_new(frames[6])
    other = replace(frames[7], rgb=255 - frames[7].rgb)
    assert not gate.shows_nothing_new(other)
