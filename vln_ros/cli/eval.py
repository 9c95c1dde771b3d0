"""``vln_ros eval``: runs a policy on many episodes and writes measures, a report and videos."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from vln_ros.cli.arguments.parsing import flag_of, given_options
from vln_ros.cli.arguments.places import check_model, output_folder, run_folder
from vln_ros.cli.arguments.recording import add_switch, node_parameters, print_recordings
from vln_ros.cli.graph import add_join, graph_environment
from vln_ros.cli.output.next_steps import print_next, print_report, resuming
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import (
    ConfigError,
    EvalConfig,
    FarmConfig,
    NavigatorConfig,
    OptionEntry,
    Scalar,
    from_flat,
    load_yaml,
    to_flat,
    walk_options,
    with_protocol,
)

if TYPE_CHECKING:
    from vln_ros.evaluation.episode.metrics import Summary

HELP = "Run a split of episodes and measure: resumable, on as many processes or machines as there are"

_SHORT = {
    "engine": "navigator.engine",
    "checkpoint": "navigator.qwen.checkpoint",
    "profile": "navigator.qwen.profile",
    "device": "navigator.qwen.device",
}
"""Options that are typed often, by a short name."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=output_folder, help="run folder (default: runs/eval-DATE)")
    parser.add_argument(
        "--resume", action="store_true", help="continue the run in --out, with the same options"
    )
    parser.add_argument(
        "--config", type=Path, metavar="YAML", help="file of evaluation options, nested or dotted names"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="set any option by its dotted name, e.g. camera.hfov_deg=90 (list: vln_ros params eval)",
    )
    parser.add_argument(
        "--reproduce",
        metavar="NAME",
        help="evaluate as was published, e.g. navida-r2r: sets episodes, rules and checkpoint, says what is "
        "missing and where it goes, and prints the published figures beside ours "
        "(docs/evaluate/reproduce.md)",
    )
    parser.add_argument(
        "--peer",
        type=Path,
        metavar="RUN",
        help="somebody's result file or folder to compare with episode by episode; needs --reproduce",
    )
    for name, entry in (_of_the_evaluation() | _of_the_farm()).items():
        _add(parser, name, entry)
    add_switch(parser)
    add_join(parser)


def _of_the_evaluation() -> dict[str, OptionEntry]:
    """Options by the names that they have on the command line."""
    entries = {e.name: e for e in walk_options(EvalConfig)}
    own = {name: entry for name, entry in entries.items() if "." not in name}
    return own | {short: entries[name] for short, name in _SHORT.items()}


def _of_the_farm() -> dict[str, OptionEntry]:
    return {e.name: e for e in walk_options(FarmConfig) if "." not in e.name}


def _add(parser: argparse.ArgumentParser, name: str, entry: OptionEntry) -> None:
    kind: dict[str, Any] = {"type": entry.type, "metavar": entry.type.__name__.upper()}
    if entry.type is bool:
        kind = {"action": argparse.BooleanOptionalAction}
    elif entry.option.choices:
        kind = {"choices": entry.option.choices}
    shown = "" if entry.default in ("", False) else f" (default: {entry.default})"
    parser.add_argument(flag_of(name), dest=name, default=None, help=entry.option.doc + shown, **kind)


def configs(args: argparse.Namespace) -> tuple[EvalConfig, FarmConfig]:
    """What was asked for: the file, then ``--set``, then options of their own name.

    Raises:
        ConfigError: an option does not exist or has a value that it cannot have.
    """
    values: dict[str, object] = {}
    if args.reproduce is not None:
        from vln_ros.evaluation.runs.reproduction import find_published, reproduction_options

        values |= reproduction_options(find_published(args.reproduce))
    if args.config is not None:
        values |= to_flat(load_yaml(EvalConfig, args.config))
    for assignment in args.set:
        name, sign, text = assignment.partition("=")
        if not sign:
            raise ConfigError(f"--set {assignment}: expected NAME=VALUE")
        values[name] = yaml.safe_load(text) if text else ""
    values |= given_options(args, _of_the_evaluation())
    farm = given_options(args, _of_the_farm())
    return with_protocol(from_flat(EvalConfig, values)), from_flat(FarmConfig, farm)


