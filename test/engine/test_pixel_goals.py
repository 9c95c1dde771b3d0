"""InternVLA-N1's answers through the engine: turns, stop, the look down and the place that it points at."""

from __future__ import annotations

import base64
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from dialogue import says
from engine_models import build_small, load_small
from qwen_bpe import DATA, INSTRUCTIONS, as_tokenizer
from rooms import BOX, FLOOR, WALL, frame_of, pixel_of

from vln_ros.axes import base_from_optical
from vln_ros.config import LookDownConfig, StreamConfig, TinyConfig
from vln_ros.datatypes import ActionChunk, CameraModel, Frame, Instruction, PixelGoal, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import Profile, load_profile
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.prompt import ImageMark, Turn, render
from vln_ros.engine.inputs.prompt import look_down as look_down_turn
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Item, Pixels, one_shot
from vln_ros.engine.tiny import build_tiny

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


def text_of(frame: Frame, *place: float) -> str:
    goal = pixel_of(frame, *place)
    return f"{goal.row} {goal.column}"


AT_FLOOR, AT_BOX, AT_WALL = (1.5, 0.3, 0.0), (2.0, 0.1, 0.3), (3.999, 1.5, 1.2)
AT_FEET = (0.7, 0.0, 0.0)
TABLE: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("turns", ("←",), "left 15 deg"),
    ("turns, up to four", ("→→→→",), "right 15 deg, right 15 deg, right 15 deg, right 15 deg"),
    ("turns, then stops", ("←STOP",), "left 15 deg, stop"),
    ("stops", ("STOP",), "stop"),
    ("forward, which it was never taught", ("↑↑",), "forward 25 cm, forward 25 cm"),
    ("looks down, free floor", ("↓", text_of(ROOM, *AT_FLOOR)), "drives to (1.5, 0.3) m"),
    ("looks down, a box", ("↓", text_of(ROOM, *AT_BOX)), "drives to (1.7, 0.1) m, 0.3 m off"),
    (
        "looks down, a wall above the horizon",
        ("↓", text_of(ROOM, *AT_WALL)),
        "drives to (3.7, 1.5) m, 0.3 m off",
    ),
    ("looks down, then turns", ("↓", "→→"), "right 15 deg, right 15 deg"),
    ("looks down, then stops", ("↓", "STOP"), "stop"),
)
"""What the model says, turn by turn, and what the robot does in ``ROOM``."""
NUMBERS = "numbers that are not two pixels of the picture that it has to ask for by ↓ first"
ODD: tuple[tuple[str, tuple[str, ...], str], ...] = (
    (
        "numbers at once",
        ("60 80",),
        f"holds: this is no action: it would rather say '60 80' ({NUMBERS})",
    ),
    ("looks down twice", ("↓", "↓"), "holds: this is no action: it would rather say '↓'"),
    (
        "a pixel outside",
        ("↓", "130 80"),
        "holds: it says '130 80', which is not in the picture of 120 x 160 pixels",
    ),
    (
        "one number",
        ("↓", "60"),
        f"holds: this is no action: it would rather say '60' ({NUMBERS})",
    ),
    ("anything else", ("I see a chair",), "holds: this is no action: it would rather say 'I see a chair'"),
    ("turns, then wants to look down", ("←←↓",), "left 15 deg, left 15 deg"),
    (
        "the pixel in brackets",
        ("↓", f"({text_of(ROOM, *AT_FLOOR).replace(' ', ', ')})."),
        "drives to (1.5, 0.3) m",
    ),
)
"""Free answers (``decode: free``) that the grammar does not let it say."""


@pytest.mark.parametrize("decode", WAYS)
@pytest.mark.parametrize(("name", "replies", "motion"), TABLE, ids=[row[0] for row in TABLE])
def test_an_answer_leads_to_its_motion(
    model: LoadedModel, name: str, replies: tuple[str, ...], motion: str, decode: str
) -> None:
    assert told(answer(model, *replies, decode=decode)) == motion


