"""Recordings as other people's machines leave them: cut off, compressed, edited, with other frame names."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

pytest.importorskip("rclpy", reason="needs ROS")

from nav_msgs.msg import Odometry
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import String

from vln_ros.config import ConfigError
from vln_ros.datatypes import CameraModel, Pose
from vln_ros.ros import convert, qos
from vln_ros.ros.bag import writer as bag_writer
from vln_ros.ros.bag.reader import IMAGE, Bag, BagTopics, Stream
from vln_ros.ros.bag.writer import BagWriter

pytestmark = pytest.mark.ros

TYPES = get_typestore(Stores.ROS2_JAZZY)
BEGIN_NS = 1_700_000_000_000_000_000
CAMERA = CameraModel.from_hfov(32, 24, 1.4)
PLUGINS = {"mcap": StoragePlugin.MCAP, "db3": StoragePlugin.SQLITE3}
COLOR, DEPTH, INFO, ODOM = "/c/color/image_raw", "/c/depth/image_raw", "/c/color/camera_info", "/odom"


def transform(parent: str, child: str, x: float, *, quaternion: tuple[float, ...] = (0, 0, 0, 1)) -> Any:
    t = TYPES.types
    header = t["std_msgs/msg/Header"](
        stamp=t["builtin_interfaces/msg/Time"](sec=0, nanosec=0), frame_id=parent
    )
    qx, qy, qz, qw = (float(v) for v in quaternion)
    return t["geometry_msgs/msg/TransformStamped"](
        header=header,
        child_frame_id=child,
        transform=t["geometry_msgs/msg/Transform"](
            translation=t["geometry_msgs/msg/Vector3"](x=x, y=0.0, z=0.0),
            rotation=t["geometry_msgs/msg/Quaternion"](x=qx, y=qy, z=qz, w=qw),
        ),
    )


def tf(*transforms: Any) -> bytes:
    message = TYPES.types["tf2_msgs/msg/TFMessage"](transforms=list(transforms))
    return bytes(TYPES.serialize_cdr(message, "tf2_msgs/msg/TFMessage"))


def write(
    path: Path,
    kind: str,
    *,
    frames: int = 6,
    first: int = 0,
    mode: CompressionMode = CompressionMode.NONE,
    static: tuple[Any, ...] = (transform("base_link", "optical", 0.1),),
    moving: tuple[Any, ...] = (),
    base: str = "base_link",
    optical: str = "optical",
) -> Path:
    """Frames of random pixels; each is an image, a depth, a camera_info and an odometry."""
    rng = np.random.default_rng(first)
    writer = Writer(path, version=9, storage_plugin=PLUGINS[kind])
    writer.set_compression(mode, CompressionFormat.ZSTD)
    with writer:

        def connect(topic: str, type_: str) -> Any:
            return writer.add_connection(topic, type_, typestore=TYPES)

        streams = [connect(COLOR, IMAGE), connect(DEPTH, IMAGE)]
        streams += [connect(INFO, "sensor_msgs/msg/CameraInfo"), connect(ODOM, "nav_msgs/msg/Odometry")]
        if static:
            writer.write(connect("/tf_static", "tf2_msgs/msg/TFMessage"), BEGIN_NS, tf(*static))
        if moving:
            dynamic = connect("/tf", "tf2_msgs/msg/TFMessage")
            for i, one in enumerate(moving):
                writer.write(dynamic, BEGIN_NS + i, tf(one))
        for i in range(first, first + frames):
            stamp = BEGIN_NS + i * 100_000_000
            messages = (
                convert.image_from_rgb(rng.integers(0, 255, (24, 32, 3), np.uint8), stamp, optical),
                convert.image_from_depth(np.full((24, 32), 2.0, np.float32), stamp, optical),
                convert.info_from_camera(CAMERA, stamp, optical),
                convert.odometry_from_pose(Pose.planar(0.0, 0.0, 0.0), stamp, "odom", base, 0.0, 0.0),
            )
            for connection, message in zip(streams, messages, strict=True):
                writer.write(connection, stamp, serialize_message(message))
    return path


def read(path: Path) -> tuple[list[tuple[int, Stream]], str]:
    with Bag(path, BagTopics()) as bag:
        return [(m.time_ns, m.stream) for m in bag.messages()], bag.lost


def contents(bag: Bag) -> list[tuple[int, Stream, Any]]:
    """Messages, not bytes: what lies between two fields may be anything."""
    types = {Stream.CAMERA_INFO: CameraInfo, Stream.ODOMETRY: Odometry}
    return [
        (m.time_ns, m.stream, deserialize_message(m.data, types.get(m.stream, Image))) for m in bag.messages()
    ]


# --- cut off ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_recorder_that_is_killed_leaves_what_it_has_flushed(
    tmp_path: Path, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    writer = BagWriter(tmp_path / "bag", storage, 2**24)
    add = {
        Stream.COLOR: writer.topic(COLOR, Image, qos.events()),
        Stream.DEPTH: writer.topic(DEPTH, Image, qos.events()),
        Stream.CAMERA_INFO: writer.topic(INFO, CameraInfo, qos.events()),
        Stream.ODOMETRY: writer.topic(ODOM, Odometry, qos.events()),
    }
    whole = write(tmp_path / "whole", "mcap", frames=20)
    with Bag(whole, BagTopics()) as bag:
        messages = list(bag.messages())
    for message in messages:
        add[message.stream](message.time_ns, message.data)
    wait = threading.Event()
    for _ in range(1000):
        if writer.written == len(messages):
            break
        wait.wait(0.01)
    shutil.copytree(tmp_path / "bag", tmp_path / "killed")  # as the disk is, without any closing
    found, lost = read(tmp_path / "killed")
    # What the newest flush was too early for may be missing, and is one message.
    assert len(messages) - 1 <= len(found) <= len(messages)
    assert "ros2 bag reindex" in lost
    writer.close()
    assert writer.failure is None
    assert read(tmp_path / "bag") == ([(m.time_ns, m.stream) for m in messages], "")


@pytest.fixture(scope="module")
def several_chunks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MCAP of several chunks, one per MB."""
    path = write(tmp_path_factory.mktemp("cut") / "bag", "mcap", frames=500)
    return next(path.glob("*.mcap"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0.0, 0.9999))
