"""``vln_ros habitat``: the subcommands that check, compare and time Habitat."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

from vln_ros.cli.arguments.parsing import SIZE, rename_options
from vln_ros.cli.arguments.places import add_json, output_folder
from vln_ros.cli.demo import ENGINES
from vln_ros.cli.output.next_steps import print_next
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError, HabitatConfig
from vln_ros.sim.embedded.flat import KINDS

HELP = (
    "Check Habitat on this machine: selftest checks axes, floor, depth, intrinsics, turns, navigation mesh "
    "and lockstep; bench times it; compare runs the same episodes in Habitat and in the embedded world"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = HabitatConfig()
    parser.add_argument("action", choices=("selftest", "bench", "compare"), help="what to do, see above")
    parser.add_argument(
        "--python", required=True, help="Python interpreter of the environment that has habitat_sim"
    )
    parser.add_argument(
        "--gpu",
        type=int,
        default=defaults.gpu,
        help="CUDA number of the GPU to render with; -1 (default): none, or EGL's first",
    )
    parser.add_argument("--out", type=output_folder, default=None, help="keep scenes and runs in this folder")
    bench = parser.add_argument_group("bench")
    bench.add_argument(
        "--sizes", metavar=SIZE, nargs="+", default=["640x480", "224x224"], help="sizes of the pictures"
    )
    bench.add_argument("--blocks", type=int, default=20, help="pairs of timed blocks (default: %(default)s)")
    bench.add_argument(
        "--actions", type=int, default=24, help="actions in a timed block (default: %(default)s)"
    )
    add_json(bench)
    compare = parser.add_argument_group("compare")
    compare.add_argument("--episodes", type=int, default=60, help="number of episodes (default: %(default)s)")
    compare.add_argument(
        "--kind", choices=KINDS, default="room", help="size of the flats (default: %(default)s)"
    )
    compare.add_argument(
        "--split", default="val_unseen", help="split of the embedded world's episodes (default: %(default)s)"
    )
    compare.add_argument(
        "--engine", choices=ENGINES, default="qwen", help="what decides (default: %(default)s)"
    )
    compare.add_argument(
        "--checkpoint", default="shipped:tiny", help="checkpoint of the qwen engine (default: %(default)s)"
    )
    compare.add_argument("--profile", default="tiny", help="profile of the checkpoint (default: %(default)s)")
    compare.add_argument(
        "--size", metavar=SIZE, default="160x120", help="size of the pictures (default: %(default)s)"
    )
    compare.add_argument(
        "--points",
        type=float,
        default=3.0,
        help="percentage points by which success may differ (default: %(default)s)",
    )
    rename_options(parser, {"--keep": "--out"})


def run(options: argparse.Namespace) -> int:
    if shutil.which(options.python) is None:  # before any scene is made
        raise ConfigError(
            f"--python {options.python}: there is no such program; name the interpreter of the environment "
            "that has habitat_sim"
        )
    match options.action:
        case "bench":
            return _bench(options)
        case "compare":
            return _compare(options)
    return _selftest(options)


def _bench(options: argparse.Namespace) -> int:
    with waiting("loading libraries"):
        from vln_ros.cli.habitat.bench import line, measure, parse_sizes, write_json
        from vln_ros.config import from_flat
        from vln_ros.protocols import WorldLostError

    if options.blocks < 1 or options.actions < 1:
        raise ConfigError("--blocks and --actions must be at least 1")
    config = from_flat(HabitatConfig, {"python": options.python, "gpu": options.gpu})
    sizes, paces = parse_sizes(options.sizes), []
    with tempfile.TemporaryDirectory(prefix="vln_ros-habitat-") as temporary:
        try:
            for pace in measure(
                config, options.out or Path(temporary), sizes, options.blocks, options.actions
            ):
                paces.append(pace)
                print(line(pace), flush=True)
        except WorldLostError as error:
            print(f"vln_ros: {error}", file=sys.stderr)
            return 1
    if options.json is not None:
        write_json(options.json, paces)
    _print_kept(options)
    return 0


def _print_kept(options: argparse.Namespace) -> None:
    if options.out is not None:
        print_next(f"look into {options.out}: scenes and runs are kept")


def _compare(options: argparse.Namespace) -> int:
    with waiting("loading libraries"):
        from vln_ros.cli.habitat.compare import compare_worlds

    with tempfile.TemporaryDirectory(prefix="vln_ros-habitat-") as temporary:
        status = compare_worlds(options, options.out or Path(temporary))
    _print_kept(options)
    return status


def _selftest(options: argparse.Namespace) -> int:
    with waiting("loading libraries"):
        from vln_ros.config import from_flat
        from vln_ros.protocols import WorldLostError
        from vln_ros.sim.habitat.check import check_habitat

    begun_s = time.monotonic()
    config = from_flat(HabitatConfig, {"python": options.python, "gpu": options.gpu})
    failed = []
    with tempfile.TemporaryDirectory(prefix="vln_ros-habitat-") as temporary:
        try:
            for check in check_habitat(config, options.out or Path(temporary)):
                print(f"{'ok' if check.passed else 'FAIL':>4}  {check.name:<16} {check.text}", flush=True)
                if not check.passed:
                    failed.append(check.name)
        except ConfigError:
            raise
        except ValueError as error:  # of the scene, which is ours: it is Habitat that takes it wrongly
            print(f"FAIL  {'scene':<16} {error}", flush=True)
            failed.append("scene")
        except WorldLostError as error:
            print(f"vln_ros: {error}", file=sys.stderr)
            if options.gpu >= 0:
                print("without an NVIDIA card use --gpu -1", file=sys.stderr)
            return 1
    took = f"{time.monotonic() - begun_s:.0f} s"
    _print_kept(options)
    print(f"failed: {', '.join(failed)} ({took})" if failed else f"Habitat is as it should be ({took})")
    return 1 if failed else 0
