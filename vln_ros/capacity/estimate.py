"""Estimates latency, memory and number of robots on a device: the roofline, corrected by measurements.

A stage takes ``launch_s`` for each layer of each of its forwards and ``factor`` times its roofline. Both are
fitted to measured configurations where there are some; otherwise they are assumptions, and said to be.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import nnls

from vln_ros.capacity.roofline import PUBLISHED, Cost, Peak, Roofline

STAGES = ("vision", "prefill", "decode", "head")
SAFE_SHARE = 0.9
"""Of a device's memory that a process can count on."""


@dataclass(frozen=True)
class Device:
    """A machine to plan for.

    Attributes:
        memory_bytes: for weights, caches and activations.
    """

    peak: Peak
    memory_bytes: float


DEVICES = {
    "h100": Device(PUBLISHED["H100"], 80e9),
    "h200": Device(PUBLISHED["H200"], 141e9),
    "4090": Device(PUBLISHED["RTX 4090"], 24e9),
    "orin": Device(PUBLISHED["Orin"], 64e9),
    "thor": Device(PUBLISHED["Thor"], 128e9),
}


@dataclass(frozen=True)
class StageTime:
    """One stage of one decision, as measured or to be predicted.

    Attributes:
        layers: that ran, over all its forwards.
        least_s: its roofline.
    """

    seconds: float
    layers: float
    least_s: float


@dataclass(frozen=True)
class Measured:
    """One configuration that was really run: a frame taken in and decided on."""

    name: str
    total_s: float
    stages: Mapping[str, StageTime]


@dataclass(frozen=True)
class StageFit:
    """``launch_s``: of the host, per layer."""

    launch_s: float
    factor: float

    def seconds(self, layers: float, least_s: float) -> float:
        return self.launch_s * layers + self.factor * least_s


@dataclass(frozen=True)
class Calibration:
    """From rooflines to times.

    Attributes:
        host_s: per frame and decision, outside of all forwards.
        source: where it comes from.
    """

    stages: Mapping[str, StageFit]
    host_s: float
    source: str

    def predict(self, stages: Mapping[str, StageTime]) -> float:
        """Seconds of a frame and its decision."""
        return self.host_s + sum(self.stages[n].seconds(s.layers, s.least_s) for n, s in stages.items())


ASSUMED = Calibration(
    {"vision": StageFit(0.0003, 2.0), "prefill": StageFit(0.0003, 2.0), "decode": StageFit(0.0003, 1.4),
     "head": StageFit(0.0, 1.4)},
    0.010,
    "assumed, not measured: vision and prefill at half of their roofline, decode and head at 70 %, 0.3 ms "
    "of the host to launch each layer of an eager forward, 10 ms per frame for everything else",
)  # fmt: skip


def calibrate(measured: Sequence[Measured], source: str) -> Calibration:
    """Least squares of relative errors, stage by stage, nothing negative.

    Raises:
        ValueError: no configuration.
    """
    if not measured:
        raise ValueError("calibrating needs at least one measured configuration")
    fits = {}
    for name in STAGES:
        seen = [m.stages[name] for m in measured if name in m.stages and m.stages[name].layers]
        fits[name] = _fit(seen) if seen else ASSUMED.stages[name]
    hosts = [m.total_s - sum(m.stages[n].seconds for n in m.stages) for m in measured]
    return Calibration(fits, max(0.0, float(np.median(hosts))), source)


def _fit(seen: Sequence[StageTime]) -> StageFit:
    rows = np.array([[s.layers, s.least_s] for s in seen]) / np.array([[s.seconds] for s in seen])
    if len(seen) == 1:  # one point determines one number
        return StageFit(0.0, seen[0].seconds / seen[0].least_s)
    scale = rows.max(0)
    found, _ = nnls(rows / scale, np.ones(len(seen)))
    return StageFit(float(found[0] / scale[0]), float(found[1] / scale[1]))


