"""Profiles: strict files, and the released conventions they quote."""

import copy
import math
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from vln_ros.config import ConfigError
from vln_ros.datatypes import PixelGoal
from vln_ros.engine.checkpoint.profile import ContextSpec, Limits, list_profiles, load_profile, parse_profile

NAMES = (
    "activevln-r2r",
    "activevln-rxr",
    "internvla-n1-s2",
    "navida",
    "qwen-zero-shot",
    "small",
    "small-history",
    "tiny",
)


def tree(name: str = "tiny") -> dict[str, Any]:
    text = (resources.files("vln_ros") / "profiles" / f"{name}.yaml").read_text("utf-8")
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_shipped_profiles() -> None:
    assert list_profiles() == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_vocabulary_is_spoken_as_it_acts(name: str) -> None:
    """Distances and angles in a phrase's text are those of its actions; the sides agree."""
    profile = load_profile(name)
    assert profile.name == name
    assert sum(p.actions[0].stop for p in profile.vocabulary) == 1
    for phrase in profile.vocabulary:
        total_m = sum(a.forward_m for a in phrase.actions)
        total_deg = math.degrees(sum(a.turn_rad for a in phrase.actions))
        digits = [int(d) for d in "".join(c if c.isdigit() else " " for c in phrase.text).split()]
        if digits:
            assert digits == [round(total_m * 100 + abs(total_deg))]
        word = phrase.text.lower()
        assert phrase.actions[0].stop == ("stop" in word)
        assert (total_m > 0) == ("forward" in word or "↑" in word)
        assert (total_deg > 0) == ("left" in word or "←" in word)
        assert (total_deg < 0) == ("right" in word or "→" in word)
        assert len(phrase.actions) <= 3


def test_activevln_offers_exactly_its_ten_actions() -> None:
    for name in ("activevln-r2r", "activevln-rxr"):
        profile = load_profile(name)
        assert len(profile.vocabulary) == 10
        offered = profile.system.split("choose one action from: ")[1].split(". \n")[0]
        assert offered.replace("or stop", "stop").split(", ") == [p.text for p in profile.vocabulary]
        assert profile.system.endswith("You can take multiple actions at each turn. ")
        assert profile.limits.turns_in_place == 26


def test_limits_are_those_of_the_released_evaluations() -> None:
    """These end an episode when 25 turns and 400 (500) steps are exceeded, not when they are reached."""
    limits = {name: load_profile(name).limits for name in ("activevln-r2r", "activevln-rxr", "navida")}
    assert limits == {
        "activevln-r2r": Limits(26, 401, 120),
        "activevln-rxr": Limits(26, 501, 120),
        "navida": Limits(26, 401, 0),
    }


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(tree() | {"max_phrases": 2}), "utf-8")
    assert load_profile(str(path)).max_phrases == 2
    assert load_profile(str(path)).name == "mine"


def test_unknown_profile() -> None:
    with pytest.raises(ConfigError, match="did you mean 'activevln-r2r'"):
        load_profile("activevln_r2r")
    with pytest.raises(ConfigError, match="shipped: activevln-r2r"):
        load_profile("?")