def test_an_mcap_that_is_cut_anywhere_is_read_up_to_there(
    tmp_path: Path, several_chunks: Path, share: float
) -> None:
    data, (whole, _) = several_chunks.read_bytes(), read(several_chunks)
    path = tmp_path / "cut.mcap"
    path.write_bytes(data[: int(share * len(data))])
    try:
        found, lost = read(path)
    except ConfigError as error:  # not even one whole chunk
        assert str(path) in str(error)
        assert share < 0.5
        return
    assert found == whole[: len(found)]
    assert "mcap recover" in lost
    assert f" {len(found) + 1} messages" in lost  # and /tf_static


@pytest.mark.parametrize("journal", ["wal", "delete"])
def test_what_a_killed_sqlite_writer_left_beside_its_file_is_part_of_the_recording(
    tmp_path: Path, journal: str
) -> None:
    """The -wal holds messages that the file has not; the -journal undoes half a transaction."""
    path = write(tmp_path / "bag", "db3")
    (file,) = path.glob("*.db3")
    whole, _ = read(path)
    database = sqlite3.connect(file)
    database.execute(f"PRAGMA journal_mode={journal}")
    database.execute("PRAGMA wal_autocheckpoint=0")
    database.execute("PRAGMA cache_spill=1")
    database.execute("PRAGMA cache_size=1")
    row = database.execute("SELECT topic_id, data FROM messages WHERE topic_id = 1").fetchone()
    for i in range(200):
        database.execute(
            "INSERT INTO messages (topic_id, timestamp, data) VALUES (?, ?, ?)",
            (row[0], BEGIN_NS + 10**10 + i, row[1] + bytes(3000)),
        )
    if journal == "wal":
        database.commit()
    killed = tmp_path / "killed"
    shutil.copytree(path, killed)
    beside = next(killed.glob(f"*-{'wal' if journal == 'wal' else 'journal'}"))
    assert beside.stat().st_size
    before = {p.name: p.read_bytes() for p in killed.iterdir()}
    found, _ = read(killed)
    assert len(found) == len(whole) + (200 if journal == "wal" else 0)
    assert {p.name: p.read_bytes() for p in killed.iterdir()} == before  # nobody's recording is changed
    database.rollback()
    database.close()


