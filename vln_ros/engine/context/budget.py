"""Keeps a stream within its token budget: the eviction policy for keyframes and recent frames.

Whole turns are evicted and all that stays keeps its positions, so within a run nothing is
re-indexed; what is left is exactly the model with the evicted keys masked. Only a stream that
outgrows the model's positions has its gaps closed, by rotating the keys that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from vln_ros.datatypes import Frame, Pose
from vln_ros.engine.stream.segments import Image
from vln_ros.engine.stream.session import Session
from vln_ros.engine.stream.timeline import Segment, SegmentKind
from vln_ros.memory.landmarks import LandmarkScores, choose_landmark_evictions
from vln_ros.memory.retention import appearance_distances, choose_evictions, pose_distances
from vln_ros.profiling.spans import span


@dataclass(frozen=True)
class BudgetOptions:
    """What a bounded stream keeps.

    Attributes:
        tokens: budget of the whole stream.
        recent: newest turns that stay untouched.
        novelty: ``pose`` or ``appearance``: by which of the older turns the least novel goes first.
        distance_m, angle_rad: poses this far apart are as far as a distance of 1.
        appearance: so are mean vision features this far apart (cosine distance).
        keyframe_stride: of a keyframe's image only every such row and column is kept; 1 keeps all.
        max_position: positions are made contiguous before they reach this.
    """

    tokens: int
    recent: int
    novelty: str
    distance_m: float
    angle_rad: float
    appearance: float
    keyframe_stride: int
    max_position: int


@dataclass(frozen=True)
class _View:
    pose: Pose
    feature: torch.Tensor | None
    """Of the whole picture, on the device: reading it there would wait for the vision tower."""
    image: int | None


class TokenBudget:
    """Decides, between turns, what leaves a stream. Turns without a block number always stay.

    Args:
        landmarks: older turns stay for those that they show instead of for their novelty.
    """

    def __init__(self, options: BudgetOptions, landmarks: LandmarkScores | None = None) -> None:
        self.options, self._landmarks = options, landmarks
        self.budget = options.tokens
        self.evicted = 0
        self.reindexed = 0
        self._views: dict[int, _View] = {}

    def begin(self) -> None:
        self._views.clear()

    def note(self, block: int, frame: Frame, image: Image) -> None:
        """The newest frame of a turn stands for it."""
        feature = image.features.float().mean(0) if self.options.novelty == "appearance" else None
        self._views[block] = _View(frame.odom_from_base, feature, image.image_id)

    def enforce(self, session: Session) -> None:
        blocks = session.timeline.blocks()
        numbers = [b for b in blocks if b in self._views]
        # A newer one is the open turn, taken back for lack of memory and about to be pushed again.
        newest = max(blocks, default=0)
        self._views = {b: view for b, view in self._views.items() if b in blocks or b > newest}
        options = self.options
        if session.timeline.next_position >= options.max_position:
            session.reindex()
            self.reindexed += 1
        if len(numbers) > 1:
            with span("memory"):
                self._evict(session, numbers, blocks)

    def _evict(self, session: Session, numbers: list[int], blocks: dict[int, int]) -> None:
        options = self.options
        with span("memory: selection"):
            gone = self._select(session, numbers, blocks)
        with span("memory: eviction"):
            if gone:
                session.evict_blocks([numbers[i] for i in gone])
                self.evicted += len(gone)
            if options.keyframe_stride > 1:
                keyframes = frozenset(numbers[: -options.recent]) - {numbers[i] for i in gone}
                thin_images(session, keyframes, options.keyframe_stride)

    def _select(self, session: Session, numbers: list[int], blocks: dict[int, int]) -> Sequence[int]:
        """Indices in ``numbers`` of what is to go."""
        options = self.options
        views = [self._views[b] for b in numbers]
        tokens = [blocks[b] for b in numbers]
        budget = max(self.budget - (session.timeline.tokens - sum(tokens)), 0)
        if self._landmarks is not None:
            scores = self._landmarks.table([v.image for v in views])
            return choose_landmark_evictions(
                tokens, scores, recent=options.recent, rule=self._landmarks.rule, budget=budget
            )
        if sum(tokens) <= budget:
            return ()
        if options.novelty == "pose":
            distances = pose_distances(
                [v.pose for v in views], distance_m=options.distance_m, angle_rad=options.angle_rad
            )
        else:
            features = torch.stack([v.feature for v in views if v.feature is not None])
            distances = appearance_distances(features.cpu().numpy(), scale=options.appearance)
        return choose_evictions(tokens, distances, recent=options.recent, budget=budget)


def thin_images(session: Session, blocks: frozenset[int], stride: int) -> None:
    """Keep every ``stride``-th row and column of the images of ``blocks``; positions stay."""
    gone: list[torch.Tensor] = []
    first = 0
    for segment in session.timeline.segments:
        if segment.kind is SegmentKind.IMAGE and segment.block in blocks:
            gone.append(first + _between(segment, stride))
        first += segment.count
    slots = torch.cat(gone) if gone else torch.empty(0, dtype=torch.long)
    if slots.numel():
        session.evict(slots)


def _between(segment: Segment, stride: int) -> torch.Tensor:
    """Tokens of an image that lie off the lattice of every ``stride``-th row and column."""
    place = segment.positions[1:] - segment.start
    return ((place % stride) != 0).any(0).nonzero()[:, 0]
