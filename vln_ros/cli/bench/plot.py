"""Draws the bars and lines of the benches' figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def plot_bars(
    path: Path,
    title: str,
    unit: str,
    bars: Sequence[tuple[str, float, float, float]],
    *,
    logarithmic: bool = False,
) -> None:
    """Horizontal bars with the range of each, as PNG.

    Args:
        bars: name, value, low, high.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(7, 0.8 + 0.4 * len(bars)))
    names = [name for name, *_ in bars]
    values = [value for _, value, _, _ in bars]
    below = [max(0.0, value - low) for _, value, low, _ in bars]
    above = [max(0.0, high - value) for _, value, _, high in bars]
    ax.barh(names, values, xerr=[below, above], capsize=3, color="tab:blue")
    ax.invert_yaxis()
    ax.set(xlabel=unit, title=title)
    if logarithmic:
        ax.set_xscale("log")
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)


def plot_lines(
    path: Path, title: str, labels: tuple[str, str], lines: Mapping[str, Sequence[tuple[float, float]]]
) -> None:
    """Named lines ``[(x, y), ...]`` above nought, as PNG.

    Args:
        labels: of the axes.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    path.parent.mkdir(parents=True, exist_ok=True)
    fig, ax = plt.subplots(figsize=(7, 3.2))
    for name, points in lines.items():
        ax.plot(*zip(*points, strict=True), label=name)
    ax.set(xlabel=labels[0], ylabel=labels[1], title=title, ylim=(0.0, None))
    ax.legend(loc="lower right")
    fig.savefig(path, dpi=120, bbox_inches="tight")
    plt.close(fig)
