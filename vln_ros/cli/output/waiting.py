"""Says at once what takes long: a line that moves on a terminal, a plain one elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def waiting(text: str) -> Iterator[Callable[[], None]]:
    """Show on stderr that ``text`` is done now, before anything heavy is imported for it.

    Yields:
        What ends the line before the end, when something else is to be shown.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        if sys.stderr is not None:
            print(f"vln_ros: {text} ...", file=sys.stderr, flush=True)
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn("line"),  # of characters that every terminal has
        TextColumn("{task.description}", markup=False),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as line:
        line.add_task(text, total=None)
        yield line.stop
