"""The training loop: demonstrations, optimiser steps, validations, saved states."""

from __future__ import annotations

import csv
import dataclasses
import io
import math
import shutil
import time
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from vln_ros.config import ConfigError, StreamConfig, TrainConfig, to_flat
from vln_ros.datatypes import Float64Array
from vln_ros.engine.checkpoint.files import find_folder
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.engine.tiny import build_tiny
from vln_ros.evaluation.files import write_atomically
from vln_ros.sim.splits import EPISODES_PER_SCENE, GOAL_RADIUS_M, SPLITS
from vln_ros.training.baselines import MAX_ACTIONS
from vln_ros.training.batch import Collator, Conversation, collate
from vln_ros.training.curves import LOSSES, draw_curves, forget_after
from vln_ros.training.demonstrations import (
    Demonstration,
    Rules,
    Task,
    queue_lengths,
    robot_camera,
    split_episode,
)
from vln_ros.training.loader import Loader, PoolItem, Source
from vln_ros.training.objective import Heads, Weights, forward, losses
from vln_ros.training.progress import Progress, plain_of, task_of
from vln_ros.training.rollout import Score, follow, score, training_world
from vln_ros.training.staleness import draw_staleness, make_stale
from vln_ros.training.vision import window_tokens

_ADAM_BETAS = (0.9, 0.98)
_CLIP = 1.0
_FIRST_CERTAINTY = 0.1
_LAST_RATE = 0.03  # share of the highest learning rate at the end
_CURVE_EVERY = 20
_SCENES_PER_SEED = 5000  # half a day's training on two cores takes about as many


