"""How the navigator is, for /diagnostics."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np

from vln_ros.engine.worker import EngineWorker
from vln_ros.nodes.sensor_input import RawFrame, SensorInput
from vln_ros.ros.diagnostics import Health, Level

_LATENCIES_KEPT = 512


def _latencies() -> deque[float]:
    return deque(maxlen=_LATENCIES_KEPT)


@dataclass
class NavigatorFigures:
    """What the navigator counts of itself since it was activated.

    Attributes:
        failure: of the engine, until the next instruction.
        decisions: queues that answer a frame.
        latest_beat_ms: by how much a heartbeat was ever late.
    """

    failure: str | None = None
    decisions: int = 0
    decide_ms: deque[float] = field(default_factory=_latencies)
    observe_ms: deque[float] = field(default_factory=_latencies)
    latest_beat_ms: float = 0.0


def health(figures: NavigatorFigures, sensors: SensorInput, worker: EngineWorker[RawFrame]) -> Health:
    counts, mail, refused = sensors.counts, worker.mailbox.counts, sensors.refused
    level, summary = Level.OK, "following" if worker.running else "waiting for an instruction"
    if refused or counts.dropped_color:
        level = Level.WARN
    if figures.failure is not None:
        level, summary = Level.ERROR, figures.failure
    values: list[tuple[str, str | int | float | bool]] = [
        ("frames received", counts.received_color),
        ("frames aligned", counts.aligned),
        ("frames dropped before the mailbox", counts.dropped_color),
        ("frames replaced by a newer one", mail.replaced),
        ("frames processed", worker.frames_processed),
        ("decisions", figures.decisions),
        ("queues lost", worker.queues_lost),
        ("heartbeat latest [ms]", figures.latest_beat_ms),
    ]
    for name, samples in (("decide", figures.decide_ms), ("observe", figures.observe_ms)):
        if samples:
            p50, p95 = np.percentile(list(samples), [50, 95])
            values += [(f"{name} p50 [ms]", float(p50)), (f"{name} p95 [ms]", float(p95))]
    values += [(f"sync: {name}", n) for name, n in asdict(counts).items() if n]
    values += [(f"refused: {reason}", n) for reason, n in sorted(refused.items())]
    return Health(level, summary, tuple(values))