def run(args: argparse.Namespace) -> int:
    config, farm = configs(args)
    if args.resume and args.out is None:
        raise ConfigError("--resume needs --out: which run is to be gone on with?")
    out = run_folder(args.out, "eval", resume=args.resume)
    if args.peer is not None and args.reproduce is None:
        raise ConfigError("--peer needs --reproduce; two finished runs are compared by `vln_ros compare`")
    if args.reproduce is not None:
        _check_reproduction(args.reproduce, config, args.peer)
    if args.join and config.via != "graph":
        raise ConfigError("--join: only with --via graph does an evaluation talk over ROS")
    if config.navigator.engine == "qwen":
        check_model(config.navigator.qwen.checkpoint, config.navigator.qwen.profile)
    with waiting("loading libraries"):
        from vln_ros.evaluation.driver import NoWorkersError, evaluate, run_folder_of
        from vln_ros.evaluation.episode.metrics import summary_table
        from vln_ros.evaluation.runs.results import cost_line, skips_line
    command = ["vln_ros", *sys.argv[1:]]
    if config.via == "graph":
        return _via_graph(config, farm, out, resume=args.resume, command=command, join=args.join)
    folder = run_folder_of(out, farm)
    farm = from_flat(FarmConfig, to_flat(farm) | node_parameters(args, folder))
    n = config.navigator
    decides = n.qwen.checkpoint if n.engine == "qwen" else n.engine
    try:
        with waiting(f"starting {config.split} with {decides}, into {folder}") as started:
            result = evaluate(config, farm, out, resume=args.resume, command=command, on_ready=started)
    except NoWorkersError as error:
        print(f"vln_ros: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print_next(f"{resuming(sys.argv[1:], out)} goes on where it was interrupted")
        raise
    print(summary_table(result.summary))
    for line in filter(None, (cost_line(result), result.answers.line())):
        print(line)
    if result.skipped:
        print(skips_line(result.skipped, len(result.episodes)))
    if args.reproduce is not None:
        _say_reproduction(args.reproduce, config, result.summary, folder, args.peer)
    print_recordings(args, folder)
    print_report(folder)
    if result.skipped:
        print_next(f"{resuming(sys.argv[1:], out)} tries the skipped episodes again")
    return 1 if result.skipped else 0


def _check_reproduction(name: str, config: EvalConfig, peer: Path | None) -> None:
    """Everything is there, or ConfigError names all that is not."""
    from vln_ros.evaluation.runs.reproduction import find_published, missing

    if config.via == "graph":
        raise ConfigError("--reproduce runs in one process: leave --via, or set it to pipeline")
    lines = list(missing(find_published(name), config))
    if peer is not None and not peer.exists():
        lines.append(f"peer: no file or folder {peer}")
    if lines:
        raise ConfigError(
            f"--reproduce {name}: {len(lines)} missing\n" + "\n".join(f"  - {line}" for line in lines)
        )


def _say_reproduction(
    name: str, config: EvalConfig, summary: Summary, folder: Path, peer: Path | None
) -> None:
    """On the screen and in ``reproduction.txt``: both figures, and all that may make them differ."""
    from vln_ros.evaluation.files import write_atomically
    from vln_ros.evaluation.runs.compare import compare, comparison_table
    from vln_ros.evaluation.runs.loading import load_run
    from vln_ros.evaluation.runs.reproduction import changes, find_published, reproduction_table

    published = find_published(name)
    parts = [reproduction_table(published, summary)]
    parts += [f"differs: {line}" for line in (*changes(published, config), *published.deviations)]
    if peer is not None:
        parts.append(comparison_table(compare(load_run(peer), load_run(folder), config.seed)))
    text = "\n".join(parts)
    print(text)
    write_atomically(folder / "reproduction.txt", text + "\n")


def _via_graph(
    config: EvalConfig, farm: FarmConfig, out: Path, *, resume: bool, command: Sequence[str], join: bool
) -> int:
    """The same episodes through bridge and navigator as processes, in lockstep."""
    from vln_ros.cli.demo import run_graph
    from vln_ros.evaluation.driver import run_info
    from vln_ros.evaluation.workers.worker import episode_limits
    from vln_ros.evaluation.workers.worlds import chosen_episodes, dataset_file, expert_of

    if farm.workers > 1 or farm.shard or farm.backend != "processes" or config.sessions > 1:
        raise ConfigError("via = 'graph': one robot at a time; leave workers, sessions, shard and backend")
    if config.videos not in (0.0, 1.0) or config.film_extremes or config.measures != "all":
        raise ConfigError("via = 'graph': videos is 0 or 1, film_extremes is off, measures is all")
    environment = graph_environment(join=join)
    path = dataset_file(config, out / "dataset")
    info = run_info(config, chosen_episodes(config, path), path, command)
    n = config.navigator
    if n.engine == "qwen":
        from vln_ros.engine.checkpoint.files import checkpoint_fingerprint

        info = dataclasses.replace(info, checkpoint=checkpoint_fingerprint(n.qwen.checkpoint))
    out.mkdir(parents=True, exist_ok=True)
    description = out / "run_info.json"
    description.write_text(json.dumps(info.to_tree()), "utf-8")
    limits = episode_limits(config)
    bridge: dict[str, Scalar] = {
        "episodes": str(path),
        "first_episode": config.first_episode,
        "episode_count": config.episodes,
        "run_folder": str(out),
        "run_info": str(description),
        "mode": "lockstep",
        "video": config.videos == 1.0,
        "max_steps": limits.steps,
        "limits.actions": limits.actions or 0,
        "limits.turns_in_place": limits.turns_in_place or 0,
        "limits.questions": limits.questions or 0,
        "limits.as_stop": limits.as_stop,
        "step_period_s": config.step_period_s,
        "world": config.world,
        "languages": config.languages,
        **to_flat(config.habitat, "habitat."),
        **to_flat(config.camera, "camera."),
        **to_flat(n.step, "step."),
    }
    defaults = to_flat(NavigatorConfig())
    changed = {name: value for name, value in to_flat(n).items() if value != defaults[name]}
    navigator: dict[str, Scalar] = {
        **changed,
        "extrinsics": "parameters",
        "camera_z_m": config.camera.height_m,
        "camera_pitch_down_deg": config.camera.pitch_down_deg,
        **to_flat(expert_of(config, path), "expert."),
        "qwen.seed": config.seed,
        "reliability": "reliable",
    }
    return run_graph(out / "logs", bridge, navigator, environment=environment)
