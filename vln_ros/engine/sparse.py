"""Prefill that takes over what was computed before: what VLN-Cache (arXiv 2603.07080) saves with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from vln_ros.engine.forward import run_decoder
from vln_ros.engine.pieces import Piece
from vln_ros.engine.session import Session
from vln_ros.engine.tree import NO_TREE


@torch.no_grad()
def push_sparse(session: Session, pieces: Sequence[Piece], sources: Tensor) -> Tensor:
    """:meth:`Session.push`, computing only some of the tokens.

    A token that is not computed gets the keys and values of an earlier token, the keys rotated to
    its own position: an approximation unless that token stood in the same context.

    Args:
        sources: ``[n]`` int64, for each new token the slot to take over, or -1 to compute it.

    Returns:
        ``[m, hidden]`` last hidden states of the computed tokens.

    Raises:
        ValueError: as :meth:`Session.push`; not one source per token, a slot that is not in the
            stream, or the last token not computed (nothing could be read off it).
    """
    base = session.timeline.tokens
    chunk = session.prepare(pieces, NO_TREE)
    try:
        n = len(chunk.embeddings)
        if sources.shape != (n,) or int(sources.max()) >= base or int(sources[-1]) >= 0:
            raise ValueError(
                f"{n} tokens need {n} sources, slots below {base} or -1, -1 for the last; got {sources}"
            )
        computed, reused = (sources < 0).nonzero()[:, 0], (sources >= 0).nonzero()[:, 0]
        if reused.numel():
            session.cache.copy_rotated(sources[reused], base + reused, chunk.positions[:, reused])
        device = chunk.embeddings.device
        slots = base + computed.to(device)
        visible = torch.arange(base + n, device=device) <= slots[:, None]
        embeddings, positions = chunk.embeddings[computed.to(device)], chunk.positions[:, computed]
        with session.cache.scatter(slots, visible=base + n):
            states = run_decoder(
                session.network, session.cache, embeddings[None], positions[:, None], visible[None]
            )
    except BaseException:
        session.abandon(chunk)
        raise
    session.complete(chunk, computed)
    return states[0]
