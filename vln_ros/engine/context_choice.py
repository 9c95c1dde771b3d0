"""From a profile and options to the context strategy and the bound that they name."""

from __future__ import annotations

import math

from vln_ros.config import ConfigError, StreamConfig
from vln_ros.engine.bound import BoundOptions, StreamBound
from vln_ros.engine.context import AppendContext, Context, WindowResetContext
from vln_ros.engine.context_replay import DelayedBatchContext, HistoryContext
from vln_ros.engine.profile import Profile
from vln_ros.engine.script import Script
from vln_ros.engine.session import Session
from vln_ros.engine.vision import Eyes


def build_context(
    profile: Profile, session: Session, script: Script, eyes: Eyes, bound: StreamBound, bank_frames: int
) -> Context:
    """The strategy that the profile asks for. Raises ConfigError if there is none of that name."""
    spec = profile.context
    match spec.strategy:
        case "append":
            return AppendContext(session, script, eyes, spec, bound)
        case "window_reset":
            return WindowResetContext(session, script, eyes, spec, bound, bank_frames=bank_frames)
        case "history":
            return HistoryContext(session, script, eyes, spec, bank_frames=bank_frames)
        case "delayed_batch":
            return DelayedBatchContext(session, script, eyes, spec)
    raise ConfigError(f"profile {profile.name}: unknown context strategy {spec.strategy!r}")


def bound_options(config: StreamConfig, token_bytes: int) -> BoundOptions:
    """The tighter one of the token and the byte budget, and what to keep within it."""
    budget = config.token_budget
    if config.cache_budget_mb:
        budget = min(budget, config.cache_budget_mb * 1_000_000 // token_bytes)
    return BoundOptions(
        budget,
        config.recent_turns,
        config.keyframes,
        config.keyframe_distance_m,
        math.radians(config.keyframe_angle_deg),
        config.keyframe_difference,
        config.keyframe_stride,
        config.max_position,
    )
