"""Collects how the navigator is, for /diagnostics."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import asdict, dataclass, field

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from vln_ros.datatypes import ActionChunk, Frame
from vln_ros.engine.worker import EngineWorker
from vln_ros.nodes.navigator.cameras import RawFrame
from vln_ros.nodes.navigator.sensors import SensorInput
from vln_ros.protocols import Engine, GivesUp, ShowsReuse, TellsVitals
from vln_ros.reuse.overlay import paint
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level

_LATENCIES_KEPT = 512


def _latencies() -> deque[float]:
    return deque(maxlen=_LATENCIES_KEPT)


@dataclass(kw_only=True)
class NavigatorFigures:
    """What the navigator counts of itself since it was activated.

    Attributes:
        failure: of the engine, until the next instruction.
        held: why the last answer was no queue; None where it was one.
        decisions: queues that answer a frame.
        latest_beat_ms: by how much a heartbeat was ever late.
        vitals: what the engine said of itself after its last decision.
        given_up: what it has given up in this run for lack of memory.
    """

    failure: str | None = None
    held: str | None = None
    decisions: int = 0
    decide_ms: deque[float] = field(default_factory=_latencies)
    observe_ms: deque[float] = field(default_factory=_latencies)
    latest_beat_ms: float = 0.0
    vitals: tuple[tuple[str, int | float | str], ...] = ()
    given_up: tuple[str, ...] = ()
    driving: tuple[tuple[str, float], ...] = ()
    """What became of the places that the model has named, in this run."""
    frames_before: tuple[float, int] | None = None
    """Steady time and number of frames at the last :func:`health`."""

    def decided(self, engine: Engine | None, decide_ms: float) -> None:
        """From the engine's thread, after a decision."""
        self.decisions += 1
        self.decide_ms.append(decide_ms)
        if isinstance(engine, TellsVitals):
            self.vitals = engine.vitals()
        if isinstance(engine, GivesUp):
            self.given_up = engine.given_up()


class AnswerTopics:
    """Says why there is no queue: ``decision_held`` if the model wants none, ``engine_failure`` if it fails.

    On ``action_queue`` both are holds like any other; who judges a run must tell them apart.
    """

    def __init__(self, node: Node) -> None:
        self._held_pub = node.create_publisher(String, "decision_held", qos.events())
        self._failure_pub = node.create_publisher(String, "engine_failure", qos.events())
        self._logger = node.get_logger()

    def decided(self, chunk: ActionChunk, figures: NavigatorFigures) -> None:
        """The engine answered a frame."""
        news, figures.held = chunk.held != figures.held, chunk.held
        if chunk.is_hold:
            self._held_pub.publish(String(data=chunk.held or "the engine holds"))
        if chunk.held is not None and news:
            self._logger.warning(f"the robot holds: {chunk.held}")

    def failed(self, error: BaseException, figures: NavigatorFigures) -> None:
        """The engine cannot go on; the run is over."""
        figures.failure = f"{type(error).__name__}: {error}"
        self._failure_pub.publish(String(data=figures.failure))
        self._logger.error(f"the engine failed, the robot holds; a new instruction retries: {error!r}")


def reuse_images(engine: ShowsReuse, frame: Frame, frame_id: str) -> list[Image]:
    """The frame, coloured by what became of its tokens; none where nothing is reused."""
    labels = engine.reuse_labels()
    if labels is None:
        return []
    return [convert.image_from_rgb(paint(frame.rgb, labels), frame.stamp_ns, frame_id)]


def second_camera_values(sensors: SensorInput | None) -> tuple[tuple[str, int], ...]:
    """What was refused of the camera that looks down; nothing where there is none."""
    refused = {} if sensors is None else sensors.refused
    return tuple((f"refused, second camera: {reason}", n) for reason, n in sorted(refused.items()))


def health(
    figures: NavigatorFigures, sensors: SensorInput, worker: EngineWorker[RawFrame], error: str, now_ns: int
) -> Health:
    """``now_ns`` is the node's clock: frames are as old as their stamps say. ``error``: why nothing is
    planned besides a failure of the engine; empty: nothing of that kind."""
    counts, mail, refused = sensors.counts, worker.mailbox.counts, sensors.refused
    level, summary = Level.OK, "following" if worker.running else "waiting for an instruction"
    if refused or counts.dropped_color:
        level = Level.WARN
    if not now_ns:
        level, summary = Level.WARN, f"{summary}; no /clock comes (use_sim_time), so no time limit holds"
    if figures.given_up:
        level, summary = Level.WARN, f"{summary}, with less: memory ran out {len(figures.given_up)} times"
    if figures.held is not None and worker.running:
        level, summary = Level.WARN, f"holding: {figures.held}"
    if worker.ended_by is not None:
        level, summary = Level.ERROR, f"the run is given up: {worker.ended_by}"
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
    values += figures.driving
    values += [(f"sync: {name}", n) for name, n in asdict(counts).items() if n]
    values += [(f"runs given up: {name}", n) for name, n in sorted(worker.runs_given_up.items())]
    values += [(f"refused: {reason}", n) for reason, n in sorted(refused.items())]
    return Health(level, summary, tuple(values))
