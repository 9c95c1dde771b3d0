"""``vln_ros compare``: two runs of an evaluation, paired by episode, with intervals."""

from __future__ import annotations

import argparse
import dataclasses
import json
from pathlib import Path

from vln_ros.cli.arguments.places import add_json, output_folder
from vln_ros.cli.output.next_steps import print_next
from vln_ros.cli.output.waiting import waiting
from vln_ros.evaluation.files import write_atomically

HELP = "Compare two runs episode by episode, ours or those of StreamVLN, JanusVLN, InternNav and NaVIDA"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=Path, metavar="A", help="folder or results file of the first run")
    parser.add_argument("b", type=Path, metavar="B", help="folder or results file of the second run")
    parser.add_argument("--out", type=output_folder, help="also write a page with plots into this folder")
    add_json(parser, "differences")
    parser.add_argument("--seed", type=int, default=0, help="seed of the bootstrap intervals (default: 0)")


def run(args: argparse.Namespace) -> int:
    with waiting(f"reading {args.a} and {args.b}"):
        from vln_ros.evaluation.runs.compare import compare, comparison_table, write_comparison
        from vln_ros.evaluation.runs.loading import load_run

    comparison = compare(load_run(args.a), load_run(args.b), args.seed)
    print(comparison_table(comparison))
    if args.out is not None:
        page = write_comparison(comparison, args.out)
        print(f"page: {page}")
        print_next(f"open {page} in a browser")
    if args.json is not None:
        rows = [dataclasses.asdict(d) for d in comparison.differences]
        counts = {n: len(getattr(comparison, n)) for n in ("wins", "losses")}
        write_atomically(args.json, json.dumps({"differences": rows, **counts}, indent=1) + "\n")
    return 0
