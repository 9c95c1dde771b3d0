"""An episode in lockstep whose model looks down with a second camera, points, and is driven there."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
from dialogue import says
from engine_models import build_small, load_small

from vln_ros.axes import base_from_optical
from vln_ros.config import LookDownConfig, PlaceConfig, StreamConfig
from vln_ros.datatypes import CameraModel, Frame, PixelGoal, PlaceGoal, StepSize
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.decision import DecisionLoop
from vln_ros.engine.qwen import QwenEngine
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.geometry.pixel_goal import PixelGoalRules, place_of_pixel
from vln_ros.motion.place_drive import PlaceDrive
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes

CAMERA = CameraModel.from_hfov(160, 120, math.radians(79))


@pytest.mark.parametrize("tilt_deg", [30.0, None])
def test_it_drives_to_where_the_second_picture_points(tmp_path: Path, tilt_deg: float | None) -> None:
    model = load_small(build_small(tmp_path / "tiny"))
    n1 = load_profile("internvla-n1-s2")
    robot = QwenEngine(
        model,
        replace(n1, image=replace(n1.image, resize=(56, 56))),
        temperature=0.0,
        seed=0,
        stream=StreamConfig(decode="tokens"),
        look_down=LookDownConfig(picture="camera"),
    )
    down = None if tilt_deg is None else base_from_optical(0, 0, 0.6, pitch_down_rad=math.radians(tilt_deg))
    world = EmbeddedWorld(CAMERA, base_from_optical(0, 0, 0.6), base_from_look_down=down)
    episode = make_episodes("val_seen", 1)[0]
    run = EpisodeRun(
        world,
        episode,
        start_ns=0,
        step_period_ns=500_000_000,
        limits=EpisodeLimits(60),
        recorder=EpisodeRecorder(episode_info(episode), None),
    )
    begin = world.pose
    goal = PixelGoal(40, 80, 0)
    expected = None
    if down is not None:
        rgb, depth_m = world.render_look_down()
        frame = Frame(0, 0, rgb, depth_m, CAMERA, begin, begin @ down)
        expected = place_of_pixel(goal, frame, PixelGoalRules.of(PlaceConfig()))
    drive = PlaceDrive(PlaceConfig(), StepSize(0.25, math.radians(15)))
    with says(model, ("↓", "40 80", "STOP")):
        run_lockstep(run, DecisionLoop(robot, "progress", 0, 10**9, drive), 1)
    record = run.finish()
    chunk = record.decisions[0].chunk
    if expected is None:
        assert run.ended == "hold" and chunk.held is not None and "look_down.picture" in chunk.held
        return
    assert isinstance(expected, PlaceGoal)
    assert chunk.pixel_goal == goal and chunk.place == expected
    assert run.ended == "stop"
    assert expected.distance_m(world.pose) < expected.distance_m(begin)
    assert robot.figures()["pixel goals"] == 1
