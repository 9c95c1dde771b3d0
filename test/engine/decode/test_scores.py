"""What the grammar allows of what the model wants, and how a token is chosen: held to transformers."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from engine_models import IM_END, IMAGE_PAD, VISION_END, VISION_START, VOCABULARY, random_patches, words
from engine_models import tiny_network as network_of
from torch import Tensor
from torch.utils.hooks import RemovableHandle
from transformers import (
    GenerationConfig,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import vln_ros
from vln_ros.config import SamplingConfig, StreamConfig
from vln_ros.datatypes import STOP, Action, CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.files import CheckpointError
from vln_ros.engine.checkpoint.model import LoadedModel, checkpoint_generation, load_model
from vln_ros.engine.checkpoint.profile import Phrase, load_profile
from vln_ros.engine.decode.decode import Decoded, DecodeMode, DecodeOptions, decode_free, decode_queue, run
from vln_ros.engine.decode.grammar import Grammar, QueueRules
from vln_ros.engine.decode.scores import Sampling
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Item, Pixels, one_shot
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session

FORWARD, LEFT, RIGHT = Action(forward_m=0.25), Action(turn_rad=math.pi / 12), Action(turn_rad=-math.pi / 12)
PHRASES = (
    Phrase("S", (STOP,)), Phrase("F", (FORWARD,)), Phrase("L", (LEFT,)), Phrase("RR", (RIGHT,) * 2),
)  # fmt: skip
OTHER_END = 7


def spell(text: str) -> list[int]:
    return [10 + ord(c) for c in text]


GRAMMAR = Grammar(spell, PHRASES, QueueRules("", 3), (IM_END, OTHER_END))
WAYS = {
    "tree": (DecodeMode.TREE, 4096), "narrow": (DecodeMode.TREE, 5),
    "tokens": (DecodeMode.TOKENS, 1),
}  # fmt: skip


def stream(seed: int) -> tuple[Session, list[Piece], list[Item]]:
    session = Session(network_of(), block_tokens=64)
    first, picture = words(5, seed), Pixels(random_patches(1, 6, 8, seed), 1, 6, 8)
    # What may be said is in the prompt, too, as in a prompt that lists the actions.
    last = (VISION_END, *words(2, seed + 1), *spell("FSL"))
    session.push([Text(first)])
    (image,) = encode_images(session.network, [picture])
    return session, [Text((VISION_START,)), image, Text(last)], [first, (VISION_START,), picture, last]


def decode(seed: int, way: str, sampling: Sampling, **options: Any) -> Decoded:
    session, prompt, _ = stream(seed)
    mode, nodes = WAYS[way]
    how = DecodeOptions(
        mode=mode, sampling=sampling, tree_nodes=nodes, wanted_tokens=options.pop("wanted", 0), **options
    )
    generator = torch.Generator().manual_seed(seed)
    return run(session, decode_queue(session, prompt, GRAMMAR, how, generator))


def picture_in(seen: Sequence[Item]) -> Tensor:
    (picture,) = (item for item in seen if isinstance(item, Pixels))
    return picture.patches


def input_ids(seen: Sequence[Item]) -> list[int]:
    ids = [[IMAGE_PAD] * 12 if isinstance(item, Pixels) else list(item) for item in seen]
    return [i for item in ids for i in item]


# -- the repetition penalty ----------------------------------------------------------------------


@pytest.mark.parametrize("penalty", [1.05, 1.5, 0.8])
@pytest.mark.parametrize("way", WAYS)
def test_a_penalised_queue_is_that_of_transformers_token_by_token(way: str, penalty: float) -> None:
    """Greedy under the grammar, with transformers' own processor on all of the context and the answer."""
    processor = RepetitionPenaltyLogitsProcessor(penalty)
    changed = 0
    for seed in range(6):
        _, _, seen = stream(seed)
        said: tuple[int, ...] = ()
        node, least = 0, 1.0
        while not GRAMMAR.finished(node):
            row = one_shot(network_of(), [*seen, said] if said else seen).logits[-1:]
            row = processor(torch.tensor([[*input_ids(seen), *said]]), row)[0]
            options = list(GRAMMAR.options(node))
            least = min(least, row.softmax(-1)[options].sum().item())
            token = max(options, key=lambda t: row[t].item())
            following = GRAMMAR.options(node)[token]
            if following is None:
                break
            said, node = (*said, token), following
        result = decode(seed, way, Sampling(0.0, repetition_penalty=penalty))
        assert result.ids == said
        assert result.allowed == pytest.approx(least, abs=1e-4)
        changed += result.ids != decode(seed, way, Sampling(0.0)).ids
    assert changed or penalty == 1.05  # it does something