def test_unreadable_profile(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("a: [1", "utf-8")
    (tmp_path / "list.yaml").write_text("- 1", "utf-8")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_profile(str(tmp_path / "bad.yaml"))
    with pytest.raises(ConfigError, match="must be a mapping, got list"):
        load_profile(str(tmp_path / "list.yaml"))
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_profile(str(tmp_path / "bytes.yaml"))


BAD: list[tuple[tuple[str | int, ...], object, str]] = [
    (("systm",), "x", "unknown key 'systm'; did you mean 'system'"),
    (("context", "reset_steps"), 3, "unknown key 'reset_steps'"),
    (("context", "strategy"), "forever", "one of append"),
    (("context", "unasked_frames"), "save", "drop, keep"),
    (("image", "max_pixel"), 3, "did you mean 'max_pixels'"),
    (("image", "resize"), [112], r"\[width, height\]"),
    (("image", "resize"), [112, True], r"\[width, height\]"),
    (("max_phrases",), 0, "at least 1"),
    (("max_phrases",), True, "at least 1"),
    (("on_unparsed",), "stop", "hold, repeat, ask_again"),
    (("system",), 3, "expected a text"),
    (("first_turn",), "no mark", "exactly one {image}"),
    (("next_turn",), "{image}{image}", "exactly one {image}"),
    (("next_turn",), "{image}{instuction}", "did you mean {instruction}"),
    (("next_turn",), "{history}{image}", "append shows none"),
    (("vocabulary",), [], "empty"),
    (("vocabulary",), "forward", "a list"),
    (("vocabulary", 0, "forward_m"), -0.25, "backwards"),
    (("vocabulary", 0, "forward_m"), float("nan"), "finite"),
    (("vocabulary", 0, "forward_m"), 0, "exactly one"),
    (("vocabulary", 0, "turn_deg"), 15, "exactly one of forward_m"),
    (("vocabulary", 0, "times"), 0, "at least 1"),
    (("vocabulary", 1, "text"), "forward", "'forward' twice"),
    (("vocabulary", 3, "times"), 2, "once"),
    (("limits", "actions"), -1, "at least 0"),
    (("unsupported",), [{"pattern": "(", "reason": "x"}], "regular expression"),
    (("unsupported",), [{"pattern": "x", "why": "x"}], "reason is missing"),
]


@pytest.mark.parametrize(("path", "value", "message"), BAD, ids=[".".join(map(str, b[0])) for b in BAD])
def test_bad_values_are_named(path: tuple[str | int, ...], value: object, message: str) -> None:
    changed: Any = copy.deepcopy(tree())
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    with pytest.raises(ConfigError, match=message):
        parse_profile("test", changed)


GOAL: dict[str, object] = {
    "request": "↓", "turn": "look{image}.", "picture": "same", "order": "row_column", "separator": " ",
    "already_there_m": 0.25, "nowhere_turn_deg": 15,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"turn": "no mark"}, "one {image}"),
        ({"turn": "{image}{image}"}, "one {image}"),
        ({"turn": "{image} {instruction}"}, "no other mark"),
        ({"picture": "tilt"}, "same, camera"),
        ({"order": "xy"}, "row_column, column_row"),
        ({"separator": ""}, "a text"),
        ({"separator": " 0 "}, "without digits"),
        ({"already_there_m": -0.1}, "at least 0 m"),
        ({"nowhere_turn_deg": 270}, "from 0 to 180"),
        ({"nowhere_turn_deg": -15}, "from 0 to 180"),
        ({"request": "forward"}, "in the vocabulary, too"),
        ({"requst": "x"}, "did you mean 'request'"),
    ],
)
def test_bad_pixel_goals_are_named(change: dict[str, object], message: str) -> None:
    history = {
        "strategy": "history", "history_frames": 8, "history_choice": "uniform_floor",
        "history_empty": "none", "history_limit": 0,
    }  # fmt: skip
    good = tree() | {"context": history, "pixel_goal": GOAL}
    assert parse_profile("test", good).pixel_goal is not None
    with pytest.raises(ConfigError, match=message):
        parse_profile("test", good | {"pixel_goal": GOAL | change})
    with pytest.raises(ConfigError, match="needs context strategy history"):
        parse_profile("test", tree() | {"pixel_goal": GOAL})


@pytest.mark.parametrize(("order", "said"), [("row_column", "3 70"), ("column_row", "70 3")])
def test_what_is_said_of_a_pixel_is_read_as_it(order: str, said: str) -> None:
    spec = load_profile("internvla-n1-s2").pixel_goal
    assert spec is not None
    spec = replace(spec, order=order)
    goal = PixelGoal(3, 70, 9)
    assert spec.text(goal) == said
    point = spec.parse(f"at ({said.replace(' ', ', ')})")
    assert point is not None and spec.goal(*point, 9) == goal
    assert spec.parse("3") is None and spec.parse("") is None


@pytest.mark.parametrize("key", sorted(tree()))
def test_every_key_is_needed(key: str) -> None:
    changed = tree()
    del changed[key]
    with pytest.raises(ConfigError, match=f"{key} is missing"):
        parse_profile("test", changed)


def history(choice: str, frames: int = 8) -> ContextSpec:
    return ContextSpec("history", history_frames=frames, history_choice=choice)


@given(st.integers(0, 300), st.integers(1, 12), st.sampled_from(["uniform_round", "uniform_floor"]))
def test_history_is_increasing_and_has_the_ends(past: int, frames: int, choice: str) -> None:
    chosen = history(choice, frames).choose_history(past)
    assert len(chosen) <= frames
    assert list(chosen) == sorted(set(chosen))
    if past:
        assert chosen[-1] == past - 1
        assert frames == 1 or chosen[0] == 0


@given(st.integers(1, 600))
def test_history_of_internvla(past: int) -> None:
    expected = np.unique(np.linspace(0, past - 1, 8, dtype=np.int32)).tolist()
    assert list(history("uniform_floor").choose_history(past)) == expected


def test_history_of_navida() -> None:
    """Up to 8 all of them; beyond, evenly spaced, rounded half to even."""
    chosen = history("uniform_round").choose_history
    assert chosen(0) == ()
    assert chosen(5) == (0, 1, 2, 3, 4)
    assert chosen(8) == tuple(range(8))
    assert chosen(10) == (0, 1, 3, 4, 5, 6, 8, 9)
    assert chosen(199) == (0, 28, 57, 85, 113, 141, 170, 198)
