"""What is said in InternVLA-N1's words, and what the robot then does."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vln_ros.axes import base_from_optical
from vln_ros.config import LookDownConfig, PlaceConfig
from vln_ros.config.place import LookDownPicture
from vln_ros.datatypes import STOP, Action, CameraModel, Frame, Instruction, PixelGoal, Pose
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.spoken import SpokenEngine
from vln_ros.geometry.pixel_goal import PixelGoalRules
from vln_ros.protocols import Engine, HasFigures, LooksDown

CAMERA = CameraModel.from_hfov(160, 120, math.radians(79.0))
LEVEL, DOWN = (base_from_optical(0.0, 0.0, 1.25, pitch_down_rad=math.radians(a)) for a in (0.0, 30.0))
FORWARD, LEFT, RIGHT = Action(forward_m=0.25), *(Action(turn_rad=math.radians(a)) for a in (15.0, -15.0))


class Script:
    """Says these texts, one after the other, and notes the pictures that they were said to."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[tuple[int, bool]] = []

    def start(self, instruction: Instruction) -> None:
        self.asked.clear()

    def answer(self, frame: Frame, *, looked_down: bool) -> str:
        self.asked.append((frame.stamp_ns, looked_down))
        return self.texts.pop(0)

    def close(self) -> None:
        self.texts.clear()


def floor(stamp: int, extrinsics: Pose) -> Frame:
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    rays = np.stack([(u - CAMERA.cx) / CAMERA.fx, (v - CAMERA.cy) / CAMERA.fy, np.ones(u.shape)], -1)
    z = (rays @ extrinsics.rotation.T)[..., 2]
    depth = np.where(z < -0.05, 1.25 / np.maximum(-z, 0.05), 0.0).astype(np.float32)
    rgb = np.zeros((CAMERA.height, CAMERA.width, 3), np.uint8)
    return Frame(stamp, stamp, rgb, depth, CAMERA, Pose.identity(), extrinsics)


def engine_of(*texts: str, picture: LookDownPicture = "same") -> tuple[SpokenEngine, Script]:
    script = Script(*texts)
    rules = PixelGoalRules.of(PlaceConfig())
    engine = SpokenEngine(script, load_profile("internvla-n1-s2"), rules, LookDownConfig(picture=picture))
    engine.start(Instruction(4, "go"))
    return engine, script


@pytest.mark.parametrize(
    ("said", "actions"),
    [
        ("←", (LEFT,)),
        ("→→→", (RIGHT,) * 3),
        ("←←←←←←", (LEFT,) * 4),
        ("STOP", (STOP,)),
        ("stop.", (STOP,)),
        ("↑", (FORWARD,)),
        ("→STOP", (RIGHT, STOP)),
    ],
)
def test_actions_are_done(said: str, actions: tuple[Action, ...]) -> None:
    engine, script = engine_of(said)
    engine.observe(floor(10, DOWN))
    chunk = engine.decide(7)
    assert (chunk.queue, chunk.instruction, chunk.frame_stamp_ns) == (7, 4, 10)
    assert chunk.actions == actions
    assert chunk.place is None
    assert script.asked == [(10, False)]


@pytest.mark.parametrize("said", ["100 80", "100, 80", "(100, 80)", " 100  80 "])
def test_a_pixel_that_was_asked_for_becomes_a_place(said: str) -> None:
    engine, script = engine_of("↓", said)
    engine.observe(floor(10, DOWN))
    chunk = engine.decide(2)
    assert chunk.pixel_goal == PixelGoal(100, 80, 10)
    assert chunk.place is not None
    assert 0.7 < chunk.place.x_m < 1.1, "so far ahead is the floor in that row"
    assert abs(chunk.place.y_m) < 0.05
    assert script.asked == [(10, False), (10, True)]
    assert engine.said == ("↓", said)
    assert engine.figures()["pixel goals"] == 1


@pytest.mark.parametrize("said", ["100 80", "100", "go on", "", "↓↓", "↗"])
def test_what_is_neither_is_held_with_what_was_said(said: str) -> None:
    engine, _ = engine_of(said, "nothing")
    engine.observe(floor(10, DOWN))
    chunk = engine.decide(2)
    assert chunk.is_hold or chunk.actions, "nothing is silent"
    if chunk.is_hold:
        assert chunk.held


def test_what_cannot_be_read_in_the_second_turn_is_held() -> None:
    engine, _ = engine_of("↓", "over there")
    engine.observe(floor(10, DOWN))
    chunk = engine.decide(2)
    assert chunk.is_hold
    assert "over there" in (chunk.held or "")


def test_turns_in_the_second_turn_are_done() -> None:
    engine, _ = engine_of("↓", "←←")
    engine.observe(floor(10, DOWN))
    assert engine.decide(2).actions == (LEFT, LEFT)


def test_the_second_camera_is_looked_at_where_it_is_chosen() -> None:
    engine, script = engine_of("↓", "100 80", "↓", "100 80", picture="camera")
    assert engine.wants_look_down
    engine.observe(floor(10_000_000_000, LEVEL))
    held = engine.decide(2)
    assert held.is_hold
    assert "second camera" in (held.held or "")
    engine.look_down(floor(9_000_000_000, DOWN))
    assert engine.decide(3).is_hold, "a second old: that is not where the robot is"
    engine.look_down(floor(9_800_000_000, DOWN))
    script.texts[:] = ["↓", "100 80"]
    chunk = engine.decide(4)
    assert chunk.pixel_goal == PixelGoal(100, 80, 9_800_000_000)
    assert chunk.place is not None
    assert 0.7 < chunk.place.x_m < 1.1, "by the second camera's tilt"
    engine.start(Instruction(5, "stay"))
    engine.observe(floor(10_000_000_000, LEVEL))
    script.texts[:] = ["↓"]
    assert engine.decide(5).is_hold, "a picture of the run before shows nothing of this one"


def test_it_is_an_engine_that_needs_a_frame() -> None:
    engine, _ = engine_of("←")
    with pytest.raises(RuntimeError, match="no frame"):
        engine.decide(2)
    whole: Engine = engine
    assert isinstance(whole, HasFigures)
    assert isinstance(whole, LooksDown)
    assert not engine.wants_look_down
    engine.close()
