"""Declares options (default, unit, range, description), checks values, reads YAML."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

T = TypeVar("T")
Scalar = bool | int | float | str


class ConfigError(ValueError):
    """A value that the user gave cannot be used; the message names it and says what would do."""


@dataclass(frozen=True, kw_only=True)
class Option:
    """What is known of one option besides its name, type and default."""

    doc: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    retired: tuple[tuple[str, str], ...] = ()
    """Choices that are gone, each with what to do instead."""
    live: bool = False
    """May be changed while the node is active."""


def option(
    default: Any,
    doc: str,
    *,
    unit: str = "",
    minimum: float | None = None,
    maximum: float | None = None,
    choices: tuple[str, ...] = (),
    retired: tuple[tuple[str, str], ...] = (),
    live: bool = False,
) -> Any:
    """A dataclass field with its description. ``minimum`` and ``maximum`` are inclusive."""
    described = Option(
        doc=doc, unit=unit, minimum=minimum, maximum=maximum, choices=choices, retired=retired, live=live
    )
    return dataclasses.field(default=default, metadata={"option": described})


def group(cls: type[T]) -> T:
    """A dataclass field that is itself a group of options."""
    return dataclasses.field(default_factory=cls)


LARGEST_SEED = 2**32 - 1
"""Of what torch draws numbers with; all libraries take it."""


@dataclass(frozen=True)
class OptionEntry:
    """One option of a group, found by :func:`walk_options`."""

    name: str
    """Dotted, from the outermost group."""
    type: type
    default: Scalar
    option: Option


def walk_options(cls: type, prefix: str = "") -> Iterator[OptionEntry]:
    """Every option of a configuration class, nested groups included, in the order of definition."""
    for f in dataclasses.fields(cls):
        name = f"{prefix}{f.name}"
        if "option" in f.metadata:
            default: Any = f.default
            yield OptionEntry(name, type(default), default, f.metadata["option"])
        else:
            assert isinstance(f.default_factory, type), f"{cls.__name__}.{f.name} is neither option nor group"
            yield from walk_options(f.default_factory, f"{name}.")


_LEAST_BEGINNING = 2
"""Letters: one alone says too little of what was meant."""


def nearest(given: str, known: Iterable[str]) -> str | None:
    """What was probably meant, in capitals or not or cut short; None where nothing is like it."""
    by_small_letters = {name.lower(): name for name in known}
    small = given.lower()
    near = difflib.get_close_matches(small, by_small_letters, n=1)
    if not near and len(small) >= _LEAST_BEGINNING:
        begins = [name for name in by_small_letters if name.startswith(small)]
        near = begins if len(begins) == 1 else []
    return by_small_letters[near[0]] if near else None


def check_value(entry: OptionEntry, value: object) -> Scalar:
    """``value`` converted to the option's type, or ConfigError. An int serves where a float is asked."""
    name, expected, spec = entry.name, entry.type, entry.option
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(f"{name} = {value!r}: expected {expected.__name__}, got {type(value).__name__}")
    assert isinstance(value, bool | int | float | str)
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{name} = {value}: must be finite")
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = spec.minimum, spec.maximum
        if (low is not None and value < low) or (high is not None and value > high):
            bounds = (
                f"at least {low}"
                if high is None
                else f"at most {high}"
                if low is None
                else f"in [{low}, {high}]"
            )
            raise ConfigError(f"{name} = {value}: must be {bounds}{' ' + spec.unit if spec.unit else ''}")
    if spec.choices and value not in spec.choices:
        choose = f"choose one of {', '.join(spec.choices)}"
        for gone, instead in spec.retired:
            if value == gone:
                choose = f"there is no {gone!r} any more, {instead}; {choose}"
        near = nearest(str(value), spec.choices)
        raise ConfigError(f"{name} = {value!r}: {choose}" + (f"; did you mean {near!r}?" if near else ""))
    return value


def from_flat(cls: type[T], values: Mapping[str, object]) -> T:
    """A configuration from dotted names; what is not named keeps its default.

    Raises:
        ConfigError: unknown name (the nearest known one is suggested), wrong type, out of range.
    """
    entries = {e.name: e for e in walk_options(cls)}
    for name in values:
        if name not in entries:
            near = nearest(name, entries)
            raise ConfigError(
                f"unknown option {name!r} of {cls.__name__}"
                + (f"; did you mean {near!r}?" if near else f"; known: {', '.join(entries)}")
            )
    checked = {name: check_value(entries[name], value) for name, value in values.items()}
    return _build(cls, checked, "")


def _build(cls: type[T], values: Mapping[str, Scalar], prefix: str) -> T:
    arguments: dict[str, Any] = {}
    for f in dataclasses.fields(cls):  # type: ignore[arg-type]
        name = f"{prefix}{f.name}"
        if "option" in f.metadata:
            if name in values:
                arguments[f.name] = values[name]
        else:
            arguments[f.name] = _build(f.default_factory, values, f"{name}.")  # type: ignore[arg-type]
    return cls(**arguments)


def to_flat(config: object, prefix: str = "") -> dict[str, Scalar]:
    """The inverse of :func:`from_flat`."""
    flat: dict[str, Scalar] = {}
    for f in dataclasses.fields(config):  # type: ignore[arg-type]
        value = getattr(config, f.name)
        if "option" in f.metadata:
            flat[f"{prefix}{f.name}"] = value
        else:
            flat.update(to_flat(value, f"{prefix}{f.name}."))
    return flat


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested mappings to dotted names."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def load_yaml(cls: type[T], path: Path) -> T:
    """A configuration from a YAML file of nested or dotted names. Raises ConfigError."""
    try:
        tree = yaml.safe_load(path.read_text("utf-8"))
    except OSError as e:
        raise ConfigError(f"cannot read {path}: {e.strerror}") from e
    except (yaml.YAMLError, UnicodeDecodeError) as e:
        raise ConfigError(f"{path} is not valid YAML: {e}") from e
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{path} must hold a mapping of options, got {type(tree).__name__}")
    try:
        return from_flat(cls, flatten(tree))
    except ConfigError as e:
        raise ConfigError(f"{path}: {e}") from e
