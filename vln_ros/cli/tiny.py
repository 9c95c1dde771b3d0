"""``vln_ros tiny OUT``: writes a small random checkpoint of the true architecture."""

from __future__ import annotations

import argparse

from vln_ros.cli.arguments.parsing import flag_of, given_options
from vln_ros.cli.arguments.places import output_folder
from vln_ros.cli.output.next_steps import print_next
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError, TinyConfig, from_flat, walk_options

HELP = "Write a small random Qwen2.5-VL checkpoint (for tests and dry runs; it cannot navigate)"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "out", type=output_folder, metavar="OUT", help="new folder to write the checkpoint to"
    )
    for entry in walk_options(TinyConfig):
        flag = flag_of(entry.name)
        if entry.type is bool:
            parser.add_argument(flag, action="store_true", default=entry.default, help=entry.option.doc)
        else:
            help_text = f"{entry.option.doc} (default: {entry.default})"
            parser.add_argument(flag, type=entry.type, default=entry.default, metavar="N", help=help_text)


def run(args: argparse.Namespace) -> int:
    config = from_flat(TinyConfig, given_options(args, {e.name: e for e in walk_options(TinyConfig)}))
    with waiting(f"loading torch to write {args.out}"):
        from vln_ros.engine.checkpoint.model import load_model
        from vln_ros.engine.tiny import build_tiny

    try:
        build_tiny(args.out, config)
    except OSError as e:
        raise ConfigError(f"cannot write {args.out}: {e.strerror}") from e
    model = load_model(str(args.out), device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    parameters = sum(p.numel() for p in model.network.parameters())
    print(f"{args.out}: {parameters / 1e6:.2f} M parameters, fingerprint {model.fingerprint}")
    print_next(f"vln_ros doctor --checkpoint {args.out} loads it and takes a decision")
    return 0
