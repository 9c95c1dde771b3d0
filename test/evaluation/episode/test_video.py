"""Video frames and maps: what a viewer must be able to see is there, and files decode."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    Float64Array,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
)
from vln_ros.evaluation.episode.maps import draw_map
from vln_ros.evaluation.episode.metrics import EpisodeMetrics
from vln_ros.evaluation.episode.record import (
    END_FRAMES,
    EpisodeInfo,
    EpisodeRecord,
    EpisodeRecorder,
    Step,
    verdict,
)
from vln_ros.evaluation.episode.video import Overlay, VideoWriter, annotate, colourise_depth, mark_pixel

QUEUE = (Action(forward_m=0.25), Action(turn_rad=0.26), Action(turn_rad=-0.26), STOP)
RGB = np.full((48, 64, 3), 128, np.uint8)
DEPTH = np.full((48, 64), 2.0, np.float32)
ACTIVE = (43, 125, 233)


def overlay(executing: int | None = 0, instruction: str = "Go.", collided: bool = False) -> Overlay:
    return Overlay(
        instruction=instruction, actions=QUEUE, executing=executing, step=3, time_s=1.5, collided=collided
    )


def test_video_decodes_with_every_frame_in_order(tmp_path: Path) -> None:
    path = tmp_path / "video.mp4"
    shades = [20, 90, 160, 230, 60]
    with VideoWriter(path, 4.0) as writer:
        for shade in shades:
            writer.add(annotate(np.full((48, 64, 3), shade, np.uint8), DEPTH, overlay()))
            assert not path.exists()  # only a whole video has the name
    assert writer.frames == len(shades)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert float(stream.average_rate or 0) == 4.0
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert [int(f[100:200, 100:200].mean()) for f in decoded] == pytest.approx(shades, abs=4)
    assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")  # starts before it is loaded


def test_an_unfinished_video_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "v.mp4", 4.0) as writer:
        writer.add(annotate(RGB, None, overlay()))
        raise RuntimeError("the simulator died")
    VideoWriter(tmp_path / "empty.mp4", 4.0).close()
    assert list(tmp_path.iterdir()) == []


def test_frames_of_another_size_are_refused(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "v.mp4", 4.0) as writer:
        writer.add(np.zeros((20, 20, 3), np.uint8))
        with pytest.raises(ValueError, match="22x20"):
            writer.add(np.zeros((20, 22, 3), np.uint8))
    with pytest.raises(ValueError, match="even"):
        VideoWriter(tmp_path / "w.mp4", 4.0).add(np.zeros((21, 20, 3), np.uint8))
    with pytest.raises(ValueError, match="fps"):
        VideoWriter(tmp_path / "w.mp4", 0.0)


def blue_columns(frame: np.ndarray) -> np.ndarray:
    return np.flatnonzero((frame[330:] == ACTIVE).all(axis=2).any(axis=0))


def test_the_executing_action_is_highlighted() -> None:
    where = [blue_columns(annotate(RGB, DEPTH, overlay(n))) for n in range(3)]
    assert where[0].max() < where[1].min() and where[1].max() < where[2].min()
    assert len(blue_columns(annotate(RGB, DEPTH, overlay(None)))) == 0


def test_collisions_and_missing_depth_show() -> None:
    plain = annotate(RGB, DEPTH, overlay())
    assert (annotate(RGB, DEPTH, overlay(collided=True)) != plain)[:320, :320].any()
    no_depth = annotate(RGB, None, overlay())
    assert no_depth.shape == plain.shape and (no_depth != plain)[:320, plain.shape[1] // 2 :].any()


def test_depth_colours() -> None:
    depth = np.array([[0.0, np.nan, np.inf, -1.0, 0.01, 3.0, 6.0, 99.0]], np.float32)
    colours = colourise_depth(depth, 6.0)[0].astype(int)
    assert (colours[:4] == 0).all() and (colours[4:].sum(axis=1) > 0).all()
    assert colours[4, 2] > colours[4, 0] and colours[6, 0] > colours[6, 2]  # near blue, far red
    assert (colours[6] == colours[7]).all() and (colours[5] != colours[6]).any()


@settings(deadline=None, max_examples=30)
@given(st.text(max_size=400), st.integers(0, 12), st.sampled_from([(48, 64), (60, 40), (30, 120), (9, 7)]))
def test_any_text_and_any_camera_gives_an_even_frame(text: str, n: int, size: tuple[int, int]) -> None:
    rgb = np.zeros((*size, 3), np.uint8)
    actions = (Action(forward_m=0.25),) * n
    frame = annotate(
        rgb,
        np.zeros(size, np.float32),
        Overlay(
            instruction=text, actions=actions, executing=0 if n else None, step=1, time_s=0.1, collided=False
        ),
    )
    assert frame.dtype == np.uint8 and frame.shape[0] % 2 == 0 and frame.shape[1] % 2 == 0
    assert 600 <= frame.shape[1] <= 1300


def test_a_huge_instruction_is_cut_not_measured() -> None:
    assert annotate(RGB, DEPTH, overlay(instruction="word " * 200_000)).shape[0] == 456
    assert annotate(RGB, DEPTH, overlay(instruction="x" * 1_000_000)).shape[0] == 456


class Plan:
    """50 px per metre, the world's origin 1 m inside the lower left corner."""

    image = np.full((500, 700, 3), 230, np.uint8)

    def to_pixel(self, xy: Float64Array) -> Float64Array:
        return np.stack([(xy[..., 0] + 1.0) * 50.0, 500.0 - (xy[..., 1] + 1.0) * 50.0], axis=-1)


