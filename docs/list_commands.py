"""Writes the table of commands into docs/reference/cli.md, from what ``vln_ros --help`` says.

Run by `make docs`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from vln_ros.cli import build_parser

PAGE = Path(__file__).parents[1] / "docs/reference/cli.md"
BEGIN, END = "<!-- commands: made by docs/list_commands.py -->\n", "<!-- end of commands -->\n"


def commands() -> dict[str, str]:
    """Name and one-line help of every command, in the order of ``vln_ros --help``."""
    (action,) = (a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction))
    return {choice.dest: choice.help or "" for choice in action._choices_actions}


def table() -> str:
    rows = [f"| `vln_ros {name}` | {text} |\n" for name, text in commands().items()]
    return "| command | what it does |\n|---|---|\n" + "".join(rows)


def page() -> str:
    """docs/reference/cli.md with the table as it should be."""
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
