"""The streaming aligner against a slow one that sees all messages at once, and its bookkeeping."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.config import SyncConfig
from vln_ros.datatypes import Pose
from vln_ros.sync.aligner import MAX_DEPTH, MAX_ODOMETRY, MAX_PENDING_COLOR, Aligned, Aligner

MS = 1_000_000
CONFIG = SyncConfig(max_depth_skew_s=0.02, max_odometry_gap_s=0.1, max_wait_s=30.0, max_speed_m_s=5.0)


def at(x_m: float, yaw_rad: float = 0.0) -> Pose:
    return Pose.planar(x_m, 0.0, yaw_rad)


def increasing(stamps: list[int]) -> list[int]:
    kept: list[int] = []
    for s in stamps:
        if not kept or s > kept[-1]:
            kept.append(s)
    return kept


def slow_aligner(
    config: SyncConfig, color: list[int], depth: list[int], odometry: list[tuple[int, float]]
) -> tuple[list[tuple[int, int, float]], list[int], list[int]]:
    """(stamp, depth stamp, x) of the aligned, stamps of the hopeless, stamps of the waiting."""
    depth = increasing(depth)
    kept: list[tuple[int, float]] = []
    for stamp, x in odometry:
        if not kept or stamp > kept[-1][0]:
            kept.append((stamp, x))
    aligned, hopeless, waiting = [], [], []
    for c in increasing(color):
        if not any(d >= c for d in depth) or not any(s >= c for s, _ in kept):
            waiting.append(c)
            continue
        near = sorted((abs(d - c), d) for d in depth)[0]
        x = math.nan
        for s, value in kept:
            if s == c:
                x = value
        if math.isnan(x):
            for (s0, x0), (s1, x1) in itertools.pairwise(kept):
                close = s1 - s0 <= config.max_odometry_gap_s * 1e9
                steady = abs(x1 - x0) <= config.max_speed_m_s * (s1 - s0) / 1e9
                if s0 < c < s1 and close and steady:
                    x = x0 + (x1 - x0) * (c - s0) / (s1 - s0)
        if near[0] <= config.max_depth_skew_s * 1e9 and not math.isnan(x):
            aligned.append((c, near[1], x))
        else:
            hopeless.append(c)
    return aligned, hopeless, waiting


stamps = st.lists(st.integers(0, 60).map(lambda n: n * 10), max_size=12)


@settings(deadline=None, max_examples=400)
@given(st.data(), stamps.map(sorted) | stamps, stamps.map(sorted) | stamps, stamps.map(sorted) | stamps)
def test_any_interleaving_gives_what_the_batch_gives(
    data: st.DataObject, color: list[int], depth: list[int], odometry: list[int]
) -> None:
    moves = data.draw(st.lists(st.sampled_from([0.0, 0.01, 0.04, 3.0]), min_size=12, max_size=12))
    xs = np.cumsum(moves).tolist()
    queues = {
        "color": [s * MS for s in color],
        "depth": [(s + data.draw(st.sampled_from([0, 3]))) * MS for s in depth],
        "odometry": [s * MS for s in odometry],
    }
    samples = list(zip(queues["odometry"], xs, strict=False))
    expected, hopeless, waiting = slow_aligner(CONFIG, queues["color"], queues["depth"], samples)
    aligner: Aligner[int, int] = Aligner(CONFIG)
    got: list[Aligned[int, int]] = []
    order = data.draw(st.permutations([name for name, q in queues.items() for _ in q]))
    heads = dict.fromkeys(queues, 0)
    for name in order:
        i = heads[name]
        heads[name] += 1
        if name == "color":
            got += aligner.add_color(queues[name][i], queues[name][i])
        elif name == "depth":
            got += aligner.add_depth(queues[name][i], queues[name][i])
        else:
            got += aligner.add_odometry(queues[name][i], at(xs[i]), "odom")
    assert [(a.stamp_ns, a.depth) for a in got] == [(c, d) for c, d, _ in expected]
    assert [a.color for a in got] == [a.stamp_ns for a in got]
    np.testing.assert_allclose(
        [a.odom_from_base.position[0] for a in got], [x for *_, x in expected], atol=1e-12
    )
    counts = aligner.counts
    assert counts.aligned == len(expected)
    assert counts.pending == len(waiting)
    assert counts.dropped_color - counts.color_duplicate - counts.color_late == len(hopeless)
    assert counts.received_color == counts.aligned + counts.pending + counts.dropped_color


message = st.tuples(
    st.sampled_from(["color", "depth", "odometry", "invalid"]),
    st.one_of(
        st.integers(0, 3000).map(lambda n: n * MS),
        st.sampled_from([0, 10**18, 10**18 + 5 * MS, 2**62]),
        st.integers(0, 2**62),
    ),
    st.sampled_from(["odom", "map", ""]),
    st.floats(-1e6, 1e6),
)


@settings(deadline=None, max_examples=300)
@given(st.lists(message, max_size=60), st.booleans())
def test_nothing_is_lost_uncounted_whatever_the_stamps(
    messages: list[tuple[str, int, str, float]], require_depth: bool
) -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig(require_depth=require_depth))
    resets, newest = 0, -1
    for stream, stamp, frame, x in messages:
        if stream == "color":
            out = aligner.add_color(stamp, stamp)
        elif stream == "depth":
            out = aligner.add_depth(stamp, stamp)
        elif stream == "odometry":
            out = aligner.add_odometry(stamp, at(x), frame)
        else:
            aligner.reject_odometry()
            out = []
        counts = aligner.counts
        if counts.clock_resets != resets:
            resets, newest = counts.clock_resets, -1
        for a in out:
            assert a.stamp_ns == a.color > newest, "output stamps increase between clock resets"
            newest = a.stamp_ns
            assert a.depth is not None or not require_depth
            assert a.depth is None or abs(a.depth - a.stamp_ns) <= 20 * MS
        assert counts.received_color == counts.aligned + counts.pending + counts.dropped_color
        assert counts.pending <= MAX_PENDING_COLOR
    n = {s: sum(m[0] == s for m in messages) for s in ("color", "depth", "odometry", "invalid")}
    counts = aligner.counts
    assert (counts.received_color, counts.received_depth) == (n["color"], n["depth"])
    assert counts.received_odometry == n["odometry"] + n["invalid"]
    assert counts.odometry_invalid == n["invalid"]
    assert counts.odometry_wrong_frame == sum(m[0] == "odometry" and m[2] != "odom" for m in messages)


def test_a_pose_between_two_samples_is_interpolated() -> None:
    aligner: Aligner[str, str] = Aligner(CONFIG)
    aligner.add_odometry(0, at(0.0, 0.0), "odom")
    assert aligner.add_color(25 * MS, "c") == []
    assert aligner.add_depth(30 * MS, "d") == []
    (a,) = aligner.add_odometry(100 * MS, at(0.4, 1.0), "odom")
    assert (a.stamp_ns, a.color, a.depth) == (25 * MS, "c", "d")
    np.testing.assert_allclose(a.odom_from_base.position, [0.1, 0, 0], atol=1e-12)
    assert a.odom_from_base.yaw_rad == pytest.approx(0.25)


def test_the_payloads_are_handed_on_untouched() -> None:
    aligner: Aligner[object, object] = Aligner(CONFIG)
    color, depth = object(), object()
    aligner.add_odometry(0, at(0), "odom")
    aligner.add_depth(0, depth)
    (a,) = aligner.add_color(0, color)
    assert a.color is color
    assert a.depth is depth


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        ([(100, 0.0)], "color_no_odometry"),
        ([(0, 0.0), (101, 0.0)], "color_odometry_gap"),
        ([(0, 0.0), (100, 2.0)], "color_odometry_jump"),
    ],
)
def test_a_color_image_without_a_usable_pose_is_dropped_with_the_reason(
    samples: list[tuple[int, float]], reason: str
) -> None:
    aligner: Aligner[int, int] = Aligner(CONFIG)
    aligner.add_color(50 * MS, 0)
    aligner.add_depth(50 * MS, 0)
    for stamp_ms, x in samples:
        assert aligner.add_odometry(stamp_ms * MS, at(x), "odom") == []
    assert getattr(aligner.counts, reason) == aligner.counts.dropped_color == 1
    assert aligner.counts.pending == 0
    assert aligner.counts.odometry_jumps == (reason == "color_odometry_jump")


def test_depth_further_away_than_the_skew_does_not_count() -> None:
    aligner: Aligner[int, int] = Aligner(CONFIG)
    aligner.add_odometry(100 * MS, at(0), "odom")
    aligner.add_depth(79 * MS, 0)
    aligner.add_color(100 * MS, 0)
    assert aligner.add_depth(121 * MS, 0) == []
    assert aligner.counts.color_no_depth == 1


def test_what_waits_too_long_in_sensor_time_is_dropped() -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig(max_wait_s=1.0))
    aligner.add_odometry(0, at(0), "odom")
    aligner.add_color(0, 0)
    aligner.add_odometry(1000 * MS, at(0), "odom")
    assert aligner.counts.pending == 1
    aligner.add_odometry(1001 * MS, at(0), "odom")
    assert aligner.counts.pending == 0
    assert aligner.counts.color_no_depth == 1
    aligner.add_depth(5000 * MS, 0)
    aligner.add_color(5000 * MS, 0)
    aligner.add_depth(6001 * MS, 0)
    assert aligner.counts.color_no_odometry == 1


def test_depth_that_is_not_required_is_not_waited_for() -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig(require_depth=False))
    aligner.add_odometry(0, at(0), "odom")
    (a,) = aligner.add_color(0, 7)
    assert a.depth is None
    aligner.add_depth(95 * MS, 9)
    aligner.add_odometry(100 * MS, at(0), "odom")
    (a,) = aligner.add_color(100 * MS, 8)
    assert a.depth == 9


@pytest.mark.parametrize("stream", ["color", "depth", "odometry"])
def test_duplicates_and_late_ones_are_dropped_and_a_far_jump_back_is_a_reset(stream: str) -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig(max_wait_s=1.0))

    def add(stamp_ns: int) -> None:
        if stream == "odometry":
            aligner.add_odometry(stamp_ns, at(0), "odom")
        elif stream == "color":
            aligner.add_color(stamp_ns, 0)
        else:
            aligner.add_depth(stamp_ns, 0)

    for stamp_ms in (2000, 2000, 1999, 1000):
        add(stamp_ms * MS)
    assert getattr(aligner.counts, f"{stream}_duplicate") == 1
    assert getattr(aligner.counts, f"{stream}_late") == 2
    assert aligner.counts.clock_resets == 0
    add(999 * MS)
    assert aligner.counts.clock_resets == 1
    assert aligner.counts.color_clock_reset == (stream == "color")
    # The new clock works.
    add(1000 * MS)
    assert getattr(aligner.counts, f"{stream}_late") == 2


@pytest.mark.parametrize("order", list(itertools.permutations(["color", "depth", "odometry"])), ids=",".join)
@pytest.mark.parametrize("waits", [False, True], ids=["complete", "waiting"])
def test_what_was_shown_comes_out_again_for_a_new_run_and_only_then(
    order: tuple[str, ...], waits: bool
) -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig())

    def show(streams: tuple[str, ...], stamp_ns: int) -> list[Aligned[int, int]]:
        out = []
        for stream in streams:
            if stream == "odometry":
                out += aligner.add_odometry(stamp_ns, at(0), "odom")
            else:
                out += (aligner.add_color if stream == "color" else aligner.add_depth)(stamp_ns, 0)
        return out

    first, missing = (order[:-1], order[-1:]) if waits else (order, ())
    assert len(show(first, 100 * MS)) == (not waits)
    aligner.begin_anew()
    assert len(show(missing, 100 * MS)) == waits
    again = show(order, 100 * MS)
    # What waited came out after the beginning, so it has been there.
    assert [a.stamp_ns for a in again] == ([] if waits else [100 * MS])
    assert show(order, 100 * MS) == []
    assert [a.stamp_ns for a in show(order, 200 * MS)] == [200 * MS]
    counts = aligner.counts
    assert counts.received_color == counts.aligned + counts.pending + counts.dropped_color
    assert counts.clock_resets == 0


def test_after_a_clock_reset_frames_come_out_again() -> None:
    aligner: Aligner[int, int] = Aligner(SyncConfig())
    for start in (100_000, 0):
        out = []
        for t in range(start, start + 300, 100):
            out += aligner.add_odometry(t * MS, at(0), "odom")
            out += aligner.add_depth(t * MS, 0)
            out += aligner.add_color(t * MS, 0)
        assert [a.stamp_ns // MS for a in out][-2:] == [start + 100, start + 200]
    assert aligner.counts.clock_resets == 1


def test_odometry_of_another_frame_is_refused_unless_any_is_accepted() -> None:
    for expected, frame, refused in [
        ("odom", "map", 1),
        ("odom", "odom", 0),
        ("odom", "/odom", 0),
        ("", "map", 0),
    ]:
        aligner: Aligner[int, int] = Aligner(SyncConfig(odom_frame=expected))
        aligner.add_odometry(0, at(0), frame)
        assert aligner.counts.odometry_wrong_frame == refused


def test_buffers_are_bounded() -> None:
    aligner: Aligner[int, int] = Aligner(CONFIG)
    for i in range(MAX_ODOMETRY + 10):
        aligner.add_odometry(i * MS, at(0), "odom")
    for i in range(MAX_DEPTH + 10):
        aligner.add_depth(i * MS, i)
    start = 10_000
    for i in range(MAX_PENDING_COLOR + 5):
        aligner.add_color((start + i) * MS, i)
    assert aligner.counts.pending == MAX_PENDING_COLOR
    assert aligner.counts.color_overflow == 5


def test_a_depth_image_may_serve_two_color_images() -> None:
    aligner: Aligner[int, int] = Aligner(CONFIG)
    out = aligner.add_odometry(100 * MS, at(0), "odom") + aligner.add_depth(95 * MS, 1)
    for t in (100, 110):
        out += aligner.add_color(t * MS, t)
    out += aligner.add_depth(130 * MS, 2)
    out += aligner.add_odometry(110 * MS, at(0), "odom")
    assert [(a.color, a.depth) for a in out] == [(100, 1), (110, 1)]


def test_limits_can_be_changed_while_it_runs() -> None:
    aligner: Aligner[int, int] = Aligner(CONFIG)
    for n in range(4):
        if n == 2:
            aligner.tune(SyncConfig(max_depth_skew_s=0.05, max_odometry_gap_s=0.1, max_wait_s=30.0))
        stamp_ns = 1000 * MS + 100 * MS * n
        aligner.add_odometry(stamp_ns, at(0.0), "odom")
        aligner.add_color(stamp_ns, n)
        assert len(aligner.add_depth(stamp_ns + 30 * MS, n)) == (n >= 2)
