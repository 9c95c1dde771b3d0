"""One robot's stream through a shared, stateless model: push, roll back, evict, ask.

A session owns a timeline and a cache. Pieces (text, images, videos) are prefilled when they arrive;
questions are asked behind the stream and leave it bit for bit as it was.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.datatypes import Frame
from vln_ros.engine.finite import check_scores, extremes
from vln_ros.engine.stream.forward import Prefill, pack_numbers
from vln_ros.engine.stream.forward import Work as Work
from vln_ros.engine.stream.kv_cache import SlotCache
from vln_ros.engine.stream.kv_pool import KVPool
from vln_ros.engine.stream.layers.accelerate import Accelerator, RecordedDecoder
from vln_ros.engine.stream.layers.decoder import RunChunk, run_chunk
from vln_ros.engine.stream.layers.ragged import Chunk, run_ragged
from vln_ros.engine.stream.partial_tower import TowerStates
from vln_ros.engine.stream.plug import Cost, NewFrame, Plan, Plug, VisionPlan
from vln_ros.engine.stream.segments import Image, Piece, Text, append_piece, join_text
from vln_ros.engine.stream.sparse import Sources, compute_sparse
from vln_ros.engine.stream.timeline import Segment, Snapshot, Timeline
from vln_ros.engine.stream.tree import NO_TREE, TokenTree


class Session:
    """The state of one stream.

    Args:
        network: the model; it is read only and may serve many sessions.
        block_tokens: the cache grows by this many tokens at a time.
        keep_original_keys: see :class:`SlotCache`; needed by :meth:`reindex` in half precision.
        plugs: optional features; of their plans for a forward the first one holds.
        pool: where keys and values go, with block size and original keys as the pool has them; None: into
            memory of the session's own.
        chunk_tokens: at most this many of its tokens go into a forward that it shares with others; None: all
            that are pushed together.
        accelerator: forwards on memory of its own are recorded and run again; None: each is run anew.
        run_chunk: runs a forward on memory of its own that is not recorded.

    Raises:
        ValueError: the pool is another network's.
    """

    def __init__(
        self,
        network: Qwen2_5_VLForConditionalGeneration,
        *,
        block_tokens: int = 1024,
        keep_original_keys: bool = False,
        plugs: Sequence[Plug] = (),
        pool: KVPool | None = None,
        chunk_tokens: int | None = None,
        accelerator: Accelerator | None = None,
        run_chunk: RunChunk = run_chunk,
    ) -> None:
        if pool is not None and pool.network is not network:
            raise ValueError("the pool holds keys and values of another network than the session's")
        self.network = network
        self.plugs = tuple(plugs)
        self.chunk_tokens = chunk_tokens
        self._run_chunk = run_chunk
        self._decoder: Any = network.model.language_model
        self._config: Any = network.config
        self.cache: SlotCache = (
            SlotCache(network.config, self._decoder.rotary_emb.inv_freq, block_tokens, keep_original_keys)
            if pool is None
            else pool.new_cache()
        )
        self._recorded = None if accelerator is None else RecordedDecoder(network, accelerator)
        self.pays_by_row = accelerator is None and network.device.type == "cpu"
        """Every row of a forward costs: nothing is spared by forwards that are all of one form."""
        self.timeline = Timeline()
        self.work = Work()
        self._vision_began_s = 0.0
        layers = self._decoder.layers
        self._layer_parameters = sum(p.numel() for layer in layers for p in layer.parameters())

    @property
    def token_bytes(self) -> int:
        """Cache memory of one token."""
        text, weight = self._config.text_config, self._decoder.embed_tokens.weight
        width = text.hidden_size // text.num_attention_heads * text.num_key_value_heads
        tensors = 3 if self.cache.keep_original_keys else 2
        return int(tensors * width * text.num_hidden_layers * weight.element_size())

    # -- the stream ----------------------------------------------------------------------------

    @torch.no_grad()
    def push(self, pieces: Sequence[Piece], sources: Sources | None = None) -> Tensor:
        """Prefill ``pieces`` in one forward and append them to the stream.

        Args:
            sources: which tokens are not computed; None leaves it to the plugs.

        Returns:
            ``[n, hidden]`` last hidden states of the new tokens; see :meth:`logits`. NaN where the last layer
            was not computed.

        Raises:
            ValueError: no tokens, an image outside vision markers, a video that continues nothing; sources
                as in :func:`compute_sparse`.
        """
        return self._extend(pieces, NO_TREE, sources)

    def before_vision(self, new: NewFrame) -> VisionPlan | None:
        """What the plugs ask of the vision tower for a frame; it is followed by :meth:`after_vision`."""
        plans = [plug.before_vision(new, self.cache) for plug in self.plugs]
        self._vision_began_s = self._now_s() if any(plug.timed for plug in self.plugs) else 0.0
        return next((plan for plan in plans if plan is not None), None)

    def after_vision(self, image_id: int, states: TowerStates | None, *, spared: bool) -> None:
        """The tower has been run for that frame, or was spared: see :meth:`Plug.after_vision`."""
        timed = any(plug.timed for plug in self.plugs) and not spared
        vision_s = self._now_s() - self._vision_began_s if timed else None
        for plug in self.plugs:
            plug.after_vision(image_id, states, vision_s)

    def on_answer(self, probability: float, held: bool) -> None:
        """The model has decided; see :meth:`Plug.on_answer`."""
        for plug in self.plugs:
            plug.on_answer(probability, held)

    def want_whole(self) -> None:
        """All of the next frame is to be computed; see :meth:`Plug.want_whole`."""
        for plug in self.plugs:
            plug.want_whole()

    def on_frame(self, frame: Frame, image: Image) -> None:
        """A frame was seen and became ``image``; what of it enters the stream is another matter."""
        for plug in self.plugs:
            plug.on_frame(frame, image)

    @torch.no_grad()
    def push_tree(self, pieces: Sequence[Piece], tree: TokenTree) -> tuple[Tensor, Tensor]:
        """Prefill ``pieces`` and, in the same forward, every branch of ``tree`` behind them.

        The stream grows by the pieces only. The branches lie in loose slots behind it, until the
        next push or :meth:`keep_branch`.

        Returns:
            Last hidden states ``[n, hidden]`` of the pieces' tokens and ``[nodes, hidden]`` of the tree's.
        """
        hidden = self._extend(pieces, tree)
        n = hidden.shape[0] - len(tree)
        return hidden[:n], hidden[n:]

    def keep_branch(self, tree: TokenTree, path: Sequence[int]) -> None:
        """Make one branch of the tree just pushed part of the stream.

        Args:
            path: nodes of ``tree`` from a root downwards.
        """
        base = self.timeline.tokens
        if self.cache.length != base + len(tree):
            raise ValueError("keep_branch must directly follow the push_tree of the same tree")
        self.cache.keep(torch.tensor(path, dtype=torch.long) + base, start=base)
        append_piece(self.timeline, Text(tuple(tree.tokens[i] for i in path)), self._config)

    @torch.no_grad()
    def logits(self, hidden: Tensor) -> Tensor:
        """Scores ``[..., vocabulary]`` float32 of the next token behind states ``[..., hidden]``."""
        self.count_logits(hidden.numel() // hidden.shape[-1])
        scores: Tensor = self.network.lm_head(hidden)
        return scores.float()

    # -- going back ----------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """Costs nothing; valid while the stream still begins with what it holds now."""
        return self.timeline.snapshot()

    def rollback(self, snapshot: Snapshot) -> None:
        """Forget what came after ``snapshot``. Raises ValueError if it is not valid any more."""
        self.timeline.restore(snapshot)
        self.cache.truncate(snapshot.tokens)

    def drop_last(self, segments: int) -> None:
        """Forget the last so many segments. Raises ValueError if there are fewer."""
        self.timeline.drop_last(segments)
        self.cache.truncate(self.timeline.tokens)

    def fork(self) -> Session:
        """An independent session with the same past, without plugs; its cache is a copy."""
        other = Session(self.network, block_tokens=self.cache.block_tokens, run_chunk=self._run_chunk)
        self.cache.truncate(self.timeline.tokens)
        other.cache = self.cache.fork()
        other.timeline = replace(self.timeline, segments=list(self.timeline.segments))
        return other

    def reset(self) -> None:
        """Back to an empty stream; allocated slots are kept for the next one."""
        self.timeline = Timeline()
        self.cache.truncate(0)
        if self._recorded is not None:  # what a recorded forward masks must be numbers all the same
            self.cache.blank()

    def close(self) -> None:
        """Free the cache. The session is empty afterwards."""
        self.timeline = Timeline()
        if self._recorded is not None:
            self._recorded.forget()
        self.cache.discard()

    def stop_recording(self, block_tokens: int) -> str | None:
        """Give up recorded forwards and, at the next :meth:`SlotCache.trim`, the room that they needed.

        Args:
            block_tokens: the cache grows by this many tokens from then on.

        Returns:
            what was given up; None if there is nothing.
        """
        recorded, self._recorded = self._recorded, None
        if recorded is None:
            return None
        recorded.forget()
        self.cache.set_block(block_tokens)
        return "no recorded forwards"

    # -- forgetting ----------------------------------------------------------------------------

    def evict(self, slots: Tensor) -> None:
        """Remove the tokens at ``slots`` ``[n]``; all others keep their positions.

        Later tokens do not see what is gone. Snapshots that held it become invalid. If memory runs out
        nothing has changed.
        """
        kept = torch.ones(self.timeline.tokens, dtype=torch.bool)
        kept[slots] = False
        keep = kept.nonzero()[:, 0]
        left = self.timeline.kept(keep)
        self.cache.truncate(self.timeline.tokens)
        first = int(slots.min()) if slots.numel() else len(keep)  # what is before it does not move
        self.cache.keep(keep[first:], start=first)
        self.timeline = left

    def evict_blocks(self, blocks: Sequence[int]) -> None:
        """Remove all tokens of the given frames. Raises ValueError for a frame that is not there."""
        unknown = sorted(set(blocks) - set(self.timeline.blocks()))
        if unknown:
            raise ValueError(
                f"no frame blocks {unknown} in the stream; present: {sorted(self.timeline.blocks())}"
            )
        gone = frozenset(blocks)
        self.evict(self.timeline.slots(lambda s: s.block in gone))

    @torch.no_grad()
    def reindex(self) -> None:
        """Close the gaps in the positions that evictions have left, rotating keys accordingly.

        Each segment moves as a whole, so relative positions within it are kept. For streams longer
        than the position range of the model (StreamingVLM, arXiv 2510.09608). If memory runs out nothing
        has changed.
        """
        moved = self.timeline.without_gaps()
        self.cache.truncate(self.timeline.tokens)
        self.cache.turn_to(moved.positions())
        self.timeline = moved

    # -- questions -----------------------------------------------------------------------------

    def ask(self, question: Sequence[int], *, max_tokens: int, end_tokens: Sequence[int]) -> tuple[int, ...]:
        """The greedy answer to ``question`` behind the stream, which is left bit for bit as it was.

        Args:
            question: token ids, chat wrapping included.
            max_tokens: answer at most this many tokens.
            end_tokens: any of these ends the answer and is not part of it.

        Raises:
            NotFiniteError: the model's scores are not numbers; nothing has changed then.
        """
        asking = self.asking(question, max_tokens=max_tokens, end_tokens=end_tokens)
        while True:
            try:
                next(asking)
            except StopIteration as end:
                answer: tuple[int, ...] = end.value
                return answer

    def asking(
        self, question: Sequence[int], *, max_tokens: int, end_tokens: Sequence[int]
    ) -> Generator[None, None, tuple[int, ...]]:
        """:meth:`ask`, one forward a step. Until it has ended or is closed the stream is not to be used."""
        before = self.snapshot()
        answer: list[int] = []
        try:
            hidden = self.push([Text(tuple(question))])
            while True:
                scores = self.logits(hidden[-1])
                low, high, best = torch.cat([extremes(scores), scores.argmax()[None].float()]).tolist()
                check_scores(self, low, high)
                token = int(best)
                if token in end_tokens:
                    break
                answer.append(token)
                if len(answer) == max_tokens:
                    break
                yield
                hidden = self.push([Text((token,))])
        finally:
            self.rollback(before)
        return tuple(answer)

    def ask_choice(self, question: Sequence[int], options: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability ``[options]`` of each option as the answer to ``question``.

        All options are scored in one forward; the stream is left bit for bit as it was. To compare
        options of which one begins another, end each with the token that ends an answer.

        Raises:
            NotFiniteError: the model's scores are not numbers; nothing has changed then.
        """
        if not options or not all(options):
            raise ValueError("ask_choice needs at least one option, and none of them empty")
        tree, paths = TokenTree.from_sequences(options)
        before = self.snapshot()
        try:
            prompt, nodes = self.push_tree([Text(tuple(question))], tree)
            scores = self.logits(torch.cat([prompt[-1:], nodes]))
            # Row 0 is behind the question, row 1 + i behind node i: a token is scored by its parent's row.
            rows = torch.tensor(tree.parents, device=scores.device) + 1
            by_node = scores.log_softmax(-1)[rows, torch.tensor(tree.tokens, device=scores.device)]
            numbers = torch.cat([by_node, extremes(scores)]).cpu()
            check_scores(self, float(numbers[-2]), float(numbers[-1]))
        finally:
            self.rollback(before)
        return torch.stack([numbers[list(path)].sum() for path in paths])

    # -- in parts, for forwards that several sessions share ------------------------------------------

    def prepare(self, pieces: Sequence[Piece], tree: TokenTree) -> Prefill:
        """Append ``pieces`` to the timeline; the forward that the cache then lacks.

        It must be followed by that forward and :meth:`complete`, or by :meth:`abandon`.

        Raises:
            ValueError: as :meth:`push`; nothing has changed then.
        """
        self.cache.check()
        before = self.snapshot()
        self.cache.truncate(before.tokens)
        try:
            joined = join_text(pieces)
            segments = tuple(append_piece(self.timeline, piece, self._config) for piece in joined)
            positions = [s.positions for s in segments]
            if len(tree):
                depths = torch.tensor(tree.depths, dtype=torch.long)
                positions.append((depths + self.timeline.next_position).expand(3, -1))
            if not positions:
                raise ValueError("nothing to push")
            return self._prefill_of(before, segments, tree, joined, torch.cat(positions, 1))
        except BaseException:
            self.timeline.restore(before)
            raise

    def complete(
        self,
        prefill: Prefill,
        sources: Sources | None = None,
        cost: Cost | None = None,
        forwards: int = 1,
    ) -> None:
        """The forward of ``prefill`` has been run: its keys and values are in the cache.

        Args:
            sources: what was taken over, if not all was computed.
            cost: of the forward, where it was this session's alone and a plug wants to know.
            forwards: in how many parts it was run.
        """
        tokens = len(prefill.embeddings)
        queries = float(tokens)  # a token in half of the layers is half
        if sources is None:
            self.cache.record(prefill.positions)
        else:
            layers = len(self.cache.layers)
            depth = sources.depth(layers)
            computed = (depth > 0).nonzero()[:, 0]
            self.cache.record(prefill.positions[:, computed], prefill.before.tokens + computed)
            tokens, queries = len(computed), float(depth.sum()) / layers
        self.work += Work(forwards, tokens, self._prefill_flops(queries, self.cache.length))
        for plug in self.plugs:
            plug.on_cached(prefill, self.cache, cost)

    def count_logits(self, rows: int) -> None:
        """Scores for ``rows`` states have been computed for this session."""
        self.work += Work(flops=2.0 * rows * self.network.lm_head.weight.numel())

    def abandon(self, prefill: Prefill) -> None:
        """The forward of ``prefill`` failed: back to before it was prepared."""
        self.timeline.restore(prefill.before)
        self.cache.truncate(prefill.before.tokens)
        self.cache.forget_loose()  # it may have been written over

    # -- inside --------------------------------------------------------------------------------

    def _extend(self, pieces: Sequence[Piece], tree: TokenTree, sources: Sources | None = None) -> Tensor:
        prefill = self.prepare(pieces, tree)
        timed = any(plug.timed for plug in self.plugs)
        try:
            begun_s = self._now_s() if timed else 0.0
            plan = self._plan(prefill) if sources is None else Plan(sources)
            planned_s = self._now_s() if timed else 0.0
            # Counted from the end: of what is before, some may not be computed.
            with self._queries(prefill.last - len(prefill.embeddings), plan.attention) as queries:
                states = self._compute(prefill, plan)
            done_s = self._now_s() if timed else 0.0
            self.complete(
                prefill, plan.sources, Cost(done_s - planned_s, planned_s - begun_s) if timed else None
            )
        except BaseException:  # a device that ran out of memory midway through the layers
            self.abandon(prefill)
            raise
        if queries:
            for plug in self.plugs:
                plug.on_attention(prefill, self.cache, queries)
        return states

    def _plan(self, prefill: Prefill) -> Plan:
        plans = (plug.plan(prefill, self.cache) for plug in self.plugs)
        return next((plan for plan in plans if plan is not None), Plan())

    @contextmanager
    def _queries(self, row: int, wanted: bool) -> Iterator[list[Tensor]]:
        """Within, the queries ``[width]`` of that row are noted, layer by layer."""
        queries: list[Tensor] = []

        def note(_module: Any, _inputs: Any, output: Tensor) -> None:
            queries.append(output[0, row])

        layers = self._decoder.layers if wanted else ()
        hooks = [layer.self_attn.q_proj.register_forward_hook(note) for layer in layers]
        try:
            yield queries
        finally:
            for hook in hooks:
                hook.remove()

    def _now_s(self) -> float:
        """When the device has done what it was given."""
        if self.network.device.type == "cuda":
            torch.cuda.synchronize(self.network.device)
        return time.perf_counter()

    def _compute(self, prefill: Prefill, plan: Plan) -> Tensor:
        if plan.sources is not None:
            return compute_sparse(self.network, self.cache, prefill, plan.sources)
        if self.cache.paged:
            return run_ragged(self.network, [Chunk.of(self.cache, prefill)])[0]
        states = None
        if self._recorded is not None and not plan.attention:  # nothing can be noted in what was recorded
            states = self._recorded.run(self.cache, prefill)
        return self._run_chunk(self.network, self.cache, prefill) if states is None else states

    def _prefill_of(
        self,
        before: Snapshot,
        segments: tuple[Segment, ...],
        tree: TokenTree,
        pieces: Sequence[Piece],
        positions: Tensor,
    ) -> Prefill:
        """The forward of ``pieces`` and ``tree``, which have their places, with room in the cache."""
        table = self._decoder.embed_tokens
        self.cache.reserve(before.tokens + positions.shape[1], table.weight)
        text = [piece.ids for piece in pieces if isinstance(piece, Text)] + [tree.tokens]
        numbers, ids = pack_numbers(
            positions, before.tokens, len(tree), self.cache.capacity, [*chain(*text)], table.weight.device
        )
        # All text by one look into the table, then picture and text in their order.
        words = iter(table(ids).split([len(t) for t in text]))
        embeddings = [next(words) if isinstance(p, Text) else p.features.to(table.weight) for p in pieces]
        return Prefill(
            before=before,
            segments=segments,
            tree=tree,
            embeddings=torch.cat([*embeddings, next(words)]),
            positions=positions,
            capacity=self.cache.capacity,
            numbers=numbers,
        )

    def _prefill_flops(self, queries: float, visible: int) -> float:
        """Multiply-adds counted as two, of the decoder layers."""
        config = self._config.text_config
        width = config.hidden_size * config.num_hidden_layers
        attention = 4.0 * width * queries * (visible - queries / 2)
        return float(2.0 * self._layer_parameters * queries + attention)
