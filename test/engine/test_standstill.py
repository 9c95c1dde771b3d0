"""An engine whose robot stands: frames with nothing new cost nothing, and the answers do not change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from torch import Tensor

from vln_ros.config import StandstillConfig, StreamConfig
from vln_ros.datatypes import Action, ActionChunk, CameraModel, Executed, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile, load_profile
from vln_ros.engine.inputs.tower import Encode
from vln_ros.engine.inputs.vision import FIXED_SHAPES, Forwards, VisionEncoder
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.stream.plug import Plug
from vln_ros.engine.stream.segments import Image

PERIOD_NS = 100_000_000
CAMERA = CameraModel(64, 64, 60.0, 60.0, 32.0, 32.0)
NAMES = ("navida", "internvla-n1-s2", "tiny", "activevln-r2r")


def of(name: str, **context: object) -> Profile:
    profile = load_profile(name)
    return replace(
        profile,
        image=replace(profile.image, resize=(56, 56)),
        context=replace(profile.context, **context),  # type: ignore[arg-type]
    )


def video() -> Profile:
    return of(
        "tiny",
        strategy="delayed_batch",
        unasked_frames=None,
        recent_frames=3,
        important_frames=3,
        important_score=0.6,
    )


class Seen(Plug):
    """The frames that the engine was shown, and those that it was to compute whole."""

    def __init__(self) -> None:
        self.frames: list[Frame] = []
        self.wanted: list[int] = []

    def on_frame(self, frame: Frame, image: Image) -> None:
        self.frames.append(frame)

    def want_whole(self) -> None:
        self.wanted.append(len(self.frames))


class Robot:
    """Frames of one place after the other, each with the camera's noise."""

    def __init__(self, model: LoadedModel, profile: Profile, *, on: bool, every_s: float = 1.0) -> None:
        options = StreamConfig(
            min_allowed=0.0, standstill=StandstillConfig(enabled=on, whole_every_s=every_s)
        )
        self.encoded = 0
        """Passes of the vision tower."""
        forwards = Forwards(self._counting_tower, FIXED_SHAPES.run_chunk)
        self.engine = QwenEngine(model, profile, temperature=0.0, seed=0, stream=options, forwards=forwards)
        self.seen = Seen()
        self.engine.session.plugs = (self.seen,)
        self.engine.start(Instruction(1, "go to the red lamp"))
        self.index = -1

    def _counting_tower(self, model: LoadedModel) -> Encode:
        tower = FIXED_SHAPES.tower(model)

        def encode(pictures: Tensor) -> Tensor:
            self.encoded += 1
            return tower(pictures)

        return encode

    def see(self, place: int = 0, noise: float = 1.5) -> Frame:
        self.index += 1
        base = np.random.default_rng(place).integers(60, 200, (8, 8, 3)).repeat(8, 0).repeat(8, 1)
        noisy = base + np.random.default_rng([9, self.index]).normal(0.0, noise, base.shape)
        pose = Pose.planar(0.5 * place, 0.0, 0.0)
        rgb = noisy.round().clip(0, 255).astype(np.uint8)
        frame = Frame(self.index, self.index * PERIOD_NS, rgb, None, CAMERA, pose, pose)
        self.engine.observe(frame)
        return frame


def same(one: ActionChunk, other: ActionChunk) -> bool:
    return (one.actions, one.frame_stamp_ns) == (other.actions, other.frame_stamp_ns)


@pytest.mark.parametrize("name", ["navida", "internvla-n1-s2"])
def test_standing_costs_one_frame_a_second(model: LoadedModel, name: str) -> None:
    """A history looks at every frame that comes; most of these show nothing new."""
    robot = Robot(model, of(name), on=True)
    for _ in range(51):
        robot.see()
    assert 9 <= robot.encoded <= 12  # five until the noise is known, then one a second
    assert dict(robot.engine.vitals())["frames with nothing new"] == 51 - robot.encoded
    chunk = robot.engine.decide(0)
    assert chunk.frame_stamp_ns == 50 * PERIOD_NS  # the newest one, though it was not looked at
    before = robot.encoded
    robot.see(place=1)
    assert robot.encoded == before + 1
    always = Robot(model, of(name), on=False)
    for _ in range(51):
        always.see()
    assert always.encoded == 51
    assert "frames with nothing new" not in dict(always.engine.vitals())


