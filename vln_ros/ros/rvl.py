"""Reads and writes RVL, the lossless depth compression of compressed_depth_image_transport.

Runs of pixels without a reading and runs of differences, as numbers of three bits per nibble with the
fourth saying that more follows, the lowest bits first; eight nibbles a little-endian word, the first on top
(A. D. Wilson, Fast Lossless Depth Image Compression, 2017).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

UInt16Array = npt.NDArray[np.uint16]
Int64Array = npt.NDArray[np.int64]

MOST_PIXELS = 2**26
"""A header that promises more is none: an image of 67 megapixels is no depth image."""
_LONGEST = 11
"""Nibbles of a number: 33 bits hold every count and every difference."""
_SHIFTS = np.arange(28, -1, -4, dtype=np.uint32)


class RvlError(ValueError):
    """The bytes are not RVL, or are cut off."""


def decode_rvl(data: bytes, width: int, height: int) -> UInt16Array:
    """``[height, width]`` uint16; 0 where there is no reading.

    Raises:
        RvlError: see there.
    """
    pixels = width * height
    if width < 1 or height < 1 or pixels > MOST_PIXELS:
        raise RvlError(f"an image of {width}x{height} pixels")
    numbers = _numbers(data)
    heads, counts, left = [], [], pixels
    at = 0
    while left > 0:
        if at + 1 >= len(numbers):
            raise RvlError(f"it ends {left} pixels before the end of {width}x{height}")
        empty, measured = numbers.item(at), numbers.item(at + 1)
        heads.append(at)
        counts += [empty, measured]
        left -= empty + measured
        at += 2 + measured
    if left < 0 or at > len(numbers):
        raise RvlError(f"its runs do not fit {width}x{height} pixels")
    is_number = np.ones(at, np.bool_)
    is_number[heads] = is_number[np.array(heads) + 1] = False
    folded = numbers[:at][is_number]
    differences = (folded >> 1) ^ -(folded & 1)
    depth = np.zeros(pixels, np.uint16)
    measured_pixels = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    depth[measured_pixels] = (np.cumsum(differences) & 0xFFFF).astype(np.uint16)
    return depth.reshape(height, width)


def _numbers(data: bytes) -> Int64Array:
    """Every number of the stream; what begins and does not end is none."""
    words = np.frombuffer(data, "<u4", len(data) // 4)
    nibbles = ((words[:, None] >> _SHIFTS) & 0xF).astype(np.uint8).ravel()
    ends = np.flatnonzero(nibbles < 8)
    starts = np.concatenate([[0], ends[:-1] + 1]) if len(ends) else ends
    lengths = ends - starts + 1
    if len(ends) and lengths.max() > _LONGEST:
        raise RvlError(f"a number of {lengths.max()} nibbles")
    numbers = np.zeros(len(ends), np.int64)
    for k in range(int(lengths.max(initial=0))):
        longer = lengths > k
        numbers[longer] |= (nibbles[starts[longer] + k].astype(np.int64) & 7) << (3 * k)
    return numbers


def encode_rvl(depth: UInt16Array) -> bytes:
    """The inverse of :func:`decode_rvl` for ``[height, width]`` uint16."""
    flat = depth.astype(np.int64).ravel()
    measured = flat != 0
    changes = np.flatnonzero(np.diff(measured)) + 1
    runs = np.diff(np.concatenate([[0], changes, [len(flat)]]))
    if measured[0]:  # the first run is one without readings, if need be an empty one
        runs = np.concatenate([[0], runs])
    if len(runs) % 2:
        runs = np.concatenate([runs, [0]])
    differences = np.diff(flat[measured], prepend=0)
    numbers = np.empty(len(runs) + len(differences), np.int64)
    pairs = runs.reshape(-1, 2)
    heads = 2 * np.arange(len(pairs)) + np.cumsum(pairs[:, 1]) - pairs[:, 1]
    is_difference = np.ones(len(numbers), np.bool_)
    is_difference[heads] = is_difference[heads + 1] = False
    numbers[heads], numbers[heads + 1] = pairs[:, 0], pairs[:, 1]
    numbers[is_difference] = (differences << 1) ^ (differences >> 63)
    lengths = np.maximum(1, (np.frexp(numbers.astype(np.float64))[1] + 2) // 3)
    offsets = np.cumsum(lengths) - lengths
    nibbles = np.zeros(-(-int(lengths.sum()) // 8) * 8, np.uint32)
    for k in range(int(lengths.max())):
        longer = lengths > k
        part = (numbers[longer] >> (3 * k)) & 7
        nibbles[offsets[longer] + k] = part + 8 * (lengths[longer] > k + 1)
    words: npt.NDArray[np.uint32] = (nibbles.reshape(-1, 8) << _SHIFTS).sum(1, dtype=np.uint32)
    return words.astype("<u4").tobytes()