@pytest.mark.parametrize(("name", "replies", "motion"), ODD, ids=[row[0] for row in ODD])
def test_a_free_answer_that_is_odd_is_read_or_said_to_be(
    model: LoadedModel, name: str, replies: tuple[str, ...], motion: str
) -> None:
    assert told(answer(model, *replies, decode="free")) == motion


@pytest.mark.parametrize("replies", [row[1] for row in ODD], ids=[row[0] for row in ODD])
def test_under_the_grammar_it_holds_and_says_why_or_moves(
    model: LoadedModel, replies: tuple[str, ...]
) -> None:
    """What it may not say does not come out as something that it did not mean."""
    chunk = answer(model, *replies)
    if chunk.is_hold:
        assert chunk.held is not None and "the action vocabulary has" in chunk.held
    else:
        assert told(chunk) in ("left 15 deg, left 15 deg", told(answer(model, "←←")))


def test_the_table_in_the_docs() -> None:
    page = (Path(__file__).parents[2] / "docs/design/engine.md").read_text("utf-8")
    rows = [
        f"| {name} | {', then '.join(f'`{r}`' for r in replies)} | {motion} |"
        for name, replies, motion in (*TABLE, *ODD)
    ]
    missing = [row for row in rows if row not in page]
    assert not missing, "docs/design/engine.md lacks\n" + "\n".join(missing)


@pytest.mark.parametrize("decode", WAYS)
@pytest.mark.parametrize(("place", "why"), [(AT_FEET, "the robot is there already"), (None, "no floor")])
def test_a_pixel_that_is_no_place_turns_as_the_evaluation_does_or_holds(
    model: LoadedModel, decode: str, place: tuple[float, float, float] | None, why: str
) -> None:
    frame = frame_of(FLOOR, camera=CAMERA, z_m=0.4, pitch_down_rad=0.5)
    if place is None:
        frame = replace(frame, depth_m=None)
    spec = replace(N1.pixel_goal, already_there_m=0.8) if N1.pixel_goal else None
    said = "0 80" if place is None else text_of(frame, *place)
    if place is None:
        frame = replace(frame, odom_from_optical=frame_of(z_m=0.4, pitch_down_rad=0.0).odom_from_optical)
    for turn_deg, expected in ((15.0, "left 15 deg ("), (0.0, "holds: ")):
        assert spec is not None
        own = replace(SMALL, pixel_goal=replace(spec, nowhere_turn_deg=turn_deg))
        robot = engine(model, decode, own)
        with says(model, ("↓", said)):
            robot.observe(frame)
            chunk = robot.decide(1)
        assert told(chunk).startswith(expected) and why in told(chunk)
        assert chunk.pixel_goal is not None and chunk.place is None
        figures = robot.figures()
        assert figures["pixel goals"] == 1
        assert sum("already" in name or "refused" in name for name in figures) == 1


def test_the_second_turn_costs_a_picture_and_two_numbers(model: LoadedModel) -> None:
    """In the cache of the first: nothing of that is computed again."""
    said = text_of(ROOM, *AT_FLOOR)
    robot, other = engine(model), engine(model)
    with says(model, ("↓", said)):
        robot.observe(ROOM)
        chunk = robot.decide(1)
    with says(model, ("←",)):
        other.observe(ROOM)
        other.decide(1)
    tokens = robot.session.timeline.tokens
    request, digits = (len(model.tokenizer(text).input_ids) for text in ("↓", said))
    assert chunk.place is not None
    # Each token of an answer is pushed to hear the next one, and the request once more as a reply.
    assert robot.session.work.tokens <= tokens + request + digits
    assert tokens - other.session.timeline.tokens < 120  # a picture of 24 tokens, and the words around it


