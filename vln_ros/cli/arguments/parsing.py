"""An argument parser whose errors are one sentence and name what was probably meant."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

from vln_ros.config import OptionEntry, Scalar, check_value, nearest

SIZE = "WIDTHxHEIGHT"
"""How the size of a picture is written, pixels."""
_CHOICE = re.compile(r"invalid choice: '?(?P<given>[^' ]*)'? \(choose from (?P<known>.*)\)", re.DOTALL)

_NUMBER = re.compile(r"invalid (?P<kind>int|float|seconds) value: ")
_NUMBERS = {"int": "a whole number", "float": "a number", "seconds": "a number of seconds"}


def did_you_mean(given: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` or nothing."""
    near = nearest(given, known)
    return f"; did you mean {near}?" if near else ""


def seconds(text: str) -> float:
    """An option's value: more than none, and an end to it. Raises ArgumentTypeError."""
    value = float(text)
    if not 0.0 < value <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text}: give a number of seconds above 0, up to 86400")
    return value


def check_option(flag: str, entry: OptionEntry, value: object) -> Scalar:
    """As :func:`check_value`; what ``entry`` does not allow: ConfigError names the option as typed."""
    return check_value(replace(entry, name=flag), value)


def flag_of(name: str) -> str:
    """How an option of this name is typed."""
    return f"--{name.replace('_', '-')}"


def given_options(args: argparse.Namespace, entries: Mapping[str, OptionEntry]) -> dict[str, Scalar]:
    """What was typed of these options, by the names in their configuration.

    Args:
        entries: by the name that each has on the command line.

    Raises:
        ConfigError: a value that is not allowed; it names the option as it was typed.
    """
    typed = {name: getattr(args, name) for name in entries}
    return {
        entries[name].name: check_option(flag_of(name), entries[name], value)
        for name, value in typed.items()
        if value is not None
    }


class Parser(argparse.ArgumentParser):
    """Of a command, or of all. Not the usage but ``--help`` is named: it may be fifty lines.

    Without any argument it prints its help: a group of commands because that is what it can do, and a command
    that needs some because one of them is missing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.is_group = False
        self.former_names: dict[str, str] = {}
        """Options that were called otherwise before, by the old name."""
        self._given: Sequence[str] = ()

    def add_subparsers(self, **kwargs: Any) -> Any:
        """As always; what it is part of is a group of commands from then on."""
        self.is_group = True
        return super().add_subparsers(**kwargs)

    @property
    def arguments(self) -> tuple[argparse.Action, ...]:
        """Options and positional arguments of its own, without ``--help`` and what follows a group."""
        kinds = (argparse._HelpAction, argparse._SubParsersAction)
        return tuple(action for action in self._actions if not isinstance(action, kinds))

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.search(message)
        before = next(iter(self._given), "")
        if found is not None and self.is_group and before.startswith("-") and not self._is_known(before):
            message = f"{before} stands before the command: give it behind, {self.prog} COMMAND {before}"
        elif found is not None:
            message += did_you_mean(found["given"], re.findall(r"[\w.:-]+", found["known"]))
        elif (number := _NUMBER.search(message)) is not None:
            message += f"; give {_NUMBERS[number['kind']]}"
        elif message.startswith("the following arguments are required"):
            # What is missing may be there, under a name with a typing mistake.
            unknown = [a for a in self._given if a.startswith("--") and not self._is_known(a)]
            if unknown:
                self.error_unknown(unknown)
            if not self._given:
                self.print_help(sys.stderr)
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always; an unknown option is an error of the command that it was given to."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: Parser = options.command_parser
            command.error_unknown(unknown)
        return options

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always; help is what a group of commands answers where none is named."""
        given = list(sys.argv[1:] if args is None else args)
        if not given and self.is_group:
            self.print_help()
            self.exit(0)
        self._given = [self._renamed(argument) for argument in given]
        options, unknown = super().parse_known_args(self._given, namespace)
        if not hasattr(options, "command_parser"):  # the innermost command's
            options.command_parser = self
        return options, unknown

    def error_unknown(self, arguments: Sequence[str]) -> NoReturn:
        """These are not among the options."""
        option = next((a for a in arguments if a.startswith("-")), "").split("=")[0]
        known = [name for name in self._option_string_actions if name.startswith("--")]
        if not option:  # a word too many, which may want its dashes
            option = next((f"--{a}" for a in arguments if f"--{a}" in known), "")
        self.error(f"unrecognized arguments: {' '.join(arguments)}{did_you_mean(option, known)}")

    def _is_known(self, argument: str) -> bool:
        """An option, or the beginning of one."""
        name = argument.split("=")[0]
        return any(known.startswith(name) for known in self._option_string_actions)

    def _renamed(self, argument: str) -> str:
        name, sign, value = argument.partition("=")
        now = self.former_names.get(name)
        if now is None:
            return argument
        print(f"{self.prog}: {name} is called {now} now", file=sys.stderr)
        return f"{now}{sign}{value}"


def walk_commands(parser: Parser, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Parser]]:
    """Every command below ``parser`` and ``parser`` itself, with the words that call it."""
    yield path, parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from walk_commands(command, (*path, name))


def rename_options(parser: argparse.ArgumentParser, former_names: Mapping[str, str]) -> None:
    """Options may be given by the name that they had before, which is told.

    By a parser that is none of a command, only the new names are known.
    """
    if isinstance(parser, Parser):
        parser.former_names.update(former_names)
