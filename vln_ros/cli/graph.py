"""Starts the nodes of a graph as processes, watches them, and ends them together.

ROS's own launch is not on PyPI; on a robot use the launch files.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import yaml

from vln_ros.config import Scalar
from vln_ros.ros.environment import PARENT, own_domain, prepare_environment, stay_on_this_machine

END_TIMEOUT_S = 15.0
POLL_S = 0.1


class GraphError(RuntimeError):
    """A node ended that should not have; the message holds the end of its log."""


@dataclass(frozen=True)
class NodeSpec:
    """One node to start.

    Attributes:
        name: of the node and of its module in ``vln_ros.nodes``.
        parameters: by dotted name, what differs from the defaults.
        quiet: log to a file; otherwise it shares the terminal.
        namespace: of the node and its topics.
        remaps: from the names of topics and services that the node knows to others.
        key_suffix: tells a second node of this name from the first.
    """

    name: str
    parameters: Mapping[str, Scalar]
    quiet: bool = True
    namespace: str = ""
    remaps: Mapping[str, str] = field(default_factory=dict)
    key_suffix: str = ""

    @property
    def key(self) -> str:
        """By which :class:`Graph` knows it: ``navigator``, or ``left.navigator`` in the namespace /left."""
        return ".".join([*self.namespace.split("/"), self.name]).lstrip(".") + self.key_suffix


def graph_environment() -> dict[str, str]:
    """An environment in which a graph on this machine hears itself and nobody else.

    ``ROS_DOMAIN_ID`` is kept where the user has set it; otherwise it is one that no other graph on this
    machine uses.
    """
    prepare_environment()
    environment = dict(os.environ)
    if "ROS_DOMAIN_ID" not in environment:
        environment["ROS_DOMAIN_ID"] = str(own_domain())
    stay_on_this_machine(environment)
    environment["PYTHONUNBUFFERED"] = "1"
    return environment


@contextlib.contextmanager
def _interrupted_afterwards() -> Iterator[None]:
    """SIGINT and SIGTERM wait: a process that was forked and not yet noted down would be left behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {n: signal.signal(n, lambda n, _: came.append(n)) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for ending, handler in before.items():
            signal.signal(ending, handler)
        for number in came:
            signal.raise_signal(number)


class Graph:
    """The processes of one graph. Use as a context: leaving it ends all of them.

    They also end when this process is killed, or the thread that has started them ends.

    Args:
        folder: where parameter files and logs go.
        environment: see :func:`graph_environment`.
        prefix: put before each node's command, as ``ip netns exec NAME``.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], prefix: Sequence[str] = ()) -> None:
        self._prefix = list(prefix)
        self._folder = folder
        self._environment = {**environment, PARENT: str(os.getpid())}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def log_path(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def start(self, spec: NodeSpec) -> None:
        """Start a node; it is running, not yet ready, when this returns."""
        parameters = self._folder / f"{spec.key}.yaml"
        parameters.write_text(
            yaml.safe_dump({f"/**/{spec.name}": {"ros__parameters": dict(spec.parameters)}})
        )
        command = [*self._prefix, sys.executable, "-m", f"vln_ros.nodes.{spec.name}"]
        command += ["--ros-args", "--params-file", str(parameters)]
        if spec.namespace:
            command += ["-r", f"__ns:={spec.namespace}"]
        for known, other in spec.remaps.items():
            command += ["-r", f"{known}:={other}"]
        output: IO[bytes] | None = None
        if spec.quiet:
            output = self.log_path(spec.key).open("wb")
            self._logs.append(output)
        else:
            command += ["--log-level", "warn"]
        with _interrupted_afterwards():
            self._processes[spec.key] = subprocess.Popen(
                command, env=self._environment, stdout=output, stderr=output, start_new_session=True
            )

    def output_of(self, arguments: Sequence[str]) -> str:
        """Run Python beside the nodes, in their environment, to its end; what it prints."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, env=self._environment, stdout=subprocess.PIPE, check=True, text=True)
        return done.stdout

    def pid(self, name: str) -> int:
        return self._processes[name].pid

    def check(self, but: Collection[str] = ()) -> None:
        """Raises GraphError if a node has ended, ``but`` one of these."""
        for name, process in self._processes.items():
            if name not in but and process.poll() is not None:
                raise GraphError(f"{name} ended with status {process.returncode}\n{self._tail(name)}")

    def wait(self, *names: str) -> int:
        """Until these nodes have ended by themselves, in whatever order.

        Returns:
            The status of one that failed, if one did.

        Raises:
            GraphError: another one ends first.
        """
        waited = {name: self._processes[name] for name in names}
        worst = 0
        while waited:
            for name, process in list(waited.items()):
                if process.poll() is not None:
                    worst = max(worst, process.returncode, key=abs)
                    del waited[name], self._processes[name]
            self.check(but=waited)
            if waited:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    next(iter(waited.values())).wait(POLL_S)
        return worst

    def _tail(self, name: str) -> str:
        path = self.log_path(name)
        if not path.exists():
            return ""
        lines = path.read_text("utf-8", "replace").splitlines()
        return "\n".join([f"--- the end of {path}", *lines[-15:]])

    def close(self) -> None:
        """Ask every node to end, and end those that do not."""
        for process in self._processes.values():
            if process.poll() is None:
                process.terminate()
        deadline_s = time.monotonic() + END_TIMEOUT_S
        try:
            for process in self._processes.values():
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline_s - time.monotonic()))
        finally:  # also when a second Ctrl-C says that it takes too long
            for process in self._processes.values():
                process.kill()
                process.wait()
        self._processes.clear()
        for log in self._logs:
            log.close()

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
