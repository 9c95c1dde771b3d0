"""What a page may ask for. Everything else is refused with a sentence."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any, TypeAlias

from vln_ros.web.messages import VIEWS

LONGEST_BYTES = 32768
"""Of a message; longer ones end the connection. The longest instruction fits in: JSON needs up to 6 bytes a
character."""
NO_VIEW = "none"
FARTHEST_M = 10_000.0


class RequestError(ValueError):
    """A message that cannot be understood; the text says why, for people."""


@dataclass(frozen=True)
class Stop:
    """Stand still, and end the run. Anybody may."""


@dataclass(frozen=True)
class Release:
    """End a STOP. Nothing moves by it: the run was ended."""


@dataclass(frozen=True)
class Instruct:
    text: str


@dataclass(frozen=True)
class Ask:
    text: str


@dataclass(frozen=True)
class Drive:
    """Become the driver; ``take_over``: also where somebody else is."""

    take_over: bool


@dataclass(frozen=True)
class Leave:
    """Be the driver no more."""


@dataclass(frozen=True)
class View:
    """Which pictures to send: one of :data:`vln_ros.web.messages.VIEWS`, or ``none``."""

    name: str


@dataclass(frozen=True)
class Shown:
    """The picture of this number is on the screen: the next one may come."""

    number: int


@dataclass(frozen=True)
class Put:
    """Put a simulated robot there, in the frame of its map."""

    x_m: float
    y_m: float
    yaw_rad: float


@dataclass(frozen=True)
class Begin:
    """Put a simulated robot at this start, one of :class:`vln_ros.web.messages.Starts`."""

    start: str


Request: TypeAlias = Stop | Release | Instruct | Ask | Drive | Leave | View | Shown | Put | Begin
_KINDS: dict[str, type[Request]] = {
    "stop": Stop, "release": Release, "instruct": Instruct, "ask": Ask, "drive": Drive, "leave": Leave,
    "view": View, "shown": Shown, "put": Put, "begin": Begin,
}  # fmt: skip
_TYPES = {"text": str, "name": str, "number": int, "take_over": bool, "start": str}
_REALS = {"x_m": FARTHEST_M, "y_m": FARTHEST_M, "yaw_rad": 2.0 * math.pi}
"""Fields that are numbers, whole ones included, and how large they may be."""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse(text: str) -> Request:
    """A request from its JSON. Raises RequestError."""
    try:
        content: Any = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"not JSON: {error}") from error
    if not isinstance(content, dict):
        raise RequestError("a request is an object with a kind")
    kind = content.pop("kind", None)
    if not isinstance(kind, str) or kind not in _KINDS:
        raise RequestError(f"unknown kind of request; known: {', '.join(_KINDS)}")
    wanted = {f.name for f in fields(_KINDS[kind])}
    if set(content) != wanted:
        raise RequestError(f"{kind} has the fields {sorted(wanted)}, no others")
    for name, value in content.items():
        if name in _REALS:
            if type(value) not in (int, float) or not abs(value) <= _REALS[name]:
                raise RequestError(f"{kind}: {name} must be a number between +/-{_REALS[name]:g}")
        elif type(value) is not _TYPES[name]:
            raise RequestError(f"{kind}: {name} must be {_TYPES[name].__name__}")
    if kind == "view" and content["name"] not in (*VIEWS, NO_VIEW):
        raise RequestError(f"view: choose one of {', '.join((*VIEWS, NO_VIEW))}")
    if kind == "begin" and not content["start"].isprintable():
        raise RequestError("begin: start is no id, which is printable text")
    return _KINDS[kind](**content)
