"""An argument parser whose errors are one sentence and name what was probably meant."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from typing import Any, NoReturn

_CHOICE = re.compile(r"invalid choice: '?(?P<given>[^' ]*)'? \(choose from (?P<known>.*)\)", re.DOTALL)


def nearest(given: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` or nothing."""
    near = difflib.get_close_matches(given, known, 1)
    return f"; did you mean {near[0]}?" if near else ""


class Parser(argparse.ArgumentParser):
    """Of a command, or of all. Not the usage but ``--help`` is named: it may be fifty lines."""

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.search(message)
        if found is not None:
            message += nearest(found["given"], re.findall(r"[\w.:-]+", found["known"]))
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As always; an unknown option is an error of the command that it was given to."""
        options, unknown = self.parse_known_args(args, namespace)
        if unknown:
            command: Parser = getattr(options, "command_parser", self)
            command.error_unknown(unknown)
        return options

    def error_unknown(self, arguments: Sequence[str]) -> NoReturn:
        """These are not among the options."""
        option = next((a for a in arguments if a.startswith("-")), "").split("=")[0]
        known = [*self._option_string_actions]
        self.error(f"unrecognized arguments: {' '.join(arguments)}{nearest(option, known)}")
