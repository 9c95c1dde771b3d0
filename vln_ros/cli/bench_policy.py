"""``vln_ros bench policy``."""

from __future__ import annotations

import argparse
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

from vln_ros.config import QwenConfig

HELP = "One policy run in different ways on the same episodes: success, calls, tokens, time"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default=QwenConfig().profile, help="of the policy (default: %(default)s)"
    )
    parser.add_argument("--checkpoint", default="", help="folder or hub name (default: the profile's)")
    parser.add_argument("--episodes", type=int, default=200, help="of val_unseen, per kind (default: 200)")
    parser.add_argument(
        "--kinds", nargs="+", default=["room", "small"], choices=("room", "small", "flat"), help="of flats"
    )
    parser.add_argument("--ways", nargs="+", default=[], help="names of the ways to run (default: all)")
    parser.add_argument("--device", default="cpu", help="Torch device (default: cpu)")
    parser.add_argument("--json", type=Path, default=None, help="also write the figures there")


def run(options: argparse.Namespace) -> int:
    import torch

    from vln_ros.engine.model import load_model
    from vln_ros.engine.profile import load_profile
    from vln_ros.training.ways import compare, table

    profile = load_profile(options.profile)
    checkpoint = options.checkpoint or profile.checkpoint
    model = load_model(
        checkpoint, device=options.device, dtype="float32", attention="sdpa", quantisation="none"
    )
    print(
        f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}, "
        f"torch {torch.__version__}, {options.device}, {torch.get_num_threads()} threads; "
        f"checkpoint {model.fingerprint}"
    )
    figures = []
    for kind in options.kinds:
        for row in compare(model, profile, kind, options.episodes, 0, options.ways):
            figures.append(row)
            if options.json is not None:  # a long run that is broken off leaves what it has
                options.json.write_text(json.dumps([asdict(f) for f in figures], indent=2) + "\n", "utf-8")
    print(table(figures), end="")
    return 0
