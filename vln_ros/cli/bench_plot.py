"""Plain bars, for benches whose figures are a list of named numbers."""

from __future__ import annotations

from collections.abc import Sequence
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
