"""``vln_ros bench all``: the benches that say what this machine does, each in less than ten minutes."""

from __future__ import annotations

import argparse
import subprocess
import sys

from vln_ros.cli.arguments.places import output_folder, run_folder
from vln_ros.cli.output.next_steps import print_next
from vln_ros.config import ConfigError

ALL = ("engine", "graph", "nodes", "overlap", "profiling", "prune", "reuse", "roofline", "setup", "stream",
       "tracking", "world")  # fmt: skip
"""The others take longer, or need root, a trained policy or Ray: they are run one by one."""
HELP = f"Run {', '.join(ALL)}, one after the other, each in a process of its own"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out",
        type=output_folder,
        default=None,
        help="folder that the records go to (default: runs/bench-DATE)",
    )
    parser.add_argument("--only", nargs="+", default=None, metavar="BENCH", help="run these benches instead")
    parser.add_argument(
        "--plots", type=output_folder, default=None, metavar="DIR", help="also draw plots into this folder"
    )


def run(options: argparse.Namespace) -> int:
    from vln_ros.cli import BENCHES, build_parser
    from vln_ros.cli.bench import bench_module

    names = options.only or list(ALL)
    if unknown := sorted(set(names) - set(BENCHES)):
        raise ConfigError(f"--only = {', '.join(unknown)}: no such bench; there are {', '.join(BENCHES)}")
    for name in names:
        bench_module(name)  # before the first one begins
    out = run_folder(options.out, "bench")
    out.mkdir(parents=True, exist_ok=True)
    failed: list[str] = []
    for name in names:
        print(f"\n=== bench {name}", flush=True)
        arguments = ["bench", name, "--json", str(out / f"{name}.json")]
        if options.plots is not None and hasattr(build_parser().parse_args(["bench", name]), "plots"):
            arguments += ["--plots", str(options.plots / name)]
        if subprocess.run([sys.executable, "-m", "vln_ros", *arguments], check=False).returncode:
            failed.append(name)
    print(f"\nrecords: {out}")
    print_next(f"vln_ros bench page --folder {out} writes the pages of them")
    if options.only is None:
        print(f"not among them, run one by one: {', '.join(n for n in BENCHES if n not in ALL)}")
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
