"""Runs the workers of an evaluation as processes of this machine, or in line.

A pool is spoken to in turns: a worker is given orders, and answers once with events; until then it is
given nothing. A worker that ends without an answer is lost.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any, Protocol

from vln_ros.config import ConfigError, EvalConfig
from vln_ros.evaluation.workers.schedule import Job
from vln_ros.evaluation.workers.worker import Event, LastWords, Unable, Worker, run_worker
from vln_ros.profiling.files import recorded

_END_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Loss:
    """A worker is gone; ``reason`` is what is known of why."""

    reason: str


Answer = tuple[int, list[Event] | Loss]


class WorkerPool(Protocol):
    """Workers, by number."""

    def start_worker(self, worker: int) -> None:
        """Start a worker; its first answer is that it is ready. Also in place of one that was lost."""

    def give(self, worker: int, jobs: Sequence[Job]) -> None:
        """Jobs for a worker that has answered; none: go on with what it has."""

    def answers(self) -> list[Answer]:
        """Wait until a worker answers, or more."""

    def close(self) -> None:
        """End all of them."""


@contextlib.contextmanager
def interrupts_held_back() -> Iterator[None]:
    """Processes started meanwhile never see Ctrl-C, which is their owner's: it ends them.

    From before their first line on: while they import they would answer with a traceback. An interrupt that
    comes meanwhile is not lost, it comes after.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class InlinePool:
    """One worker, in this thread: to look into, and for runs that are too short to start processes."""

    def __init__(self, config: EvalConfig) -> None:
        self._config = config
        self._work: Worker | None = None
        self._jobs: Sequence[Job] | None = None
        self._recording = contextlib.ExitStack()

    def start_worker(self, worker: int) -> None:
        self._work, self._jobs = None, None

    def give(self, worker: int, jobs: Sequence[Job]) -> None:
        self._jobs = jobs

    def answers(self) -> list[Answer]:
        if self._work is None:
            self._recording.enter_context(recorded(self._config.navigator.profiling, "worker-0"))
            try:
                self._work = Worker(self._config)
            except ConfigError as error:
                return [(0, [Unable(str(error))])]
            return [(0, [self._work.ready()])]
        if self._jobs is None:
            raise RuntimeError("nobody was given anything to do")
        jobs, self._jobs = self._jobs, None
        return [(0, self._work.step(jobs))]

    def close(self) -> None:
        if self._work is not None:
            self._work.close()
        self._recording.close()


def how_it_ended(status: int | None, last_words: str) -> str:
    """Of a process, for people: the error that it died of, or the signal."""
    if last_words:
        return f"ended: {last_words}"
    if status is None or status >= 0:
        return f"ended with status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (out of memory? see dmesg)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"


class ProcessPool:
    """Processes of this machine. Their first words may take as long as loading a checkpoint does.

    Args:
        config: of the evaluation.
        run: what a process runs, with the configuration, its number and its end of the connection.
    """

    def __init__(
        self, config: EvalConfig, run: Callable[[EvalConfig, int, Connection[Any, Any]], None] = run_worker
    ) -> None:
        self._config, self._run = config, run
        self._context = multiprocessing.get_context("spawn")
        self._processes: dict[int, tuple[SpawnProcess, Connection[Any, Any]]] = {}
        self._last_words: dict[int, str] = {}

    def start_worker(self, worker: int) -> None:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=self._run, args=(self._config, worker, theirs), name=f"worker {worker}", daemon=True
        )
        with interrupts_held_back():
            process.start()
        theirs.close()  # so that the end of the process is the end of the connection
        self._processes[worker] = (process, ours)

    def pid(self, worker: int) -> int:
        """Of its process."""
        pid = self._processes[worker][0].pid
        assert pid is not None, "a worker was started"
        return pid

    def give(self, worker: int, jobs: Sequence[Job]) -> None:
        with contextlib.suppress(OSError):  # it is gone; its connection says so to answers()
            self._processes[worker][1].send(list(jobs))

    def answers(self) -> list[Answer]:
        numbers = {id(connection): worker for worker, (_, connection) in self._processes.items()}
        found: list[Answer] = []
        for connection in wait([c for _, c in self._processes.values()]):
            assert isinstance(connection, Connection)
            worker = numbers[id(connection)]
            try:
                answer = connection.recv()
                if isinstance(answer, LastWords):
                    self._last_words[worker] = answer.text  # its end is what comes next
                else:
                    found.append((worker, answer))
            except (EOFError, OSError):
                process = self._processes.pop(worker)[0]
                connection.close()
                process.join()
                words = self._last_words.pop(worker, "")
                found.append((worker, Loss(f"worker {worker} {how_it_ended(process.exitcode, words)}")))
        return found

    def close(self) -> None:
        if self._config.navigator.profiling.level != "off":
            # Those that are idle end with their connection, and leave their recordings.
            for process, connection in self._processes.values():
                connection.close()
                process.join(_END_TIMEOUT_S)
        for process, _ in self._processes.values():
            process.terminate()
        for process, connection in self._processes.values():
            process.join(_END_TIMEOUT_S)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
        self._processes.clear()
