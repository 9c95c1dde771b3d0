"""RVL against the algorithm as it is published, number by number."""

from __future__ import annotations

import struct

import numpy as np
import numpy.typing as npt
import pytest

from vln_ros.ros.rvl import RvlError, decode_rvl, encode_rvl

UInt16Array = npt.NDArray[np.uint16]


class Nibbles:
    """One number after the other, as the transport's C++ reads and writes them."""

    def __init__(self, data: bytes = b"") -> None:
        words = struct.unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4])
        self.nibbles: list[int] = [(word >> shift) & 15 for word in words for shift in range(28, -1, -4)]
        self.at = 0

    def put(self, value: int) -> None:
        while True:
            low, value = value & 7, value >> 3
            self.nibbles.append(low | (8 if value else 0))
            if not value:
                return

    def get(self) -> int:
        value: int = 0
        shift = 0
        while True:
            nibble = self.nibbles[self.at]
            self.at += 1
            value |= (nibble & 7) << shift
            shift += 3
            if not nibble & 8:
                return value

    def data(self) -> bytes:
        padded = self.nibbles + [0] * (-len(self.nibbles) % 8)
        words = [padded[i : i + 8] for i in range(0, len(padded), 8)]
        return b"".join(struct.pack("<I", int("".join(f"{n:x}" for n in word), 16)) for word in words)


def slowly_encoded(depth: UInt16Array) -> bytes:
    out, flat, i, previous = Nibbles(), [int(v) for v in depth.ravel()], 0, 0
    while i < len(flat):
        start = i
        while i < len(flat) and flat[i] == 0:
            i += 1
        out.put(i - start)
        start = i
        while i < len(flat) and flat[i] != 0:
            i += 1
        out.put(i - start)
        for value in flat[start:i]:
            delta = value - previous
            out.put((delta << 1) ^ (delta >> 31))
            previous = value
    return out.data()


def slowly_decoded(data: bytes, width: int, height: int) -> UInt16Array:
    flat: list[int] = []
    numbers, previous = Nibbles(data), 0
    while len(flat) < width * height:
        flat += [0] * numbers.get()
        for _ in range(numbers.get()):
            folded = numbers.get()
            previous = (previous + ((folded >> 1) ^ -(folded & 1))) & 0xFFFF
            flat.append(previous)
    return np.array(flat, np.uint16).reshape(height, width)


RNG = np.random.default_rng(5)
WALL = np.add.outer(np.arange(24) * 3, 1500 + np.arange(32) * 7).astype(np.uint16)
IMAGES = {
    "nothing": np.zeros((3, 5), np.uint16),
    "one pixel": np.array([[7]], np.uint16),
    "one empty pixel": np.array([[0]], np.uint16),
    "a wall": WALL,
    "holes": np.where(RNG.random(WALL.shape) < 0.2, 0, WALL).astype(np.uint16),
    "begins with a reading": np.array([[65535, 0, 0, 1]], np.uint16),
    "ends with a hole": np.array([[0, 2, 65535, 0]], np.uint16),
    "noise": RNG.integers(0, 65536, (17, 13), np.uint16),
    "all at the end of the range": np.full((4, 4), 65535, np.uint16),
    "every second": np.where(np.indices((8, 9)).sum(0) % 2, 900, 0).astype(np.uint16),
}


@pytest.mark.parametrize("name", IMAGES)
def test_as_the_published_algorithm_both_ways(name: str) -> None:
    depth = IMAGES[name]
    height, width = depth.shape
    data = encode_rvl(depth)
    assert data == slowly_encoded(depth)
    assert np.array_equal(slowly_decoded(data, width, height), depth)
    assert np.array_equal(decode_rvl(data, width, height), depth)
    assert np.array_equal(decode_rvl(data + b"\0\0\0\0\0", width, height), depth), "room behind the end"


@pytest.mark.parametrize("cut", [4, 8, 40])
def test_what_is_cut_off_is_said(cut: int) -> None:
    data = encode_rvl(IMAGES["holes"])
    with pytest.raises(RvlError):
        decode_rvl(data[:-cut], 32, 24)


@pytest.mark.parametrize(
    ("data", "width", "height"),
    [
        (b"", 4, 4),
        (b"\xff" * 64, 4, 4),  # a number without an end
        (b"\xff\xff\xff\xff\xff\xff\xff\x0f" * 4, 4, 4),  # one of more than 33 bits
        (encode_rvl(WALL), 32, 23),  # of another image
        (encode_rvl(WALL), 33, 24),
        (encode_rvl(WALL), 0, 24),
        (encode_rvl(WALL), -32, -24),
        (encode_rvl(WALL), 2**31 - 1, 2**31 - 1),
    ],
)
def test_what_is_no_rvl_is_said(data: bytes, width: int, height: int) -> None:
    with pytest.raises(RvlError):
        decode_rvl(data, width, height)


def test_no_bytes_do_anything_else_than_decode_or_say_so() -> None:
    for _ in range(300):
        data = RNG.bytes(int(RNG.integers(0, 80)))
        try:
            assert decode_rvl(data, 8, 6).shape == (6, 8)
        except RvlError:
            continue