@pytest.mark.parametrize("name", NAMES)
def test_questions_while_standing_are_answered_anew(model: LoadedModel, name: str) -> None:
    """Behind an answer a turn is due, with the same picture: the decoder works, the vision tower does not."""
    robot = Robot(model, of(name), on=True, every_s=60.0)
    for _ in range(7):
        robot.see()
        robot.engine.decide(0)
    shown, forwards = robot.encoded, robot.engine.forwards
    for queue in range(4):
        robot.see()
        chunk = robot.engine.decide(queue)
        assert chunk.frame_stamp_ns == robot.index * PERIOD_NS
    assert robot.encoded == shown
    assert robot.engine.forwards >= forwards + 4


@pytest.mark.parametrize("name", NAMES)
def test_what_is_decided_is_what_the_picture_shown_last_decides(model: LoadedModel, name: str) -> None:
    """Against an engine that gets the very pixels of that picture in place of the noisy ones."""
    robot, exact = Robot(model, of(name), on=True), Robot(model, of(name), on=False)
    pictures = set()
    for place in (0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 2, 2, 0):
        frame = robot.see(place)
        one = robot.engine.decide(place)
        shown = robot.seen.frames[-1].rgb
        pictures.add(shown.tobytes())
        exact.engine.observe(replace(frame, rgb=shown))
        assert same(one, exact.engine.decide(place))
    assert 3 < len(pictures) < 14


def test_frames_that_are_kept_are_not_kept_twice(model: LoadedModel) -> None:
    robot = Robot(model, of("tiny", unasked_frames="keep"), on=True, every_s=60.0)
    for _ in range(7):
        robot.see()
        robot.engine.work_ahead()
    tokens = robot.engine.session.timeline.tokens
    for _ in range(5):
        robot.see()
        robot.engine.work_ahead()
    assert robot.engine.session.timeline.tokens == tokens
    robot.see(place=3)
    robot.engine.work_ahead()
    assert robot.engine.session.timeline.tokens > tokens


def test_a_blocked_step_is_in_the_history(model: LoadedModel) -> None:
    """The robot was told to go on and could not: nothing new to see, but a primitive was done."""
    robot = Robot(model, of("navida"), on=True, every_s=60.0)
    for _ in range(7):
        robot.see()
    robot.engine.decide(0)
    done: list[Executed] = []
    for _ in range(3):
        done.append(Executed((robot.index + 1) * PERIOD_NS, Action(forward_m=0.25)))
        robot.engine.executed(done)
        robot.see()
        robot.see()
    robot.engine.decide(1)
    shown = [s for s in robot.engine.session.timeline.segments if s.image_id is not None]
    assert len(shown) >= 4


def test_a_new_instruction_is_shown_its_first_frame(model: LoadedModel) -> None:
    robot = Robot(model, of("tiny", unasked_frames="keep"), on=True, every_s=60.0)
    for _ in range(8):
        robot.see()
    shown = len(robot.seen.frames)
    assert shown < 8
    robot.engine.start(Instruction(2, "go to the red lamp"))
    robot.see()
    assert len(robot.seen.frames) == shown + 1
    assert robot.engine.decide(1).frame_stamp_ns == robot.index * PERIOD_NS


def test_a_lack_of_memory_while_a_frame_is_shown_is_made_good(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The frame is tried again, and is not taken for one with nothing new."""
    robot = Robot(model, of("navida"), on=True)
    robot.see()
    fails = [True]
    encode = VisionEncoder.encode

    def failing(self: VisionEncoder, frame: Frame) -> object:
        if fails.pop() if fails else False:
            raise MemoryError
        return encode(self, frame)

    monkeypatch.setattr(VisionEncoder, "encode", failing)
    frame = robot.see(place=1)
    assert not fails
    assert robot.seen.frames[-1].stamp_ns == frame.stamp_ns


def test_collected_frames_are_all_collected(model: LoadedModel) -> None:
    """Where frames are a video, time counts: none is left out."""
    robots = [Robot(model, video(), on=on) for on in (True, False)]
    for robot in robots:
        for _ in range(7):
            robot.see()
    one, other = (robot.engine.decide(0) for robot in robots)
    assert same(one, other)
    totals = [robot.engine.context.selection.total for robot in robots]  # type: ignore[attr-defined]
    assert totals == [7, 7]
    assert "frames with nothing new" not in dict(robots[0].engine.vitals())


def test_the_frame_of_each_second_is_computed_whole_by_reuse_too(model: LoadedModel) -> None:
    """Of what is new, much may be taken over; of what has not changed for a second nothing."""
    robot = Robot(model, of("navida"), on=True)
    for _ in range(31):
        robot.see()
    assert len(robot.seen.wanted) >= 2
    assert robot.seen.wanted[-1] == len(robot.seen.frames) - 1  # asked before the frame is seen
    wanted = len(robot.seen.wanted)
    for place in (1, 2, 3):  # it moves: nothing is overdue
        robot.see(place)
    assert len(robot.seen.wanted) == wanted
