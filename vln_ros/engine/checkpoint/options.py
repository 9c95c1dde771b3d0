"""Checks options against each other and the profile: before a checkpoint is loaded, which takes minutes."""

from __future__ import annotations

from vln_ros.config import ConfigError, ReuseConfig, StreamConfig
from vln_ros.engine.checkpoint.profile import Profile


def attention_takes_mask(name: str) -> bool:
    """Can this attention implementation restrict what a token sees beyond causality?"""
    return name in ("sdpa", "eager")


def check_options(profile: Profile, stream: StreamConfig, reuse: ReuseConfig, *, takes_mask: bool) -> None:
    """Raises ConfigError: options that exclude each other, or that the profile has no use for.

    Args:
        takes_mask: :func:`attention_takes_mask` of the one that the model is loaded with.
    """
    if not takes_mask:
        _check_without_mask(stream, reuse)
    if reuse.enabled and reuse.layer_budget and reuse.tower:
        raise ConfigError(
            "qwen.reuse.layer_budget computes all tokens in the first layers, for which the vision tower "
            "must make their features: set qwen.reuse.tower to false, or qwen.reuse.layer_budget to false"
        )
    if stream.landmarks.memory and stream.landmarks.plan == "none":
        raise ConfigError(
            "qwen.stream.landmarks.memory needs landmarks: set qwen.stream.landmarks.plan to rules or model"
        )
    if stream.max_phrases > profile.max_phrases:
        raise ConfigError(
            f"qwen.stream.max_phrases = {stream.max_phrases}: an answer of profile {profile.name} has at "
            f"most {profile.max_phrases}; set no more, or 0"
        )
    _check_context(profile, stream)


def _check_without_mask(stream: StreamConfig, reuse: ReuseConfig) -> None:
    given = {
        f"qwen.stream.decode = {stream.decode!r}": (stream.decode == "tree", "qwen.stream.decode to tokens"),
        "qwen.reuse.enabled": (reuse.enabled, "qwen.reuse.enabled to false"),
        "qwen.stream.landmarks.memory": (stream.landmarks.memory, "qwen.stream.landmarks.memory to false"),
    }
    for name, (is_on, instead) in given.items():
        if is_on:
            raise ConfigError(
                f"{name} needs an attention implementation that takes a mask: set qwen.attention to sdpa or "
                f"eager, or {instead}"
            )


def _check_context(profile: Profile, stream: StreamConfig) -> None:
    spec = profile.context
    if spec.strategy == "delayed_batch" and (stream.prune.strategy != "none" or stream.landmarks.memory):
        raise ConfigError(
            f"profile {profile.name} shows frames as one video (delayed_batch), of which no tokens are left "
            "out and which is not chosen by landmarks: set qwen.stream.prune.strategy to none and "
            "qwen.stream.landmarks.memory to false"
        )
    if stream.history_choice != "profile" and spec.strategy != "history":
        raise ConfigError(
            f"qwen.stream.history_choice = {stream.history_choice!r}: profile {profile.name} has context "
            f"{spec.strategy}, which does not choose past frames for every question; set it to profile"
        )
    past = spec.history_frames or 0
    if stream.bank_frames <= past:
        raise ConfigError(
            f"qwen.stream.bank_frames = {stream.bank_frames}: a question of profile {profile.name} shows "
            f"{past} past frames besides the newest one; set at least {past + 1}"
        )
