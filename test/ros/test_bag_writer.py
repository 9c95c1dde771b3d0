"""Recordings in several files, compressed, on a disk that fills up, of images that are made small."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy", reason="needs ROS")

from rclpy.serialization import deserialize_message, serialize_message
from rosbags.highlevel import AnyReader
from sensor_msgs.msg import CompressedImage
from std_msgs.msg import String

from vln_ros.config import ConfigError
from vln_ros.ros import convert, qos
from vln_ros.ros.bag import writer as bag_writer
from vln_ros.ros.bag.encode import color_encoder, depth_encoder
from vln_ros.ros.bag.storage import BagFiles
from vln_ros.ros.bag.writer import BagLimits, BagWriter, EncodeError

pytestmark = pytest.mark.ros

BEGIN_NS = 10**18
STORAGES = ["mcap", "sqlite3"]
DEADLINE_S = 30.0


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s
        os.sched_yield()


def words(count: int, length: int = 1000) -> list[bytes]:
    return [serialize_message(String(data=f"{i} " + "a" * length)) for i in range(count)]


def write(writer: BagWriter, messages: list[bytes]) -> None:
    add = writer.topic("/words", String, qos.events())
    writer.topic("/silence", String, qos.events())
    for i, data in enumerate(messages):
        add(BEGIN_NS + i, data)


def read(folder: Path) -> list[bytes]:
    files = BagFiles(folder)
    try:
        return [data for _, _, data in files.messages(t for t in files.topics if t.topic == "/words")]
    finally:
        files.close()


def read_by_rosbags(folder: Path) -> list[bytes]:
    with AnyReader([folder]) as reader:
        chosen = [c for c in reader.connections if c.topic == "/words"]
        return [bytes(data) for _, _, data in reader.messages(chosen)]


@pytest.mark.parametrize("storage", STORAGES)
@pytest.mark.parametrize("zstd", [False, True])
def test_a_recording_in_several_files_is_one(storage: str, zstd: bool, tmp_path: Path) -> None:
    messages = words(20)
    writer = BagWriter(tmp_path / "bag", storage, 2**24, BagLimits(part_bytes=5000, zstd=zstd))
    write(writer, messages)
    writer.close()
    assert writer.failure is None
    assert writer.parts == 4
    files = sorted(p.name for p in (tmp_path / "bag").iterdir())
    suffix = "mcap" if storage == "mcap" else "db3"
    assert files == [*(f"bag_{i}.{suffix}" for i in range(4)), "metadata.yaml"]
    assert read(tmp_path / "bag") == messages
    assert read_by_rosbags(tmp_path / "bag") == messages
    if zstd:
        assert sum(p.stat().st_size for p in (tmp_path / "bag").glob("*.mcap")) < sum(map(len, messages))
    for part in (tmp_path / "bag").glob(f"*.{suffix}"):
        assert len(read(part)) == 5, "each is a file of its own, too"


@pytest.mark.parametrize("storage", STORAGES)
def test_time_splits_too(storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    messages = words(6, 10)
    writer = BagWriter(tmp_path / "bag", storage, 2**24, BagLimits(part_s=10.0))
    add = writer.topic("/words", String, qos.events())
    for i, data in enumerate(messages):
        now_s = 100.0 + 4.0 * i
        add(BEGIN_NS + i, data)
        until(lambda n=i: writer.written == n + 1)  # type: ignore[misc]
    writer.close()
    assert writer.parts == 2
    assert read(tmp_path / "bag") == messages


@pytest.mark.parametrize("storage", STORAGES)
def test_a_writer_that_is_killed_between_two_files_leaves_both(
    storage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    messages = words(8)
    writer = BagWriter(tmp_path / "bag", storage, 2**24, BagLimits(part_bytes=5000))
    write(writer, messages)
    until(lambda: writer.written == len(messages))
    assert not (tmp_path / "bag/metadata.yaml").exists()
    found = read(tmp_path / "bag")  # as the disk is
    assert found == messages[: len(found)]
    assert len(found) >= len(messages) - 1
    writer.close()


def test_an_empty_recording_is_one(tmp_path: Path) -> None:
    writer = BagWriter(tmp_path / "bag", "mcap", 2**20)
    write(writer, [])
    writer.close()
    assert writer.failure is None
    assert read(tmp_path / "bag") == []


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_ends_a_recording_with_a_reason_and_what_was_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 100 * 2**20
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))
    monkeypatch.setattr(bag_writer, "FLUSH_S", 0.0)
    messages = words(3)
    writer = BagWriter(tmp_path / "bag", "mcap", 2**24, BagLimits(free_bytes=50 * 2**20))
    add = writer.topic("/words", String, qos.events())
    assert writer.free_bytes == 50 * 2**20
    for i, data in enumerate(messages):
        add(BEGIN_NS + i, data)
    until(lambda: writer.written == 3)
    free = 49 * 2**20
    until(lambda: writer.failure is not None)
    assert "less than 50 MB left" in str(writer.failure)
    add(BEGIN_NS + 9, messages[0])
    assert writer.dropped == 1
    writer.close()
    assert read(tmp_path / "bag") == messages
    with pytest.raises(ConfigError, match="less than 50 MB left"):
        BagWriter(tmp_path / "other", "mcap", 2**24, BagLimits(free_bytes=50 * 2**20))
    assert not (tmp_path / "other").exists()


def test_half_an_index_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has room for the messages, and not for what lists them: they are found without that."""

    whole = Path.write_text

    def full(path: Path, text: str, *others: str, **more: str) -> int:
        if path.name != "metadata.yaml":
            return whole(path, text, *others, **more)
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    writer = BagWriter(tmp_path / "bag", "mcap", 2**24)
    messages = words(3)
    write(writer, messages)
    monkeypatch.setattr(Path, "write_text", full)
    writer.close()
    assert "No space left" in str(writer.failure)
    assert not (tmp_path / "bag/metadata.yaml").exists()
    assert read(tmp_path / "bag") == messages


