"""Streams that forget, and the masks that this amounts to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from engine_models import VISION_END, VISION_START, eager, random_patches, tiny_network, words

from vln_ros.config import StreamConfig
from vln_ros.datatypes import CameraModel, Frame, Instruction, Pose
from vln_ros.engine.checkpoint.model import LoadedModel
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.inputs.vision import encode_images
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.reference import Item, Pixels, one_shot
from vln_ros.engine.stream.segments import Piece, Text
from vln_ros.engine.stream.session import Session


class Masked:
    """A session, and the whole conversation with the mask that its evictions amount to."""

    def __init__(self) -> None:
        self.session = Session(tiny_network(), block_tokens=16)
        self.items: list[Item] = []
        self.rows: list[list[bool]] = []
        self.logits: list[torch.Tensor] = []
        self.alive: list[bool] = []  # of every token that ever was: still in the cache?

    def push(self, pieces: Sequence[Piece], items: list[Item]) -> None:
        self.logits.append(self.session.logits(self.session.push(pieces)))
        self.items += items
        for _ in range(self.logits[-1].shape[0]):
            self.alive.append(True)
            self.rows.append(list(self.alive))

    def push_text(self, ids: tuple[int, ...], block: int | None = None) -> None:
        self.push([Text(ids, block)], [ids])

    def push_frame(self, block: int | None, height: int, width: int, seed: int) -> None:
        pixels = Pixels(random_patches(1, 2 * height, 2 * width, seed), 1, 2 * height, 2 * width)
        (image,) = encode_images(self.session.network, [pixels])
        before, after = (*words(2, seed), VISION_START), (VISION_END, *words(1, seed))
        pieces: list[Piece] = [Text(before, block), replace(image, block=block), Text(after, block)]
        self.push(pieces, [before, pixels, after])

    def evict(self, slots: Sequence[int]) -> None:
        there = [i for i, alive in enumerate(self.alive) if alive]
        for slot in slots:
            self.alive[there[slot]] = False
        self.session.evict(torch.tensor(slots, dtype=torch.long))

    def check(self) -> None:
        n = len(self.rows)
        mask = torch.zeros(n, n, dtype=torch.bool)
        for i, row in enumerate(self.rows):
            mask[i, : i + 1] = torch.tensor(row)
        expected = one_shot(self.session.network, self.items, mask)
        assert (torch.cat(self.logits) - expected.logits).abs().max() <= 1e-4
        alive = torch.tensor(self.alive)
        assert torch.equal(self.session.timeline.positions(), expected.positions[:, alive])
        assert torch.equal(self.session.cache.positions, expected.positions[:, alive])
        assert self.session.cache.length == int(alive.sum())


def frame(index: int, pose: Pose | None = None) -> Frame:
    rgb = np.random.default_rng(index).integers(0, 256, (56, 56, 3), dtype=np.uint8)
    pose = Pose.planar(0.25 * index, 0.0, 0.0) if pose is None else pose
    return Frame(index, index * 10**8, rgb, None, CameraModel.from_hfov(56, 56, 1.2), pose, pose)


def engine(model: LoadedModel, name: str = "tiny", *, prefill: bool = True, **options: Any) -> QwenEngine:
    profile = load_profile(name)
    profile = replace(profile, image=replace(profile.image, resize=(56, 56)))
    robot = QwenEngine(model, profile, temperature=0.0, seed=0, stream=StreamConfig(**options))
    robot = eager(robot) if prefill else robot
    robot.start(Instruction(1, "go to the red chair"))
    return robot
