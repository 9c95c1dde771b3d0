"""The Python interface drives as the pipeline does, and says what is missing or out of order."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

import vln_ros
from vln_ros.api.stream import taken_options
from vln_ros.axes import base_from_optical
from vln_ros.config import NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import STOP
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engines import build_engine, build_loop
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes

CPU: dict[str, Scalar] = {"qwen.device": "cpu"}
CAMERA = vln_ros.CameraModel.from_hfov(160, 120, math.radians(79.0))
ACTIONS = 14


def picture(number: int) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(number).integers(0, 256, (120, 160, 3), np.uint8)


@pytest.fixture(scope="module")
def shared() -> Iterator[vln_ros.Stream]:
    with vln_ros.load("shipped:tiny", "tiny", options=CPU) as stream:
        yield stream


@pytest.fixture
def stream(shared: vln_ros.Stream) -> vln_ros.Stream:
    shared.instruct("go to the red door")
    return shared


# ------------------------------------------------------------------ the pipeline's decisions


class Noted(EpisodeRun):
    """An episode that keeps the queues."""

    chunks: list[vln_ros.ActionChunk]

    def decided(self, chunk: vln_ros.ActionChunk, latency_ms: float) -> None:
        self.chunks.append(chunk)
        super().decided(chunk, latency_ms)


def episode_run() -> Noted:
    (episode,) = make_episodes("val_unseen", 1, "room")
    run = Noted(
        EmbeddedWorld(CAMERA, base_from_optical(0.0, 0.0, 1.25)),
        episode,
        start_ns=0,
        step_period_ns=500_000_000,
        limits=EpisodeLimits(ACTIONS),
        recorder=EpisodeRecorder(episode_info(episode), None),
        basic=True,
    )
    run.chunks = []
    return run


@pytest.mark.parametrize("profile", ["tiny", "small-history"])
def test_it_decides_as_the_pipeline(profile: str) -> None:
    pipeline = episode_run()
    # A window of 0: never switched off, which would depend on time.
    options: dict[str, Scalar] = {**CPU, "qwen.reuse.enabled": True, "qwen.reuse.window": 0}
    config = from_flat(
        NavigatorConfig, {**options, "qwen.checkpoint": "shipped:tiny", "qwen.profile": profile}
    )
    engine = build_engine(config)
    run_lockstep(pipeline, build_loop(engine, config), 1)
    engine.close()

    run = episode_run()
    with vln_ros.load(
        "shipped:tiny", profile, run.episode.instruction, camera=CAMERA, options=options
    ) as stream:
        seen = run.observe()
        stream.see(seen.rgb, seen.depth_m, seen.pose, executed=(), stamp_s=seen.stamp_ns / 1e9)
        while run.ended is None:
            run.chunks.append(stream.act())
            for at, seen in enumerate(run.execute(run.chunks[-1])):
                done = [run.chunks[-1].actions[at]]
                stream.see(seen.rgb, seen.depth_m, seen.pose, executed=done, stamp_s=seen.stamp_ns / 1e9)
    assert len(run.chunks) > 2 and run.progress == pipeline.progress
    assert [c.actions for c in run.chunks] == [c.actions for c in pipeline.chunks]
    for mine, theirs in zip(run.chunks, pipeline.chunks, strict=True):
        assert mine.probabilities == pytest.approx(theirs.probabilities, abs=1e-6)
        assert mine.frame_stamp_ns == theirs.frame_stamp_ns


def test_without_poses_every_picture_shows_an_action_done() -> None:
    """A history takes one picture per action: as many with assumed poses as with reported actions."""

    def chances(reports: bool) -> list[tuple[float, ...]]:
        found = []
        number = 0
        with vln_ros.load("shipped:tiny", "small-history", "go to the red door", options=CPU) as stream:
            stream.see(picture(number), executed=() if reports else None)
            for _ in range(4):
                chunk = stream.act()
                found.append(chunk.probabilities)
                for action in chunk.actions:
                    number += 1
                    stream.see(picture(number), executed=[action] if reports else None)
                if stream.ended is not None:
                    break
        return found

    reported = chances(reports=True)
    assert len(reported) > 2
    for a, b in zip(reported, chances(reports=False), strict=True):
        assert a == pytest.approx(b, abs=1e-6)


def test_pil_and_numpy_are_one_picture(stream: vln_ros.Stream) -> None:
    answers = []
    for shown in (picture(1), Image.fromarray(picture(1))):
        stream.instruct("go to the red door")
        stream.see(shown)
        answers.append(stream.act().probabilities)
    assert answers[0] == answers[1] != ()


def test_the_callers_buffer_is_not_kept(stream: vln_ros.Stream) -> None:
    buffer = picture(1)
    stream.see(buffer)
    first = stream.act().probabilities
    stream.instruct("go to the red door")
    stream.see(buffer)
    buffer[:] = 0
    assert stream.act().probabilities == first


# ------------------------------------------------------------------ answers


def test_it_answers_and_the_run_goes_on_as_if_nobody_had_asked(stream: vln_ros.Stream) -> None:
    def run(asks: bool) -> list[tuple[float, ...]]:
        found = []
        stream.instruct("go to the red door")
        for number in range(3):
            stream.see(picture(number))
            if asks:
                said = stream.ask("what is to your left?", ["a door", "a wall", "nothing"])
                assert said.text in ("a door", "a wall", "nothing")
                assert sum(said.probabilities) == pytest.approx(1.0, abs=1e-5)
                assert isinstance(stream.ask("what is to your left?").text, str)
            if stream.ended is None:
                found.append(stream.act().probabilities)
        return found

    assert run(asks=True) == run(asks=False)


@pytest.mark.parametrize(
    ("question", "choices", "said"),
    [
        ("", (), "no words"),
        ("where?", ("here",), "1 choices"),
        ("where?", ("here", "here"), "alike"),
        ("where?", "here", "give a list of answers"),
        ("where?", ["here", 3], "give a list of answers"),
        ("wh\0ere?", (), "control characters"),
        ("where?", ["here", "\ud800"], "a choice is not valid UTF-8"),
        (None, (), "question = None"),
        ("why " * 600, (), "tokens, at most"),
    ],
)
def test_questions_that_are_refused(stream: vln_ros.Stream, question: Any, choices: Any, said: str) -> None:
    stream.see(picture(0))
    with pytest.raises(ValueError, match=said):
        stream.ask(question, choices)
    stream.act()  # and the run goes on


def test_a_choice_is_words_and_ends_nothing(stream: vln_ros.Stream) -> None:
    """As the token that ends an answer it would be most of what the model says."""
    stream.see(picture(0))
    assert stream.ask("where?", ["<|im_end|>", "here"]).probabilities[0] < 0.9


# ------------------------------------------------------------------ order


def test_a_call_while_another_thread_is_in_one(
    stream: vln_ros.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream.see(picture(0))
    inside, go_on = threading.Event(), threading.Event()
    decide = QwenEngine.decide

    def slow(engine: QwenEngine, queue: int) -> vln_ros.ActionChunk:
        inside.set()
        assert go_on.wait(30.0)
        return decide(engine, queue)

    monkeypatch.setattr(QwenEngine, "decide", slow)
    with ThreadPoolExecutor(1) as pool:
        acting = pool.submit(stream.act)
        assert inside.wait(30.0)
        calls: list[Callable[[], object]] = [
            lambda: stream.see(picture(1)), stream.act, stream.close, lambda: stream.instruct("go"),
            lambda: stream.ask("where are you?"),
        ]  # fmt: skip
        try:
            for call in calls:
                with pytest.raises(RuntimeError, match="while another call of this stream is under way"):
                    call()
        finally:
            go_on.set()
        assert acting.result().probabilities
    stream.see(picture(1))  # and then it is this thread's again


def test_calls_out_of_order(shared: vln_ros.Stream) -> None:
    with vln_ros.load("shipped:tiny", "tiny", options=CPU) as fresh:
        for call in (lambda: fresh.see(picture(0)), fresh.act, lambda: fresh.ask("where are you?")):
            with pytest.raises(RuntimeError, match=r"before any instruction.* call instruct"):
                call()
        assert fresh.ended is None and "no instruction yet" in repr(fresh)
        fresh.instruct("go")
        for call in (fresh.act, lambda: fresh.ask("where are you?")):
            with pytest.raises(RuntimeError, match=r"before any picture; call see\(rgb\)"):
                call()
        fresh.see(picture(0))
        fresh.act()
        if fresh.ended is None:
            with pytest.raises(RuntimeError, match="before a new picture"):
                fresh.act()
        assert "'go', 1 pictures" in repr(fresh)
    fresh.close()  # twice is once
    for call in (lambda: fresh.instruct("go"), lambda: fresh.see(picture(0)), fresh.act):
        with pytest.raises(RuntimeError, match=r"after close\(\)"):
            call()
    assert "closed" in repr(fresh)


def test_a_stop_ends_the_run_until_the_next_instruction(
    stream: vln_ros.Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    decide = QwenEngine.decide

    def stopping(engine: QwenEngine, queue: int) -> vln_ros.ActionChunk:
        return replace(decide(engine, queue), actions=(STOP,), probabilities=(1.0,), held=None)

    stream.see(picture(0))
    with monkeypatch.context() as patched:
        patched.setattr(QwenEngine, "decide", stopping)
        assert stream.act().actions == (STOP,)
    assert stream.ended == "stop"
    stream.see(picture(1))  # a robot that still does what comes before the stop
    with pytest.raises(RuntimeError, match=r"has ended \(stop\): call instruct"):
        stream.act()
    assert isinstance(stream.ask("where are you?").text, str)
    stream.instruct("go on")
    assert stream.ended is None
    stream.see(picture(0))
    assert stream.act().probabilities


def test_an_error_of_the_engine_ends_the_run(stream: vln_ros.Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    stream.see(picture(0))
    with monkeypatch.context() as broken:
        broken.setattr(QwenEngine, "decide", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stream.act()
    assert stream.ended is not None and "ZeroDivisionError" in stream.ended
    with pytest.raises(RuntimeError, match=r"ZeroDivisionError.*call instruct"):
        stream.see(picture(1))
    with pytest.raises(RuntimeError, match="call instruct"):
        stream.ask("where are you?")
    stream.instruct("go on")
    stream.see(picture(1))
    assert stream.act().probabilities


@pytest.mark.parametrize("text", ["", "  \n", None, 7, ["go"], b"go", "go\0", "go \ud800", "go " * 2000])
def test_instructions_that_are_none(stream: vln_ros.Stream, text: Any) -> None:
    stream.see(picture(0))
    with pytest.raises(ValueError, match=r"^instruction "):
        stream.instruct(text)
    stream.act()  # of the run before


# ------------------------------------------------------------------ what comes with a picture


def test_a_bad_picture_changes_nothing(stream: vln_ros.Stream) -> None:
    def chances(bad: bool) -> tuple[float, ...]:
        stream.instruct("go to the red door")
        stream.see(picture(0))
        if bad:
            for given in (picture(1)[..., 0], picture(1) / 255.0, None):
                with pytest.raises(ValueError, match=r"^rgb "):
                    stream.see(given)  # type: ignore[arg-type]
        stream.see(picture(2))
        return stream.act().probabilities

    assert chances(bad=True) == chances(bad=False)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"depth": np.ones((120, 160), np.float32)}, "depth without camera in load"),
        ({"pose": (1, 2, 3)}, "^pose is tuple"),
        ({"stamp_s": -1.0}, "stamp_s = -1.0"),
        ({"stamp_s": math.nan}, "stamp_s = nan"),
        ({"stamp_s": "now"}, "stamp_s = 'now'"),
        ({"executed": STOP}, "give a list of actions"),
        ({"executed": "forward"}, "executed holds 'f'"),
        ({"executed": 3}, "give a list of actions"),
        ({"executed": [STOP]}, "nothing was to be done"),
    ],
)
def test_what_comes_with_a_picture_is_checked(stream: vln_ros.Stream, more: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        stream.see(picture(0), **more)
    stream.see(picture(0))


def test_what_came_with_one_picture_comes_with_all() -> None:
    pose = vln_ros.Pose.identity()
    with vln_ros.load("shipped:tiny", "tiny", "go", camera=CAMERA, options=CPU) as stream:
        with pytest.raises(ValueError, match="depth without pose"):
            stream.see(picture(0), np.ones((120, 160), np.float32))
        with pytest.raises(
            ValueError, match=r"rgb has 80 x 60 pixels and camera 160 x 120.*resized\(80, 60\)"
        ):
            stream.see(picture(0)[::2, ::2])
        stream.see(picture(0), None, pose, stamp_s=1.0)
        with pytest.raises(ValueError, match="pose came with the pictures before and is missing now"):
            stream.see(picture(1), stamp_s=2.0)
        with pytest.raises(ValueError, match="stamp_s came with"):
            stream.see(picture(1), None, pose)
        with pytest.raises(ValueError, match=r"stamp_s = 1.0: not after the picture before \(1.0 s\)"):
            stream.see(picture(1), None, pose, stamp_s=1.0)
        stream.act()
        stream.instruct("go on")
        stream.see(picture(0))
        with pytest.raises(ValueError, match="pose is new in this run"):
            stream.see(picture(1), None, pose)
        done = stream.act().actions
        if stream.ended is None:
            stream.see(picture(1))
            with pytest.raises(ValueError, match="executed is new in this run"):
                stream.see(picture(2), executed=done)


def test_reports_go_on_once_begun(stream: vln_ros.Stream) -> None:
    with vln_ros.load("shipped:tiny", "tiny", "go", options=CPU) as mine:
        mine.see(picture(0), executed=())
        chunk = mine.act()
        while mine.ended is not None:
            mine.instruct("go")
            mine.see(picture(5), executed=())
            chunk = mine.act()
        with pytest.raises(ValueError, match="executed is missing"):
            mine.see(picture(1))
        mine.see(picture(1), executed=chunk.actions)


# ------------------------------------------------------------------ loading


@pytest.mark.parametrize(
    ("checkpoint", "profile", "more", "said"),
    [
        ("shiped:tiny", "tiny", {}, "did you mean 'shipped:tiny'"),
        ("shipped:tinny", "tiny", {}, "did you mean 'shipped:tiny'"),
        ("tiny", "tiny", {}, "did you mean 'shipped:tiny'"),
        ("TINY", "tiny", {}, "did you mean 'shipped:tiny'"),
        ("", "tiny", {}, "checkpoint is empty"),
        (None, "tiny", {}, "checkpoint = None"),
        ("/nowhere/at/all", "tiny", {}, "no such directory"),
        ("shipped:tiny", "tinny", {}, "did you mean 'tiny'"),
        ("shipped:tiny", "NAVIDA", {}, "did you mean 'navida'"),
        ("shipped:tiny", "activevln", {}, "did you mean 'activevln-r"),
        ("shipped:tiny", "zzz", {}, "shipped: activevln-r2r"),
        ("shipped:tiny", 3, {}, "profile = 3"),
        ("shipped:tiny", "tiny", {"options": {"qwen.devise": "cpu"}}, "did you mean 'qwen.device'"),
        ("shipped:tiny", "tiny", {"options": {"device": "cpu"}}, "did you mean 'qwen.device'"),
        ("shipped:tiny", "tiny", {"options": {"qwen.checkpoint": "x"}}, "as the argument checkpoint"),
        ("shipped:tiny", "tiny", {"options": {"heartbeat_hz": 3.0}}, "says nothing here"),
        ("shipped:tiny", "tiny", {"options": {"qwen.dtype": "float23"}}, "did you mean 'float32'"),
        ("shipped:tiny", "tiny", {"options": {"qwen.temperature": 99.0}}, "qwen.temperature = 99.0"),
        ("shipped:tiny", "tiny", {"options": {"qwen.device": "quda"}}, "device = 'quda'"),
        ("shipped:tiny", "tiny", {"options": ["qwen.device"]}, "give a mapping"),
        ("shipped:tiny", "tiny", {"camera": (160, 120)}, "CameraModel.from_hfov"),
        ("shipped:tiny", "internvla-n1-s2", {}, "camera is missing"),
        ("shipped:tiny", "tiny", {"camera": replace(CAMERA, cx=320.0)}, "not of pictures of this size"),
        ("shipped:tiny", "tiny", {"camera": replace(CAMERA, fx=0.6, fy=0.8)}, "not of pictures of this size"),
        ("shipped:tiny", "tiny", {"options": {"qwen.seed": 2**64}}, "must be in [0, 4294967295]"),
    ],
)
def test_what_cannot_be_loaded(checkpoint: Any, profile: Any, more: Any, said: str) -> None:
    with pytest.raises(vln_ros.ConfigError) as caught:
        vln_ros.load(checkpoint, profile, **more)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"stream.max_phrases": 5}, "qwen.stream.max_phrases = 5: an answer of profile tiny has at most 4"),
        ({"stream.landmarks.memory": True}, "set qwen.stream.landmarks.plan to rules"),
        ({"stream.history_choice": "stays"}, "qwen.stream.history_choice = 'stays': profile tiny"),
        ({"reuse.enabled": True, "reuse.layer_budget": True}, "set qwen.reuse.tower to false"),
        ({"accelerate": "graphs", "stream.pool_tokens": 1000}, "set qwen.accelerate to none"),
        ({"stream.max_position": 200000}, "qwen.stream.max_position = 200000: the checkpoint has 128000"),
        ({"reuse.enabled": True, "camera": None}, "camera is missing: qwen.reuse.enabled"),
        ({"stream.prune.strategy": "seen", "camera": None}, "qwen.stream.prune.strategy = 'seen' goes by"),
        ({"attention": "flash_attention_2"}, "qwen.stream.decode = 'tree' needs"),
        (
            {"attention": "flash_attention_2", "stream.decode": "free", "reuse.enabled": True},
            "set qwen.attention to sdpa or eager, or qwen.reuse.enabled to false",
        ),
        ({"profile": "navida", "stream.bank_frames": 8}, "profile navida shows 8 past frames"),
    ],
)
def test_options_that_exclude_each_other(options: dict[str, Any], said: str) -> None:
    """Each error names the parameters in full, so that they can be found where they were set."""
    left = dict(options)
    profile, camera = left.pop("profile", "tiny"), left.pop("camera", CAMERA)
    given = CPU | {f"qwen.{name}": value for name, value in left.items()}
    with pytest.raises(vln_ros.ConfigError) as caught:
        vln_ros.load("shipped:tiny", profile, camera=camera, options=given)
    assert said in str(caught.value)


def test_a_checkpoint_beside_is_the_nearest(tmp_path: Path) -> None:
    for name in ("best", "last"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "besst").mkdir()  # holds nothing
    with pytest.raises(vln_ros.ConfigError, match=r"did you mean '.*/best'"):
        vln_ros.load(tmp_path / "bests", "tiny")
    with pytest.raises(vln_ros.ConfigError, match=r"holds no config.json"):
        vln_ros.load(tmp_path / "besst", "tiny")
    with pytest.raises(vln_ros.ConfigError, match="is a file"):
        vln_ros.load(tmp_path / "best" / "config.json", "tiny")


def test_a_profile_with_pixels_wants_poses() -> None:
    with vln_ros.load("shipped:tiny", "internvla-n1-s2", "go", camera=CAMERA, options=CPU) as stream:
        with pytest.raises(ValueError, match="pose is missing"):
            stream.see(picture(0))
        stream.see(picture(0), np.full((120, 160), 2.0, np.float32), vln_ros.Pose.identity())
        assert stream.act() is not None


# ------------------------------------------------------------------ the package


def test_import_is_light_and_needs_no_ros() -> None:
    code = """
