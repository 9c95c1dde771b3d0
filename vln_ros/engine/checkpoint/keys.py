"""Takes a mapping of a YAML file apart key by key; what is wrong, missing or left over is named."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any, TypeVar

from vln_ros.config import ConfigError

Choice = TypeVar("Choice", bound=str)

_OF_CHECKPOINT = "checkpoint"


class Keys:
    """A mapping of a YAML tree, taken apart key by key; what is left over at the end is an error."""

    def __init__(self, where: str, tree: object) -> None:
        if not isinstance(tree, Mapping):
            raise ConfigError(f"{where} must be a mapping, got {type(tree).__name__}")
        self.where = where
        self._tree = tree
        self._known: list[str] = []

    def error(self, key: str, expected: str) -> ConfigError:
        return ConfigError(f"{self.where}: {key} = {self._tree[key]!r}: expected {expected}")

    def has(self, key: str) -> bool:
        self._known.append(key)
        return key in self._tree

    def take(self, key: str) -> Any:
        if not self.has(key):
            # A misspelt key is both missing and unknown: name both at once.
            near = difflib.get_close_matches(key, [str(k) for k in self._tree], n=1)
            raise ConfigError(
                f"{self.where}: {key} is missing" + (f"; is {near[0]!r} meant?" if near else "")
            )
        return self._tree[key]

    def keys(self, key: str) -> Keys:
        return Keys(f"{self.where}, {key}", self.take(key))

    def items(self, key: str) -> list[Keys]:
        value = self.take(key)
        if not isinstance(value, list):
            raise self.error(key, "a list")
        return [Keys(f"{self.where}, {key}[{i}]", item) for i, item in enumerate(value)]

    def text(self, key: str, *, may_be_empty: bool = False) -> str:
        value = self.take(key)
        if not isinstance(value, str) or not (value or may_be_empty):
            raise self.error(key, "a text")
        return value

    def integer(self, key: str, least: int) -> int:
        value = self.take(key)
        if type(value) is not int or value < least:
            raise self.error(key, f"an integer of at least {least}")
        return value

    def number(self, key: str) -> float:
        value = self.take(key)
        if type(value) not in (int, float) or not math.isfinite(value):
            raise self.error(key, "a finite number")
        return float(value)

    def number_or_checkpoint(self, key: str, least: float, most: float) -> float | None:
        value = self.take(key)
        if value == _OF_CHECKPOINT:
            return None
        if type(value) not in (int, float) or not least <= value <= most:
            raise self.error(key, f"a number from {least:g} to {most:g}, or {_OF_CHECKPOINT}")
        return float(value)

    def choice(self, key: str, choices: tuple[Choice, ...]) -> Choice:
        value = self.take(key)
        for choice in choices:
            if value == choice:
                return choice
        raise self.error(key, f"one of {', '.join(choices)}")

    def finish(self) -> None:
        for key in self._tree:
            if key not in self._known:
                near = difflib.get_close_matches(str(key), self._known, n=1)
                raise ConfigError(
                    f"{self.where}: unknown key {key!r}"
                    + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(self._known)}")
                )
