"""Decisions as lines, and back: pixel goals and places included."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from vln_ros.datatypes import (
    STOP,
    Action,
    ActionChunk,
    PixelGoal,
    PlaceGoal,
    PlaceSource,
    Pose,
)
from vln_ros.evaluation.episode.maps import draw_map
from vln_ros.evaluation.episode.record import EpisodeInfo, EpisodeRecord, EpisodeRecorder, Step
from vln_ros.evaluation.runs.lines import decision_lines, read_decisions
from vln_ros.evaluation.runs.run_folder import outcome_of

PLACE = PlaceGoal(1.5, -2.25, 4, PlaceSource.VIEW, 0.125)
FORWARD = Action(forward_m=0.25)
CHUNKS = (
    ActionChunk(2, 1, 5, (Action(turn_rad=0.25),), (0.5,), "→", allowed=0.75),
    ActionChunk(3, 1, 5, (FORWARD, FORWARD), pixel_goal=PixelGoal(7, 9, 4), place=PLACE),
    ActionChunk(4, 1, 6, (FORWARD,), place=PLACE),
    ActionChunk(5, 1, 7, (), held="no place", pixel_goal=PixelGoal(1, 2, 7)),
    ActionChunk(6, 1, 8, (STOP,)),
)


def recorded() -> EpisodeRecord:
    recorder = EpisodeRecorder(EpisodeInfo(episode_id="e", scene_id="s", instruction="go"), None)
    for k, chunk in enumerate(CHUNKS):
        recorder.step(Step.discrete(k, Pose.planar(0.25 * k, 0.0, 0.0), None, False))
        recorder.decision(chunk, 10.0 * k)
    return recorder.finish("stop", 1.0, None)


def test_decisions_round_trip(tmp_path: Path) -> None:
    record = recorded()
    path = tmp_path / "decisions.jsonl"
    path.write_text(decision_lines(record), "utf-8")
    again = read_decisions(path)
    assert again == record.decisions
    assert [d.chunk.held for d in again] == [c.held for c in CHUNKS]


def test_decisions_of_before_pixel_goals_are_read(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    old = [json.loads(line) for line in decision_lines(recorded()).splitlines()]
    for line in old:
        del line["pixel_goal"], line["place"]
    path.write_text("".join(json.dumps(line) + "\n" for line in old), "utf-8")
    assert [d.chunk for d in read_decisions(path)] == [
        replace(c, pixel_goal=None, place=None) for c in CHUNKS
    ]


def test_what_only_goes_on_to_a_place_is_no_answer() -> None:
    record = recorded()
    assert [d.chunk.queue for d in record.answers] == [2, 3, 5, 6]
    outcome = outcome_of(record, None)
    assert outcome.result.decisions == 4
    assert outcome.result.latencies_ms.tolist() == [0.0, 10.0, 30.0, 40.0]
    assert len(outcome.files["decisions.jsonl"].splitlines()) == 5


def test_maps_show_the_places_that_were_answered() -> None:
    (axes, *_) = draw_map(recorded(), None).axes
    named = [line for line in axes.get_lines() if line.get_label() == "pixel goal"]
    assert len(named) == 1
    np.testing.assert_allclose(np.column_stack(named[0].get_data()), [[1.5, -2.25]])
    ways = [line for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert [np.column_stack(w.get_data()).tolist() for w in ways] == [[[0.25, 0.0], [1.5, -2.25]]]
