"""Checks the words that a person gives a robot, whatever way they come: a topic, or a call in Python."""

from __future__ import annotations

import unicodedata
from enum import Enum

MAX_INSTRUCTION_CHARACTERS = 4096
MAX_QUESTION_CHARACTERS = 16384
"""What a model can take is less, and in tokens."""


class WordsFault(Enum):
    """What is wrong, for counting."""

    LONG = "long"
    NOT_UTF8 = "not_utf8"
    CONTROL_CHARACTERS = "control_characters"


class WordsError(ValueError):
    """A text that no model should be given; the message says why."""

    def __init__(self, fault: WordsFault, text: str) -> None:
        super().__init__(text)
        self.fault = fault


def check_words(name: str, text: str, most_characters: int) -> None:
    """Raises WordsError: too long, not valid UTF-8, or with control characters other than blanks."""
    if len(text) > most_characters:
        raise WordsError(
            WordsFault.LONG, f"{name} has {len(text)} characters, at most {most_characters} are taken"
        )
    # What rclpy, and whoever decodes with replacements, makes of bytes that are not UTF-8.
    if "\N{REPLACEMENT CHARACTER}" in text or any(unicodedata.category(c) == "Cs" for c in text):
        raise WordsError(WordsFault.NOT_UTF8, f"{name} is not valid UTF-8")
    # Format characters (Cf) are needed to write Hindi and Telugu.
    bad = sorted({c for c in text if unicodedata.category(c) == "Cc" and c not in "\t\n\r"})
    if bad:
        raise WordsError(WordsFault.CONTROL_CHARACTERS, f"{name} contains control characters {bad}")
