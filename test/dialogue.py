"""A model that says what it is told to, token by token: its network computes, its scores are replaced."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from vln_ros.engine.checkpoint.model import LoadedModel


@contextmanager
def says(model: LoadedModel, replies: Sequence[str]) -> Iterator[list[tuple[int, ...]]]:
    """One reply after the other, each ended; the last one is repeated when it is asked more often.

    To be decoded token by token or freely. Yields the prompts so far, as far as they are text.
    """
    texts = [tuple(model.tokenizer(reply, add_special_tokens=False).input_ids) for reply in replies]
    end, begin = model.generation.end_tokens[0], model.tokens.vision_start
    asked: list[int] = []
    prompts: list[tuple[int, ...]] = []
    said: list[int] = []

    def head(_module: object, _inputs: object, out: Tensor) -> Tensor:
        nonlocal asked
        if begin in asked:  # a picture is shown: a new turn
            prompts.append(tuple(asked))
            said.clear()
        else:
            said.extend(asked)
        asked = []
        reply = texts[min(len(prompts), len(texts)) - 1]
        scores = torch.zeros_like(out).view(-1, out.shape[-1])
        scores[-1, reply[len(said)] if len(said) < len(reply) else end] = 30.0
        return scores.view(out.shape)

    def embed(_module: object, inputs: tuple[Tensor, ...], _out: object) -> None:
        asked.extend(inputs[0].flatten().tolist())

    network = model.network
    language_model: torch.nn.Module = network.model.language_model.embed_tokens
    handles = [network.lm_head.register_forward_hook(head), language_model.register_forward_hook(embed)]
    try:
        yield prompts
    finally:
        for handle in handles:
            handle.remove()
