"""What `--help` says is understood by who reads it alone."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator

import pytest

from vln_ros.cli import build_parser

LEANS = re.compile(r"^(of|as for|as|per|at|these|those|there|with|before|default|\(default)\b", re.I)


def arguments_of(parser: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, str]]:
    """Every argument of every command, and every command, with what is said of it."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from ((f"{name} {choice.dest}", choice.help or "") for choice in action._choices_actions)
            for command, inner in action.choices.items():
                yield from arguments_of(inner, f"{name} {command}")
        elif action.dest != "help":
            yield f"{name} {action.option_strings[-1:] or action.dest}", action.help or ""


EVERY = list(arguments_of(build_parser(), "vln_ros"))


def is_poor(text: str) -> bool:
    """It is a fragment that leans on the name of its argument, or says nothing."""
    return bool(LEANS.match(text)) or len(text.split("(default")[0].split()) < 2


def test_every_help_is_more_than_a_fragment() -> None:
    assert len(EVERY) > 250
    assert not [f"{name}: {text}" for name, text in EVERY if is_poor(text)]


@pytest.mark.parametrize(
    "text",
    ["", "of the policy (default: tiny)", "default: 3", "as for show", "processes (default: 2)", "there",
     "these instead", "per mode (default: 5)", "with obstacle stops (default: 100)"],
)  # fmt: skip
def test_a_fragment_is_found(text: str) -> None:
    assert is_poor(text)