@pytest.mark.parametrize("penalty", [1.0, 1.05, 1.4])
def test_free_text_is_what_generate_says(penalty: float) -> None:
    """transformers' own generate on the same input, picture included, with the list of end tokens."""
    for seed in range(4):
        session, prompt, seen = stream(seed)
        free = run(
            session,
            decode_free(
                session, prompt, max_tokens=8, end_tokens=(IM_END, OTHER_END),
                sampling=Sampling(0.0, repetition_penalty=penalty), generator=torch.Generator(),
            ),
        )  # fmt: skip
        ids = torch.tensor([input_ids(seen)])
        network: Any = network_of()
        network.generation_config = GenerationConfig(pad_token_id=0)
        said = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE_PAD).int(),
            pixel_values=picture_in(seen),
            image_grid_thw=torch.tensor([[1, 6, 8]]),
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=8, repetition_penalty=penalty, pad_token_id=0,
                eos_token_id=[IM_END, OTHER_END],
            ),
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        end = next((i for i, t in enumerate(said) if t in (IM_END, OTHER_END)), len(said))
        assert list(free) == said[:end]


def test_generate_under_the_grammar_says_the_same_queue() -> None:
    """generate with a penalty, and the grammar as its prefix_allowed_tokens_fn."""
    for seed in range(4):
        _, _, seen = stream(seed)
        ids = torch.tensor([input_ids(seen)])

        def allowed(_: object, sentence: Tensor, start: int = ids.shape[1]) -> list[int]:
            node = 0
            for token in sentence[start:].tolist():
                node = GRAMMAR.nodes[node].children.get(token, -1)
                if node < 0:
                    return [IM_END]
            return list(GRAMMAR.options(node))

        network: Any = network_of()
        said = network.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            mm_token_type_ids=(ids == IMAGE_PAD).int(),
            pixel_values=picture_in(seen),
            image_grid_thw=torch.tensor([[1, 6, 8]]),
            prefix_allowed_tokens_fn=allowed,
            generation_config=GenerationConfig(
                do_sample=False, max_new_tokens=8, repetition_penalty=1.3, pad_token_id=0,
                eos_token_id=[IM_END, OTHER_END],
            ),
        )[0, ids.shape[1] :].tolist()  # fmt: skip
        end = next((i for i, t in enumerate(said) if t in (IM_END, OTHER_END)), len(said))
        assert list(decode(seed, "tree", Sampling(0.0, repetition_penalty=1.3)).ids) == said[:end]


@pytest.mark.parametrize(("top_k", "top_p"), [(0, 0.8), (2, 1.0), (3, 0.5), (50, 0.95), (1, 1.0)])
def test_sampling_draws_from_what_transformers_leaves(top_k: int, top_p: float) -> None:
    scores = torch.randn(40, generator=torch.Generator().manual_seed(3)) * 3
    ids, row = torch.empty(1, 0, dtype=torch.long), scores[None]
    row = TemperatureLogitsWarper(0.7)(ids, row)
    row = TopKLogitsWarper(top_k)(ids, row) if top_k else row
    expected = TopPLogitsWarper(top_p)(ids, row)[0].softmax(-1)
    generator, n = torch.Generator().manual_seed(0), 4000
    sampling = Sampling(0.7, top_k, top_p)
    drawn = np.bincount([sampling.pick(scores, generator) for _ in range(n)], minlength=40) / n
    assert set(np.flatnonzero(drawn)) <= set(expected.nonzero()[:, 0].tolist())
    assert np.abs(drawn - expected.numpy()).max() < 0.04


def test_sampling_is_the_same_in_every_way() -> None:
    for seed in range(5):
        runs = [decode(seed, way, Sampling(1.5, 3, 0.9, 1.2)) for way in WAYS]
        assert len({r.queue for r in runs}) == 1
        for other in runs[1:]:
            assert other.allowed == pytest.approx(runs[0].allowed, abs=1e-5)
            assert other.probabilities == pytest.approx(runs[0].probabilities, abs=1e-5)


