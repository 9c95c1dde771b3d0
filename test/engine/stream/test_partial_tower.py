"""The tower on some windows: equal to the released one where all are computed, to the trainer's where not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from engine_models import PATCH, tiny_network
from hypothesis import given, settings
from hypothesis import strategies as st

from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.engine.inputs.preprocess import cut
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.layers.patch_embedding import PatchEmbedding
from vln_ros.engine.stream.partial_tower import (
    IntArray,
    PartialTower,
    PartTables,
    TowerPart,
    TowerStates,
    keep_states,
    most_windows,
    states_of,
    window_of_token,
    window_tokens,
)
from vln_ros.training.vision import encode_frames

SPEC = PixelSpec(
    patch_size=PATCH,
    merge_size=2,
    temporal_patch_size=2,
    mean=(0.5, 0.4, 0.3),
    std=(0.3, 0.2, 0.25),
    min_pixels=1,
    max_pixels=10**6,
)
SIDE = 2
GRIDS = [(5, 7), (4, 4), (1, 3), (2, 1), (6, 5)]
"""Of tokens; windows of 2 x 2, some cut off."""


def picture(grid: tuple[int, int], seed: int) -> Any:
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (grid[0] * PATCH * 2, grid[1] * PATCH * 2, 3), np.uint8)


def whole(grid: tuple[int, int], seed: int) -> TowerStates:
    network = tiny_network()
    with torch.no_grad(), keep_states(network) as noted:
        (image,) = encode_images(network, [cut(picture(grid, seed), SPEC)])
    return states_of(network, noted, image.features, grid)


def partial_tower() -> PartialTower:
    visual = tiny_network().model.visual
    return PartialTower(visual, PatchEmbedding(visual, SPEC))


def part(
    grid: tuple[int, int], chosen: list[int], source: TowerStates, token: IntArray, bucket: int
) -> TowerPart:
    computed = np.isin(window_of_token(grid, SIDE), chosen)
    return TowerPart(computed, token, source, bucket)


def test_the_network_has_windows_of_this_size() -> None:
    assert window_tokens(tiny_network().config.vision_config) == SIDE


@pytest.mark.parametrize("grid", GRIDS)
def test_all_windows_are_the_released_tower_to_rounding(grid: tuple[int, int]) -> None:
    tokens = grid[0] * grid[1]
    window = window_of_token(grid, SIDE)
    released, other = whole(grid, 1), whole(grid, 2)
    token = np.random.default_rng(0).integers(0, tokens, tokens)
    everything = part(grid, list(range(window.max() + 1)), other, token, tokens)
    made = partial_tower().encode(torch.from_numpy(picture(grid, 1)), everything)
    assert made.is_fresh
    torch.testing.assert_close(made.features, released.features, atol=2e-5, rtol=1e-4)
    for mine, theirs in zip((*made.keys, *made.values), (*released.keys, *released.values), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4)


def test_to_keep_states_changes_no_bit_and_leaves_no_hook() -> None:
    network = tiny_network()
    patches = cut(picture((5, 7), 1), SPEC)
    plain = encode_images(network, [patches])[0].features
    with keep_states(network) as noted:
        assert torch.equal(encode_images(network, [patches])[0].features, plain)
    assert len(noted) == 1
    assert torch.equal(encode_images(network, [patches])[0].features, plain)
    assert len(noted) == 1


@settings(max_examples=40, deadline=None)
@given(st.data(), st.sampled_from(GRIDS[:1] + GRIDS[4:]), st.integers(0, 9))
def test_some_windows_are_what_the_trainer_computes(data: Any, grid: tuple[int, int], extra: int) -> None:
    """Three pictures in a row; the second takes over from the first, the third from both."""
    network = tiny_network()
    tokens = grid[0] * grid[1]
    window = window_of_token(grid, SIDE)
    tower = partial_tower()
    states = whole(grid, 0)
    origins = [np.arange(tokens)]
    own = [np.ones(tokens, bool)]
    made = [states]
    for frame in (1, 2):
        chosen = data.draw(st.lists(st.integers(0, int(window.max())), min_size=1, unique=True))
        token = np.array(data.draw(st.lists(st.integers(0, tokens - 1), min_size=tokens, max_size=tokens)))
        computed = np.isin(window, chosen)
        bucket = min(int(computed.sum()) + extra, tokens)
        shown = torch.from_numpy(picture(grid, frame))
        states = tower.encode(shown, TowerPart(computed, token, states, bucket))
        assert states.is_fresh == bool(computed.all())
        made.append(states)
        own.append(computed)
        origins.append(np.where(computed, frame * tokens + np.arange(tokens), origins[-1][token]))
    half = torch.stack([cut(picture(grid, f), SPEC).patches for f in range(3)])
    half = half.view(3, -1, 3, 2, PATCH * PATCH)[:, :, :, 0].flatten(2)
    with torch.no_grad():
        expected = encode_frames(network.model.visual, half, grid, torch.from_numpy(np.concatenate(origins)))
    for frame in range(3):
        torch.testing.assert_close(
            made[frame].features[own[frame]], expected[frame][own[frame]], atol=1e-4, rtol=1e-4
        )
    # What is passed over has the feature of where it was computed last.
    flat = torch.cat([m.features for m in made])
    for frame in (1, 2):
        roots = torch.from_numpy(origins[frame])
        assert torch.equal(made[frame].features, flat[roots])


@settings(max_examples=60, deadline=None)
@given(st.data(), st.sampled_from([(17, 23), (8, 8), (9, 12), (3, 5), (16, 16)]))
def test_shapes_follow_from_grid_and_bucket_alone(data: Any, grid: tuple[int, int]) -> None:
    window = window_of_token(grid, 4)
    sizes = np.bincount(window)
    bucket = data.draw(st.integers(int(sizes.min()), len(window)))
    order = data.draw(st.permutations(range(len(sizes))))
    chosen, left = [], bucket
    for number in order:
        if sizes[number] <= left:
            chosen.append(number)
            left -= sizes[number]
    if not chosen:
        return
    tables = PartTables.of(np.isin(window, chosen), window, bucket, 4)
    count = most_windows(sizes, bucket)
    assert tables.tokens.shape == (bucket,)
    assert tables.rows.shape == (bucket * 4,)
    assert tables.slots.shape == (count * sizes.max() * 4,)
    assert tables.padding.shape == (count, 1, 1, sizes.max() * 4)
    assert set(tables.tokens.tolist()) == set(np.flatnonzero(np.isin(window, chosen)).tolist())
    # Each row comes back from the place where it was put.
    n = int(sizes[chosen].sum()) * 4
    assert torch.equal(tables.slots[tables.rows[:n]], torch.arange(n))
    assert bool(tables.padding.flatten()[tables.rows].all())


@pytest.mark.parametrize(
    ("computed", "bucket"),
    [
        (np.zeros(35, bool), 10),
        (np.arange(35) < 1, 10),
        (np.ones(35, bool), 34),
    ],
)
def test_what_is_no_whole_windows_or_does_not_fit_is_refused(computed: Any, bucket: int) -> None:
    with pytest.raises(ValueError, match="whole windows"):
        PartTables.of(computed, window_of_token((5, 7), SIDE), bucket, 4)
