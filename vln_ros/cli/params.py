"""``vln_ros params``: lists the parameters of the nodes, for terminals and for docs/reference."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from collections.abc import Mapping

from vln_ros.config import NODES, ConfigError, EvalConfig, FarmConfig, OptionEntry, TrainConfig, walk_options

HELP = (
    "List the parameters of the nodes, with default, range, meaning, and whether they may change while the "
    "node runs; or the options of eval and train"
)
WIDTH = 100
COMMANDS: Mapping[str, tuple[type, ...]] = {"eval": (EvalConfig, FarmConfig), "train": (TrainConfig,)}
"""Option groups of commands. They are listed on demand only."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "node",
        nargs="?",
        default="",
        help=f"list this one only: {', '.join([*NODES, *COMMANDS])} (default: every node)",
    )
    parser.add_argument(
        "--match", default="", metavar="WORD", help="list only what has this word in its name or description"
    )
    parser.add_argument("--markdown", action="store_true", help="print docs/reference/parameters.md instead")


def run(options: argparse.Namespace) -> int:
    if options.markdown:
        print(markdown(), end="")
        return 0
    groups: dict[str, tuple[type, ...]] = {**{node: (config,) for node, config in NODES.items()}, **COMMANDS}
    if options.node and options.node not in groups:
        raise ConfigError(f"node {options.node!r}: choose one of {', '.join(groups)}")
    shown = 0
    for node in [options.node] if options.node else NODES:
        entries = [e for config in groups[node] for e in walk_options(config) if _matches(e, options.match)]
        if entries:
            print(f"{node}: {_purpose(groups[node][0])}")
        for entry in entries:
            live = "  [live]" if entry.option.live else ""
            print(f"  {entry.name} = {_value(entry.default)}   {_kind(entry)}{live}")
            print(textwrap.fill(entry.option.doc, WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6))
        shown += len(entries)
    if not shown:
        raise ConfigError(f"no parameter matches {options.match!r}")
    return 0


def _matches(entry: OptionEntry, text: str) -> bool:
    return text.lower() in f"{entry.name} {entry.option.doc}".lower()


def _purpose(config: type) -> str:
    return (inspect.getdoc(config) or "").splitlines()[0]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return '""' if value == "" else str(value)


def _kind(entry: OptionEntry) -> str:
    """Type with its choices or range and unit: ``float [0.01, 3.0] m/s``."""
    option = entry.option
    if option.choices:
        return " | ".join(option.choices)
    low, high = option.minimum, option.maximum
    bounds = ""
    if low is not None and high is not None:
        bounds = f" [{low:.10g}, {high:.10g}]"
    elif low is not None:
        bounds = f" >= {low:.10g}"
    elif high is not None:
        bounds = f" <= {high:.10g}"
    return f"{entry.type.__name__}{bounds}{' ' + option.unit if option.unit else ''}"


INTRODUCTION = """\
# Parameters

Written by `vln_ros params --markdown > docs/reference/parameters.md` from `vln_ros/config/`; a test holds
the two equal. `vln_ros params --match WORD` searches here from a terminal; `vln_ros params eval` and `train`
list the options of these commands.

* Parameters marked *live* may be changed while the node runs (`ros2 param set /executor max_linear_m_s 0.3`);
  a value that is out of range is refused with the range. All others are read when the node is configured:
  changing one is refused as read-only; put it in the parameter file and start the node anew.
* An unknown name, in a file or on the command line, is an error that names the nearest known one. A whole
  number serves where a float is asked.
* ROS's own come on top: `use_sim_time`, and `qos_overrides.TOPIC.publisher|subscription.*`.
"""


def markdown() -> str:
    """docs/reference/parameters.md."""
    parts = [INTRODUCTION]
    for node, config in NODES.items():
        parts.append(f"## {node}\n\n{_purpose(config)}\n")
        parts.append("| parameter | default | values | live | meaning |\n|---|---|---|---|---|")
        for e in walk_options(config):
            kind = _kind(e).replace("|", "\\|")
            cells = (
                f"`{e.name}`",
                f"`{_value(e.default)}`",
                kind,
                "live" if e.option.live else "",
                e.option.doc,
            )
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    return "\n".join(parts)
