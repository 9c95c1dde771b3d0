"""``vln_ros report``: writes the page of a finished run anew."""

from __future__ import annotations

import argparse
from pathlib import Path

from vln_ros.cli.arguments.parsing import did_you_mean
from vln_ros.cli.arguments.places import output_folder
from vln_ros.cli.output.next_steps import print_next, print_report
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError

HELP = "Write the report of a run folder anew, or one report of all its shards; export to other formats"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="run folder, or the folder of its shards")
    parser.add_argument(
        "--export",
        metavar="FORMAT",
        help="html: the report as one file, with its pictures and videos in it; rerun: a recording of each "
        "episode for the Rerun viewer; streamvln, janusvln, internnav or navida: the results as these "
        "projects write them",
    )
    parser.add_argument(
        "--out", type=output_folder, help="where --export writes (default: FOLDER/export_FORMAT)"
    )


def run(args: argparse.Namespace) -> int:
    with waiting(f"reading {args.folder}"):
        from vln_ros.evaluation.episode.metrics import summary_table
        from vln_ros.evaluation.files import write_atomically
        from vln_ros.evaluation.runs.loading import FORMATS, export_run, load_result
        from vln_ros.evaluation.runs.report import export_report, write_report
        from vln_ros.evaluation.runs.rerun_export import export_rerun
        from vln_ros.evaluation.runs.results import skips_line

    formats = [*FORMATS, "html", "rerun"]
    if args.export is not None and args.export not in formats:
        near = did_you_mean(args.export, formats)
        raise ConfigError(f"--export = {args.export!r}: choose one of {', '.join(formats)}{near}")
    result = load_result(args.folder)
    if args.export is not None:
        out = args.out or args.folder / f"export_{args.export}"
        if args.export == "rerun":
            files = export_rerun(result.episodes, args.folder, out)
        elif args.export == "html":
            files = [export_report(result, args.folder, out / f"{args.folder.resolve().name}.html")]
        else:
            files = export_run(result.episodes, args.export, out)
        print(
            f"{len(files)} file{'s' if len(files) > 1 else ''}, the first: {files[0]}" if files else "nothing"
        )
        if files:
            viewer = f"rerun {files[0]}" if args.export == "rerun" else f"vln_ros compare {args.folder} {out}"
            print_next(viewer)
        return 0
    print(summary_table(result.summary))
    if result.skipped:
        print(skips_line(result.skipped, len(result.episodes)))
    if not (args.folder / "episodes.jsonl").exists():  # of shards: there is no file of the whole yet
        write_atomically(args.folder / "result.json", result.to_json())
    write_report(result, args.folder)
    print_report(args.folder)
    return 0