def test_two_turns_in_a_stream_equal_one_forward_of_the_whole_chat(model: LoadedModel) -> None:
    """The scores behind the second picture, and the tokens of the chat."""
    heard: list[torch.Tensor] = []
    robot = engine(model)
    keep = model.network.lm_head.register_forward_hook(lambda _m, _i, out: heard.append(out.detach().clone()))
    try:
        with says(model, ("↓", text_of(ROOM, *AT_FLOOR))):
            robot.observe(ROOM)
            robot.decide(1)
    finally:
        keep.remove()
    small = patchify(ROOM.rgb, model.pixels, None, (56, 56))
    whole = patchify(ROOM.rgb, model.pixels, None, None)
    spec = SMALL.pixel_goal
    assert spec is not None
    chat = [
        *render(SMALL, "Go to the red chair.", [Turn(reply="↓")]),
        *look_down_turn(spec),
    ]
    pictures = iter((small, whole))
    items: list[Item] = []
    for piece in chat:
        if isinstance(piece, ImageMark):
            p = next(pictures)
            items += [
                (model.tokens.vision_start,),
                Pixels(p.patches, 1, p.grid_h, p.grid_w),
                (model.tokens.vision_end,),
            ]
        else:
            items.append(tuple(model.tokenizer(piece, add_special_tokens=False).input_ids))
    ids = [t for item in items if not isinstance(item, Pixels) for t in item]
    streamed = [t for s in robot.session.timeline.segments for t in s.ids]
    assert [t for t in streamed if t != model.tokens.image_pad] == ids
    expected = one_shot(model.network, items).logits[-1]
    turns = [scores for scores in heard if scores.shape[-1] == expected.shape[-1]]
    assert min(float((scores[..., -1, :] - expected).abs().max()) for scores in turns) < 2e-5


def look(frame: Frame, stamp_ns: int, **mount: Any) -> Frame:
    return replace(frame_of(FLOOR, WALL, BOX, camera=CAMERA, **mount), stamp_ns=stamp_ns)


def test_a_second_camera_that_looks_down(model: LoadedModel) -> None:
    """The numbers are pixels of its picture, at its place and time."""
    ahead = look(ROOM, 10**9, z_m=0.6, pitch_down_rad=0.0)
    down = look(ROOM, 10**9 + 10**8, z_m=0.7, x_m=0.1, pitch_down_rad=math.radians(30))
    robot = engine(model, picture="camera")
    said = text_of(down, *AT_FLOOR)
    with says(model, ("↓", said)):
        robot.observe(ahead)
        robot.look_down(down)
        chunk = robot.decide(1)
    assert chunk.place is not None and chunk.pixel_goal is not None
    assert chunk.pixel_goal.stamp_ns == chunk.place.stamp_ns == down.stamp_ns
    assert chunk.frame_stamp_ns == ahead.stamp_ns
    assert (chunk.place.x_m, chunk.place.y_m) == pytest.approx(AT_FLOOR[:2], abs=0.05)


@pytest.mark.parametrize("late_s", [None, 0.6, -0.6])
def test_without_its_picture_the_robot_holds_and_says_so(model: LoadedModel, late_s: float | None) -> None:
    robot = engine(model, picture="camera")
    with says(model, ("↓", "60 80")):
        robot.observe(replace(ROOM, stamp_ns=10**9))
        if late_s is not None:
            robot.look_down(replace(ROOM, stamp_ns=round((1.0 + late_s) * 1e9)))
        chunk = robot.decide(1)
    assert chunk.is_hold and chunk.held is not None and "look_down.picture = camera" in chunk.held
    robot.start(Instruction(2, "Go on."))  # what was seen in one run is not shown in the next
    with says(model, ("↓", "60 80")):
        robot.observe(replace(ROOM, stamp_ns=10**9))
        assert robot.decide(2).is_hold


def test_several_decisions_in_a_run_are_chats_of_their_own(model: LoadedModel) -> None:
    robot = engine(model)
    with says(model, ("↓", text_of(ROOM, *AT_FLOOR), "←", "↓", text_of(ROOM, *AT_BOX), "STOP")):
        made = []
        for index in range(4):
            base = Pose.planar(0.3 * index, 0.0, 0.0)
            robot.observe(replace(ROOM, index=index, stamp_ns=index + 1, odom_from_base=base))
            made.append(told(robot.decide(index + 1)))
    assert made[0] == "drives to (1.5, 0.3) m" and made[1] == "left 15 deg" and made[3] == "stop"
    assert made[2].startswith("drives to")
    ids = [t for s in robot.session.timeline.segments for t in s.ids]
    assert ids.count(model.tokens.im_start) == 3  # system, user, assistant