@dataclass(frozen=True)
class PlanError:
    """What the planner says of a measured configuration that it has not seen.

    Attributes:
        relative: (predicted - measured) / measured; ``uncalibrated``: the same by the roofline alone.
    """

    name: str
    measured_s: float
    predicted_s: float
    roofline_s: float

    @property
    def relative(self) -> float:
        return self.predicted_s / self.measured_s - 1

    @property
    def uncalibrated(self) -> float:
        return self.roofline_s / self.measured_s - 1


def leave_one_out(measured: Sequence[Measured]) -> list[PlanError]:
    """Each configuration predicted from all others. Empty for fewer than two."""
    found = []
    for i, m in enumerate(measured):
        others = [*measured[:i], *measured[i + 1 :]]
        if others:
            predicted = calibrate(others, "others").predict(m.stages)
            found.append(PlanError(m.name, m.total_s, predicted, sum(s.least_s for s in m.stages.values())))
    return found


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What one robot asks for.

    Attributes:
        grid_h, grid_w: patches of a frame as the vision tower sees it; ``frame_tokens``: of them.
        frames_per_s: of the camera; ``decisions_per_s``: how often the model is asked, each time about
            another frame, so no more often than frames come.
        text_tokens: with each frame; ``question_tokens``: before each answer.
        context_tokens: in the cache when asked, at most.
        unasked: what becomes of a frame that nobody asks about: ``unseen`` (nothing is computed), ``seen``
            (by the vision tower), or ``prefilled`` at once, too.
        asked_pictures: prefilled anew at each question, the newest included (a history); 0 where every
            frame is prefilled once (a stream).
        asked_vision: of those, how many go through the vision tower only then, before the forward of the
            question; 0: the newest alone.
        restart_pictures: prefilled anew each time the stream is dropped; 0 where it never is.
        tree_nodes: of all possible queues, in the forward of the question; 0: token by token.
        answer_tokens: of a queue.
    """

    grid_h: int
    grid_w: int
    frame_tokens: int
    frames_per_s: float
    decisions_per_s: float
    text_tokens: int
    question_tokens: int
    context_tokens: int
    tree_nodes: int
    answer_tokens: int
    unasked: str = "prefilled"
    asked_pictures: int = 0
    asked_vision: int = 0
    restart_pictures: int = 0


@dataclass(frozen=True)
class Passes:
    """What the engine runs for a frame.

    Attributes:
        vision: pictures through the vision tower.
        forwards: of the decoder.
    """

    vision: int
    forwards: int


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to expect.

    Attributes:
        frame_s: for a frame that nobody asks about; ``decision_s``: from a frame that the model is asked
            about to the queue; ``least_s``: roofline of the latter.
        frame, decision: what the engine runs in them.
        restart_s: what a frame costs more when the stream is dropped and begun anew before it.
        busy: share of the device's time for one robot; above 1 frames are left out.
        weights_bytes, robot_bytes: ``robot_bytes`` when the context is full.
        filled_after_s: when it is, from the camera's rate; math.inf if never.
        robots: on one device, by time and memory, no batching; 0 if one does not fit.
        limit: ``time`` or ``memory``, whatever bounds the robots.
    """

    frame_s: float
    decision_s: float
    least_s: float
    frame: Passes
    decision: Passes
    restart_s: float
    busy: float
    weights_bytes: float
    robot_bytes: float
    filled_after_s: float
    robots: int
    limit: str
    parts: Mapping[str, float]

    @property
    def frames_per_s(self) -> float:
        """Most frames a second, each decided on."""
        return 1 / self.decision_s

    def memory_bytes(self, seconds: float) -> float:
        """Weights and one robot's cache after so long a run."""
        grown = 1.0 if seconds >= self.filled_after_s else seconds / self.filled_after_s
        return self.weights_bytes + grown * self.robot_bytes


