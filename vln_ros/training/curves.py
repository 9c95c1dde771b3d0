"""Writes down and draws the course of a training."""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

from vln_ros.evaluation.files import write_atomically
from vln_ros.training.objective import Losses

LOSSES = [f.name for f in dataclasses.fields(Losses)]


def forget_after(path: Path, step: int) -> None:
    """Drop the rows of a curve that a resumed run will write again."""
    if path.exists():
        header, *rows = path.read_text("utf-8").splitlines()
        kept = [row for row in rows if int(row.split(",")[0]) <= step]
        write_atomically(path, "\n".join([header, *kept]) + "\n")


def read_curve(path: Path) -> Iterator[dict[str, str]]:
    """Rows of a curve that the trainer wrote."""
    with path.open(newline="") as f:
        yield from csv.DictReader(f)


def draw_curves(folder: Path) -> None:
    """``curves.png`` from the CSV files of a run."""
    from matplotlib.figure import Figure

    figure = Figure((9, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1)
    if (folder / "curves.csv").exists():
        rows = list(read_curve(folder / "curves.csv"))
        steps = [int(r["step"]) for r in rows]
        for number, name in enumerate(LOSSES[1:]):
            line = ("-", "--")[number // 10]  # there are ten colours
            top.plot(steps, [float(r[name]) for r in rows], line, color=f"C{number % 10}", label=name)
    rows = list(read_curve(folder / "validation.csv"))
    for number, kind in enumerate(dict.fromkeys(r["kind"] for r in rows)):
        mine = [r for r in rows if r["kind"] == kind]
        steps = [int(r["step"]) for r in mine]
        color, mark = f"C{number}", "osD"[number]
        for name, line, fill in (("success", "-", "full"), ("oracle", ":", "none")):
            values = [float(r[name]) for r in mine]
            bottom.plot(steps, values, line + mark, color=color, fillstyle=fill, label=f"{kind} {name}")
        top.plot(steps, [float(r["action"]) for r in mine], "k" + mark, label=f"action, unseen {kind}")
    top.set(xlabel="step", ylabel="loss; share correct", ylim=(0, None))
    bottom.set(xlabel="step", ylabel="val_seen", ylim=(0, 1))
    for axes in (top, bottom):
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize="small")
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    write_atomically(folder / "curves.png", drawn.getvalue())