def test_a_damaged_sqlite_file_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", "db3", frames=100)
    (file,) = path.glob("*.db3")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    found, lost = read(path)
    assert 100 < len(found) < 400
    assert (".recover" in lost and f"{len(found)} messages" in lost) or found


def test_without_an_index_the_files_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    folder = tmp_path / "bag"
    folder.mkdir()
    for number in (0, 2, 10):
        part = write(tmp_path / f"part{number}", "mcap", first=number * 10)
        shutil.move(next(part.glob("*.mcap")), folder / f"bag_{number}.mcap")
    found, lost = read(folder)
    assert [t for t, _ in found] == sorted(t for t, _ in found)
    assert len(found) == 3 * 24
    assert "metadata.yaml is missing" in lost


def test_an_index_that_names_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", "mcap")
    next(path.glob("*.mcap")).rename(tmp_path / "elsewhere.mcap")
    with pytest.raises(ConfigError, match=r"names files that are not there: \['bag\.mcap'\]"):
        Bag(path, BagTopics())


# --- compressed, edited, of another make ------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["mcap", "db3"])
@pytest.mark.parametrize("mode", [CompressionMode.FILE, CompressionMode.MESSAGE, CompressionMode.STORAGE])
@pytest.mark.parametrize("index", [True, False], ids=["with-index", "without"])
def test_compressed_recordings(tmp_path: Path, kind: str, mode: CompressionMode, index: bool) -> None:
    if kind == "db3" and mode is CompressionMode.STORAGE:
        pytest.skip("SQLite has no compression of its own")
    plain, packed = write(tmp_path / "plain", kind), write(tmp_path / "packed", kind, mode=mode)
    if not index:
        (packed / "metadata.yaml").unlink()
    with Bag(plain, BagTopics()) as a, Bag(packed, BagTopics()) as b:
        assert contents(a) == contents(b)
        assert a.frames() == b.frames()


@pytest.mark.parametrize("kind", ["mcap", "db3"])
def test_qualities_of_service_edited_by_hand_hide_no_message(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / "bag", kind)
    whole, _ = read(path)
    index = yaml.safe_load((path / "metadata.yaml").read_text())
    for topic in index["rosbag2_bagfile_information"]["topics_with_message_count"]:
        topic["topic_metadata"]["offered_qos_profiles"] = [{"history": "keep_all", "depth": 7}]
        topic["message_count"] = 0
    (path / "metadata.yaml").write_text(yaml.safe_dump(index))
    assert read(path) == (whole, "")


@pytest.mark.parametrize("kind", ["mcap", "db3"])
@pytest.mark.parametrize(
    ("before", "after"),
    [(b"string data", b"str\xffng d@ta"), (b"string data", b"nonsense da"), (b"ros2msg", b"rosNmsg")],
)
def test_a_damaged_definition_of_a_topic_that_nobody_reads_does_no_harm(
    tmp_path: Path, kind: str, before: bytes, after: bytes
) -> None:
    path = tmp_path / "bag"
    write(path, kind)
    whole, _ = read(path)
    shutil.rmtree(path)
    writer = Writer(path, version=9, storage_plugin=PLUGINS[kind])
    writer.open()
    chatter = writer.add_connection("/chatter", "std_msgs/msg/String", typestore=TYPES)
    writer.write(chatter, BEGIN_NS, serialize_message(String(data="x")))
    writer.close()
    (file,) = path.glob(f"*.{kind}")
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after))
    other = write(tmp_path / "other", kind)
    shutil.copy(next(other.glob(f"*.{kind}")), path / f"z.{kind}")
    (path / "metadata.yaml").unlink()
    assert read(path)[0] == whole