def record(n: int, goal: bool = True, instruction: str = "Go $x^ to_ the lamp.") -> EpisodeRecord:
    info = EpisodeInfo(
        episode_id="1",
        scene_id="flat",
        instruction=instruction,
        goal=np.array([6.0, 4.0]) if goal else None,
        goal_radius_m=3.0 if goal else None,
        reference_path=np.array([[0.0, 0.0], [6.0, 4.0]]) if goal else None,
    )
    steps = tuple(
        Step.continuous(i * 10**8, Pose.planar(0.2 * i, math.sin(i / 5), 0.1 * i), 0.2, 0.0, i % 9 == 8)
        for i in range(n)
    )
    return EpisodeRecord(
        info=info, steps=steps, decisions=(), ended="step limit", wall_s=1.0, metrics=None, video_frames=0
    )


@pytest.mark.parametrize("plan", [Plan(), None])
@pytest.mark.parametrize(("n", "goal"), [(0, False), (1, False), (1, True), (40, True), (40, False)])
def test_maps_of_any_episode_are_drawn(plan: Plan | None, n: int, goal: bool) -> None:
    figure = draw_map(record(n, goal), plan)
    figure.canvas.draw()
    labels = figure.axes[0].get_legend_handles_labels()[1]
    assert ("goal" in labels) == ("reference" in labels) == goal
    assert ("start" in labels) == (n > 0)
    assert ("collision" in labels) == (n > 8)


def test_the_path_lies_where_the_plan_says() -> None:
    axes = draw_map(record(40), Plan()).axes[0]
    start = next(line for line in axes.lines if line.get_label() == "start")
    assert np.allclose(start.get_xydata(), [[50.0, 450.0]])
    assert axes.yaxis_inverted()
    bare = draw_map(record(40), None).axes[0]
    start = next(line for line in bare.lines if line.get_label() == "start")
    assert np.allclose(start.get_xydata(), [[0.0, 0.0]]) and not bare.yaxis_inverted()


GOAL = (255, 64, 190)


def goal_places(picture: np.ndarray) -> np.ndarray:
    """``[N, 2]`` rows and columns that have the goal's colour."""
    return np.argwhere((np.abs(picture.astype(int) - GOAL) < 40).all(-1))


@pytest.mark.parametrize(("row", "column"), [(10, 20), (0, 0), (47, 63), (24.4, 31.6)])
def test_a_pixel_is_marked_where_it_is(row: float, column: float) -> None:
    marked = mark_pixel(RGB, row, column)
    places = goal_places(marked)
    assert len(places)
    assert np.abs(places - [row, column]).max() < 6
    assert np.abs(places - [row, column]).sum(1).min() <= 1.0, "the pixel itself is coloured"
    assert (RGB == 128).all(), "the picture is another's"


@pytest.mark.parametrize(("row", "column"), [(-5.0, 3.0), (48.0, 3.0), (3.0, 64.0), (3.0, -1.0)])
def test_a_goal_outside_the_picture_is_not_marked(row: float, column: float) -> None:
    assert mark_pixel(RGB, row, column) is RGB


