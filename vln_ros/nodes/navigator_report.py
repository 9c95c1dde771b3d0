"""How the navigator is, for /diagnostics."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np
from sensor_msgs.msg import Image

from vln_ros.datatypes import Frame
from vln_ros.engine.worker import EngineWorker
from vln_ros.nodes.sensor_input import RawFrame, SensorInput
from vln_ros.protocols import ShowsReuse
from vln_ros.reuse.picture import paint
from vln_ros.ros import convert
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
        vitals: what the engine said of itself after its last decision.
    """

    failure: str | None = None
    decisions: int = 0
    decide_ms: deque[float] = field(default_factory=_latencies)
    observe_ms: deque[float] = field(default_factory=_latencies)
    latest_beat_ms: float = 0.0
    vitals: tuple[tuple[str, int | float], ...] = ()
    frames_before: tuple[float, int] | None = None
    """Steady time and number of frames at the last :func:`health`."""


def reuse_images(engine: ShowsReuse, frame: Frame, frame_id: str) -> list[Image]:
    """The frame, coloured by what became of its tokens; none where nothing is reused."""
    labels = engine.reuse_labels()
    if labels is None:
        return []
    return [convert.image_from_rgb(paint(frame.rgb, labels), frame.stamp_ns, frame_id)]


def health(
    figures: NavigatorFigures, sensors: SensorInput, worker: EngineWorker[RawFrame], error: str, now_ns: int
) -> Health:
    """``now_ns`` is the node's clock: frames are as old as their stamps say. ``error``: why nothing is
    planned besides a failure of the engine; empty: nothing of that kind."""
    counts, mail, refused = sensors.counts, worker.mailbox.counts, sensors.refused
    level, summary = Level.OK, "following" if worker.running else "waiting for an instruction"
    if refused or counts.dropped_color:
        level = Level.WARN
    if figures.failure is not None:
        level, summary = Level.ERROR, figures.failure
    if error:
        level, summary = Level.ERROR, error
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
    now_s, before = time.monotonic(), figures.frames_before
    figures.frames_before = now_s, counts.received_color
    if before is not None and now_s > before[0]:
        values.append(("frame rate [Hz]", (counts.received_color - before[1]) / (now_s - before[0])))
    if sensors.newest_ns:
        values.append(("frame age [ms]", (now_ns - sensors.newest_ns) / 1e6))
    for name, samples in (("decide", figures.decide_ms), ("observe", figures.observe_ms)):
        if samples:
            p50, p95 = np.percentile(list(samples), [50, 95])
            values += [(f"{name} p50 [ms]", float(p50)), (f"{name} p95 [ms]", float(p95))]
    values += figures.vitals
    values += [(f"sync: {name}", n) for name, n in asdict(counts).items() if n]
    values += [(f"refused: {reason}", n) for reason, n in sorted(refused.items())]
    return Health(level, summary, tuple(values))
