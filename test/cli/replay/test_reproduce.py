"""Which runs a recording holds, and when a decision that is taken again counts as the same."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from diagnostic_msgs.msg import DiagnosticArray
from nav_msgs.msg import Odometry
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.replay.reproduce import is_same_answer, recorded_runs
from vln_ros.datatypes import Action, ActionChunk, Instruction, PixelGoal, PlaceGoal, PlaceSource
from vln_ros.motion.instruction_status import InstructionStatus
from vln_ros.nodes.navigator.instructions import status_message
from vln_ros.ros import convert, qos
from vln_ros.ros.bag.reader import Bag, BagTopics
from vln_ros.ros.bag.writer import BagLimits, BagWriter

pytestmark = pytest.mark.ros
FORWARD, TURN = Action(forward_m=0.25), Action(turn_rad=0.26)
PLACE, OTHER = PlaceGoal(1.0, 2.0, 5, PlaceSource.DEPTH), PlaceGoal(1.0, 2.1, 5, PlaceSource.DEPTH)
PIXEL = PixelGoal(3, 4, 5)
OTHERS = {
    "/camera/color/image_raw": Image,
    "/camera/depth/image_raw": Image,
    "/camera/color/camera_info": CameraInfo,
    "/odom": Odometry,
    "/queue_progress": JointTrajectory,
}


def chunk(*actions: Action, pixel: PixelGoal | None = None, place: PlaceGoal | None = None) -> ActionChunk:
    return ActionChunk(2, 1, 5, actions, pixel_goal=pixel, place=place)


@pytest.mark.parametrize(
    ("recorded", "again", "same"),
    [
        (chunk(FORWARD, TURN), chunk(FORWARD, TURN), True),
        (chunk(FORWARD, TURN), chunk(FORWARD), False),
        (chunk(FORWARD), chunk(), False),
        # a place was driven to: the queue is the planner's, pixel and place are the answer
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PIXEL, place=PLACE), True),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PIXEL, place=OTHER), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(pixel=PixelGoal(3, 5, 5), place=PLACE), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(FORWARD), False),
        (chunk(FORWARD), chunk(pixel=PIXEL, place=PLACE), False),
        (chunk(FORWARD, pixel=PIXEL, place=PLACE), chunk(TURN, pixel=PIXEL), False),
        # nothing led there, so something else was done
        (chunk(TURN, pixel=PIXEL), chunk(pixel=PIXEL, place=PLACE), True),
        (chunk(TURN, pixel=PIXEL), chunk(TURN, pixel=PIXEL), True),
        (chunk(TURN, pixel=PIXEL), chunk(FORWARD, pixel=PIXEL), False),
    ],
)
def test_what_is_the_same_answer(recorded: ActionChunk, again: ActionChunk, same: bool) -> None:
    assert is_same_answer(recorded, again) is same


def write(folder: Path, told: dict[int, tuple[int, int, str]], frames: dict[int, int]) -> Path:
    """A bag in which each instruction is answered by a hold and, 10 ns later, by an action.

    Args:
        told: when its hold came; epoch, number and text. Its status comes 1 ns after the hold.
        frames: when a frame was processed, and its stamp.
    """
    bag = folder / "bag"
    writer = BagWriter(bag, "mcap", 2**20, BagLimits(part_bytes=2**20, part_s=10.0, free_bytes=0, zstd=False))
    queue = writer.topic("/action_queue", JointTrajectory, qos.events())
    status = writer.topic("/instruction_status", DiagnosticArray, qos.latched())
    processed = writer.topic("/frame_processed", Header, qos.events())
    for i, (time_ns, (epoch, number, text)) in enumerate(told.items()):
        for after_ns, actions in ((0, ()), (10, (FORWARD,))):
            said = ActionChunk(2 * i + 1 + (after_ns > 0), number, time_ns, actions, epoch=epoch)
            queue(
                time_ns + after_ns,
                serialize_message(convert.trajectory_from_chunk(said, "base_link", 0.25, 0.5)),
            )
        known = InstructionStatus(epoch=epoch, instruction=Instruction(number, text))
        status(time_ns + 1, serialize_message(status_message((known,), "/", 0)))
    for topic, type_ in OTHERS.items():  # without them it is no recording of ours
        add = writer.topic(topic, type_, qos.events())
        if topic != "/queue_progress":
            add(0, serialize_message(type_()))
    for time_ns, stamp_ns in frames.items():
        header = Header(stamp=convert.time_from_stamp_ns(stamp_ns))
        processed(time_ns, serialize_message(header))
    writer.close()
    return bag


def test_a_text_that_was_heard_after_its_hold_belongs_to_its_own_run(tmp_path: Path) -> None:
    told = {100: (7, 1, "go to the sofa"), 200: (7, 2, "go to the door")}
    with Bag(write(tmp_path, told, {150: 1, 205: 2}), BagTopics()) as bag:
        runs = recorded_runs(bag)
    assert [(r.instruction, r.stamps_ns, r.missing) for r in runs] == [
        (Instruction(1, "go to the sofa"), (1,), ""),
        (Instruction(2, "go to the door"), (2,), ""),
    ]


def test_a_navigator_that_was_started_again_counts_from_one_again(tmp_path: Path) -> None:
    told = {100: (7, 1, "go to the sofa"), 200: (8, 1, "go to the door")}
    with Bag(write(tmp_path, told, {}), BagTopics()) as bag:
        runs = recorded_runs(bag)
    assert [r.instruction.text for r in runs] == ["go to the sofa", "go to the door"]
    assert [len(r.decisions) for r in runs] == [1, 1]