@pytest.mark.parametrize(
    "bad", [{"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"top_p": 1.1}, {"repetition_penalty": 0.0}]
)
def test_settings_that_cannot_be_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        Sampling(**{"temperature": 0.0, **bad})  # type: ignore[arg-type]


# -- what the grammar allows ---------------------------------------------------------------------


@pytest.mark.parametrize("way", WAYS)
def test_what_is_allowed_is_the_least_over_the_steps_of_the_queue(way: str) -> None:
    """Against one-shot forwards of the queue that came out."""
    for seed in range(5):
        result = decode(seed, way, Sampling(0.0))
        _, _, seen = stream(seed)
        node, shares = 0, []
        for step in range(len(result.ids) + 1):
            if GRAMMAR.finished(node):
                break
            said = result.ids[:step]
            row = one_shot(network_of(), [*seen, said] if said else seen).logits[-1]
            shares.append(row.softmax(-1)[list(GRAMMAR.options(node))].sum().item())
            if step < len(result.ids):
                node = GRAMMAR.nodes[node].children[result.ids[step]]
        assert result.allowed == pytest.approx(min(shares), abs=1e-5)
        assert not result.held


def scored(network: Any, tokens: dict[int, float]) -> RemovableHandle:
    """The head says these scores, and 0 for everything else, wherever it is asked."""
    row = torch.zeros(network.lm_head.weight.shape[0])
    for token, score in tokens.items():
        row[token] = score
    head: torch.nn.Module = network.lm_head
    return head.register_forward_hook(lambda _m, _i, out: row.expand_as(out).clone())


@pytest.mark.parametrize("way", WAYS)
def test_a_model_that_wants_something_else_does_not_stop(way: str) -> None:
    """Score 10 for what it may not say, 2 for STOP: 0.79 among what it may, 3 in 10,000 of what it wants."""
    down = 200
    handle = scored(network_of(), {down: 10.0, 10 + ord("S"): 2.0})
    try:
        made = decode(0, way, Sampling(0.0), min_allowed=0.5)
        assert made.held and made.queue == (0,)
        first = math.exp(2) + 3
        outside = math.exp(10) + VOCABULARY - 5
        assert made.allowed == pytest.approx(first / (first + outside), rel=1e-4)
        assert (
            made.unconstrained is not None and made.unconstrained[0] == down and len(made.unconstrained) == 17
        )
        assert not decode(0, way, Sampling(0.0), min_allowed=0.0).held
    finally:
        handle.remove()


@contextmanager
def speaks(network: Any, tokens: tuple[int, ...], other: int) -> Iterator[None]:
    """The model says these tokens one after the other with score 20, then ``other`` with 2, else 0."""
    follows = dict(itertools.pairwise(tokens))
    asked: list[int] = []

    def head(_module: object, _inputs: object, out: Tensor) -> Tensor:
        rows = torch.zeros_like(out).view(-1, out.shape[-1])
        rows[:, other] = 2.0
        # A row stands behind a token that was embedded: they are the last ones, in this order.
        for row, token in zip(rows, asked[-len(rows) :], strict=True):
            row[follows.get(token, tokens[0])] = 20.0 if token != tokens[-1] else 0.0
        return rows.view(out.shape)

    def embed(_module: object, inputs: tuple[Tensor, ...], _out: object) -> None:
        asked.extend(inputs[0].flatten().tolist())

    handles = [
        network.lm_head.register_forward_hook(head),
        network.model.language_model.embed_tokens.register_forward_hook(embed),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.parametrize("way", WAYS)
def test_the_second_word_counts_as_much_as_the_first(way: str) -> None:
    """It says F, and would then rather say something that it may not."""
    f, down = 10 + ord("F"), 200
    with speaks(network_of(), (f, down), IM_END):
        made = decode(0, way, Sampling(0.0), min_allowed=0.5)
    assert made.held and made.unconstrained is not None and made.unconstrained[:2] == (f, down)
    assert made.allowed < 1e-6


def test_all_that_is_a_little_likely_counts_not_only_the_most_likely() -> None:
    """No single word outside has the majority; together they have."""
    row = dict.fromkeys(range(200, 260), 3.0) | {10 + ord("F"): 5.0}
    handle = scored(network_of(), row)
    try:
        held = decode(0, "tree", Sampling(0.0), min_allowed=0.5)
        assert held.held and held.unconstrained is not None and held.unconstrained[0] in range(200, 260)
        assert not decode(0, "tree", Sampling(0.0), min_allowed=0.5, random_weights=True).held
    finally:
        handle.remove()


# -- the engine ----------------------------------------------------------------------------------


def frame(index: int) -> Frame:
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0)
    return Frame(index, (index + 1) * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def engine(
    model: LoadedModel, profile: str = "internvla-n1-s2", context: str | None = None, **options: Any
) -> QwenEngine:
    own = load_profile(profile)
    own = replace(own, image=replace(own.image, resize=(56, 56)))
    if context:
        own = replace(own, context=replace(own.context, unasked_frames=context))
    robot = QwenEngine(model, own, temperature=0.0, seed=0, stream=StreamConfig(**options))
    robot.start(Instruction(1, "go to the red chair"))
    return robot


def tokens_of(model: LoadedModel, text: str) -> tuple[int, ...]:
    return tuple(model.tokenizer(text, add_special_tokens=False).input_ids)


@pytest.mark.parametrize("decode", ["tree", "tokens", "free"])
def test_look_down_is_a_hold_that_says_so(model: LoadedModel, decode: str) -> None:
    robot = engine(model, decode=decode)
    text = partial(tokens_of, model)
    assert len(text("↓")) > 1  # it begins like another arrow, which may be said
    with speaks(model.network, text("↓"), text("STOP")[0]):
        robot.observe(frame(0))
        chunk = robot.decide(1)
    assert chunk.actions == () and chunk.unconstrained is not None and chunk.unconstrained.startswith("↓")
    assert chunk.held is not None
    assert "↓" in chunk.held and "look down" in chunk.held  # the profile's own reason
    vitals = dict(robot.vitals())
    assert vitals["answers held"] == vitals["answers that left the vocabulary"] == 1
    if decode != "free":
        assert chunk.allowed is not None and chunk.allowed < 0.001
        assert vitals["allowed by the grammar, least [%]"] == pytest.approx(100 * chunk.allowed)


@pytest.mark.parametrize("context", ["drop", "keep"])
def test_a_held_answer_leaves_no_trace_in_the_chat(model: LoadedModel, context: str | None) -> None:
    robot, other = (engine(model, "tiny", context, decode="tree") for _ in range(2))
    for each in (robot, other):
        each.observe(frame(0))
        each.decide(1)
        each.observe(frame(1))
    handle = scored(model.network, {tokens_of(model, "↓")[0]: 10.0})
    try:
        assert robot.decide(2).actions == ()
    finally:
        handle.remove()
    for each in (robot, other):
        each.observe(frame(2))
    a, b = robot.decide(3), other.decide(3)
    assert a.actions == b.actions and a.probabilities == pytest.approx(b.probabilities, abs=1e-5)
    assert [s.ids for s in robot.session.timeline.segments] == [
        s.ids for s in other.session.timeline.segments
    ]


def test_a_trained_model_is_measured_by_all_it_would_say() -> None:
    """The shipped policy, far off its task: the limit holds for it as it is."""
    trained = load_model("shipped:tiny", device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    assert not trained.random_weights
    robot = QwenEngine(trained, load_profile("tiny"), temperature=0.0, seed=0)
    robot.start(Instruction(1, "go to the red chair"))
    handle = scored(trained.network, {})  # knows nothing: 4 words of 600
    try:
        robot.observe(frame(0))
        chunk = robot.decide(1)
    finally:
        handle.remove()
    assert chunk.allowed is not None and chunk.held is not None
    assert chunk.actions == () and chunk.allowed < 0.02 and "min_allowed = 0.5" in chunk.held


@pytest.mark.parametrize(
    ("profile", "expected"),
    [
        ("activevln-r2r", Sampling(0.2, 0, 0.8, 1.05)),
        ("activevln-rxr", Sampling(0.2, 0, 0.8, 1.05)),
        ("navida", Sampling(0.2, 50, 1.0, 1.05)),
        ("internvla-n1-s2", Sampling(0.0, 0, 1.0, 1.05)),
        ("qwen-zero-shot", Sampling(1e-6, 0, 1.0, 1.05)),
        ("tiny", Sampling(0.0, 0, 1.0, 1.0)),
    ],
)
def test_every_profile_chooses_as_its_evaluation_does(
    model: LoadedModel, profile: str, expected: Sampling
) -> None:
    """With Qwen's own generation_config.json; options come before it."""
    own = load_profile(profile)
    assert QwenEngine(model, own, temperature=-1.0, seed=0).sampling == expected
    assert model.generation.end_tokens == (model.tokens.im_end, model.generation.end_tokens[1])
    options = SamplingConfig(top_k=7, top_p=0.5, repetition_penalty=1.0)
    robot = QwenEngine(model, own, temperature=0.3, seed=0, sampling=options)
    assert robot.sampling == Sampling(0.3, 7, 0.5, 1.0)
    assert str(robot.sampling) == "temperature 0.3, top_k 7, top_p 0.5, repetition penalty 1"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("repetition_penalty", "1.05"), ("repetition_penalty", -1), ("repetition_penalty", math.nan),
        ("top_p", 0), ("top_p", 2), ("top_k", -1), ("temperature", -0.1), ("do_sample", "yes"),
        ("eos_token_id", [2, 10**9]), ("eos_token_id", "</s>"), ("top_k", True),
    ],
)  # fmt: skip
def test_a_generation_config_that_cannot_be_is_refused_by_name(
    tmp_path: Path, key: str, value: object
) -> None:
    shutil.copytree(Path(vln_ros.__file__).parent / "checkpoints" / "tiny", tmp_path / "c")
    path = tmp_path / "c" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=rf"generation_config\.json: {key} = "):
        checkpoint_generation(str(tmp_path / "c"))
    path.unlink()
    found = checkpoint_generation(str(tmp_path / "c"))
    assert (found.temperature, found.top_k, found.top_p, found.repetition_penalty) == (0.0, 0, 1.0, 1.0)
