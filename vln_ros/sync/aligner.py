"""Joins colour, depth and odometry by their stamps, without looking inside the images.

Everything here is cheap enough for a subscription callback: payloads are stored and handed on
untouched, decoding them is the business of the thread that takes the result.

A colour image at stamp ``t`` is settled as soon as both of these are known:

* its depth: the one nearest to ``t``, no further away than ``max_depth_skew_s``. Known once a depth
  image at or after ``t`` has arrived. Without ``require_depth`` nothing waits for depth: the
  nearest one at hand is taken, or none.
* its pose: the odometry sample at ``t``, or the interpolation between the two samples around it.
  Known once a sample at or after ``t`` has arrived. Nothing is interpolated across a gap longer
  than ``max_odometry_gap_s`` or across a jump (faster than ``max_speed_m_s``).

With ``require_depth``, what comes out for messages that each arrive in their stream's order does
not depend on how the three streams interleave.
"""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from vln_ros.config import DepthInputConfig, SyncConfig
from vln_ros.datatypes import OdometryPose, Pose
from vln_ros.geometry.frame_checks import MotionLimits, clock_went_back, pose_jumped

ColorT = TypeVar("ColorT")
DepthT = TypeVar("DepthT")

# Bounds against a stream that dies while the others go on: two seconds at 30 Hz of images (about
# 40 MB of 640x480 depth), ten of odometry at 200 Hz. `max_wait_s` normally acts long before.
MAX_PENDING_COLOR = 64
MAX_DEPTH = 64
MAX_ODOMETRY = 2048


@dataclass(frozen=True)
class Aligned(Generic[ColorT, DepthT]):
    """A colour image with what belongs to it.

    Attributes:
        stamp_ns: stamp of the colour image.
        color: as given to :meth:`Aligner.add_color`.
        depth: as given to :meth:`Aligner.add_depth`; None only without ``require_depth``.
        odom_from_base: pose of the base at ``stamp_ns``.
    """

    stamp_ns: int
    color: ColorT
    depth: DepthT | None
    odom_from_base: Pose


@dataclass(frozen=True, kw_only=True)
class SyncCounts:
    """What became of the messages so far.

    ``received_color == aligned + pending + dropped_color`` holds at any time.
    """

    received_color: int = 0
    received_depth: int = 0
    received_odometry: int = 0
    aligned: int = 0
    pending: int = 0
    """Colour images that wait for their depth or odometry."""
    color_no_depth: int = 0
    color_no_odometry: int = 0
    color_odometry_gap: int = 0
    color_odometry_jump: int = 0
    color_overflow: int = 0
    color_clock_reset: int = 0
    color_duplicate: int = 0
    color_late: int = 0
    depth_duplicate: int = 0
    depth_late: int = 0
    odometry_duplicate: int = 0
    odometry_late: int = 0
    odometry_wrong_frame: int = 0
    odometry_invalid: int = 0
    odometry_jumps: int = 0
    clock_resets: int = 0

    @property
    def dropped_color(self) -> int:
        """Colour images that will never come out, whatever the reason."""
        return (
            self.color_no_depth
            + self.color_no_odometry
            + self.color_odometry_gap
            + self.color_odometry_jump
            + self.color_overflow
            + self.color_clock_reset
            + self.color_duplicate
            + self.color_late
        )


@dataclass
class _Counts:
    """The running, mutable twin of :class:`SyncCounts`, under the same names."""

    values: dict[str, int] = field(default_factory=dict)

    def add(self, name: str, n: int = 1) -> None:
        self.values[name] = self.values.get(name, 0) + n


@dataclass(frozen=True)
class _Image(Generic[ColorT]):
    stamp_ns: int
    payload: ColorT


@dataclass(frozen=True)
class _Sample:
    stamp_ns: int
    pose: Pose
    jumped: bool
    """Faster than allowed since the sample before."""


