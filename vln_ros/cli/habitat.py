"""``vln_ros habitat``."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from vln_ros.cli.places import output_folder
from vln_ros.config import ConfigError, HabitatConfig

HELP = "Habitat on this machine: selftest checks axes, depth, intrinsics, turns, navigation mesh and lockstep"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults = HabitatConfig()
    parser.add_argument("action", choices=("selftest",))
    parser.add_argument("--python", required=True, help="interpreter of the environment that has habitat_sim")
    parser.add_argument(
        "--gpu", type=int, default=defaults.gpu, help="CUDA number; -1 (default): none, or EGL's first"
    )
    parser.add_argument(
        "--keep", type=output_folder, default=None, help="leave the scene of the test in this folder"
    )


def run(options: argparse.Namespace) -> int:
    from vln_ros.config import from_flat
    from vln_ros.protocols import WorldLostError
    from vln_ros.sim.habitat_check import check_habitat

    begun_s = time.monotonic()
    config = from_flat(HabitatConfig, {"python": options.python, "gpu": options.gpu})
    failed = []
    with tempfile.TemporaryDirectory(prefix="vln_ros-habitat-") as temporary:
        try:
            for check in check_habitat(config, options.keep or Path(temporary)):
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
    print(f"failed: {', '.join(failed)} ({took})" if failed else f"Habitat is as it should be ({took})")
    return 1 if failed else 0
