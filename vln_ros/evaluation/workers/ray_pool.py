"""Runs the workers of an evaluation as actors of a Ray cluster."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Sequence
from typing import Any

from vln_ros.config import ConfigError, EvalConfig, FarmConfig
from vln_ros.evaluation.workers.pool import Answer, Loss
from vln_ros.evaluation.workers.schedule import Job
from vln_ros.evaluation.workers.worker import Event, Unable, Worker

_LOOK_S = 5.0
"""How often to look whether there are nodes at all, while nobody answers."""


class _Actor:
    """What runs on the cluster: one worker."""

    def __init__(self, config: EvalConfig, worker: int) -> None:
        self._config, self._worker = config, worker
        self._work: Worker | None = None

    def begin(self) -> list[Event]:
        try:
            self._work = Worker(self._config, self._worker)
        except ConfigError as error:
            return [Unable(str(error))]
        return [self._work.ready()]

    def step(self, jobs: Sequence[Job]) -> list[Event]:
        assert self._work is not None, "begin comes first"
        return self._work.step(jobs)


class RayPool:
    """Implements :class:`vln_ros.evaluation.workers.pool.WorkerPool`.

    Ray places the actors and reserves their share of processors and GPUs. An actor that is lost, with its
    node or alone, is replaced wherever there is room; until there is, the others go on. A cluster that was
    started here, and whose only node is lost, is started anew. Results travel
    through Ray, so the machines need not share a file system for them; dataset and checkpoint must be at
    the same path everywhere.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, config: EvalConfig, farm: FarmConfig) -> None:
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                f"backend = 'ray': Ray cannot be imported ({error}); pip install -r requirements-ray.txt, "
                "or use backend processes"
            ) from error
        self._ray: Any = ray
        self._config = config
        self._actors: dict[int, Any] = {}
        self._waiting: dict[Any, int] = {}
        self._farm = farm
        self._start()
        self._remote: Any = ray.remote(
            num_cpus=farm.cpus_per_worker, num_gpus=farm.gpus_per_worker, max_restarts=0, max_task_retries=0
        )(_Actor)

    def start_worker(self, worker: int) -> None:
        self._actors[worker] = self._remote.remote(self._config, worker)
        self._waiting[self._actors[worker].begin.remote()] = worker

    def give(self, worker: int, jobs: Sequence[Job]) -> None:
        self._waiting[self._actors[worker].step.remote(list(jobs))] = worker

    def _start(self) -> None:
        farm = self._farm
        try:
            if farm.ray_address:
                self._ray.init(farm.ray_address, logging_level="error")
            else:
                wanted = math.ceil(max(1, farm.workers) * farm.cpus_per_worker)
                cores = max(wanted, os.cpu_count() or 1)
                self._ray.init("local", num_cpus=cores, include_dashboard=False, logging_level="error")
        except (ConnectionError, ValueError) as error:
            raise ConfigError(f"ray_address = {farm.ray_address!r}: no such cluster ({error})") from error

    def answers(self) -> list[Answer]:
        """As in WorkerPool; where no node of the cluster is left, all workers are lost.

        Raises:
            ConfigError: no node is left, and the cluster was not started here.
        """
        while True:
            ready, _ = self._ray.wait(list(self._waiting), num_returns=1, timeout=_LOOK_S)
            if ready:
                break
            if not self._alive():
                return self._start_anew()
        found: list[Answer] = []
        for reference in ready:
            worker = self._waiting.pop(reference)
            try:
                found.append((worker, self._ray.get(reference)))
            except self._ray.exceptions.RayError as error:
                # What it raised itself leaves it in a state that nobody knows: it is replaced too.
                with contextlib.suppress(self._ray.exceptions.RayError):
                    self._ray.kill(self._actors.pop(worker))
                cause = str(error).strip().splitlines() or [type(error).__name__]
                found.append((worker, Loss(f"worker {worker} was lost: {cause[-1]}")))
        return found

    def _alive(self) -> bool:
        try:
            return any(node["Alive"] for node in self._ray.nodes())
        except (self._ray.exceptions.RayError, ConnectionError):
            return False

    def _start_anew(self) -> list[Answer]:
        if self._farm.ray_address:
            raise ConfigError(
                f"ray_address = {self._farm.ray_address!r}: no node of the cluster is left; start it again, "
                "then resume"
            )
        gone = {*self._actors, *self._waiting.values()}
        self._actors.clear()
        self._waiting.clear()
        self._ray.shutdown()
        self._start()
        return [(worker, Loss(f"worker {worker} was lost with Ray's node")) for worker in sorted(gone)]

    def close(self) -> None:
        for actor in self._actors.values():
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(actor)
        self._actors.clear()
        self._ray.shutdown()
