"""``vln_ros train FOLDER``: trains the small policy in the embedded world."""

from __future__ import annotations

import argparse
import sys
from importlib.resources import files
from pathlib import Path

from vln_ros.cli.arguments.parsing import flag_of, given_options
from vln_ros.cli.arguments.places import check_model, output_folder
from vln_ros.cli.output.next_steps import print_next, resuming
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError, TrainConfig, from_flat, load_yaml, to_flat, walk_options
from vln_ros.sim.embedded.flat import KINDS

HELP = "Train the small policy in the embedded world (behaviour cloning, then DAgger)"


_DEFAULT = Path("tiny")


def _shipped() -> list[str]:
    """Names of the training options that the package ships."""
    return sorted(
        f.name.removesuffix(".yaml") for f in files("vln_ros.training").iterdir() if ".yaml" in f.name
    )


def _options_file(name: Path) -> Path:
    return Path(str(files("vln_ros.training") / f"{name}.yaml")) if str(name) in _shipped() else name


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "folder", type=output_folder, metavar="FOLDER", help="where states, curves and checkpoints go"
    )
    parser.add_argument(
        "--config",
        type=Path,
        default=_DEFAULT,
        metavar="YAML",
        help=f"file of training options, or a shipped one of {', '.join(_shipped())} (default: %(default)s)",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the last state in FOLDER")
    parser.add_argument(
        "--judge",
        type=int,
        metavar="COUNT",
        help="do not train: compare FOLDER/best (or FOLDER) with baselines on COUNT val_unseen episodes",
    )
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["room", "small", "flat"],
        choices=KINDS,
        help="sizes of flats to judge on",
    )
    for entry in walk_options(TrainConfig):
        if entry.type is not bool:
            parser.add_argument(
                flag_of(entry.name),
                type=entry.type,
                metavar="N" if entry.type is not str else "NAME",
                help=entry.option.doc,
            )


def run(args: argparse.Namespace) -> int:
    path = _options_file(args.config)
    given = given_options(args, {e.name: e for e in walk_options(TrainConfig) if e.type is not bool})
    config = from_flat(TrainConfig, {**to_flat(load_yaml(TrainConfig, path)), **given})

    if args.judge is not None:
        return _judge(args.folder, config, args.judge, args.kinds)
    check_model(config.start_from or "shipped:tiny", config.profile)  # without one it begins with its own
    with waiting(f"loading torch and the model to train in {args.folder}"):
        from vln_ros.training.trainer import STATE, Trainer

        try:
            trainer = Trainer(args.folder, config, resume=args.resume)
        except OSError as e:
            raise ConfigError(f"cannot write {args.folder}: {e.strerror}") from e
    try:
        trainer.run()
    except KeyboardInterrupt:
        if (args.folder / STATE).is_file():
            print_next(f"{resuming(sys.argv[1:])} goes on from the last saved state")
        raise
    kinds, success = trainer.progress.best
    print(f"{args.folder}/best: success {success:.2f} on val_seen, mean over {kinds} kinds of flats")
    print_next(
        f"vln_ros train {args.folder} --judge 100 compares it with baselines",
        f"vln_ros demo --checkpoint {args.folder}/best --profile {config.profile} drives with it",
    )
    return 0


def _judge(folder: Path, config: TrainConfig, count: int, kinds: list[str]) -> int:
    with waiting(f"loading torch to judge {folder}"):
        from vln_ros.engine.checkpoint.model import load_model
        from vln_ros.engine.checkpoint.profile import load_profile
        from vln_ros.training.baselines import evaluate_policies, table, write_table

    checkpoint = folder / "best" if (folder / "best").is_dir() else folder
    model = load_model(
        str(checkpoint), device=config.device, dtype="float32", attention="sdpa", quantisation="none"
    )
    verdicts = []
    for verdict in evaluate_policies(model, load_profile(config.profile), kinds, count, config.seed):
        verdicts.append(verdict)
        write_table(verdicts, folder / "table.md", model, count)
    print(table(verdicts), end="")
    print_next(f"{folder / 'table.md'} holds the table")
    return 0
