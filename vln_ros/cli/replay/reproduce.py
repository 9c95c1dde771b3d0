"""``vln_ros replay --exact``: the same frames to the same engine, and are the decisions the same?"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import yaml
from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import ConfigError, NavigatorConfig, from_flat, walk_options
from vln_ros.datatypes import ActionChunk, Executed, Instruction, Pose
from vln_ros.engine.execution_log import ExecutionLog, Progress
from vln_ros.engines import build_engine
from vln_ros.evaluation.files import write_atomically
from vln_ros.nodes.navigator.cameras import CameraPair, ImageMsg, RawFrame, frame_of
from vln_ros.nodes.tools.recorder import PARAMETERS_FILE
from vln_ros.protocols import Engine, HearsExecuted
from vln_ros.ros import convert
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream
from vln_ros.ros.extrinsics import FixedExtrinsics, depth_extrinsics_of, extrinsics_of
from vln_ros.ros.odometry import BaseOdometry
from vln_ros.sync.aligner import Aligned, Aligner


@dataclass(frozen=True)
class Run:
    """What the recording says of one instruction.

    Attributes:
        instruction: its number and text.
        stamps_ns: of the frames that the engine took in, in order.
        decisions: what it answered, in order. Holds are not decisions, nor are queues that only go on to a
            place: those follow from what was known of obstacles, scans included.
        missing: what the recording lacks of it; empty if nothing.
        executed: what the executor has reported as done; None where no report says so.
    """

    instruction: Instruction
    stamps_ns: tuple[int, ...]
    decisions: tuple[ActionChunk, ...]
    missing: str
    executed: tuple[Executed, ...] | None = None


@dataclass(frozen=True)
class Repeated:
    """One run, decided again.

    Attributes:
        decisions: that were recorded.
        equal: of those, how many came out the same, action for action.
        first_difference: the first that did not; empty if none.
        failure: why the rest could not be decided; empty if it could.
    """

    instruction: str
    decisions: int
    equal: int
    first_difference: str = ""
    failure: str = ""


def run_exact(options: argparse.Namespace) -> int:
    topics = BagTopics(options.color, options.depth, options.camera_info, options.odometry)
    with Bag(options.bag, topics) as bag:
        config = recorded_config(options.bag, options.checkpoint, options.profile)
        runs = recorded_runs(bag)
        if not runs:
            raise ConfigError(f"{options.bag} holds no decision: nothing to repeat")
        engine = build_engine(config)
        try:
            repeated = repeat(bag, config, engine, runs)
        finally:
            engine.close()
    for r in repeated:
        print(f"{r.equal} of {r.decisions} decisions are the same: {r.instruction}")
        for text in filter(None, (r.first_difference, r.failure)):
            print(f"    {text}")
    if options.json is not None:
        write_atomically(options.json, json.dumps([asdict(r) for r in repeated], indent=2) + "\n")
    return 0 if all(r.equal == r.decisions for r in repeated) else 1


def recorded_config(bag: Path, checkpoint: str, profile: str) -> NavigatorConfig:
    """What the navigator ran with; checkpoint and profile may lie elsewhere on this machine.

    Raises:
        ConfigError: the recording does not say, or it sampled.
    """
    path = (bag if bag.is_dir() else bag.parent) / PARAMETERS_FILE
    try:
        values = yaml.safe_load(path.read_text("utf-8"))["navigator"]["ros__parameters"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): only what this package has recorded can be repeated"
        ) from error
    known = {e.name for e in walk_options(NavigatorConfig)}
    values = {name: value for name, value in values.items() if name in known}
    values |= {"qwen.checkpoint": checkpoint} if checkpoint else {}
    values |= {"qwen.profile": profile} if profile else {}
    config = from_flat(NavigatorConfig, values)
    if config.engine == "qwen" and config.qwen.temperature > 0.0:
        raise ConfigError(
            f"it sampled (qwen.temperature = {config.qwen.temperature}): only greedy runs repeat"
        )
    return config


def recorded_runs(bag: Bag) -> list[Run]:
    """Every instruction that the recording knows of, with frames and decisions.

    An instruction begins with the hold that answers it. The order of holds and frames is that of
    their arrival; one thread of the navigator has published both.
    """
    texts = _texts(bag)
    frames = [
        (time_ns, convert.stamp_ns_from_time(deserialize_message(data, Header).stamp))
        for time_ns, data in bag.others("frame_processed", "std_msgs/msg/Header")
    ]
    queues = [
        (time_ns, convert.chunk_from_trajectory(deserialize_message(data, JointTrajectory)))
        for time_ns, data in bag.others("action_queue", "trajectory_msgs/msg/JointTrajectory")
    ]
    reports = []
    for _, data in bag.others("queue_progress", "trajectory_msgs/msg/JointTrajectory"):
        left, executed = convert.report_from_trajectory(deserialize_message(data, JointTrajectory))
        count = len(left.actions)
        progress = Progress(left.instruction, left.queue, count, left.frame_stamp_ns, executed)
        reports.append((left.epoch, progress))
    # A navigator that was started again counts from 1, in another epoch.
    starts: dict[tuple[int, int], int] = {}
    for time_ns, chunk in queues:
        starts.setdefault((chunk.epoch, chunk.instruction), time_ns)
    runs = []
    for i, ((epoch, number), time_ns) in enumerate(starts.items()):
        mine = [c for _, c in queues if (c.epoch, c.instruction) == (epoch, number)]
        numbers = {c.queue for _, c in queues if c.epoch == epoch}
        until_ns = [*starts.values()][i + 1] if i + 1 < len(starts) else math.inf
        text = texts.get((epoch, number))
        missing = ""
        if mine[0].actions:
            missing = "its beginning is not in the recording"
        elif text is None:
            missing = "its text is not in the recording (instruction_status)"
        elif lost := set(range(mine[0].queue, mine[-1].queue)) - numbers:
            missing = f"queue {min(lost)} is not in the recording"
        log, said = ExecutionLog(), False
        for of, report in reports:
            if (of, report.instruction) == (epoch, number) and report.executed is not None:
                log.hear(report)
                said = True
        runs.append(
            Run(
                Instruction(number, text or f"instruction {number}"),
                tuple(s for t, s in frames if time_ns <= t < until_ns),
                tuple(c for c in mine if c.actions and not c.goes_on),
                missing,
                tuple(log.entries) if said else None,
            )
        )
    return runs


def _texts(bag: Bag) -> dict[tuple[int, int], str]:
    """By epoch and number, as the navigator told them.

    When a text came is no proof of which it was: the recorder may hear it after the hold that answers it.
    """
    texts = {}
    for _, data in bag.others("instruction_status", "diagnostic_msgs/msg/DiagnosticArray"):
        for status in deserialize_message(data, DiagnosticArray).status:
            values = {v.key: v.value for v in status.values}
            texts[int(values["epoch"]), int(values["number"])] = values["instruction"]
    return texts


def repeat(bag: Bag, config: NavigatorConfig, engine: Engine, runs: list[Run]) -> list[Repeated]:
    """Decide every run again. The recording is read once, front to back."""
    frames = recorded_frames(bag, config, {s for run in runs for s in run.stamps_ns})
    progress = tqdm(total=sum(len(r.decisions) for r in runs), unit="decision", disable=None)
    results = []
    for run in runs:
        equal, difference, failure = 0, "", run.missing
        engine.start(run.instruction)
        # All at once: of a frame only what was done before it counts.
        if run.executed is not None and config.decide_on == "progress" and isinstance(engine, HearsExecuted):
            engine.executed(run.executed)
        stamps = iter(enumerate(run.stamps_ns))
        newest_ns = -1
        for recorded in () if failure else run.decisions:
            while newest_ns < recorded.frame_stamp_ns and not failure:
                index, newest_ns = next(stamps, (-1, -1))
                raw = (
                    next((r for r in frames if r.aligned.stamp_ns >= newest_ns), None) if index >= 0 else None
                )
                if raw is None or raw.aligned.stamp_ns != newest_ns:
                    failure = f"frame {recorded.frame_stamp_ns} is not complete in the recording"
                else:
                    engine.observe(frame_of(raw, index))
            if failure:
                break
            again = engine.decide(recorded.queue)
            progress.update()
            if is_same_answer(recorded, again):
                equal += 1
            elif not difference:
                difference = f"queue {recorded.queue}: recorded {_said(recorded)}, now {_said(again)}"
        results.append(Repeated(run.instruction.text, len(run.decisions), equal, difference, failure))
    progress.close()
    return results


def is_same_answer(recorded: ActionChunk, again: ActionChunk) -> bool:
    """Action for action; of a pixel that was answered, pixel and place.

    Args:
        recorded: as it was published: a place is a queue already, or what was done where no way led there.
        again: as the engine gives it.
    """
    if recorded.pixel_goal is None and again.pixel_goal is None:
        return again.actions == recorded.actions
    if recorded.pixel_goal != again.pixel_goal:
        return False
    return recorded.place in (None, again.place) and (
        again.place is not None or again.actions == recorded.actions
    )


def _said(chunk: ActionChunk) -> str:
    if chunk.pixel_goal is not None:
        return f"{chunk.pixel_goal}, {chunk.place or 'nowhere'}"
    return ", ".join(map(str, chunk.actions)) or "hold"


def recorded_frames(bag: Bag, config: NavigatorConfig, wanted_ns: set[int]) -> Iterator[RawFrame]:
    """The frames with these stamps, aligned as the navigator does it.

    Raises:
        ConfigError: the camera's extrinsics came from TF and the recording has no static transform for it.
    """
    aligner: Aligner[ImageMsg, ImageMsg] = Aligner(config.sync, config.base_frame)
    base_odometry = BaseOdometry(config, "", _BagFrames(bag, config.base_frame))
    color_type = CompressedImage if bag.is_compressed(Stream.COLOR) else Image
    depth_type = CompressedImage if bag.is_compressed(Stream.DEPTH) else Image
    cameras = CameraPair(config, *_extrinsics_sources(bag, config, color_type, depth_type))
    waiting: list[Aligned[ImageMsg, ImageMsg]] = []
    complete: list[Aligned[ImageMsg, ImageMsg]]
    for message in bag.messages():
        try:
            if message.stream is Stream.CAMERA_INFO:
                cameras.take_color_info(deserialize_message(message.data, CameraInfo))
                complete = []
            elif message.stream is Stream.DEPTH_INFO:
                cameras.depth.take(deserialize_message(message.data, CameraInfo))
                complete = []
            elif message.stream is Stream.ODOMETRY:
                odometry = deserialize_message(message.data, Odometry)
                pose = base_odometry.base_pose(odometry)
                stamp_ns = convert.stamp_ns_from_time(odometry.header.stamp)
                complete = aligner.add_odometry(stamp_ns, pose, odometry.header.frame_id)
            elif message.stream is Stream.DEPTH:
                image = deserialize_message(message.data, depth_type)
                complete = aligner.add_depth(convert.stamp_ns_from_time(image.header.stamp), image)
            else:
                image = deserialize_message(message.data, color_type)
                complete = aligner.add_color(convert.stamp_ns_from_time(image.header.stamp), image)
        except convert.MessageError:
            continue  # the navigator has refused it too
        waiting += [a for a in complete if a.stamp_ns in wanted_ns]
        while waiting and cameras.missing(waiting[0].depth is not None) is None:
            try:
                raw = cameras.raw_frame(waiting.pop(0))
            except convert.MessageError:
                continue
            if raw is not None:
                yield raw


class _BagFrames:
    """The static transforms of a recording."""

    def __init__(self, bag: Bag, base_frame: str) -> None:
        self._bag, self._base_frame = bag, base_frame
        self._found: dict[str, Pose | None] = {}

    def newest(self, frame_id: str) -> Pose | None:
        if frame_id not in self._found:
            self._found[frame_id] = self._bag.static_transform(self._base_frame, frame_id)
        return self._found[frame_id]


def _extrinsics_sources(
    bag: Bag, config: NavigatorConfig, color_type: type, depth_type: type
) -> tuple[FixedExtrinsics, FixedExtrinsics]:
    """Of the colour camera, and of depth."""
    if config.extrinsics == "parameters":
        return FixedExtrinsics(extrinsics_of(config)), FixedExtrinsics(depth_extrinsics_of(config))
    color = _static_extrinsics(bag, config, Stream.COLOR, color_type)
    if not config.depth_camera_info_topic:
        return color, color
    return color, _static_extrinsics(bag, config, Stream.DEPTH, depth_type)


def _static_extrinsics(
    bag: Bag, config: NavigatorConfig, stream: Stream, image_type: type
) -> FixedExtrinsics:
    first = next(m for m in bag.messages() if m.stream is stream)
    frame_id = deserialize_message(first.data, image_type).header.frame_id
    extrinsics = bag.static_transform(config.base_frame, frame_id)
    if extrinsics is None:
        raise ConfigError(
            f"{bag.path} has no static transform from {config.base_frame} to {frame_id}; runs with a "
            "camera that moves on the robot cannot be repeated"
        )
    return FixedExtrinsics(extrinsics)
