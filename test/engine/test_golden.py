"""The shipped checkpoint says here what transformers 4.50.3 says, with which released evaluations were run.

``golden/make.py`` has made the file, without this package's engine. The test holds every transformers that is
supported: CONTRIBUTING.md says how to run it with another one.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image as PILImage

import vln_ros
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.inputs import prompt
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session

CHECKPOINT = Path(vln_ros.__file__).parent / "checkpoints" / "tiny"
TOLERANCE = 1e-4
"""Of scores up to 30; between the two versions of transformers on one machine it is 2e-5."""
PICTURES = ["picture_0", "picture_1", "picture_2", "picture_3", "other_0", "other_1"]


@pytest.fixture(scope="module")
def golden() -> dict[str, npt.NDArray[Any]]:
    with np.load(Path(__file__).parent / "golden" / "shipped_tiny.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    torch.set_num_threads(1)
    return load_model("shipped:tiny", device="cpu", dtype="float32", attention="sdpa", quantisation="none")


def test_it_was_made_of_this_checkpoint_with_that_version(golden: dict[str, npt.NDArray[Any]]) -> None:
    assert str(golden["transformers"]) == "4.50.3"
    weights = hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
    assert str(golden["weights_sha256"]) == weights, "the checkpoint is another one: run golden/make.py"


def rendered(golden: dict[str, npt.NDArray[Any]], model: LoadedModel) -> tuple[list[prompt.Piece], int]:
    """The conversation as this package renders it, with the answers of the file."""
    turns = sum(name.startswith("answer_") for name in golden)
    said = []
    for turn in range(turns):
        ids = [int(i) for i in golden[f"answer_{turn}"] if int(i) not in model.generation.end_tokens]
        said.append(str(model.tokenizer.decode(ids)))
    profile = load_profile("tiny")
    chat = [prompt.Turn(reply=words) for words in said[:-1]] + [prompt.Turn()]
    return list(prompt.render(profile, str(golden["instruction"]), chat)), turns


def test_text_and_tokens(golden: dict[str, npt.NDArray[Any]], model: LoadedModel) -> None:
    pieces, turns = rendered(golden, model)
    assert prompt.as_text(pieces, [1] * turns) == str(golden["text"])
    tokens = [len(golden[f"picture_{i}_features"]) for i in range(turns)]
    ids = model.tokenizer(prompt.as_text(pieces, tokens), add_special_tokens=False).input_ids
    assert ids == golden["ids"].tolist()


@pytest.mark.parametrize("name", PICTURES)
def test_pixels_and_vision_features(
    golden: dict[str, npt.NDArray[Any]], model: LoadedModel, name: str
) -> None:
    rgb = golden[name].astype(np.uint8)
    size = load_profile("tiny").image.resize if name.startswith("picture") else None
    patches = patchify(rgb, model.pixels, None, size)
    assert patches.grid_thw[0].tolist() == golden[f"{name}_grid"].tolist()
    np.testing.assert_allclose(patches.patches.numpy(), golden[f"{name}_pixels"], rtol=0, atol=1e-6)
    (image,) = encode_images(model.network, [patches])
    np.testing.assert_allclose(image.features.numpy(), golden[f"{name}_features"], rtol=0, atol=TOLERANCE)


def test_positions_and_scores_of_a_stream(golden: dict[str, npt.NDArray[Any]], model: LoadedModel) -> None:
    """Piece by piece, as the engine takes them in."""
    pieces, _ = rendered(golden, model)
    stream = Session(model.network)
    size = load_profile("tiny").image.resize
    scores = []
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += piece
            continue
        rgb = golden[f"picture_{sum(s.grid is not None for s in stream.timeline.segments)}"].astype(np.uint8)
        (image,) = encode_images(model.network, [patchify(rgb, model.pixels, None, size)])
        ids = (*model.tokenizer(text, add_special_tokens=False).input_ids, model.tokens.vision_start)
        more: list[Piece] = [Text(ids), image, Text((model.tokens.vision_end,))]
        scores.append(stream.logits(stream.push(more)))
        text = ""
    rest = model.tokenizer(text, add_special_tokens=False).input_ids
    scores.append(stream.logits(stream.push([Text(tuple(rest))])))
    assert stream.timeline.positions().numpy().tolist() == golden["positions"].tolist()
    found, expected = torch.cat(scores).numpy(), golden["logits"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=TOLERANCE)
    assert found.argmax(-1).tolist() == expected.argmax(-1).tolist()


def test_a_golden_file_of_another_picture_would_be_noticed(
    golden: dict[str, npt.NDArray[Any]], model: LoadedModel
) -> None:
    """A resampling that is a little different is beyond the tolerance."""
    rgb = golden["picture_0"].astype(np.uint8)
    other = np.asarray(PILImage.fromarray(rgb).resize((112, 112), PILImage.Resampling.BILINEAR))
    patches = patchify(other, model.pixels, None, None)
    assert np.abs(patches.patches.numpy() - golden["picture_0_pixels"]).max() > 1e-2
    (image,) = encode_images(model.network, [patches])
    assert np.abs(image.features.numpy() - golden["picture_0_features"]).max() > 100 * TOLERANCE
