"""Names why nothing is taken over from earlier frames."""

from __future__ import annotations

from enum import Enum


class FallbackReason(Enum):
    """The reason, in the words of the counters."""

    FIRST_FRAME = "first frame"
    NO_DEPTH = "no depth"
    BAD_DEPTH = "depth in a wrong unit"
    CAMERA_CHANGED = "camera or resolution changed"
    POSE_JUMP = "pose jumped"
    CLOCK = "stamps went back"
    DEPTHS_DISAGREE = "depths disagree with poses"
    PICTURES_DISAGREE = "pictures disagree with poses"
    NOT_CACHED = "source not cached any more"
    INSTRUCTION_CHANGED = "instruction changed"
    PRUNED = "tokens were left out"
    REFRESH = "periodic refresh"
    DOUBT = "the last answer was in doubt"
    ALL_COMPUTED = "all of it must be computed"
    SHARED = "forward shared with other robots"
    SWITCHED_OFF = "switched off: it loses"
