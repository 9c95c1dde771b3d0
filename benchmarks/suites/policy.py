"""``vln_ros bench policy``: the shipped policy against baselines, and under different settings."""

from __future__ import annotations

import argparse
import itertools
import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.cli.arguments.parsing import SIZE, rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.cli.bench.record import read_record
from vln_ros.cli.demo import parse_size
from vln_ros.config import ConfigError, QwenConfig
from vln_ros.evaluation.episode.metrics import SHARES
from vln_ros.evaluation.files import write_atomically
from vln_ros.evaluation.intervals import METHOD, Estimate, share
from vln_ros.sim.embedded.flat import KINDS

if TYPE_CHECKING:
    from vln_ros.engine.checkpoint.model import LoadedModel

TITLE = "The small policy"
HELP = "Compare a policy with baselines and with ablations: success, calls, tokens, time"
PARTS = ("baselines", "ways")
_OLD_METHOD = "shares Wilson, means percentile bootstrap"
"""Of records that do not say; their shares are given anew."""
_ORDER = tuple(reversed(KINDS))  # the smallest first
_COMMON = ("checkpoint", "fingerprint", "profile", "device", "size", "episodes")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--profile", default=QwenConfig().profile, help="profile of the policy (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint", default="", help="folder or hub name of a checkpoint (default: the profile's)"
    )
    parser.add_argument(
        "--episodes", type=int, default=20, help="episodes of val_unseen per size of flat (default: 20)"
    )
    parser.add_argument("--kinds", nargs="+", default=["room", "small"], choices=KINDS, help="sizes of flats")
    parser.add_argument(
        "--only", nargs="+", choices=PARTS, default=list(PARTS), help="parts to measure (default: both)"
    )
    parser.add_argument("--ways", nargs="+", default=[], help="names of the ablations to run (default: all)")
    parser.add_argument(
        "--reference",
        default=None,
        help="ablation that the others are compared with (default: full recompute)",
    )
    parser.add_argument(
        "--size", metavar=SIZE, default="160x120", help="size of the camera's images (default: 160x120)"
    )
    parser.add_argument("--device", default="cpu", help="Torch device (default: cpu)")
    parser.add_argument(
        "--merge",
        nargs="+",
        type=Path,
        metavar="RECORD",
        default=None,
        help="measure nothing: put the rows of these records together; all of them take hours in one go",
    )
    add_json(parser)
    rename_options(parser, {"--join": "--merge", "--against": "--reference"})


def run(options: argparse.Namespace) -> int:
    if options.merge is not None:
        joined = join(options.merge)
        if options.json is not None:
            write_atomically(options.json, json.dumps(joined, indent=2) + "\n")
        print(section(joined), end="")
        return 0
    from benchmarks.policy.ablations import REFERENCE, compare
    from vln_ros.engine.checkpoint.model import load_model
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.evaluation.runs.results import finite_tree
    from vln_ros.training.baselines import evaluate_policies

    profile = load_profile(options.profile)
    checkpoint = options.checkpoint or profile.checkpoint
    size, against = parse_size(options.size), options.reference or REFERENCE

    def load(quantisation: str) -> LoadedModel:
        return load_model(
            checkpoint, device=options.device, dtype="float32", attention="sdpa", quantisation=quantisation
        )

    model = load("none")
    figures: dict[str, Any] = {
        "checkpoint": checkpoint,
        "fingerprint": model.fingerprint,
        "profile": profile.name,
        "device": options.device,
        "size": options.size,
        "episodes": options.episodes,
        "intervals": METHOD,
        "baselines": [],
        "ways": [],
    }

    def note(part: str, row: object) -> None:
        figures[part].append(finite_tree(asdict(row)))  # type: ignore[call-overload]
        if options.json is not None:  # a long run that is broken off leaves what it has
            write_atomically(options.json, json.dumps(figures, indent=2) + "\n")

    for kind in options.kinds:
        if "baselines" in options.only:
            for verdict in evaluate_policies(model, profile, [kind], options.episodes, 0, size):
                note("baselines", verdict)
        if "ways" in options.only:
            for way in compare(load, profile, kind, options.episodes, 0, options.ways, size, against):
                note("ways", way)
    print(section(figures), end="")
    return 0


def join(paths: Sequence[Path]) -> dict[str, Any]:
    """The rows of several records of one checkpoint; of a row that comes again, the first.

    Raises:
        ConfigError: a file is no record of this bench, or of another checkpoint or with other settings.
    """
    records = [read_record(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if record.bench != "policy":
            raise ConfigError(f"{path} is a record of bench {record.bench}: only those of policy are joined")
        for name in _COMMON:
            ours, other = records[0].figures[name], record.figures[name]
            if other != ours:
                raise ConfigError(
                    f"{path} has {name} {other}, {paths[0]} has {ours}: measure both with the same"
                )
    methods = {record.figures.get("intervals", _OLD_METHOD) for record in records}
    joined: dict[str, Any] = {name: records[0].figures[name] for name in _COMMON}
    joined["intervals"] = methods.pop() if len(methods) == 1 else " or ".join(sorted(methods))
    for part in PARTS:
        found: dict[tuple[int, str, str], Any] = {}
        for row in (row for record in records for row in record.figures[part]):
            found.setdefault((_ORDER.index(row["kind"]), row.get("against", ""), row["name"]), row)
        joined[part] = [found[key] for key in sorted(found, key=lambda k: k[:2])]
    return {**joined, "commands": [record.command for record in records]}


def plot(figures: dict[str, Any], folder: Path) -> None:
    rows = [(v["kind"], v["name"], v["summary"]["success"]) for v in figures["baselines"]]
    rows += [(w["kind"], w["name"], w["success"]) for w in figures["ways"]]
    found = [(f"{kind}: {name}", _estimate("success", e)) for kind, name, e in rows]
    bars = [(name, 100 * e.mean, 100 * e.low, 100 * e.high) for name, e in found]
    plot_bars(folder / "policy.png", TITLE, "success [%], 95 % interval", bars)


def _estimate(measure: str, e: dict[str, Any]) -> Estimate:
    """As in a record. A share is made anew: older records have a bootstrap's interval of it."""
    if measure in SHARES:
        return share(round(e["mean"] * e["count"]) if e["count"] else 0, e["count"])
    mean, low, high = (math.nan if e[k] is None else e[k] for k in ("mean", "low", "high"))
    return Estimate(mean, low, high, e["count"])


def section(figures: dict[str, Any]) -> str:
    from benchmarks.policy import ablations as ways
    from vln_ros.evaluation.episode.metrics import Summary
    from vln_ros.training import baselines

    def estimates(row: dict[str, Any]) -> dict[str, Any]:
        return {k: _estimate(k, v) if isinstance(v, dict) else v for k, v in row.items()}

    verdicts = [
        baselines.Verdict(v["kind"], v["name"], Summary(**estimates(v["summary"])))
        for v in figures["baselines"]
    ]
    rows = [ways.WayFigures(**estimates(w)) for w in figures["ways"]]
    text = (
        f"Checkpoint `{figures['checkpoint']}` ({figures['fingerprint']}), profile `{figures['profile']}`, "
        f"{figures['episodes']} episodes of val_unseen per kind of flat, pipeline in lockstep, greedy, "
        f"images of {figures['size']}, {figures['device']}; 95 % intervals in brackets "
        f"({figures.get('intervals', _OLD_METHOD)}).\n\n"
    )
    if verdicts:
        text += baselines.table(verdicts) + "\n"
    if rows:
        text += (
            "The same policy run in different ways. *Points gained*: success against the reference, paired. "
            "*Same actions*: share of the episodes with exactly its actions. *Tokens*: decoder rows per "
            "decision. *ms*: processor time of the engine per decision, its frames included, median.\n"
        )
    for (kind, against), group in itertools.groupby(rows, lambda w: (w.kind, w.against)):
        text += f"\nKind of flats: {kind}; reference: {against}.\n\n{ways.table(list(group))}"
    if "commands" in figures:
        text += "\nPut together from the records of\n\n"
        text += "".join(f"    {command}\n" for command in figures["commands"])
    return text