def test_the_goal_and_the_answered_picture_are_in_the_frame() -> None:
    plain = annotate(RGB, DEPTH, overlay())
    assert not len(goal_places(plain))
    with_goal = annotate(RGB, DEPTH, replace(overlay(), goal=(12.0, 48.0)))
    scale = 320 / 48
    assert np.abs(goal_places(with_goal).mean(0) - [12.5 * scale, 48.5 * scale]).max() < scale
    both = annotate(RGB, DEPTH, replace(overlay(), answered=mark_pixel(RGB, 24, 32)))
    rows, columns = goal_places(both).T
    assert rows.min() > 200, "small, in the lower left corner"
    assert columns.max() < 160


def test_a_recorded_answer_marks_the_picture_that_it_is_about(tmp_path: Path) -> None:
    """In lockstep the picture comes before the answer, in a recording with it."""
    place = PlaceGoal(1.0, 0.0, 10, PlaceSource.DEPTH)
    chunk = ActionChunk(2, 1, 10, QUEUE[:1], pixel_goal=PixelGoal(12, 16, 10), place=place)
    recorder = EpisodeRecorder(
        EpisodeInfo(episode_id="e", scene_id="s", instruction="go"), VideoWriter(tmp_path / "v.mp4", 4.0)
    )
    recorder.frame(RGB, DEPTH, 10, None)
    recorder.decision(chunk, 1.0)
    recorder.frame(RGB, DEPTH, 20, 0, (30.0, 40.0))
    recorder.decision(replace(chunk, queue=3, frame_stamp_ns=20, pixel_goal=None), 1.0)  # goes on
    recorder.frame(RGB, DEPTH, 30, 0, (44.0, 40.0))
    recorder.decision(ActionChunk(4, 1, 30, QUEUE[:1]), 1.0)
    recorder.frame(RGB, DEPTH, 40, 0)
    recorder.finish("stop", 1.0, None)
    with av.open(str(tmp_path / "v.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    inset = [len(goal_places(f[220:320, :150])) > 50 for f in frames]
    assert inset[:4] == [False, True, True, False] and len(inset) == 4 + END_FRAMES
    marked = [len(goal_places(f[180:320, 200:330])) > 10 for f in frames]
    assert marked[:4] == [False, True, True, False]


@pytest.mark.parametrize(
    ("success", "ended", "error_m", "said", "colour"),
    [
        (True, "stop", 0.4, "success: stop, 0.40 m from the goal", (26, 143, 75)),
        (False, "step limit", 3.0, "failure: step limit, 3.00 m from the goal", (214, 69, 65)),
        (False, "stop", math.inf, "failure: stop, no way leads to the goal", (214, 69, 65)),
        (None, "end of recording", 0.0, "ended: end of recording", (52, 60, 76)),
    ],
)
def test_the_last_frames_say_how_it_ended(
    tmp_path: Path, success: bool | None, ended: str, error_m: float, said: str, colour: tuple[int, int, int]
) -> None:
    metrics = None
    if success is not None:
        metrics = EpisodeMetrics(
            success=success, spl=0.0, oracle_success=None, navigation_error_m=error_m, path_length_m=1.0,
            ndtw=math.nan, sdtw=math.nan, collisions=0, steps=3,
        )  # fmt: skip
    assert verdict(ended, metrics) == said
    info = EpisodeInfo(episode_id="1", scene_id="flat", instruction="Go.")
    recorder = EpisodeRecorder(info, VideoWriter(tmp_path / "video.mp4", 4.0))
    for n in range(3):
        recorder.frame(RGB, DEPTH, n * 10**9, None)
    record = recorder.finish(ended, 1.0, metrics)
    assert record.video_frames == 3 + END_FRAMES
    with av.open(str(tmp_path / "video.mp4")) as container:
        decoded = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(decoded) == 3 + END_FRAMES
    for number, frame in enumerate(decoded):
        band = frame[140:144, 4:20].reshape(-1, 3).mean(0)
        assert (np.abs(band - colour).max() < 12) == (number >= 3), number


def test_an_episode_without_a_picture_has_no_end_in_pictures(tmp_path: Path) -> None:
    info = EpisodeInfo(episode_id="1", scene_id="flat", instruction="Go.")
    record = EpisodeRecorder(info, VideoWriter(tmp_path / "video.mp4", 4.0)).finish("aborted", 1.0, None)
    assert record.video_frames == 0 and not list(tmp_path.iterdir())
