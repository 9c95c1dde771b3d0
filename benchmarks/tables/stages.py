"""The stages of a decision, with waits between them and without, as text and pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.tables.engine import cell, figure, save


def stages_text(figures: Any) -> str:
    width, height = figures["size"]
    text = f"A new frame of {width}x{height} behind others, and its queue; milliseconds.\n"
    for shape in figures["shapes"]:
        peak = shape["peak"]
        text += (
            f"\n**{shape['name']}**; {peak['flops_per_s'] / 1e12:.2f} TFLOP/s, "
            f"{peak['bytes_per_s'] / 1e9:.0f} GB/s ({peak['source']}).\n\n"
        )
        if shape.get("undisturbed"):  # records of before have none
            text += _undisturbed_text(shape["undisturbed"]) + "\n"
        if shape["ways"]:
            text += _ways_text(shape)
        if shape.get("too_late"):
            text += f"\nNot measured for lack of time: {'; '.join(shape['too_late'])}.\n"
    if figures["skipped"]:
        text += f"\nShapes {', '.join(figures['skipped'])} are not measured: torch saw no CUDA device.\n"
    return text


def _undisturbed_text(variants: Any) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (u["variant"], f"{u['context_tokens']:,}", cell(u["total_s"]), f"{1e3 * u['busy_s']:.1f}",
         f"{u['busy_s'] / u['total_s']['median']:.2f}", f"{u['kernels']:,.0f}",
         "-" if u["peak_bytes"] is None else f"{u['peak_bytes'] / 2**30:.2f}",
         f"{u['actions']:.1f}", "-" if u["reused"] is None else f"{u['reused']:.2f}",
         u.get("recorded") or "-")
        for u in variants
    ]  # fmt: skip
    columns = ("no waits between the stages", "context", "total", "device busy", "busy / total", "kernels",
               "peak [GiB]", "actions", "reused", "recorded")  # fmt: skip
    names = list(dict.fromkeys(name for u in variants for name in u["stages"]))
    stages = [(u["variant"], *(_stage(u["stages"].get(name)) for name in names)) for u in variants]
    return (
        table(columns, rows)
        + "\nOf it each stage: the host's time in it / the device's between its begin and end.\n\n"
        + table(("", *names), stages)
    )


def _stage(stage: Any) -> str:
    if stage is None:
        return ""
    device_s = stage["device_s"]
    return f"{1e3 * stage['host_s']:.1f} / " + ("-" if device_s is None else f"{1e3 * device_s:.1f}")


def _ways_text(shape: Any) -> str:
    from vln_ros.cli.bench.page import table

    ways, native = shape["ways"], shape["generate"]
    first = next(iter(ways.values()))
    names = list(first["stages"])
    rows = []
    for way, w in ways.items():
        cells = []
        for name in names:
            stage = w["stages"][name]
            least = f" / {1e3 * stage['least_s']:.1f}" if stage["least_s"] else ""
            cells.append(f"{1e3 * stage['seconds']['median']:.1f}{least}")
        rows.append((f"`{way}`", *cells, cell(w["total"]), f"{1e3 * w['least_s']:.0f}"))
    text = (
        f"The device is waited for at each stage, measured / roofline; {first['context_tokens']:.0f} tokens "
        f"of context, {first['actions']:.1f} actions.\n\n"
    )
    if native is not None:
        rows.append(("`generate`, all frames at once", *[""] * len(names), cell(native["total"]), ""))
    text += table(("", *names, "total", "roofline"), rows)
    flops = {way: sum(s["flops"] for s in w["stages"].values()) / 1e9 for way, w in ways.items()}
    text += "\n" + "; ".join(f"`{way}` spends {g:.1f} GFLOP" for way, g in flops.items())
    if native is not None:
        slower = {way: native["total"]["median"] / w["total"]["median"] for way, w in ways.items()}
        text += ". `generate` takes " + ", ".join(
            f"{n:.1f} times as long as `{w}`" for w, n in slower.items()
        )
    return text + ".\n"


def plot_stages(figures: Any, path: Path) -> None:
    shapes = figures["shapes"]
    fig, axes = figure(1, len(shapes), (5 * len(shapes) + 1, 4))
    for ax, shape in zip(axes, shapes, strict=True):
        for x, w in enumerate(shape["ways"].values()):
            bottom = 0.0
            for i, (name, stage) in enumerate(w["stages"].items()):
                height = max(1e3 * stage["seconds"]["median"], 0.0)
                ax.bar(x, height, bottom=bottom, color=f"C{i}", label=name if x == 0 else None)
                bottom += height
            label = "roofline" if x == 0 else None
            ax.hlines(1e3 * w["least_s"], x - 0.4, x + 0.4, color="black", label=label)
        ax.set(ylabel="ms per decision", title=shape["name"])
        ax.set_xticks(range(len(shape["ways"])), list(shape["ways"]))
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(fig, path)