import re, sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if re.match(r"(rclpy|rosbags|habitat\\w*|\\w+_msgs|\\w+_interfaces|std_srvs)$", name):
            raise ImportError(f"{name} is blocked")
sys.meta_path.insert(0, Block())
import vln_ros
loaded = {"numpy", "torch", "transformers", "yaml", "PIL"} & set(sys.modules)
assert not loaded, loaded
assert set(vln_ros.__all__) < set(dir(vln_ros))
vln_ros.load
assert "torch" not in sys.modules
for name in vln_ros.__all__:
    assert getattr(vln_ros, name).__module__.startswith("vln_ros."), name
try:
    vln_ros.lod
except AttributeError as error:
    assert "lod" in str(error)
else:
    raise AssertionError
for checkpoint, instruction, options in (
    ("nowhere", "go", {}), ("shipped:tiny", " ", {}), ("shipped:tiny", "go", {"qwen.stream.max_phrases": 9})
):
    try:
        vln_ros.load(checkpoint, "tiny", instruction, options=options)
    except ValueError:
        continue
    raise AssertionError(checkpoint, instruction, options)
assert "torch" not in sys.modules, "what is wrong is said before anything heavy is loaded"
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_option_that_is_taken_says_something() -> None:
    """A parameter of the navigator is either taken by load, or refused as one of the node."""
    taken = set(taken_options())
    assert {
        "qwen.device",
        "qwen.stream.token_budget",
        "place.robot_radius_m",
        "camera_z_m",
        "decide_on",
    } < taken
    assert (
        not {"qwen.checkpoint", "engine", "reliability", "questions.timeout_s", "drive", "camera_info_topic"}
        & taken
    )
