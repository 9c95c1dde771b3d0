"""What a profile says of pixel goals: how a checkpoint points at where it wants to go."""

from __future__ import annotations

import re
from dataclasses import dataclass

from vln_ros.config import ConfigError
from vln_ros.datatypes import PixelGoal
from vln_ros.engine.checkpoint.keys import Keys

LOOK_DOWN_PICTURES = ("same", "camera")
PIXEL_ORDERS = ("row_column", "column_row")
_MARK = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True, kw_only=True)
class PixelGoalSpec:
    """How a checkpoint points at where it wants to go: in a picture that it asks for in the same chat.

    Attributes:
        request: what it says when it wants that picture; always an answer of its own.
        turn: template of the user's message that shows it, with one ``{image}``.
        picture: ``same`` (the newest picture again, as the camera took it, for cameras that are fixed), or
            ``camera`` (of a second camera, which looks down).
        order: ``row_column`` or ``column_row``: which of the two numbers comes first. They are pixels of that
            picture as the camera took it.
        separator: text between the two numbers.
        already_there_m: a place nearer to the base than this is not driven to.
        nowhere_turn_deg: what is done where the pixel is no place, or one where the robot already is: a turn
            to the left, so that the next question shows something else; 0: stand still and say why.
    """

    request: str
    turn: str
    picture: str
    order: str
    separator: str
    already_there_m: float
    nowhere_turn_deg: float

    def goal(self, first: int, second: int, stamp_ns: int) -> PixelGoal:
        """The point that two numbers name."""
        row, column = (first, second) if self.order == "row_column" else (second, first)
        return PixelGoal(row, column, stamp_ns)

    def text(self, goal: PixelGoal) -> str:
        """How the checkpoint says it."""
        numbers = (goal.row, goal.column) if self.order == "row_column" else (goal.column, goal.row)
        return self.separator.join(map(str, numbers))

    def parse(self, text: str) -> tuple[int, int] | None:
        """The first two whole numbers of a free answer, as the released code reads it; None if not there."""
        numbers = re.findall(r"[0-9]+", text)
        return (int(numbers[0]), int(numbers[1])) if len(numbers) >= 2 else None


def parse_pixel_goal(keys: Keys, strategy: str) -> PixelGoalSpec:
    """The part ``pixel_goal`` of a profile with this context strategy. Raises ConfigError."""
    if strategy != "history":
        raise ConfigError(
            f"{keys.where}: needs context strategy history, where every question is a chat of its own, "
            f"not {strategy}"
        )
    spec = PixelGoalSpec(
        request=keys.text("request"),
        turn=keys.text("turn"),
        picture=keys.choice("picture", LOOK_DOWN_PICTURES),
        order=keys.choice("order", PIXEL_ORDERS),
        separator=keys.text("separator"),
        already_there_m=keys.number("already_there_m"),
        nowhere_turn_deg=keys.number("nowhere_turn_deg"),
    )
    keys.finish()
    if _MARK.findall(spec.turn) != ["image"]:
        raise keys.error("turn", "a text with one {image} and no other mark")
    if re.search(r"\d", spec.separator):
        raise keys.error("separator", "a text without digits")
    if spec.already_there_m < 0.0:
        raise keys.error("already_there_m", "a distance of at least 0 m")
    if not 0.0 <= spec.nowhere_turn_deg <= 180.0:
        raise keys.error("nowhere_turn_deg", "an angle from 0 to 180 degrees")
    return spec