# -- with Qwen's own encoding ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A small network under Qwen's own tokens."""
    path = tmp_path_factory.mktemp("checkpoints") / "qwen"
    build_tiny(
        path,
        TinyConfig(hidden=32, heads=2, kv_heads=1, layers=1, vision_hidden=32, vision_depth=1, true_ids=True),
    )
    file = path / "tokenizer.json"
    file.write_text(json.dumps(as_tokenizer(json.loads(file.read_text("utf-8")))), "utf-8")
    return load_small(path)


def released_chat(instruction: str, past: int, looked_down: bool) -> list[dict[str, Any]]:
    """What the released robot agent hands to the chat template, put together as it does."""
    asked = (
        f"You are an autonomous navigation assistant. Your task is to {instruction} Where should you go next "
        "to stay on track? Please output the next waypoint's coordinates in the image. Please output STOP "
        "when you have successfully completed the task."
    )
    if past:
        asked += f" These are your historical observations: {past * ('<image>' + chr(10))}."
    turns = [asked + " you can see <image>."] + ([" you can see <image>."] if looked_down else [])
    messages: list[dict[str, Any]] = []
    for number, text in enumerate(turns):
        if number:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": "↓"}]})
        content: list[dict[str, str]] = []
        for part in re.split("(<image>)", text):
            words = part.replace("\n", "").strip()
            if part == "<image>":
                content.append({"type": "image"})
            elif words:
                content.append({"type": "text", "text": words})
        messages.append({"role": "user", "content": content})
    return messages


@pytest.mark.parametrize("instruction", INSTRUCTIONS)
@pytest.mark.parametrize("past", [0, 1, 3, 11])
def test_the_chat_is_the_released_one_token_by_token(qwen: LoadedModel, instruction: str, past: int) -> None:
    """Pictures of 384 x 384 and of 640 x 480 as they are, turns, and all with Qwen's true ids."""
    camera = CameraModel.from_hfov(640, 480, math.radians(79))
    robot = QwenEngine(qwen, N1, temperature=0.0, seed=0, stream=StreamConfig(decode="tokens"))
    robot.start(Instruction(1, instruction))
    blank = np.zeros((480, 640, 3), np.uint8)
    with says(qwen, ("↓", "300 320")):
        for index in range(past + 1):
            base = Pose.planar(0.25 * index, 0.0, 0.0)
            optical = base @ base_from_optical(0.0, 0.0, 0.6)
            robot.observe(Frame(index, index + 1, blank, None, camera, base, optical))
        chunk = robot.decide(1)
    assert chunk.pixel_goal == PixelGoal(300, 320, past + 1)
    shown = min(past, 8)
    text = qwen.tokenizer.apply_chat_template(
        released_chat(instruction, shown, True), tokenize=False, add_generation_prompt=True
    )
    assert isinstance(text, str)
    pad = "<|image_pad|>"
    counts = iter([196] * (shown + 1) + [17 * 23])
    expanded = re.sub(re.escape(pad), lambda _: pad * next(counts), text)
    streamed = [
        t for s in robot.session.timeline.segments for t in (s.ids or (qwen.tokens.image_pad,) * s.count)
    ]
    assert streamed == qwen.tokenizer(expanded, add_special_tokens=False).input_ids
    assert qwen.tokens.image_pad == 151655


@pytest.mark.parametrize(
    ("text", "ids"),
    [("↓", [79029]), ("←", [71858]), ("→", [51018]), ("204 312", [17, 15, 19, 220, 18, 16, 17])],
)
def test_qwens_own_ids(qwen: LoadedModel, text: str, ids: list[int]) -> None:
    data = json.loads(DATA.read_text("utf-8"))
    got = list(qwen.tokenizer(text, add_special_tokens=False).input_ids)
    assert got == ids
    by_id = {i: base64.b64decode(t) for t, i in data["ids"].items()}
    assert b"".join(by_id[i] for i in got).decode() == text
