"""The newest of everything, encoded once; the log whole."""

from __future__ import annotations

import json
import math
import struct

import pytest

from vln_ros.web.feed import NOTES_KEPT, Feed
from vln_ros.web.messages import Gauge, Gauges, NodeReport, PathAhead, Place, Reports, Task, encode


def test_messages_are_json_with_a_kind() -> None:
    assert json.loads(encode(PathAhead(((0.0, 1.5),)))) == {"kind": "path_ahead", "points": [[0.0, 1.5]]}
    gauges = json.loads(encode(Gauges((Gauge("decision", "12", "ms"),))))
    assert gauges == {"kind": "gauges", "gauges": [{"name": "decision", "value": "12", "unit": "ms"}]}
    reports = json.loads(encode(Reports((NodeReport("web", "ok", "fine", (("a", "1"),)),))))
    assert reports["reports"][0]["rows"] == [["a", "1"]]
    assert json.loads(encode(Task("\ud800 </script>")))["text"] == "\ud800 </script>"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_no_number_is_not_sent(value: float) -> None:
    feed = Feed()
    with pytest.raises(ValueError, match="JSON"):
        feed.put(Place(value, 0.0, 0.0))
    assert feed.newer({}) == []


def test_the_newest_of_each_subject_is_kept() -> None:
    feed = Feed()
    feed.put(Task("one"))
    feed.put(Place(0.0, 0.0, 0.0))
    feed.put(Task("two"))
    newest = feed.newer({})
    assert [(e.subject, json.loads(e.payload).get("text")) for e in newest] == [
        ("place", None),
        ("task", "two"),
    ]
    seen = {e.subject: e.version for e in newest}
    assert feed.newer(seen) == []
    feed.put(Task("two"))
    assert feed.newer(seen) == [], "the same again is nothing new"
    feed.put(Task("three"))
    assert [e.subject for e in feed.newer(seen)] == ["task"]


def test_pictures_carry_their_view_number_and_stamp() -> None:
    feed = Feed()
    feed.put_picture("camera", 1_700_000_000_123_456_789, b"\xff\xd8old")
    feed.put_picture("camera", 1_700_000_000_223_456_789, b"\xff\xd8new")
    (entry,) = feed.newer({})
    assert isinstance(entry.payload, bytes)
    view, number, stamp_ns = struct.unpack(">BIQ", entry.payload[:13])
    assert (view, number, stamp_ns) == (0, entry.version, 1_700_000_000_223_456_789)
    assert entry.payload[13:] == b"\xff\xd8new"


def test_the_log_is_read_from_where_one_was() -> None:
    feed = Feed()
    for i in range(NOTES_KEPT + 5):
        feed.note("instruction", str(i))
    notes = feed.notes_after(0)
    assert [n for n, _ in notes] == list(range(6, NOTES_KEPT + 6)), "of many the oldest go"
    assert json.loads(notes[-1][1])["text"] == str(NOTES_KEPT + 4)
    assert [n for n, _ in feed.notes_after(NOTES_KEPT + 3)] == [NOTES_KEPT + 4, NOTES_KEPT + 5]


def test_every_change_is_told_and_no_change_is_not() -> None:
    feed = Feed()
    told: list[int] = []
    feed.on_change(lambda: told.append(1))
    feed.put(Task("one"))
    feed.put(Task("one"))
    feed.note("stop", "STOP")
    feed.put_picture("reuse", 1, b"")
    assert len(told) == 3
