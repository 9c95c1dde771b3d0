"""Computes the training forward, equal to the engine's, and its losses.

Besides the actions, train-only heads name what each visual token shows, how deep in the room, where in
the picture and in what kind of room (from the vision tower's features), whether the instruction speaks of
it and whether it is seen through the next door on the way (from the decoder's last states), and where the
way goes on, how long it is and through how many doors (from the state behind which the policy answers).
They are not shipped.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from vln_ros.engine.checkpoint.settings import PixelSpec
from vln_ros.training.batch import IGNORED, Batch
from vln_ros.training.demonstrations import BEARING_CLASSES, DISTANCE_CLASSES, DOORS_CLASSES
from vln_ros.training.labels import (
    AIM_CLASSES,
    CATEGORY_CLASSES,
    COLOR_CLASSES,
    DEPTH_CLASSES,
    ONWARD_CLASSES,
    REFERENT_CLASSES,
    ROOM_CLASSES,
)
from vln_ros.training.staleness import stale_states
from vln_ros.training.vision import encode_frames

_BACKGROUND_WEIGHT = 0.25  # most tokens show walls and floor


@dataclass(frozen=True, eq=False)
class States:
    """``features`` ``[tokens, hidden]`` of the vision tower, ``hidden`` ``[b, n, hidden]`` of the decoder."""

    features: Tensor
    hidden: Tensor


def forward(network: Any, batch: Batch, grid: tuple[int, int], pixels: PixelSpec) -> States:
    """Run vision tower and decoder on whole conversations at once.

    Args:
        network: a ``Qwen2_5_VLForConditionalGeneration``.
        grid: rows and columns of visual tokens of a frame.
        pixels: how the checkpoint takes pixels.
    """
    tokens = grid[0] * grid[1]
    frames = len(batch.tower_origins) // tokens
    patches = _normalised(batch.patches, pixels).reshape(frames, -1, batch.patches.shape[-1])
    tower_origins = batch.tower_origins if _is_stale(batch.tower_origins) else None
    features = encode_frames(network.model.visual, patches, grid, tower_origins).flatten(0, 1)
    decoder = network.model.language_model
    embeddings = decoder.embed_tokens(batch.ids)
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    flat = flat.index_put((batch.visual,), features[batch.pictures].to(flat.dtype))
    cache = stale_states(network, batch) if _is_stale(batch.origins) else None
    output = decoder(
        inputs_embeds=flat.reshape(embeddings.shape),
        position_ids=batch.positions,
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return States(features.float(), output.last_hidden_state.float())


def _normalised(patches: Tensor, spec: PixelSpec) -> Tensor:
    """``patches`` uint8, a channel behind the other, as :func:`vln_ros.engine.inputs.preprocess.patchify`."""
    std = torch.tensor(spec.std, dtype=torch.float64, device=patches.device)
    scale = (1.0 / (255.0 * std)).float()
    shift = (-torch.tensor(spec.mean, dtype=torch.float64, device=patches.device) / std).float()
    channels = patches.view(len(patches), len(spec.std), -1).float()
    return (channels * scale[:, None] + shift[:, None]).flatten(1)


def _is_stale(origins: Tensor) -> bool:
    return not torch.equal(origins, torch.arange(len(origins), device=origins.device))


class Heads(nn.Module):
    """The train-only heads."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.category = nn.Linear(hidden, CATEGORY_CLASSES)
        self.color = nn.Linear(hidden, COLOR_CLASSES)
        self.depth = nn.Linear(hidden, DEPTH_CLASSES)
        self.aim = nn.Linear(hidden, AIM_CLASSES)
        self.room = nn.Linear(hidden, ROOM_CLASSES)
        self.referent = nn.Linear(hidden, REFERENT_CLASSES)
        self.onward = nn.Linear(hidden, ONWARD_CLASSES)
        self.bearing = nn.Linear(hidden, BEARING_CLASSES)
        self.distance = nn.Linear(hidden, DISTANCE_CLASSES)
        self.doors = nn.Linear(hidden, DOORS_CLASSES)


@dataclass(frozen=True)
class Weights:
    """Of the parts of the loss; the actions' is 1.

    Attributes:
        temperature: an action that costs so many more than the best one is wanted with 1/e of its share.
    """

    vision: float
    referent: float
    way: float
    temperature: float


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """Scalars. ``action`` is the divergence of what is said from what is wanted, per decision; ``correct``
    the share of action words that were the best."""

    total: Tensor
    action: Tensor
    category: Tensor
    color: Tensor
    depth: Tensor
    aim: Tensor
    room: Tensor
    referent: Tensor
    onward: Tensor
    bearing: Tensor
    distance: Tensor
    doors: Tensor
    correct: Tensor


def losses(network: Any, heads: Heads, batch: Batch, states: States, weights: Weights) -> Losses:
    hidden = states.hidden.reshape(-1, states.hidden.shape[-1])
    labels = batch.labels.reshape(-1)
    said = labels != IGNORED
    scores = network.lm_head(hidden[said])
    wanted = labels[said]
    said_of = scores.log_softmax(-1)
    missed = -said_of.gather(1, wanted[:, None])[:, 0]
    # Where there is a choice, every action is wanted by what it costs.
    shares = (-batch.choices.costs / weights.temperature).log_softmax(-1)
    chosen = (said.cumsum(0) - 1)[batch.choices.places]
    missed = missed.index_put(
        (chosen,), (shares.exp() * (shares - said_of[chosen].gather(1, batch.choices.ids))).sum(-1)
    )
    # Summed over a decision: commas cost nothing once they are learnt, and must not dilute the rest.
    action = missed.sum() / batch.asked.shape[0]

    things = torch.ones(CATEGORY_CLASSES, device=hidden.device)
    things[:4] = _BACKGROUND_WEIGHT
    painted = torch.ones(COLOR_CLASSES, device=hidden.device)
    painted[0] = _BACKGROUND_WEIGHT
    meant = torch.tensor([_BACKGROUND_WEIGHT, 1.0, 1.0], device=hidden.device)
    category = cross_entropy(heads.category(states.features), batch.shown.category, things)
    color = cross_entropy(heads.color(states.features), batch.shown.color, painted)
    depth = cross_entropy(heads.depth(states.features), batch.shown.depth)
    aim = cross_entropy(heads.aim(states.features), batch.shown.aim)
    room = cross_entropy(heads.room(states.features), batch.shown.room)
    # Stale tokens have no states of their own: nothing can be asked of them.
    computed = batch.origins == torch.arange(len(batch.origins), device=batch.origins.device)
    seen = hidden[batch.visual[computed]]
    picture = batch.pictures[computed]
    referent = cross_entropy(heads.referent(seen), batch.shown.referent[picture], meant)
    onward = cross_entropy(heads.onward(seen), batch.shown.onward[picture], meant[:ONWARD_CLASSES])
    answering = hidden[batch.asked]
    bearing = cross_entropy(heads.bearing(answering), batch.way.bearing)
    distance = cross_entropy(heads.distance(answering), batch.way.distance)
    doors = cross_entropy(heads.doors(answering), batch.way.doors)
    total = (
        action
        + weights.vision * (category + color + 0.5 * (depth + aim + room))
        + weights.referent * (referent + onward)
        + weights.way * (bearing + distance + doors)
    )
    correct = (scores.argmax(-1) == wanted).float().mean()
    return Losses(
        total=total,
        action=action,
        category=category,
        color=color,
        depth=depth,
        aim=aim,
        room=room,
        referent=referent,
        onward=onward,
        bearing=bearing,
        distance=distance,
        doors=doors,
        correct=correct,
    )
