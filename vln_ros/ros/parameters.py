"""Declares ROS parameters from option groups, and checks every change."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Sequence
from typing import TypeVar

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter

from vln_ros.config import ConfigError, OptionEntry, from_flat, to_flat, walk_options

ConfigT = TypeVar("ConfigT")

_QOS_OVERRIDES = "qos_overrides."
"""rclpy declares these itself when the topic is created, after the node's own parameters."""


def describe(entry: OptionEntry) -> ParameterDescriptor:
    """Description with unit, range, choices; read-only unless the option is live."""
    option = entry.option
    descriptor = ParameterDescriptor(
        name=entry.name,
        description=option.doc + (f" [{option.unit}]" if option.unit else ""),
        additional_constraints=f"one of: {', '.join(option.choices)}" if option.choices else "",
        read_only=not option.live,
    )
    low, high = option.minimum, option.maximum
    if low is not None or high is not None:
        if entry.type is float:
            largest = sys.float_info.max
            descriptor.floating_point_range = [
                FloatingPointRange(
                    from_value=float(-largest if low is None else low),
                    to_value=float(largest if high is None else high),
                )
            ]
        else:
            descriptor.integer_range = [
                IntegerRange(
                    from_value=-(2**63) if low is None else int(low),
                    to_value=2**63 - 1 if high is None else int(high),
                    step=1,
                )
            ]
    return descriptor


def declare_config(node: Node, cls: type[ConfigT]) -> ConfigT:
    """Declare every option of ``cls`` on the node, and return what the node was started with.

    Overrides (``--params-file``, ``-p``) are checked as everywhere else, so that a whole number
    serves where a float is asked. Call it once, in the node's constructor.

    Raises:
        ConfigError: a value has the wrong type or is out of range, or the node was given a
            parameter that nobody knows; the message names it and the nearest known one.
    """
    entries = list(walk_options(cls))
    known = {e.name for e in entries}
    # rclpy offers the overrides of undeclared parameters in no public way. Without this look at
    # them a misspelt parameter would be ignored in silence.
    overrides: dict[str, Parameter] = node._parameter_overrides
    for name in overrides:
        if name not in known and not node.has_parameter(name) and not name.startswith(_QOS_OVERRIDES):
            near = difflib.get_close_matches(name, known, n=1)
            raise ConfigError(
                f"{node.get_name()}: unknown parameter {name!r}"
                + (f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(sorted(known))}")
            )
    try:
        config = from_flat(cls, {name: p.value for name, p in overrides.items() if name in known})
    except ValueError as e:
        raise ConfigError(f"{node.get_name()}: parameter {e}") from e
    values = to_flat(config)
    for entry in entries:
        node.declare_parameter(entry.name, values[entry.name], describe(entry), ignore_override=True)
    return config


def bind_live_parameters(node: Node, config: ConfigT, apply: Callable[[ConfigT], None]) -> None:
    """From now on, hand each accepted change of a live option to ``apply``, as a whole new config.

    A change that the config refuses is rejected with its reason and ``apply`` is not called.
    ``apply`` runs in the executor's thread, after all parameters of the request were stored.
    """
    cls = type(config)
    known = {e.name for e in walk_options(cls)}
    current = config

    def merged(parameters: Sequence[Parameter]) -> ConfigT | None:
        changes = {p.name: p.value for p in parameters if p.name in known}
        return from_flat(cls, {**to_flat(current), **changes}) if changes else None

    def validate(parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            merged(parameters)
        except ValueError as e:
            return SetParametersResult(successful=False, reason=str(e))
        return SetParametersResult(successful=True)

    def store(parameters: Sequence[Parameter]) -> None:
        nonlocal current
        changed = merged(parameters)
        if changed is not None and changed != current:
            current = changed
            apply(changed)

    node.add_on_set_parameters_callback(validate)
    node.add_post_set_parameters_callback(store)
