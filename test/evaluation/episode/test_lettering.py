"""Instructions in any script: a font that has the letters, or what stands for them; never silent boxes."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path

import numpy as np
import pytest

from vln_ros.datatypes import Pose
from vln_ros.evaluation.episode import lettering as module
from vln_ros.evaluation.episode.lettering import in_latin, lettering
from vln_ros.evaluation.episode.maps import draw_map
from vln_ros.evaluation.episode.record import EpisodeInfo, EpisodeRecord, Step
from vln_ros.evaluation.episode.video import Overlay, annotate

HINDI = "\u0938\u094b\u092b\u093c\u0947 \u0915\u0947 \u092a\u093e\u0938 \u0930\u0941\u0915\u094b\u0964"
TELUGU = "\u0c38\u0c4b\u0c2b\u0c3e \u0c26\u0c17\u0c4d\u0c17\u0c30 \u0c06\u0c17\u0c02\u0c21\u0c3f"
NOTHING: frozenset[int] = frozenset()


@pytest.fixture(autouse=True)
def no_other_fonts(monkeypatch: pytest.MonkeyPatch) -> None:
    lettering.cache_clear()
    monkeypatch.setattr(module, "system_fonts", lambda: ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (HINDI, "sophe ke paasa ruko."),
        (TELUGU, "soophaa daggara aaganddi"),
        ("\u0967\u0968", "12"),
        ("\u4e00", "\\u4e00"),
        ("\U0001f6aa", "\\U0001f6aa"),
        ("\ud800", "\\ud800"),
        ("go on", "go on"),
    ],
)
def test_letters_by_their_names(text: str, told: str) -> None:
    known = frozenset(range(128))
    assert in_latin(text, known) == told


def test_what_every_machine_has_is_drawn_as_it_is() -> None:
    assert lettering("go on").font is None
    for text in ("près de l'étagère", "дверь", "πόρτα", "→ 25 cm"):
        found = lettering(text)
        assert (found.text, found.note) == (text, "") and found.font is not None


@pytest.mark.parametrize(("text", "script"), [(HINDI, "Devanagari"), (TELUGU, "Telugu"), ("\u4e00", "Cjk")])
def test_what_no_font_has_is_said(text: str, script: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = lettering(text)
    assert found.text.isascii() and script in found.note and "fonts-noto-core" in found.note
    assert script in caplog.text


def test_a_font_of_the_machine_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    other = Path("other.ttf")
    base = module.base_font()
    letters = {base: frozenset(range(128)), other: frozenset(map(ord, HINDI))}
    monkeypatch.setattr(module, "system_fonts", lambda: (Path("empty.ttf"), other))
    monkeypatch.setattr(module, "letters_of", lambda font: letters.get(font, NOTHING))
    assert lettering(HINDI) == module.Lettering(HINDI, other)


def test_a_file_that_is_no_font(tmp_path: Path) -> None:
    (tmp_path / "no.ttf").write_bytes(b"none")
    assert module.letters_of(tmp_path / "no.ttf") == module.letters_of(tmp_path / "missing.ttf") == NOTHING


@pytest.mark.parametrize("text", [HINDI, TELUGU, "\u4e00\u4e8c", "go on"])
def test_pictures_lack_no_glyph(text: str, tmp_path: Path) -> None:
    steps = tuple(Step.discrete(n, Pose.planar(float(n), 0.0, 0.0), None, False) for n in range(3))
    record = EpisodeRecord(
        info=EpisodeInfo(episode_id="1", scene_id="s", instruction=text),
        steps=steps,
        decisions=(),
        ended="stop",
        wall_s=1.0,
        metrics=None,
        video_frames=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # matplotlib warns of a glyph that is missing
        draw_map(record, None).savefig(tmp_path / "map.png")
    image = annotate(
        np.zeros((48, 64, 3), np.uint8),
        None,
        Overlay(instruction=text, actions=(), executing=None, step=0, time_s=0.0, collided=False),
    )
    assert image.shape[2] == 3