class Aligner(Generic[ColorT, DepthT]):
    """See the module. Single-threaded: call it from the executor's thread only.

    Every ``add_*`` returns what it completed, in the order of the stamps. Stamps are integer
    nanoseconds of one clock. Per stream, an equal stamp is a duplicate and an older one is late:
    both are dropped and counted; one older by more than ``max_wait_s`` means that the clock was
    reset: everything held is dropped and counted, and the stream begins anew with that message.

    Args:
        config: the limits, and the frame of the odometry.
        base_frame: whose poses are taken.
    """

    def __init__(self, config: SyncConfig, base_frame: str = DepthInputConfig.base_frame) -> None:
        self._require_depth = config.require_depth
        self._odom_frame = config.odom_frame.lstrip("/")
        self._base_frame = base_frame
        self.tune(config)
        self._counts = _Counts()
        self._color: deque[_Image[ColorT]] = deque()
        self._depth: deque[_Image[DepthT]] = deque(maxlen=MAX_DEPTH)
        self._odometry: deque[_Sample] = deque(maxlen=MAX_ODOMETRY)
        self._last_ns: dict[str, int] = {}

    def tune(self, config: SyncConfig) -> None:
        """Take over the limits; what waits already is judged by the new ones."""
        self._max_skew_ns = round(config.max_depth_skew_s * 1e9)
        self._max_gap_ns = round(config.max_odometry_gap_s * 1e9)
        self._max_wait_ns = round(config.max_wait_s * 1e9)
        self._limits = MotionLimits.of_odometry(config)

    @property
    def counts(self) -> SyncCounts:
        """A snapshot."""
        return dataclasses.replace(SyncCounts(), **self._counts.values, pending=len(self._color))

    def add_color(self, stamp_ns: int, payload: ColorT) -> list[Aligned[ColorT, DepthT]]:
        self._counts.add("received_color")
        if not self._accept("color", stamp_ns):
            return []
        if len(self._color) == MAX_PENDING_COLOR:
            self._color.popleft()
            self._counts.add("color_overflow")
        self._color.append(_Image(stamp_ns, payload))
        return self._settle()

    def add_depth(self, stamp_ns: int, payload: DepthT) -> list[Aligned[ColorT, DepthT]]:
        self._counts.add("received_depth")
        if not self._accept("depth", stamp_ns):
            return []
        self._depth.append(_Image(stamp_ns, payload))
        return self._settle()

    def add_odometry(self, stamp_ns: int, pose: Pose, frame_id: str) -> list[Aligned[ColorT, DepthT]]:
        """``pose`` is odom_from_base; ``frame_id`` that of the message's header.

        One that says that it is of another frame has not been brought to the base: it is refused.
        """
        self._counts.add("received_odometry")
        of_base = not isinstance(pose, OdometryPose) or pose.is_of(self._base_frame)
        if not of_base or (self._odom_frame and frame_id.lstrip("/") != self._odom_frame):
            self._counts.add("odometry_wrong_frame")
            return []
        if not self._accept("odometry", stamp_ns):
            return []
        jumped = False
        if self._odometry:
            before = self._odometry[-1]
            between_s = (stamp_ns - before.stamp_ns) * 1e-9
            jumped = pose_jumped(before.pose, pose, self._limits, between_s)
            self._counts.add("odometry_jumps", int(jumped))
        self._odometry.append(_Sample(stamp_ns, pose, jumped))
        return self._settle()

    def begin_anew(self) -> None:
        """Whoever takes the frames has begun something new: what was shown last may be shown again.

        A simulated robot that stands publishes its last observation, stamps and all, to who has not answered
        it. It is no duplicate for a run that was not there when it came first.
        """
        if not self._color:  # one that waits comes out yet, and then has been there
            self._last_ns.pop("color", None)
            self._last_ns.pop("depth", None)

    def reject_odometry(self) -> None:
        """Count an odometry message that was not even a pose (NaN, no quaternion)."""
        self._counts.add("received_odometry")
        self._counts.add("odometry_invalid")

    def _accept(self, stream: str, stamp_ns: int) -> bool:
        last_ns = self._last_ns.get(stream)
        if last_ns is not None and stamp_ns <= last_ns:
            if not clock_went_back(last_ns, stamp_ns, self._max_wait_ns):
                self._counts.add(f"{stream}_duplicate" if stamp_ns == last_ns else f"{stream}_late")
                return False
            self._counts.add("clock_resets")
            self._counts.add("color_clock_reset", len(self._color))
            self._color.clear()
            self._depth.clear()
            self._odometry.clear()
            self._last_ns.clear()
        self._last_ns[stream] = stamp_ns
        return True

    def _settle(self) -> list[Aligned[ColorT, DepthT]]:
        done: list[Aligned[ColorT, DepthT]] = []
        now_ns = max(self._last_ns.values())
        # Streams are in order, so that a colour image that must wait makes all later ones wait too.
        while self._color:
            color = self._color[0]
            expired = now_ns - color.stamp_ns > self._max_wait_ns
            depth_known, depth = self._find_depth(color.stamp_ns)
            pose = self._find_pose(color.stamp_ns)
            if not expired and (not depth_known or pose is None):
                break
            self._color.popleft()
            if depth is None and self._require_depth:
                self._counts.add("color_no_depth")
            elif isinstance(pose, Pose):
                self._counts.add("aligned")
                payload = None if depth is None else depth.payload
                done.append(Aligned(color.stamp_ns, color.payload, payload, pose))
            else:
                self._counts.add(pose or "color_no_odometry")
            self._forget(color.stamp_ns)
        return done

    def _find_depth(self, stamp_ns: int) -> tuple[bool, _Image[DepthT] | None]:
        """Whether no better depth can come any more, and the best so far."""
        known = not self._require_depth or (bool(self._depth) and self._depth[-1].stamp_ns >= stamp_ns)
        # On a tie the earlier one: min() keeps the first.
        best = min(self._depth, key=lambda d: abs(d.stamp_ns - stamp_ns), default=None)
        if best is not None and abs(best.stamp_ns - stamp_ns) > self._max_skew_ns:
            best = None
        return known, best

    def _find_pose(self, stamp_ns: int) -> Pose | str | None:
        """The pose at a stamp, the name of the count that says why there is none, or None: not yet known."""
        samples: Sequence[_Sample] = self._odometry
        if not samples or samples[-1].stamp_ns < stamp_ns:
            return None
        i = bisect_left(samples, stamp_ns, key=lambda s: s.stamp_ns)
        after = samples[i]
        if after.stamp_ns == stamp_ns:
            return after.pose
        if i == 0:
            return "color_no_odometry"
        before = samples[i - 1]
        if after.stamp_ns - before.stamp_ns > self._max_gap_ns:
            return "color_odometry_gap"
        if after.jumped:
            return "color_odometry_jump"
        fraction = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
        return before.pose.interpolate(after.pose, fraction)

    def _forget(self, stamp_ns: int) -> None:
        """Drop what no colour image after ``stamp_ns`` can use."""
        while self._depth and self._depth[0].stamp_ns < stamp_ns - self._max_skew_ns:
            self._depth.popleft()
        while len(self._odometry) > 1 and self._odometry[1].stamp_ns <= stamp_ns:
            self._odometry.popleft()
