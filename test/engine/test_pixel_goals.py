"""InternVLA-N1's answers through the engine: turns, stop, the look down and the place that it points at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from dialogue import says
from engine_models import build_small, load_small
from rooms import BOX, FLOOR, WALL, frame_of, pixel_of

from vln_ros.config import LookDownConfig, StreamConfig
from vln_ros.datatypes import ActionChunk, CameraModel, Frame, Instruction
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile, load_profile
from vln_ros.engine.qwen import QwenEngine

N1 = load_profile("internvla-n1-s2")
SMALL = replace(N1, image=replace(N1.image, resize=(56, 56)))
CAMERA = CameraModel.from_hfov(160, 120, math.radians(79))
ROOM = frame_of(FLOOR, WALL, BOX, camera=CAMERA, z_m=0.6, pitch_down_rad=math.radians(10))
WAYS = ("tokens", "free")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_small(build_small(tmp_path_factory.mktemp("checkpoints") / "tiny"))


def engine(
    model: LoadedModel, decode: str = "tokens", profile: Profile = SMALL, **look_down: Any
) -> QwenEngine:
    robot = QwenEngine(
        model,
        profile,
        temperature=0.0,
        seed=0,
        stream=StreamConfig(decode=decode),
        look_down=LookDownConfig(**look_down),
    )
    robot.start(Instruction(1, "Go to the red chair."))
    return robot


def answer(model: LoadedModel, *replies: str, decode: str = "tokens", frame: Frame = ROOM) -> ActionChunk:
    robot = engine(model, decode)
    with says(model, replies):
        robot.observe(frame)
        return robot.decide(1)


def told(chunk: ActionChunk) -> str:
    """What becomes of an answer, in words."""
    if chunk.place is not None:
        x, y = chunk.place.x_m, chunk.place.y_m
        moved = f", {chunk.place.moved_m:.1f} m off" if chunk.place.moved_m else ""
        return f"drives to ({x:.1f}, {y:.1f}) m{moved}"
    if chunk.actions:
        return ", ".join(map(str, chunk.actions)) + (
            f" ({chunk.unconstrained})" if chunk.pixel_goal is not None else ""
        )
    assert chunk.held, "the robot holds and nobody is told why"
    return f"holds: {chunk.held}"


FLOOR_TEXT, BOX_TEXT, WALL_TEXT = (
    f"{p.row} {p.column}"
    for p in (pixel_of(ROOM, 1.5, 0.3, 0.0), pixel_of(ROOM, 2.0, 0.1, 0.3), pixel_of(ROOM, 3.999, 1.5, 1.2))
)
TABLE: tuple[tuple[tuple[str, ...], str], ...] = (
    (("←",), "left 15 deg"),
    (("→→→",), "right 15 deg, right 15 deg, right 15 deg"),
    (("←←←←",), "left 15 deg, left 15 deg, left 15 deg, left 15 deg"),
    (("↑↑",), "forward 25 cm, forward 25 cm"),
    (("←STOP",), "left 15 deg, stop"),
    (("STOP",), "stop"),
    (("↓", FLOOR_TEXT), "drives to (1.5, 0.3) m"),
    (("↓", BOX_TEXT), "drives to (1.7, 0.1) m, 0.3 m off"),
    (("↓", WALL_TEXT), "drives to (3.7, 1.4) m, 0.3 m off"),
    (("↓", "→→"), "right 15 deg, right 15 deg"),
    (("↓", "STOP"), "stop"),
)
"""What the model says, turn by turn, and what the robot does in ``ROOM``."""


@pytest.mark.parametrize("decode", WAYS)
@pytest.mark.parametrize(("replies", "motion"), TABLE)
def test_an_answer_leads_to_its_motion(
    model: LoadedModel, replies: tuple[str, ...], motion: str, decode: str
) -> None:
    assert told(answer(model, *replies, decode=decode)) == motion