def first_episode(seed: int) -> int:
    """Number of the train episode that a run with this seed begins with: another seed, other scenes."""
    split = SPLITS["train"]
    return seed * _SCENES_PER_SEED % (split.scenes // 2) * EPISODES_PER_SCENE


@contextmanager
def _side_by_side(threads: int) -> Iterator[ThreadPoolExecutor]:
    """Threads for forwards. Two of one core each take four fifths of the time of one of two cores, and
    do not wait for each other wherever something else wants a core."""
    before = torch.get_num_threads()
    if threads > 1:
        torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            yield pool
    finally:
        torch.set_num_threads(before)


STATE = "state.pt"
"""What a training that is resumed goes on with."""


class Trainer:
    """One training run in ``folder``.

    It holds ``state.pt`` (to resume), ``best/`` (the checkpoint with the best validation), ``last/``,
    ``own/`` (the weights that the policy's own runs are made with), ``curves.csv``, ``validation.csv``
    and ``curves.png``.

    Args:
        resume: go on with the state in ``folder``; its model options must be the same.

    Raises:
        ConfigError: a folder that holds a run already, or none to resume.
    """

    def __init__(self, folder: Path, config: TrainConfig, *, resume: bool) -> None:
        self.folder, self.config = folder, config
        start = folder / "start"
        state_path = folder / STATE
        if resume and not state_path.exists():
            raise ConfigError(f"{folder} holds no state.pt: there is nothing to resume; leave --resume out")
        if not resume and folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder} is not empty: name a new folder, or go on with --resume")
        if not start.exists():
            if config.start_from:
                shutil.copytree(find_folder(config.start_from), start)
            else:
                build_tiny(start, config.model)
        self.model = load_model(
            str(start), device=config.device, dtype="float32", attention="sdpa", quantisation="none"
        )
        self.profile = load_profile(config.profile)
        self.collator = Collator(self.model, self.profile)
        camera, extrinsics = robot_camera(config.render_width, config.render_height)
        self.rules = Rules(
            camera=camera,
            extrinsics=extrinsics,
            grid=self.collator.grid,
            queue=self.profile.max_phrases,
            max_turns=config.max_turns,
            keep_frames=self.profile.context.unasked_frames == "keep"
            or self.profile.context.strategy == "history",
            stop_within_m=config.stop_within_m,
            clearance_m=config.clearance_m,
            least_executed=min(config.least_executed, self.profile.max_phrases),
            finds_sources=config.stale_conversations > 0.0,
        )
        if config.stale_conversations and self.profile.context.strategy != "append":
            raise ConfigError(
                f"stale_conversations = {config.stale_conversations:g} needs one growing chat, and profile "
                f"{self.profile.name} asks with a history: set it to 0"
            )
        if config.least_stale > config.most_stale:
            raise ConfigError(
                f"least_stale = {config.least_stale:g} is more than most_stale = {config.most_stale:g}: "
                "lower the one or raise the other"
            )
        torch.manual_seed(config.seed)
        # eval mode stays on: the architecture has no dropout, and the engine runs the same module.
        self.network: Any = self.model.network.requires_grad_(True)
        self.heads = Heads(self.network.lm_head.in_features).to(self.model.device)
        self._parameters = [*self.network.parameters(), *self.heads.parameters()]
        self._weights = Weights(
            config.vision_weight, config.referent_weight, config.way_weight, config.cost_temperature
        )
        self.optimizer = self._optimizer()
        self._mean: list[Tensor] = []
        self.progress = Progress(
            step=0,
            seconds=0.0,
            numbers={},
            pool=[],
            policy=None,
            rng=np.random.default_rng([config.seed, 1]),
            best=(0, -1.0),
        )
        if resume:
            self._restore(state_path)
        elif not config.start_from:
            with torch.no_grad():  # the random checkpoint is sure of what it says; a beginner is not
                self.network.lm_head.weight.mul_(_FIRST_CERTAINTY)
        if config.mean_steps and not self._mean:
            self._mean = [p.detach().clone() for p in self.network.parameters()]

    # -- the loop ------------------------------------------------------------------------------

    def run(self) -> None:
        """Train up to the last step. Interrupted, it can be resumed from the last saved state."""
        done, config = self.progress, self.config
        begun = time.monotonic() - done.seconds
        recent: deque[list[float]] = deque(maxlen=_CURVE_EVERY)
        with (
            Loader(Source(self.rules, self.folder / "own", config.profile), config.workers) as loader,
            _side_by_side(config.threads) as threads,
            tqdm(total=config.steps, initial=done.step, unit="step", desc="train") as bar,
        ):
            pool = deque(PoolItem(task, loader.order(task)) for task in done.pool)
            while done.step < config.steps:
                if self._due(config.dagger_every) and self._share() >= config.dagger_from:
                    with self.exported_weights():
                        export(self.model, self.folder / "start", self.folder / "own" / str(done.step))
                    done.policy = done.step
                for _ in range(config.fresh if pool else config.pool):
                    task = self.next_task()
                    pool.append(PoolItem(task, loader.order(task)))
                while len(pool) > config.pool:
                    pool.popleft()
                chosen = done.rng.choice(len(pool), min(config.batch, len(pool)), replace=False)
                drawn = [self._draw(pool[int(k)]) for k in chosen]
                recent.append(self.step(drawn, threads))
                done.step += 1
                self.follow_weights()
                bar.update()
                done.seconds = time.monotonic() - begun
                if self._due(_CURVE_EVERY):
                    means = np.mean(recent, 0)
                    bar.set_postfix(
                        **{name: f"{means[LOSSES.index(name)]:.3f}" for name in ("action", "referent")}
                    )
                    self._append("curves.csv", ["step", "seconds", *LOSSES], [
                        done.step, round(done.seconds, 1), *(round(float(m), 4) for m in means)
                    ])  # fmt: skip
                if self._due(config.validate_every) or done.step == config.steps:
                    with self.exported_weights():
                        self._validate(loader)
                if self._due(config.save_every) or done.step == config.steps:
                    done.pool = [item.task for item in pool]
                    self.save()

    def _due(self, every: int) -> bool:
        return self.progress.step % every == 0

    def _share(self) -> float:
        return self.progress.step / self.config.steps

    def kinds(self) -> list[str]:
        """The kinds of flats that are trained in now: the curriculum."""
        begun = {"room": 0.0, "small": self.config.small_from, "flat": self.config.flat_from}
        return [k for k, begin in begun.items() if begin < 1.0 and self._share() >= begin]

    def next_task(self) -> Task:
        """What is demonstrated next, drawn from the kinds of the curriculum."""
        done, config = self.progress, self.config
        own = done.policy is not None and done.rng.random() < config.dagger_share
        kinds = self.kinds()
        often = {"room": 1.0, "small": config.small_weight, "flat": config.flat_weight}
        weights = np.array([often[k] for k in kinds])
        kind = kinds[int(done.rng.choice(len(kinds), p=weights / weights.sum()))]
        number = done.numbers.get(kind, first_episode(config.seed))
        done.numbers[kind] = number + 1
        if own:
            return Task(kind, number, 0.0, config.seed, policy=done.policy)
        # A third without noise; the others up to the highest.
        noise = max(0.0, float(done.rng.uniform(-0.5, 1.0))) * config.noise
        return Task(kind, number, noise, config.seed)

    def _draw(self, item: PoolItem) -> list[Conversation]:
        written = item.conversations(self.collator, self.config.questions, self.progress.rng)
        return [self.maybe_stale(conversation) for conversation in written]

    def maybe_stale(self, conversation: Conversation) -> Conversation:
        """The conversation, or a version of it in which some visual tokens are stale."""
        rng, config = self.progress.rng, self.config
        if config.stale_conversations == 0.0 or rng.random() >= config.stale_conversations:
            return conversation
        staleness = draw_staleness(config.least_stale, config.most_stale, rng)
        window = window_tokens(self.network.config.vision_config)
        return make_stale(conversation, staleness, self.collator.grid, window, rng)

    def step(self, drawn: list[list[Conversation]], threads: ThreadPoolExecutor) -> list[float]:
        """One step of the optimizer; means of the losses, in the order of LOSSES.

        Args:
            drawn: of each demonstration what is learnt from it now.
        """
        config = self.config
        # Of like lengths together: little padding. The longest first: nobody waits for it at the end.
        runs = sorted(drawn, key=lambda run: -max(c.ids.shape[0] for c in run))
        decisions = sum(c.asked.shape[0] for run in runs for c in run)

        def compute(first: int) -> tuple[tuple[Tensor, ...], Float64Array]:
            together = [c for run in runs[first : first + config.micro_batch] for c in run]
            batch = collate(together).to(self.model.device)
            with torch.autocast(batch.ids.device.type, torch.bfloat16, config.precision == "bfloat16"):
                states = forward(self.network, batch, self.collator.grid, self.model.pixels)
            parts = losses(self.network, self.heads, batch, states, self._weights)
            share = batch.asked.shape[0] / decisions
            gradients = torch.autograd.grad(parts.total * share, self._parameters, materialize_grads=True)
            return gradients, share * np.array([getattr(parts, name).item() for name in LOSSES])

        means = np.zeros(len(LOSSES))
        sums = [torch.zeros_like(p) for p in self._parameters]
        # Summed in one order, whoever is done first: a run can be repeated.
        for gradients, values in threads.map(compute, range(0, len(runs), config.micro_batch)):
            for total, gradient in zip(sums, gradients, strict=True):
                total += gradient
            means += values
        for parameter, total in zip(self._parameters, sums, strict=True):
            parameter.grad = total
        if not np.isfinite(means).all():
            raise RuntimeError(
                f"the loss is not finite at step {self.progress.step} "
                f"({dict(zip(LOSSES, means, strict=True))}): "
                "lower learning_rate and resume"
            )
        torch.nn.utils.clip_grad_norm_(self._parameters, _CLIP)
        rise = min(1.0, (self.progress.step + 1) / config.warmup_steps)
        fall = 0.5 * (1.0 + math.cos(math.pi * self._share())) * (1.0 - _LAST_RATE) + _LAST_RATE
        for group in self.optimizer.param_groups:
            group["lr"] = config.learning_rate * rise * fall
        self.optimizer.step()
        return [float(m) for m in means]

    def _optimizer(self) -> torch.optim.AdamW:
        matrices = [p for p in self._parameters if p.ndim > 1]
        others = [p for p in self._parameters if p.ndim <= 1]
        return torch.optim.AdamW(
            [
                {"params": matrices, "weight_decay": self.config.weight_decay},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=self.config.learning_rate,
            betas=_ADAM_BETAS,
        )

    @torch.no_grad()
    def follow_weights(self) -> None:
        """The running mean takes in the weights as they are now."""
        if not self._mean:
            return
        # In the beginning there are few steps to average: what it began with is soon forgotten.
        old = 1.0 - 1.0 / min(self.config.mean_steps, 10 + self.progress.step // 2)
        for mean, parameter in zip(self._mean, self.network.parameters(), strict=True):
            mean.lerp_(parameter, 1.0 - old)

    @contextmanager
    def exported_weights(self) -> Iterator[None]:
        """Within, the network has the weights that are written and validated: the mean, if there is one."""
        newest = [p.data for p in self.network.parameters()]
        try:
            for parameter, mean in zip(self.network.parameters(), self._mean, strict=False):
                parameter.data = mean
            yield
        finally:
            for parameter, values in zip(self.network.parameters(), newest, strict=True):
                parameter.data = values

    # -- the policy on its own -----------------------------------------------------------------

    def engine(self) -> QwenEngine:
        """The engine around the weights as they are now."""
        unheld = StreamConfig(min_allowed=0.0)  # what it is learning is not yet what it wants
        return QwenEngine(self.model, self.profile, temperature=0.0, seed=self.config.seed, stream=unheld)

    def _validate(self, loader: Loader) -> None:
        done = self.progress
        unseen = {
            kind: [loader.order(Task(kind, n, 0.0, self.config.seed)) for n in self._validated()]
            for kind in self.kinds()
        }
        scores = {kind: self.validate(kind) for kind in unseen}
        for kind, s in scores.items():
            loss = self.action_loss(ordered.result() for ordered in unseen[kind])
            fields = dataclasses.asdict(s) | {"action": loss}
            self._append(
                "validation.csv",
                ["step", "seconds", "kind", *fields],
                [done.step, round(done.seconds, 1), kind, *(round(v, 4) for v in fields.values())],
            )
            tqdm.write(
                f"step {done.step} {kind}: success {s.success:.2f} spl {s.spl:.2f} oracle {s.oracle:.2f} "
                f"action {fields['action']:.2f}"
            )
        reached = (len(scores), float(np.mean([s.success for s in scores.values()])))
        if reached > done.best:
            done.best = reached
            export(self.model, self.folder / "start", self.folder / "best")
        export(self.model, self.folder / "start", self.folder / "last")
        draw_curves(self.folder)

    def _validated(self) -> range:
        """Numbers of episodes in the last scenes that ``train`` and ``val_seen`` share: training begins
        with the first ones, and how it does in flats that it knows by heart says little."""
        end = SPLITS["train"].scenes * EPISODES_PER_SCENE
        return range(end - self.config.validate_episodes, end)

    def validate(self, kind: str) -> Score:
        """The policy on episodes of val_seen in scenes that it was not trained in."""
        engine, world = self.engine(), training_world(self.rules)
        runs = [
            follow(
                engine,
                world,
                split_episode("val_seen", kind, number),
                number,
                max_actions=MAX_ACTIONS[kind],
                every_frame=self.rules.keep_frames,
                lengths=queue_lengths(Task(kind, number, 0.0, self.config.seed), self.rules),
            )
            for number in self._validated()
        ]
        engine.close()
        return score(runs, GOAL_RADIUS_M)

    @torch.no_grad()
    def action_loss(self, runs: Iterable[Demonstration]) -> float:
        """Loss of the actions, per decision; nothing is learnt."""
        total, decisions = 0.0, 0
        for run in runs:
            batch = collate(self.collator.write(run)).to(self.model.device)
            states = forward(self.network, batch, self.collator.grid, self.model.pixels)
            count = batch.asked.shape[0]
            total += losses(self.network, self.heads, batch, states, self._weights).action.item() * count
            decisions += count
        return total / decisions

    # -- files ---------------------------------------------------------------------------------

    def _append(self, name: str, header: list[str], row: list[object]) -> None:
        path = self.folder / name
        new = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.writer(f)
            if new:
                writer.writerow(header)
            writer.writerow(row)

    def save(self) -> None:
        """Write ``state.pt``, and drop the weights of own runs that no task needs any more."""
        done = self.progress
        path = self.folder / STATE
        written = io.BytesIO()
        torch.save(
            {
                "config": to_flat(self.config),
                "network": self.network.state_dict(),
                "heads": self.heads.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "mean": self._mean,
                "torch": torch.get_rng_state(),
                "rng": done.rng.bit_generator.state,
                "progress": dataclasses.asdict(
                    dataclasses.replace(done, rng=None, pool=[])  # type: ignore[arg-type]
                ),
                "pool": [plain_of(task) for task in done.pool],
            },
            written,
        )
        write_atomically(path, written.getvalue())  # a run that dies here leaves the state before
        needed = {str(task.policy) for task in done.pool} | {str(done.policy)}
        for folder in (self.folder / "own").glob("*"):
            if folder.name not in needed:
                shutil.rmtree(folder)

    def _restore(self, path: Path) -> None:
        try:
            # Tensors and plain values only: nothing in the file is executed.
            state = torch.load(path, map_location=self.model.device, weights_only=True)
        except OSError:
            raise
        except Exception as error:  # what is damaged can fail in any way
            raise ConfigError(
                f"{path} cannot be read: it is damaged, or another version wrote it; begin anew in another "
                "folder, --start-from the checkpoint in last"
            ) from error
        model = {k: v for k, v in to_flat(self.config).items() if k.startswith("model.")}
        changed = [k for k, v in model.items() if state["config"].get(k) != v]
        if changed:
            raise ConfigError(
                f"{path} was written with another {', '.join(changed)}: start a new run for that"
            )
        self.network.load_state_dict(state["network"])
        self.heads.load_state_dict(state["heads"])
        self.optimizer.load_state_dict(state["optimizer"])
        self._mean = state.get("mean", []) if self.config.mean_steps else []
        torch.set_rng_state(state["torch"].cpu())
        saved = state["progress"]
        rng = np.random.default_rng()
        rng.bit_generator.state = state["rng"]
        self.progress = Progress(
            step=saved["step"],
            seconds=saved["seconds"],
            numbers=saved["numbers"],
            pool=[task_of(t) for t in state["pool"]],
            policy=saved["policy"],
            rng=rng,
            best=tuple(saved["best"]),
        )
        for name in ("curves.csv", "validation.csv"):
            forget_after(self.folder / name, self.progress.step)


def export(model: LoadedModel, start: Path, folder: Path) -> None:
    """Write the weights in float16 as a checkpoint folder like ``start``, in the released layout."""
    part = folder.with_name(folder.name + ".new")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for path in start.iterdir():
        if not path.name.startswith("model"):
            shutil.copy(path, part / path.name)
    network: Any = model.network
    tensors = {
        name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1): (
            p.detach().to("cpu", torch.float16).contiguous()
        )
        for name, p in network.named_parameters()
    }
    (part / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)
