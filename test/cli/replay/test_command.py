"""Recordings through the real nodes: every format, every frame; and recordings that are broken."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.serialization import deserialize_message, serialize_message
from recorded_drives import BEGIN_NS, EXTRINSICS, FRAMES, PERIOD_NS, TRANSPORTS, replay_command, write_bag
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from vln_ros.cli.graph import graph_environment
from vln_ros.config import ConfigError
from vln_ros.datatypes import ActionChunk
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.tools import bag_player
from vln_ros.ros import convert, qos
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream

pytestmark = pytest.mark.ros


def replay(bag: Path, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = replay_command(bag, folder / "run", "--json", str(folder / "figures.json"), *options)
    return subprocess.run(
        command, env=graph_environment(), capture_output=True, text=True, timeout=100, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("compressed", "mcap"), [(False, False), (True, True)], ids=["raw-sqlite3", "compressed-mcap"]
)
def test_every_frame_is_aligned_processed_and_decided(tmp_path: Path, compressed: bool, mcap: bool) -> None:
    bag = write_bag(tmp_path / "bag", compressed=compressed, mcap=mcap)
    done = replay(bag, tmp_path, "--speed", "0", "--decision-ms", "1")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert figures["frames"] == {
        "published": FRAMES,
        "received": FRAMES,
        "aligned": FRAMES,
        "dropped": 0,
        "replaced_by_newer": 0,
        "processed": FRAMES,
    }
    assert figures["decisions"] == FRAMES
    played = json.loads((tmp_path / "run/played.json").read_text("utf-8"))
    stamps = [BEGIN_NS + PERIOD_NS // 2 + i * PERIOD_NS for i in range(FRAMES)]
    assert [d["frame_stamp_ns"] for d in played["decisions"]] == stamps  # kept to the nanosecond
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_a_slow_engine_gets_the_newest_frame_and_the_rest_is_counted(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=False)
    done = replay(bag, tmp_path, "--speed", "1", "--decision-ms", "300")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    frames = figures["frames"]
    assert frames["received"] == frames["aligned"] + frames["dropped"] == FRAMES
    assert frames["processed"] + frames["replaced_by_newer"] == frames["aligned"]
    assert 0 < frames["replaced_by_newer"] < FRAMES
    assert figures["decisions"] == frames["processed"]


def test_an_instruction_whose_answer_was_not_heard_is_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=False)
    monkeypatch.setattr(bag_player, "ASK_AGAIN_S", 0.05)
    rclpy.init(args=["--ros-args", "-p", f"bag:={bag}", "-p", "instruction:=go"])
    executor = SingleThreadedExecutor()
    asked: list[str] = []
    try:
        player, navigator = bag_player.BagPlayer(), Node("navigator")
        answers = navigator.create_publisher(JointTrajectory, "action_queue", qos.commands())
        hold = convert.trajectory_from_chunk(ActionChunk(1, 1, BEGIN_NS, ()), "base_link", 0.5, 1.0)
        taken: list[Image] = []
        for type_, topic in ((Image, COLOR_TOPIC), (Image, DEPTH_TOPIC), (CameraInfo, INFO_TOPIC)):
            navigator.create_subscription(type_, topic, taken.append, qos.sensor("reliable", 30))
        navigator.create_subscription(Odometry, "odom", lambda _: None, qos.sensor("reliable", 30))

        def answer(msg: String) -> None:
            asked.append(msg.data)
            if len(asked) > 1:
                answers.publish(hold)

        navigator.create_subscription(String, "instruction", answer, qos.latched())
        said = DiagnosticArray(status=[DiagnosticStatus(name="vln_ros: navigator")])
        diagnostics = navigator.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        navigator.create_timer(0.1, lambda: diagnostics.publish(said))
        executor.add_node(player)
        executor.add_node(navigator)
        deadline_s = time.monotonic() + 30.0
        while not taken:
            assert time.monotonic() < deadline_s, f"asked {len(asked)} times, then no frame"
            executor.spin_once(0.05)
        player.close()
    finally:
        executor.shutdown()
        rclpy.shutdown()
    assert len(asked) > 1


@pytest.mark.parametrize("mcap", [False, True], ids=["sqlite3", "mcap"])
@pytest.mark.parametrize("compressed", [False, True], ids=["raw", "compressed"])
def test_the_reader_finds_its_topics_and_gives_all_messages(
    tmp_path: Path, compressed: bool, mcap: bool
) -> None:
    path = write_bag(tmp_path / "bag", compressed=compressed, mcap=mcap)
    with Bag(path, BagTopics()) as bag:
        assert bag.connections[Stream.COLOR].topic == TRANSPORTS[compressed]["color"][0]
        assert bag.connections[Stream.DEPTH].topic == TRANSPORTS[compressed]["depth"][0]
        assert bag.is_compressed(Stream.DEPTH) == compressed
        assert bag.count(Stream.COLOR) == FRAMES
        messages = list(bag.messages())
        extrinsics = bag.static_transform("base_link", "optical")
        assert bag.static_transform("base_link", "laser") is None
    assert [m.time_ns for m in messages] == sorted(m.time_ns for m in messages)
    assert len(messages) == 3 * FRAMES + 2 * FRAMES + 1
    assert extrinsics is not None
    np.testing.assert_allclose(extrinsics.matrix, EXTRINSICS.matrix, atol=1e-12)


def test_an_ambiguous_or_unknown_topic_lists_what_there_is(tmp_path: Path) -> None:
    path = write_bag(tmp_path / "bag", compressed=False, mcap=False, second_color=True)
    with pytest.raises(ConfigError, match=r"more than one topic for --color; name one of: .*/other/color"):
        Bag(path, BagTopics())
    with pytest.raises(ConfigError, match=r"no topic '/nope' for --depth"):
        Bag(path, BagTopics(color="/cam/color/image_raw", depth="/nope"))
    with Bag(path, BagTopics(color="/cam/color/image_raw")) as bag:
        assert bag.count(Stream.COLOR) == FRAMES


def read_all(path: Path) -> int:
    with Bag(path, BagTopics()) as bag:
        bag.static_transform("base_link", "optical")
        return sum(1 for _ in bag.messages())


def break_file(path: Path, how: str) -> None:
    data = path.read_bytes()
    match how:
        case "empty":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(b"not a bag at all" * 100)
        case "half":
            path.write_bytes(data[: len(data) // 2])
        case "tail":
            path.write_bytes(data[:-7])
        case "hole":
            path.write_bytes(data[: len(data) // 3] + b"\xff" * 20000 + data[len(data) // 3 + 20000 :])
        case "missing":
            path.unlink()


@pytest.mark.parametrize("how", ["empty", "garbage", "half", "tail", "hole", "missing"])
@pytest.mark.parametrize("mcap", [False, True], ids=["sqlite3", "mcap"])
def test_a_broken_bag_is_a_clear_error_or_is_read(tmp_path: Path, mcap: bool, how: str) -> None:
    path = write_bag(tmp_path / "bag", compressed=False, mcap=mcap)
    whole = read_all(path)
    (storage,) = path.glob("*.mcap" if mcap else "*.db3")
    break_file(storage, how)
    try:
        count = read_all(path)
    except ConfigError as error:
        assert str(path) in str(error)
        assert "()" not in str(error), "it names no reason"
    else:  # damage that the format hides (a payload's bytes) cannot be seen here
        with Bag(path, BagTopics()) as bag:
            assert how in {"hole", "tail"} or "is damaged" in bag.lost
        assert count <= whole


@pytest.mark.parametrize("text", ["", "}{", "rosbag2_bagfile_information: 3", "\x00\x01"])
def test_a_broken_index_is_a_clear_error(tmp_path: Path, text: str) -> None:
    path = write_bag(tmp_path / "bag", compressed=False, mcap=False)
    (path / "metadata.yaml").write_text(text, "utf-8")
    with pytest.raises(ConfigError, match="cannot be opened"):
        Bag(path, BagTopics())


def test_replay_says_what_is_wrong_with_its_bag(tmp_path: Path) -> None:
    done = replay(tmp_path / "nowhere", tmp_path)
    assert done.returncode == 2
    assert "nowhere does not exist" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_bag_that_is_damaged_in_the_middle_ends_the_replay(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=True)
    (storage,) = bag.glob("*.mcap")
    break_file(storage, "half")
    done = replay(bag, tmp_path, "--speed", "0")
    assert done.returncode in (1, 2), done.stderr
    assert "Traceback" not in done.stderr
    assert "bag" in done.stderr


def spoil_odometry(path: Path, change: Callable[[Odometry, int], None]) -> Path:
    """Change every odometry message of a SQLite bag; ``change`` gets the message and its number."""
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        (topic,) = database.execute("SELECT id FROM topics WHERE name = '/odom'").fetchone()
        rows = database.execute("SELECT id, data FROM messages WHERE topic_id = ?", (topic,)).fetchall()
        for number, (key, data) in enumerate(rows):
            message = deserialize_message(data, Odometry)
            change(message, number)
            database.execute("UPDATE messages SET data = ? WHERE id = ?", (serialize_message(message), key))
    database.close()
    return path


@pytest.mark.slow
def test_a_replay_in_which_nothing_reaches_the_model_fails_and_says_why(tmp_path: Path) -> None:
    """The clock of the base runs an hour after the camera's."""

    def late(message: Odometry, number: int) -> None:
        message.header.stamp.sec += 3600

    bag = spoil_odometry(write_bag(tmp_path / "bag", compressed=False, mcap=False), late)
    done = replay(bag, tmp_path, "--speed", "4")
    assert done.returncode == 1
    assert f"no frame reached the model: {FRAMES} published" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_bad_messages_are_counted_and_the_replay_goes_on(tmp_path: Path) -> None:
    def spoil(message: Odometry, number: int) -> None:
        q = message.pose.pose.orientation
        match number:
            case 4:
                q.w = 0.0
            case 8:
                message.pose.pose.position.x = float("nan")
            case 12:
                q.z = float("inf")

    bag = spoil_odometry(write_bag(tmp_path / "bag", compressed=False, mcap=False), spoil)
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as database:  # bytes that are no image, and one of another size than it says
        (topic,) = database.execute("SELECT id FROM topics WHERE name LIKE '%/color/image_raw'").fetchone()
        rows = database.execute("SELECT id, data FROM messages WHERE topic_id = ?", (topic,)).fetchall()
        image = deserialize_message(rows[7][1], Image)
        image.width *= 2
        for (key, _), data in ((rows[3], b"\x00\x01\x00\x00junk"), (rows[7], serialize_message(image))):
            database.execute("UPDATE messages SET data = ? WHERE id = ?", (data, key))
    database.close()
    done = replay(bag, tmp_path, "--speed", "4", "--decision-ms", "1")
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    assert figures["refused"]["unreadable"] == 1
    assert sum(figures["refused"].values()) == 5
    assert "refused and left out: " in done.stderr
    assert (tmp_path / "run/report.html").exists()


@pytest.mark.slow
def test_a_mounting_that_nobody_states_is_asked_for(tmp_path: Path) -> None:
    bag = write_bag(tmp_path / "bag", compressed=False, mcap=False)
    (file,) = bag.glob("*.db3")
    with sqlite3.connect(file) as database:
        database.execute(
            "DELETE FROM messages WHERE topic_id IN (SELECT id FROM topics WHERE name = '/tf_static')"
        )
    database.close()
    done = replay(bag, tmp_path, "--speed", "0")
    assert done.returncode == 2
    assert "does not say where the camera optical sits on base_link" in done.stderr
    assert "--extrinsics X Y Z ROLL PITCH_DOWN YAW" in done.stderr
    done = replay(
        bag, tmp_path, "--speed", "0", "--decision-ms", "1", "--extrinsics", "0.1", "0", "1.2", "0", "10", "0"
    )
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "figures.json").read_text("utf-8"))["frames"]["processed"] == FRAMES
