"""Builds the context strategy and the token budget that a profile and options name."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from vln_ros.config import ConfigError, StreamConfig
from vln_ros.engine.checkpoint.profile import ContextSpec, Profile
from vln_ros.engine.context.append import AppendContext
from vln_ros.engine.context.base import Context, PrimitiveBank
from vln_ros.engine.context.budget import BudgetOptions, TokenBudget
from vln_ros.engine.context.delayed_batch import DelayedBatchContext
from vln_ros.engine.context.history import HistoryContext
from vln_ros.engine.context.pruning import KeepAll
from vln_ros.engine.context.travelled import TravelledWay
from vln_ros.engine.context.window import WindowResetContext
from vln_ros.engine.inputs.chat_template import ChatTemplate
from vln_ros.engine.inputs.vision import VisionEncoder
from vln_ros.engine.stream.session import Session
from vln_ros.memory.landmarks import LandmarkScores


def build_context(
    profile: Profile,
    session: Session,
    template: ChatTemplate,
    encoder: VisionEncoder,
    budget: TokenBudget,
    pruning: KeepAll,
    config: StreamConfig,
    way: TravelledWay,
    landmarks: LandmarkScores | None,
) -> Context:
    """The strategy that the profile asks for.

    Raises:
        ConfigError: there is none of that name.
    """
    spec = _chosen(profile, config)
    bank = PrimitiveBank(config.bank_frames, way, landmarks)
    match spec.strategy:
        case "append":
            return AppendContext(session, template, encoder, spec, budget, pruning)
        case "window_reset":
            return WindowResetContext(session, template, encoder, spec, budget, pruning, bank)
        case "history":
            return HistoryContext(session, template, encoder, spec, pruning, bank)
        case "delayed_batch":
            return DelayedBatchContext(session, template, encoder, spec)
    raise ConfigError(f"profile {profile.name}: unknown context strategy {spec.strategy!r}")


def _chosen(profile: Profile, config: StreamConfig) -> ContextSpec:
    """The profile's context, with what the options change of it."""
    spec = profile.context
    if config.history_choice == "profile":
        return spec
    return replace(spec, history_choice=config.history_choice, history_limit=0)


def budget_options(config: StreamConfig, session: Session) -> BudgetOptions:
    """The tighter one of the token and the byte budget, and what to keep within it.

    Raises:
        ConfigError: the model has fewer positions than the options let a stream have.
    """
    network: Any = session.network.config
    positions = network.text_config.max_position_embeddings
    if config.max_position > positions:
        raise ConfigError(
            f"qwen.stream.max_position = {config.max_position}: the checkpoint has {positions} positions "
            "(max_position_embeddings of its config.json); set no more"
        )
    budget = config.token_budget
    if config.cache_budget_mb:
        budget = min(budget, config.cache_budget_mb * 1_000_000 // session.token_bytes)
    return BudgetOptions(
        budget,
        config.recent_turns,
        config.keyframes,
        config.keyframe_distance_m,
        math.radians(config.keyframe_angle_deg),
        config.keyframe_difference,
        config.keyframe_stride,
        config.max_position,
    )
