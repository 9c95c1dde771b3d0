"""``vln_ros completion SHELL``: prints what completes commands and options in a shell."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.parsing import walk_commands
from vln_ros.cli.arguments.places import output_file, output_folder
from vln_ros.config import ConfigError

HELP = "Print a script that completes commands, options and choices in a shell"
SHELLS = ("bash", "zsh", "tcsh")
_OF_FILES = (Path, output_file)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "shell",
        choices=SHELLS,
        help="shell to complete in; for this session of bash: source <(vln_ros completion bash); for all: "
        "vln_ros completion bash > ~/.local/share/bash-completion/completions/vln_ros",
    )


def run(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ModuleNotFoundError as missing:
        raise ConfigError("shtab is not installed: pip install shtab") from missing
    from vln_ros.cli import build_parser
    from vln_ros.engine.checkpoint.profile import list_profiles

    parser = build_parser()
    every: list[Any] = [a for _, command in walk_commands(parser) for a in command.arguments]
    for action in every:
        if action.dest == "profile" and action.option_strings:
            action.choices = list_profiles()  # a path is taken, too, but nothing to be completed
        elif action.type in _OF_FILES:
            action.complete = shtab.FILE
        elif action.type is output_folder:
            action.complete = shtab.DIRECTORY
    print(shtab.complete(parser, options.shell))
    return 0