@pytest.mark.parametrize("name", ["old.bag", "old.mcap", "folder"])
def test_a_ros_1_bag_is_refused_with_the_way_to_convert_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "folder":
        path.mkdir()
    (path / "run.bag" if name == "folder" else path).write_bytes(b"#ROSBAG V2.0\n" + bytes(100))
    with pytest.raises(ConfigError, match=r"ROS 1 bag.*rosbags-convert"):
        Bag(path, BagTopics())


def test_an_empty_folder_says_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no metadata\.yaml and no \.mcap or \.db3 file"):
        Bag(tmp_path, BagTopics())


# --- frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("static", "moving", "base", "optical", "x"),
    [
        ([("zed_link", "zed_left_optical", 0.2), ("base_link", "zed_link", 0.1)], [], "base_link",
         "zed_left_optical", 0.3),
        ([("/base_link", "/optical", 0.2)], [], "/base_link", "/optical", 0.2),
        ([("robot1/base", "robot1/optical", 0.2)], [], "robot1/base", "robot1/optical", 0.2),
        ([("base_link", "base_footprint", 0.1), ("base_link", "optical", 0.3)], [], "base_footprint",
         "optical", 0.2),  # the base lies below a sister of the camera
        ([("camera_link", "optical", 0.2), ("camera_link", "base_link", 0.5)], [], "base_link",
         "optical", -0.3),
        ([("mount", "optical", 0.2)], [("base_link", "mount", 0.1)] * 3, "base_link", "optical", 0.3),
        ([("mount", "optical", 0.2)], [("base_link", "mount", 0.1), ("base_link", "mount", 0.2)], "base_link",
         "optical", None),  # a neck that moves has no one place
        ([("a", "b", 0.1), ("b", "a", 0.1)], [], "base_link", "b", None),  # a loop
        ([], [], "base_link", "optical", None),
    ],
)  # fmt: skip
def test_the_mounting_is_found_whatever_the_frames_are_called(
    tmp_path: Path, static: list[Any], moving: list[Any], base: str, optical: str, x: float | None
) -> None:
    path = write(
        tmp_path / "bag",
        "mcap",
        static=tuple(transform(*edge) for edge in static),
        moving=tuple(transform(*edge) for edge in moving),
        base=base,
        optical=optical,
    )
    with Bag(path, BagTopics()) as bag:
        frames = bag.frames()
        assert (frames.base, frames.camera, frames.odometry) == (base, optical, "odom")
        found = bag.static_transform(frames.base, frames.camera)
    assert (found is None) == (x is None)
    if found is not None and x is not None:
        np.testing.assert_allclose(found.position, [x, 0.0, 0.0], atol=1e-12)


def test_a_transform_that_is_none_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "bag", "mcap", static=(transform("a", "b", 0.0, quaternion=(0, 0, 0, 0)),))
    with Bag(path, BagTopics()) as bag, pytest.raises(ConfigError, match=r"from a to b on /tf_static"):
        bag.static_transform("a", "b")


@pytest.mark.parametrize("spoil", [lambda b: b"", lambda b: b[:20], lambda b: bytes(len(b))])
def test_frames_come_from_the_first_message_that_is_one(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    path = write(tmp_path / "bag", "db3")
    (file,) = path.glob("*.db3")
    with sqlite3.connect(file) as database:
        first = database.execute(
            "SELECT id, data FROM messages WHERE topic_id = 1 ORDER BY id LIMIT 1"
        ).fetchone()
        database.execute("UPDATE messages SET data = ? WHERE id = ?", (spoil(first[1]), first[0]))
    database.close()
    with Bag(path, BagTopics()) as bag:
        assert bag.frames().camera == "optical"
