"""What the page is told: one value per subject, written as JSON once for all viewers."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import TypeAlias

VIEWS = ("camera", "reuse")
"""The pictures that a page may show, one at a time."""
GOAL_PICTURE = "goal_picture"
"""The picture that was answered with a point: for whoever has not seen it as it came."""
PLAN_PICTURE = "plan"
"""A simulated scene from above: the area of :class:`WorldMap`."""
_PICTURES = (*VIEWS, GOAL_PICTURE, PLAN_PICTURE)
_PICTURE = struct.Struct(">BIQf")


@dataclass(frozen=True)
class Welcome:
    """The first message to every viewer.

    Attributes:
        robot: name of the machine, and the namespace where there is one.
        examples: sentences to choose from.
        time_s: by the clock of the log's lines, which may be another than the page's.
    """

    robot: str
    examples: tuple[str, ...]
    time_s: float


@dataclass(frozen=True)
class Driving:
    """Who drives, as one viewer sees it.

    Attributes:
        you: this viewer does.
        who: a name of who does, for people; empty: nobody.
        viewers: how many pages are open.
    """

    you: bool
    who: str
    viewers: int


@dataclass(frozen=True)
class State:
    """What the executor does, in plain words.

    Attributes:
        level: ``unknown``, ``idle``, ``moving``, ``finished`` or ``stopped``.
        headline: one sentence.
        reasons: why it stands, a sentence each.
        paused: somebody has stopped it, and nobody has released it.
    """

    level: str
    headline: str
    reasons: tuple[str, ...]
    paused: bool


@dataclass(frozen=True)
class Standstill:
    """What became of the last STOP: asked for, and confirmed by the executor."""

    asked: bool
    confirmed: bool
    text: str


@dataclass(frozen=True)
class Task:
    """What the robot was told last; empty: nothing since the page's node was started."""

    text: str


@dataclass(frozen=True)
class Navigator:
    """Why the navigator would not follow an instruction yet; empty: it would."""

    text: str


@dataclass(frozen=True)
class Queue:
    """The action queue in words, the next action first, and how many of them are left."""

    actions: tuple[str, ...]
    left: int


@dataclass(frozen=True)
class Goal:
    """The point in a picture that the model has answered with, if its last answer was one.

    Attributes:
        row, column: pixels of the camera's picture; None: the answer was no point.
        stamp_ns: of that picture, as text: it has more digits than the page's numbers.
    """

    row: int | None
    column: int | None
    stamp_ns: str


@dataclass(frozen=True)
class GoalPlace:
    """``[x, y]`` in metres of the place that the robot is on its way to, if its model names one."""

    point: tuple[float, float] | None


@dataclass(frozen=True)
class Place:
    """Where the base is in the odometry frame."""

    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True)
class Trail:
    """``[x, y]`` in metres where the robot was since the instruction; places that come later belong to it."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class PathAhead:
    """``[x, y]`` in metres where the queue leads; the last one is the goal."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Obstacles:
    """``[x, y]`` in metres of what the executor takes for obstacles."""

    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class WorldMap:
    """Which part of the map the picture of a simulated scene shows, in metres; no width: there is none."""

    x_m: float
    y_m: float
    width_m: float
    height_m: float


@dataclass(frozen=True)
class Starts:
    """Where a simulated robot may be put.

    Attributes:
        current: id of the start that it was put at last.
        here: rooms and things of the scene, for people; empty: nothing is known of them.
        offered: id and name of each; empty: this robot is not simulated, and nobody may put it anywhere.
    """

    current: str
    here: str
    offered: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Gauge:
    """One number that is shown large. ``value`` is text: the unit stands behind it."""

    name: str
    value: str
    unit: str


@dataclass(frozen=True)
class Gauges:
    gauges: tuple[Gauge, ...]


@dataclass(frozen=True)
class NodeReport:
    """A node as /diagnostics shows it. ``level``: ``ok``, ``warn``, ``error`` or ``stale``."""

    node: str
    level: str
    summary: str
    rows: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Reports:
    reports: tuple[NodeReport, ...]


@dataclass(frozen=True)
class Note:
    """A line of the log.

    Attributes:
        number: counted from 1.
        time_s: since 1970, for people.
        what: ``instruction``, ``question``, ``answer``, ``unanswered``, ``stop``, ``release``, ``driver``,
            ``held``, ``failure``, ``world`` (what a simulated world says of a sentence) or ``refused``.
    """

    number: int
    time_s: float
    what: str
    text: str


@dataclass(frozen=True)
class Refused:
    """Why something that this viewer asked for was not done."""

    text: str


Message: TypeAlias = (
    Welcome
    | Driving
    | State
    | Standstill
    | Task
    | Navigator
    | Queue
    | Goal
    | GoalPlace
    | Place
    | Trail
    | PathAhead
    | Obstacles
    | WorldMap
    | Starts
    | Gauges
    | Reports
    | Note
    | Refused
)


def kind_of(message: type[Message]) -> str:
    """``PathAhead`` is ``path_ahead``: what the page knows it by."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in message.__name__).lstrip("_")


def encode(message: Message) -> str:
    """As JSON. Raises ValueError for a number that is none: JSON has no word for it."""
    content = {"kind": kind_of(type(message)), **vars(message)}
    return json.dumps(content, default=vars, allow_nan=False, separators=(",", ":"))


def picture_bytes(view: str, number: int, stamp_ns: int, scale: float, jpeg: bytes) -> bytes:
    """A picture as the page reads it: view (1 byte), number (4), stamp in ns (8), scale (float32), JPEG.

    ``scale`` is the size that is sent, as a share of the camera's.
    """
    return _PICTURE.pack(_PICTURES.index(view), number & 0xFFFFFFFF, stamp_ns, scale) + jpeg
