"""Knows the way and says what of it a picture shows, in InternVLA-N1's words: the oracle of pixels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vln_ros.datatypes import Action, ActionKind, Float64Array, Frame, Instruction, Pose, wrap_angle
from vln_ros.sim.episodes.episode import Episode
from vln_ros.sim.oracle.policy import find_episode

LOOK_DOWN = "↓"
_WORDS = {
    ActionKind.STOP: "STOP",
    ActionKind.FORWARD: "↑",
    ActionKind.TURN_LEFT: "←",
    ActionKind.TURN_RIGHT: "→",
}

AHEAD_M = 5.0
"""So much of the way is looked at: farther on depth is coarse, and much may come between."""
_SPACING_M = 0.1
_LEAST_M = 0.4
"""Nearer places than this are not worth an answer."""
_DIRECT = 0.6
"""A place whose way is so much longer than the straight one (the other way round) lies behind something."""
_MARGIN = 0.03
"""Of the picture's sides: pixels nearer to its edge are not named."""
_AGREES_M, _AGREES = 0.05, 0.05
"""What the picture shows at a place is the floor there if its depth is so near to that of the place."""
_LEG_M = 0.6
"""Where the way begins: the direction to turn to."""

Way = Callable[[Float64Array], Float64Array]
"""From a ``[3]`` place to the corners ``[n, 3]`` of the way to the goal, the place included; metres.

Raises ValueError where there is none."""
ActionsFrom = Callable[[Pose, int], Sequence[Action]]
"""So many actions from a pose on, at most; a stop is the last one."""


@dataclass(frozen=True)
class Stop:
    """The goal is reached, or nothing leads to it."""


@dataclass(frozen=True)
class Turn:
    """The next stretch of the way is not in the picture.

    Attributes:
        angle_rad: to where it begins, left positive.
    """

    angle_rad: float


@dataclass(frozen=True)
class Point:
    """The next stretch of the way is in the picture.

    Attributes:
        row, column: pixel of its farthest place that is seen.
        ahead_m: how far along the way that is.
    """

    row: int
    column: int
    ahead_m: float


Sight = Stop | Turn | Point


def next_stretch(frame: Frame, way: Way, *, stop_within_m: float, turn_rad: float) -> Sight:
    """What to answer to a picture with depth.

    Args:
        frame: the pose is that in the scene, as the way is.
        stop_within_m: nearer to the goal than this, on foot, it stops.
        turn_rad: of one turn: less than half of it is no turn.

    Raises:
        ValueError: the frame has no depth.
    """
    here = frame.odom_from_base.position
    try:
        corners = way(here)
    except ValueError:
        return Stop()
    legs = np.linalg.norm(np.diff(corners[:, :2], axis=0), axis=1)
    if legs.sum() < stop_within_m:
        return Stop()
    places, ahead_m = _along(corners, legs)
    rows, columns, seen = _in_picture(places, frame)
    straight_m = np.linalg.norm(places[:, :2] - here[:2], axis=1)
    seen &= (straight_m >= _LEAST_M) & (straight_m >= _DIRECT * ahead_m)
    found = np.flatnonzero(seen)
    if len(found):
        k = int(found[-1])
        return Point(int(rows[k]), int(columns[k]), float(ahead_m[k]))
    k = int(min(np.searchsorted(ahead_m, _LEG_M), len(places) - 1))
    off = places[k, :2] - here[:2]
    angle_rad = wrap_angle(math.atan2(off[1], off[0]) - frame.odom_from_base.yaw_rad)
    if abs(angle_rad) >= turn_rad / 2.0:
        return Turn(angle_rad)
    return _straight_on(frame, angle_rad)


def _along(corners: Float64Array, legs: Float64Array) -> tuple[Float64Array, Float64Array]:
    """Places ``[n, 3]`` every so often along the way, and how far along it they are ``[n]``, metres."""
    until = np.concatenate([[0.0], np.cumsum(legs)])
    end_m = min(float(until[-1]), AHEAD_M)
    ahead_m = np.append(np.arange(_SPACING_M, end_m, _SPACING_M), end_m)
    places = np.stack([np.interp(ahead_m, until, corners[:, i]) for i in range(3)], 1)
    return places, ahead_m