RGB = np.add.outer(np.arange(48), np.arange(64))[..., None].repeat(3, 2).astype(np.uint8)
DEPTH = np.linspace(0.3, 9.0, 48 * 64, dtype=np.float32).reshape(48, 64)


@pytest.mark.parametrize("image_format", ["jpeg", "png"])
def test_colour_is_made_small(image_format: str) -> None:
    raw = convert.image_from_rgb(RGB, 7, "optical")
    small = deserialize_message(color_encoder(image_format, 90)(serialize_message(raw)), CompressedImage)
    assert small.header == raw.header
    found = convert.rgb_from_compressed(small)
    assert np.abs(found.astype(int) - RGB).max() <= (0 if image_format == "png" else 8)
    assert len(small.data) < len(raw.data) / 2


@pytest.mark.parametrize("encoding", ["16UC1", "32FC1"])
def test_depth_is_made_small_to_the_millimetre(encoding: str) -> None:
    raw = convert.image_from_depth(DEPTH, 7, "optical")
    if encoding == "16UC1":
        raw = convert.image_from_depth_mm(DEPTH, 7, "optical")
    small = deserialize_message(depth_encoder()(serialize_message(raw)), CompressedImage)
    assert small.header == raw.header
    found, was = convert.depth_from_compressed(small), convert.depth_from_image(raw)
    assert np.abs(found - was).max() <= (0.0 if encoding == "16UC1" else 5.1e-4)


def test_what_is_no_image_is_counted_and_the_rest_is_recorded(tmp_path: Path) -> None:
    good = serialize_message(convert.image_from_rgb(RGB, 7, "optical"))
    strange = convert.image_from_rgb(RGB, 7, "optical")
    strange.encoding = "hologram"
    for encode in (color_encoder("jpeg", 90), depth_encoder()):
        with pytest.raises(EncodeError):
            encode(serialize_message(strange))
    writer = BagWriter(tmp_path / "bag", "mcap", 2**24)
    add = writer.topic("/words", CompressedImage, qos.events(), color_encoder("jpeg", 90))
    for i, data in enumerate((good, serialize_message(strange), good[:40], b"", good)):
        add(BEGIN_NS + i, data)
    writer.close()
    assert writer.failure is None
    assert writer.refused == 3
    assert writer.written == 2
    assert len(read(tmp_path / "bag")) == 2
