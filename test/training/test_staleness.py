"""Stale states: the forward of training against the engine's stream, and the choice of what is stale."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from training_models import SMALL

from vln_ros.config import TrainConfig, from_flat
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.stream.segments import Image, Text
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.sparse import Sources
from vln_ros.engine.tiny import build_tiny
from vln_ros.training.batch import Collator, Conversation, collate
from vln_ros.training.demonstrations import Rules, Task, demonstrate, robot_camera
from vln_ros.training.objective import forward
from vln_ros.training.staleness import Staleness, draw_staleness, make_stale
from vln_ros.training.vision import encode_frames, window_cells

SIZE = (168, 140)
"""Windows of 4 x 4 tokens in a grid of 5 x 6: some are cut off."""
WINDOW = 4


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    build_tiny(folder, from_flat(TrainConfig, {**SMALL, "model.vision_depth": 2}).model)
    return load_model(str(folder), device="cpu", dtype="float32", attention="sdpa", quantisation="none")


@pytest.fixture(scope="module")
def collator(model: LoadedModel) -> Collator:
    profile = load_profile("small")
    return Collator(model, replace(profile, image=replace(profile.image, resize=SIZE)))


def rules(grid: tuple[int, int], **changes: object) -> Rules:
    camera, extrinsics = robot_camera(84, 70)
    given: dict[str, object] = {
        "camera": camera,
        "extrinsics": extrinsics,
        "grid": grid,
        "queue": 4,
        "max_turns": 6,
        "keep_frames": False,
        "stop_within_m": 0.5,
        "clearance_m": 0.12,
        "least_executed": 1,
        "finds_sources": True,
    }
    return Rules(**given | changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def conversations(collator: Collator) -> list[Conversation]:
    runs = [demonstrate(Task("room", n, 0.3, n), rules(collator.grid)) for n in (0, 7, 12)]
    assert len({len(r.decisions) for r in runs} | {0, 1}) > 2
    return [collator.write(run)[0] for run in runs]


def stale(conversation: Conversation, grid: tuple[int, int], seed: int, **how: object) -> Conversation:
    staleness = Staleness(**{"share": 0.6, "in_windows": True, "skips_tower": True} | how)  # type: ignore[arg-type]
    return make_stale(conversation, staleness, grid, WINDOW, np.random.default_rng(seed))


@pytest.mark.parametrize("in_windows", [False, True])
def test_the_stale_forward_is_the_streams(
    model: LoadedModel, collator: Collator, conversations: list[Conversation], in_windows: bool
) -> None:
    """Token by token, as a session that takes over keys and values; some are handed on several times."""
    drawn = [
        stale(c, collator.grid, k, in_windows=in_windows, skips_tower=False)
        for k, c in enumerate(conversations)
    ]
    tokens = collator.grid[0] * collator.grid[1]
    assert any((c.origins < torch.arange(len(c.origins)) - 2 * tokens).any() for c in drawn)
    with torch.no_grad():
        together = forward(model.network, collate(drawn), collator.grid, model.pixels).hidden
    for row, conversation in enumerate(drawn):
        features = forward(model.network, collate([conversation]), collator.grid, model.pixels).features
        streamed = stream(model, collator, conversation, features.detach())
        computed = ~streamed.isnan().any(1)
        own = conversation.origins == torch.arange(len(conversation.origins))
        assert computed[conversation.visual].tolist() == own.tolist()
        hidden = together[row, : len(conversation.ids)]
        torch.testing.assert_close(hidden[computed], streamed[computed], atol=2e-4, rtol=1e-3)
        fresh = collate([replace(conversation, origins=torch.arange(len(conversation.origins)))])
        with torch.no_grad():
            exact = forward(model.network, fresh, collator.grid, model.pixels).hidden[0]
        assert not torch.allclose(exact[: len(hidden)][computed], streamed[computed], atol=1e-2)


def stream(model: LoadedModel, collator: Collator, conversation: Conversation, features: Tensor) -> Tensor:
    """Last states ``[n, hidden]`` of a session that is shown the conversation frame by frame."""
    session = Session(model.network)
    template = ChatTemplate(model, collator.profile)
    tokens, states, start = collator.grid[0] * collator.grid[1], [], 0
    for frame, first in enumerate(conversation.visual[::tokens].tolist()):
        states.append(session.push([Text(tuple(conversation.ids[start:first].tolist()))]))
        numbers = torch.arange(frame * tokens, (frame + 1) * tokens)
        origins = conversation.origins[numbers]
        sources = torch.where(origins == numbers, -1, conversation.visual[origins])
        image = Image(features[numbers], *collator.grid)
        _, shown, end = template.shown(image)
        # The last token is always computed: the mark behind the frame.
        states.append(session.push([shown, end], Sources(torch.cat([sources, torch.tensor([-1])]))))
        start = first + tokens + 1
    states.append(session.push([Text(tuple(conversation.ids[start:].tolist()))]))
    return torch.cat(states)


def test_the_tower_passes_over_stale_windows(
    model: LoadedModel, collator: Collator, conversations: list[Conversation]
) -> None:
    """As a tower that computes the other windows alone and keeps what its last layer needs."""
    conversation = stale(conversations[0], collator.grid, 5)
    tokens = collator.grid[0] * collator.grid[1]
    skipped = conversation.frames.tower_origins != torch.arange(len(conversation.frames.tower_origins))
    assert skipped.any() and not skipped.all() and not skipped[:tokens].any()
    batch = collate([conversation])
    with torch.no_grad():
        features = forward(model.network, batch, collator.grid, model.pixels).features
        expected = partial_tower(model, collator, conversation)
    torch.testing.assert_close(features[~skipped], expected[~skipped], atol=1e-4, rtol=1e-4)
    with torch.no_grad():
        whole = forward(
            model.network,
            replace(batch, tower_origins=torch.arange(len(skipped))),
            collator.grid,
            model.pixels,
        )
    touched = ~skipped & skipped.view(-1, tokens).any(1).repeat_interleave(tokens)
    assert (features - whole.features)[touched].abs().max() > 1e-3


def partial_tower(model: LoadedModel, collator: Collator, conversation: Conversation) -> Tensor:
    """Features by the released blocks, one frame after the other; NaN where a window is passed over."""
    from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

    network = model.network
    visual = network.model.visual
    rows, columns = collator.grid
    tokens, side = rows * columns, 14
    spec = model.pixels
    pixels = conversation.frames.patches.view(-1, tokens * 4, 3, side * side).double() / 255.0
    pixels = (pixels - torch.tensor(spec.mean)[:, None]) / torch.tensor(spec.std)[:, None]
    patches = pixels.float()[:, :, :, None].expand(-1, -1, -1, 2, -1).reshape(len(pixels), tokens * 4, -1)
    place = torch.tensor(
        [
            (2 * (t // columns) + a, 2 * (t % columns) + b)
            for t in range(tokens)
            for a in range(2)
            for b in range(2)
        ]
    )
    features = torch.full((len(pixels) * tokens, network.lm_head.in_features), torch.nan)
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    for frame, picture in enumerate(patches):
        numbers = torch.arange(frame * tokens, (frame + 1) * tokens)
        origins = conversation.frames.tower_origins[numbers]
        windows = [w for w in window_cells(collator.grid, WINDOW) if (origins[w] == numbers[w]).all()]
        cells = torch.cat(windows)
        x = visual.patch_embed(picture.view(tokens, 4, -1)[cells].flatten(0, 1))
        cos, sin = visual.rotary_pos_emb(x[None], place)
        at = (cells[:, None] * 4 + torch.arange(4)).flatten()
        for number, block in enumerate(visual.blocks):
            attention = block.attn
            q, k, v = attention.qkv(block.norm1(x)).view(len(x), 3, attention.num_heads, -1).unbind(1)
            if number in visual.fullatt_block_indexes:
                for row, cell in enumerate(cells.tolist()):
                    kept[frame * tokens + cell] = k[4 * row : 4 * row + 4], v[4 * row : 4 * row + 4]
                k = torch.cat([kept[int(o)][0] for o in origins])
                v = torch.cat([kept[int(o)][1] for o in origins])
                q, _ = apply_rotary_pos_emb_vision(q, q, cos[at], sin[at])
                k, _ = apply_rotary_pos_emb_vision(k, k, cos, sin)
                seen = attend(q, k, v)
            else:
                q, k = apply_rotary_pos_emb_vision(q, k, cos[at], sin[at])
                sizes = [4 * len(w) for w in windows]
                parts = zip(*(t.split(sizes) for t in (q, k, v)), strict=True)
                seen = torch.cat([attend(*part) for part in parts])
            x = x + attention.proj(seen)
            x = x + block.mlp(block.norm2(x))
        features[numbers[cells]] = visual.merger(x)
    return features


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    q, k, v = (t.transpose(0, 1)[None] for t in (query, key, value))
    return scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)


def test_frames_without_stale_windows_are_as_before(model: LoadedModel) -> None:
    patches = torch.randn(3, 5 * 6 * 4, 3 * 14 * 14, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        one = encode_frames(model.network.model.visual, patches, (5, 6))
        other = encode_frames(model.network.model.visual, patches, (5, 6), torch.arange(90))
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize("in_windows", [False, True])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_as_many_are_stale_as_are_wanted_and_seen(
    collator: Collator, conversations: list[Conversation], in_windows: bool, share: float
) -> None:
    tokens = collator.grid[0] * collator.grid[1]
    windows = window_cells(collator.grid, WINDOW)
    whole = frames = 0
    for seed in range(20):
        for before in conversations:
            after = stale(before, collator.grid, seed, share=share, in_windows=in_windows)
            own = torch.arange(len(after.origins))
            assert torch.equal(after.origins[after.origins], after.origins)  # who is taken from, is computed
            assert (after.origins <= own).all()
            taken = after.origins != own
            assert (before.frames.sources[taken] >= 0).all()
            skipped = after.frames.tower_origins != own
            assert torch.equal(after.frames.tower_origins[skipped], after.origins[skipped])
            assert not taken[:tokens].any()
            for first in range(tokens, len(own), tokens):
                here, seen = taken[first : first + tokens], before.frames.sources[first : first + tokens] >= 0
                frames += 1
                if not here.any():
                    whole += bool(seen.any())
                    continue
                assert int(here.sum()) == min(int(share * tokens), int(seen.sum()))
                touched = [w for w in windows if here[w].any() and not here[w][seen[w]].all()]
                assert len(touched) <= 1 or not in_windows
                for window in windows:
                    assert bool(skipped[first + window].any()) == bool(here[window].all())
    assert 0.05 < whole / frames < 0.25


def test_what_is_drawn_follows_from_the_seed(collator: Collator, conversations: list[Conversation]) -> None:
    drawn = [draw_staleness(0.3, 0.7, np.random.default_rng(seed)) for seed in range(40)]
    assert {(s.in_windows, s.skips_tower) for s in drawn} == {(a, b) for a in (0, 1) for b in (0, 1)}
    assert 0.3 <= min(s.share for s in drawn) < 0.4 < 0.6 < max(s.share for s in drawn) <= 0.7
    one, same, other = (stale(conversations[0], collator.grid, seed).origins for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


def test_sources_show_the_same_place(collator: Collator) -> None:
    """A robot that only turns: what a token shows has moved to the side, in the picture, by the angle."""
    shared = rules(collator.grid, max_turns=3)
    from vln_ros.datatypes import ActionKind

    left = ActionKind.TURN_LEFT
    run = demonstrate(Task("room", 3, 0.0, 0, executed=((left,),) * 3), replace(shared, queue=1))
    first, second, third = (d.views[0] for d in run.decisions)
    assert (first.source < 0).all()
    for view in (second, third):
        seen = np.flatnonzero(view.source >= 0)
        assert 0.5 < len(seen) / len(view.source) < 0.95
        moved = view.source[seen] % collator.grid[1] - seen % collator.grid[1]
        assert set(moved.tolist()) <= {-2, -1, 0} and (moved == -1).mean() > 0.5
        assert (view.source[seen[seen % collator.grid[1] > 3]] >= 0).all()