def plan(
    roofline: Roofline, device: Device, load: Workload, calibration: Calibration, weight_bytes: float
) -> Plan:
    """Expectations for one network, device and workload.

    Args:
        weight_bytes: per parameter.
    """
    peak, fits = device.peak, calibration.stages
    layers = stage_layers(roofline.config)
    context = load.context_tokens

    def stage(name: str, costs: Sequence[Cost]) -> tuple[float, float]:
        least_s = sum(peak.least_s(c) for c in costs)
        return fits[name].seconds(len(costs) * layers[name], least_s), least_s

    # Quantised weights are read as they are stored; everything else keeps the roofline's format.
    saved = roofline.decoder_weights * (roofline.item_bytes - weight_bytes)

    def decoder(queries: int) -> Cost:
        cost = roofline.decoder(queries, context)
        return Cost(cost.flops, cost.bytes - saved)

    picture_tokens = load.frame_tokens + load.text_tokens
    shown_tokens = max(load.asked_pictures, 1) * picture_tokens
    question_tokens = load.question_tokens + load.tree_nodes
    # The engine runs a frame, its question and all queues in one forward; a video has one of its own.
    pushes = [shown_tokens, question_tokens] if load.asked_vision else [shown_tokens + question_tokens]
    looks = max(load.asked_vision, 1)
    steps = 0 if load.tree_nodes else max(0, load.answer_tokens - 1)
    look = roofline.vision(load.grid_h, load.grid_w)
    parts = {
        "vision": stage("vision", [look] * looks),
        "pictures, question, queues" if load.asked_pictures else "frame, question, queues": stage(
            "prefill", [decoder(tokens) for tokens in pushes]
        ),
        "decode": stage("decode", [decoder(1)] * steps),
        "head": stage("head", [roofline.head(1 + load.tree_nodes), *[roofline.head(1)] * steps]),
    }
    seconds = {name: both[0] for name, both in parts.items()}
    decision_s = calibration.host_s + sum(seconds.values())
    frame_looks = [] if load.unasked == "unseen" else [look]
    frame_pushes = [decoder(picture_tokens)] if load.unasked == "prefilled" else []
    frame_s = (
        (calibration.host_s if frame_looks else 0.0)
        + stage("vision", frame_looks)[0]
        + stage("prefill", frame_pushes)[0]
    )
    restart_s = (
        stage("prefill", [decoder(load.restart_pictures * picture_tokens)])[0]
        if load.restart_pictures
        else 0.0
    )
    asked_per_s = min(load.decisions_per_s, load.frames_per_s)
    busy = frame_s * (load.frames_per_s - asked_per_s) + decision_s * asked_per_s
    weights = parameters(roofline) * weight_bytes
    robot = float(context * roofline.token_bytes)
    room = SAFE_SHARE * device.memory_bytes - weights
    by_memory = max(0, math.floor(room / robot))
    by_time = math.floor(1 / busy)
    kept_per_s = load.frames_per_s if load.unasked == "prefilled" else asked_per_s
    tokens_per_s = kept_per_s * picture_tokens
    return Plan(
        frame_s=frame_s,
        decision_s=decision_s,
        least_s=sum(both[1] for both in parts.values()),
        frame=Passes(len(frame_looks), len(frame_pushes)),
        decision=Passes(looks, len(pushes) + steps),
        restart_s=restart_s,
        busy=busy,
        weights_bytes=weights,
        robot_bytes=robot,
        filled_after_s=context / tokens_per_s if tokens_per_s else math.inf,
        robots=min(by_memory, by_time),
        limit="memory" if by_memory < by_time else "time",
        parts={"preprocessing and the rest": calibration.host_s, **seconds},
    )


def stage_layers(config: Any) -> dict[str, int]:
    """Of one forward of each stage; ``config``: of the network."""
    decoder = config.text_config.num_hidden_layers
    return {"vision": config.vision_config.depth, "prefill": decoder, "decode": decoder, "head": 1}


def parameters(roofline: Roofline) -> float:
    """Of decoder, embedding, head and vision tower."""
    text: Any = roofline.config.text_config
    table = text.vocab_size * text.hidden_size
    tied = roofline.config.tie_word_embeddings
    vision = roofline.vision(2, 2).bytes / roofline.item_bytes
    return float(roofline.decoder_weights + table * (1 if tied else 2) + vision)
