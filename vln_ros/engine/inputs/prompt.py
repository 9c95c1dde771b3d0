"""Writes a conversation in the checkpoint's chat format, as text and images in order.

Text pieces and image marks alternate; the engine turns the first into token ids and each mark
into ``<|vision_start|>``, the image's tokens and ``<|vision_end|>``. Pieces only ever meet at a
special token or a line end, so that tokenising them one by one gives the tokens of the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from vln_ros.engine.checkpoint.profile import Profile

VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
REPLY_END = "<|im_end|>\n"
"""Closes the model's reply; the model itself generates the token before the line end."""

_MARK = re.compile(r"\{(instruction|image|history)\}")
_SPECIAL = re.compile(r"<\|(?=\w+\|>)")


@dataclass(frozen=True)
class ImageMark:
    """Where an image stands.

    Attributes:
        index: which of the turn's images: the history frames first, oldest first, then the frames
            asked about.
    """

    index: int


Piece = str | ImageMark


@dataclass(frozen=True)
class Turn:
    """One question and, once there is one, its answer; for :func:`render`.

    Attributes:
        history: number of past frames shown.
        images: number of frames asked about.
    """

    history: int = 0
    images: int = 1
    reply: str | None = None


def opening(profile: Profile) -> tuple[Piece, ...]:
    """What stands before the first turn: the system message."""
    return (f"<|im_start|>system\n{profile.system}<|im_end|>\n",)


def turn(
    profile: Profile, number: int, instruction: str, *, history: int = 0, images: int = 1
) -> tuple[Piece, ...]:
    """The user's message number ``number`` (from 0), up to where the model answers.

    Message 0, and any message of a ``history`` profile that shows no past frame, is the profile's
    ``first_turn``; the others are its ``next_turn``.

    Args:
        instruction: what the robot was told. Text that looks like a special token is defused.
        history: number of past frames shown; their marks come in place of ``{history}``.
        images: number of frames asked about, in place of ``{image}``.

    Raises:
        ValueError: no image, or history where the template has no place for it.
    """
    first = history == 0 if profile.context.strategy == "history" else number == 0
    template = profile.first_turn if first else profile.next_turn
    if images < 1:
        raise ValueError("a turn shows at least one image")
    if history and "{history}" not in template:
        raise ValueError(f"profile {profile.name} has no place for {history} past frames in this turn")
    pieces: list[Piece] = []
    text = "<|im_start|>user\n"
    for i, part in enumerate(_MARK.split(template)):
        if i % 2 == 0:
            text += part
        elif part == "instruction":
            text += clean_instruction(instruction)
        else:
            span = range(history) if part == "history" else range(history, history + images)
            if span and text:
                pieces.append(text)
                text = ""
            pieces.extend(ImageMark(k) for k in span)
    pieces.append(f"{text}<|im_end|>\n<|im_start|>assistant\n")
    return tuple(pieces)


def reply(text: str) -> tuple[Piece, ...]:
    """The model's answer and the end of its turn."""
    return (text + REPLY_END,)


def render(profile: Profile, instruction: str, turns: Sequence[Turn]) -> tuple[Piece, ...]:
    """A whole conversation; after a turn without reply the model answers next."""
    pieces = list(opening(profile))
    for number, t in enumerate(turns):
        pieces.extend(turn(profile, number, instruction, history=t.history, images=t.images))
        if t.reply is not None:
            pieces.extend(reply(t.reply))
    return tuple(pieces)


def as_text(pieces: Sequence[Piece], image_tokens: Sequence[int]) -> str:
    """The conversation as one text, with ``image_tokens[i]`` pads for the i-th mark.

    Raises:
        ValueError: not one number per mark.
    """
    marks = sum(isinstance(piece, ImageMark) for piece in pieces)
    if marks != len(image_tokens):
        raise ValueError(f"{marks} images in the conversation, {len(image_tokens)} token counts given")
    counts = iter(image_tokens)
    return "".join(
        piece if isinstance(piece, str) else f"{VISION_START}{IMAGE_PAD * next(counts)}{VISION_END}"
        for piece in pieces
    )


def clean_instruction(text: str) -> str:
    """The instruction with no text that reads as a special token; otherwise as it is.

    ``<|im_end|>`` in an instruction would end the user's turn.
    """
    return _SPECIAL.sub("< |", text)