def _in_picture(
    places: Float64Array, frame: Frame
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Rows, columns and whether the floor at each place ``[n, 3]`` is seen there."""
    if frame.depth_m is None:
        raise ValueError("the oracle of pixels needs depth: it would point through walls")
    c = frame.camera
    x, y, z = frame.odom_from_optical.inverse().transform(places).T
    ahead = z > 0.05
    z = np.where(ahead, z, 1.0)
    columns, rows = np.rint(x / z * c.fx + c.cx), np.rint(y / z * c.fy + c.cy)
    seen = ahead & (columns >= _MARGIN * c.width) & (columns <= (1.0 - _MARGIN) * c.width - 1.0)
    seen &= (rows >= 0.0) & (rows <= (1.0 - _MARGIN) * c.height - 1.0)
    rows, columns = np.where(seen, rows, 0).astype(np.int64), np.where(seen, columns, 0).astype(np.int64)
    depth_m = frame.depth_m[rows, columns]
    seen &= np.abs(depth_m - z) < _AGREES_M + _AGREES * z
    return rows, columns, seen


def _straight_on(frame: Frame, angle_rad: float) -> Point:
    """The lowest pixel in a direction: the way bends before the floor comes into the picture."""
    c = frame.camera
    base_from_optical = frame.odom_from_base.inverse() @ frame.odom_from_optical
    row = math.floor((1.0 - _MARGIN) * c.height) - 1
    columns = np.arange(c.width)
    rays = np.stack([(columns - c.cx) / c.fx, np.full(c.width, (row - c.cy) / c.fy), np.ones(c.width)], 1)
    rays = rays @ base_from_optical.rotation.T
    off = np.abs(np.arctan2(rays[:, 1], rays[:, 0]) - angle_rad)
    return Point(row, int(off.argmin()), 0.0)


def turns_of(angle_rad: float, turn_rad: float, most: int) -> int:
    """Left turns toward an angle, right ones negative; at least one, at most ``most``."""
    count = max(1, min(most, round(abs(angle_rad) / turn_rad)))
    return count if angle_rad > 0.0 else -count


def corners_of(bends: Callable[[Float64Array], tuple[float, Float64Array]], ahead_m: float = AHEAD_M) -> Way:
    """A way that is told bend by bend, as Habitat does.

    Args:
        bends: from a ``[3]`` place to the length of the way from it, metres (inf: none), and its first bend.
        ahead_m: so much of the way is asked for; what is beyond it is straightened.
    """

    def way(place: Float64Array) -> Float64Array:
        corners = [place]
        gone_m = 0.0
        left_m, bend = bends(place)
        if not math.isfinite(left_m):
            raise ValueError(f"no way leads on from {place.tolist()}")
        while True:
            gone_m += float(np.linalg.norm(bend - corners[-1]))
            corners.append(bend)
            if gone_m >= ahead_m or np.allclose(corners[-1], corners[-2]):
                return np.array(corners)
            left_m, bend = bends(bend)
            if not math.isfinite(left_m) or left_m < 1e-3:
                return np.array(corners)

    return way


class PixelOracle:
    """Implements :class:`vln_ros.protocols.Speaker` in the words of InternVLA-N1.

    It takes ``Frame.odom_from_base`` for the pose in the scene. The episode is the one with the instruction
    that it is told; of several to different goals, the one that starts where it is first asked.

    Args:
        episodes: those that may come.
        way_of: the ways to an episode's goal; raises ValueError without such a scene.
        actions_of: the expert's own actions to it: up to so many from a pose on; None to answer with pixels.
        turn_rad: of one turn.
        pixel_noise_px, seed: error of a pixel that is named.
        close: called at the end.
    """

    MOST_TURNS = 4
    STOP_WITHIN_M = 0.4

    def __init__(
        self,
        episodes: Sequence[Episode],
        way_of: Callable[[Episode], Way],
        actions_of: Callable[[Episode], ActionsFrom] | None,
        turn_rad: float,
        *,
        pixel_noise_px: float,
        seed: int,
        close: Callable[[], None],
    ) -> None:
        self._episodes = tuple(episodes)
        self._way_of, self._actions_of, self._turn_rad = way_of, actions_of, turn_rad
        self._pixel_noise_px, self._seed, self._close = pixel_noise_px, seed, close
        self._instruction: Instruction | None = None
        self._found: Episode | None = None

    def start(self, instruction: Instruction) -> None:
        self._instruction, self._found = instruction, None

    def answer(self, frame: Frame, *, looked_down: bool) -> str:
        """Raises ValueError: no episode has this instruction and this start."""
        if self._found is None:
            text = "" if self._instruction is None else self._instruction.text
            self._found = find_episode(self._episodes, text, frame.odom_from_base.position)
            self._way = self._way_of(self._found)
            self._actions = None if self._actions_of is None else self._actions_of(self._found)
        if self._actions is not None:
            actions = self._actions(frame.odom_from_base, self.MOST_TURNS)
            return "".join(_WORDS[action.kind] for action in actions)
        sight = next_stretch(frame, self._way, stop_within_m=self.STOP_WITHIN_M, turn_rad=self._turn_rad)
        if isinstance(sight, Stop):
            return _WORDS[ActionKind.STOP]
        if isinstance(sight, Turn) and looked_down:
            # It has asked for this picture, so it points: at the floor where the way begins.
            sight = _straight_on(frame, sight.angle_rad)
        if isinstance(sight, Turn):
            turns = turns_of(sight.angle_rad, self._turn_rad, self.MOST_TURNS)
            return _WORDS[ActionKind.TURN_LEFT if turns > 0 else ActionKind.TURN_RIGHT] * abs(turns)
        return self._missed(sight, frame) if looked_down else LOOK_DOWN

    def close(self) -> None:
        self._close()

    def _missed(self, point: Point, frame: Frame) -> str:
        """The pixel as a model would name it, which may miss."""
        number = 0 if self._instruction is None else self._instruction.number
        random = np.random.default_rng([self._seed, number, frame.stamp_ns])
        off = random.normal(0.0, self._pixel_noise_px, 2) if self._pixel_noise_px else np.zeros(2)
        row = int(np.clip(round(point.row + off[0]), 0, frame.camera.height - 1))
        column = int(np.clip(round(point.column + off[1]), 0, frame.camera.width - 1))
        return f"{row} {column}"
