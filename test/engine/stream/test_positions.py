"""Positions computed piece by piece equal those of the whole conversation."""

from __future__ import annotations

import torch
from engine_models import IMAGE_PAD, tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.engine.reference import Item, Pixels, trained_positions
from vln_ros.engine.stream.positions import image_positions, text_positions, video_positions

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 40))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30) | SIZES, min_size=1, max_size=12))
def test_images_and_text_equal_the_released_rope_index(
    items: list[int | tuple[int, int]],
) -> None:
    ids, kinds, grids, placed, start = [], [], [], [], 0
    for item in items:
        # Text between images as in every prompt: two touching images would be one group over there.
        parts: list[int | tuple[int, int]] = [item] if isinstance(item, int) else [1, item, 1]
        for part in parts:
            if isinstance(part, int):
                ids += [9] * part
                kinds += [0] * part
                positions, start = text_positions(start, part)
            else:
                h, w = part
                ids += [IMAGE_PAD] * (h * w)
                kinds += [1] * (h * w)
                grids.append([1, 2 * h, 2 * w])
                positions, start = image_positions(start, h, w)
            placed.append(positions)
    expected, delta = tiny_network().model.get_rope_index(
        torch.tensor([ids]),
        torch.tensor([kinds], dtype=torch.int),
        image_grid_thw=torch.tensor(grids) if grids else None,
    )
    assert torch.equal(torch.cat(placed, 1), expected[:, 0])
    assert start == len(ids) + int(delta)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 50),
    st.lists(st.integers(1, 5), min_size=1, max_size=4),
    st.integers(1, 6),
    st.integers(1, 6),
    st.sampled_from([0.1, 0.2, 1 / 3, 0.5, 0.7, 1.0, 2.0, 3.3]),
)
def test_video_in_chunks_equals_the_video_in_one_piece_as_trained(
    before: int, chunks: list[int], height: int, width: int, seconds: float
) -> None:
    first, parts, following = 0, [], 0
    for grids in chunks:
        positions, following = video_positions(
            before,
            grids,
            height,
            width,
            seconds_per_grid=seconds,
            tokens_per_second=2,
            first_grid=first,
        )
        parts.append(positions)
        first += grids
    video = Pixels(torch.empty(0), first, 2 * height, 2 * width, seconds)
    items: list[Item] = [(9,) * before, video, (9,)] if before else [video, (9,)]
    expected = torch.tensor(trained_positions(tiny_network(), items)).T
    assert torch.equal(torch.cat(parts, 1), expected[:, before:-1])
    assert following == int(expected[0, -1])


def test_fractional_grid_times_are_quantised_last() -> None:
    positions, following = video_positions(10, 5, 1, 1, seconds_per_grid=0.7, tokens_per_second=2)
    assert positions[0].tolist() == [10, 11, 12, 14, 15]  # truncated first, every grid would be at 10
    assert following == 16


def test_text_resumes_behind_a_long_video_and_behind_a_large_frame() -> None:
    assert video_positions(0, 9, 2, 3, seconds_per_grid=1.0, tokens_per_second=2).next_position == 17
    assert video_positions(0, 2, 2, 30, seconds_per_grid=1.0, tokens_per_second=2).next_position == 30
