"""Starts the nodes of a graph as processes, watches them, and ends them together.

ROS's own launch is not on PyPI; on a robot use the launch files.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import yaml

from vln_ros.config import ConfigError, Scalar
from vln_ros.nodes import MODULES
from vln_ros.ros.terminal.environment import (
    DOMAIN,
    PARENT,
    domain_of,
    is_own_domain,
    isolate,
    own_domain,
    prepare_environment,
    stay_on_this_machine,
)
from vln_ros.ros.terminal.settings import LOG_FOLDER, LOGS, find_setting_faults, why_died, why_no_loopback

START_TIMEOUT_S = 30.0
"""A process that only makes a node has so long, on the busiest machine."""
END_TIMEOUT_S = 15.0
ECHO_TIMEOUT_S = 2.0
"""A node that has ended may have left a child that holds its output."""
POLL_S = 0.1


class GraphError(RuntimeError):
    """A node ended that should not have; the message holds the end of its log."""


@dataclass(frozen=True)
class NodeSpec:
    """One node to start.

    Attributes:
        name: of the node, a key of :data:`vln_ros.nodes.MODULES`.
        parameters: by dotted name, what differs from the defaults.
        quiet: log to a file; otherwise it shares the terminal.
        verbose: in the terminal say what a person may want to know, not only what is wrong.
        namespace: of the node and its topics.
        remaps: from the names of topics and services that the node knows to others.
        key_suffix: tells a second node of this name from the first.
        beside: parameters of other nodes in its process, by name or by name with namespace.
    """

    name: str
    parameters: Mapping[str, Scalar]
    _: KW_ONLY
    quiet: bool = True
    verbose: bool = False
    namespace: str = ""
    remaps: Mapping[str, str] = field(default_factory=dict)
    key_suffix: str = ""
    beside: Mapping[str, Mapping[str, Scalar]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """By which :class:`Graph` knows it: ``navigator``, or ``left.navigator`` in the namespace /left."""
        return ".".join([*self.namespace.split("/"), self.name]).lstrip(".") + self.key_suffix


def add_join(parser: argparse.ArgumentParser) -> None:
    """The switch of commands whose graph may be wanted among other nodes."""
    parser.add_argument(
        "--join",
        action="store_true",
        help=f"talk in the ROS domain of this terminal ({DOMAIN}), with whoever is in it, robots included, "
        "instead of one of its own",
    )


def graph_environment(*, join: bool = False) -> dict[str, str]:
    """An environment in which a graph on this machine hears itself and nobody else.

    Its ROS domain is one that nobody else on this machine uses, whatever the terminal has set: in the user's
    there may be a robot that would drive by its velocities.

    Args:
        join: talk in the user's domain instead, with whoever is in it.

    Raises:
        ConfigError: no node can start with what the terminal has set.
    """
    prepare_environment()
    environment = dict(os.environ)
    if join:
        domain_of(environment)
        stay_on_this_machine(environment)
    else:
        try:
            isolate(environment, own_domain())
        except RuntimeError as error:
            raise ConfigError(str(error)) from error
    for fault in find_setting_faults(environment):
        # A graph has a place of its own for logs, where the terminal names none.
        if fault.fatal and (fault.name != LOGS or environment.get(LOG_FOLDER)):
            raise ConfigError(f"{fault.text}; {fault.remedy}")
    if (why := why_no_loopback()) is not None:
        raise ConfigError(f"nothing that is sent to 127.0.0.1 arrives ({why}); sudo ip link set lo up")
    environment["PYTHONUNBUFFERED"] = "1"
    # What the terminal cannot write is written in another way: no node may end of it.
    encoding = environment.get("PYTHONIOENCODING", "").partition(":")[0]
    environment["PYTHONIOENCODING"] = f"{encoding}:backslashreplace"
    return environment


def enter_graph(logs: Path) -> dict[str, str]:
    """:func:`graph_environment`; this process talks in it, too, from now on and until it ends.

    Args:
        logs: folder for what ROS logs of this process, where its own cannot be written.
    """
    environment = graph_environment()
    if any(fault.name == LOGS for fault in find_setting_faults(environment)):
        environment[LOG_FOLDER] = str(logs)
    os.environ.clear()
    os.environ.update(environment)
    return environment


@functools.cache
def say_where(domain: int) -> None:
    """Once, to the terminal: where the graph is, and how to look at it."""
    if is_own_domain(domain):
        print(
            f"ROS domain {domain}, its own, on this machine only; for ros2 and rviz in another terminal: "
            f"export {DOMAIN}={domain}",
            flush=True,
        )
    else:
        print(f"ROS domain {domain}, joined: whatever else is in it hears this graph", flush=True)


_TRIED: set[tuple[tuple[str, str], ...]] = set()
_TRY = "import rclpy; rclpy.init(); rclpy.create_node('vln_ros_try').destroy_node(); rclpy.shutdown()"


def _try_ros(environment: Mapping[str, str]) -> None:
    """Start a node that does nothing, once per environment.

    Raises:
        ConfigError: it cannot start, with what ROS says about it.
    """
    key = tuple(sorted((k, v) for k, v in environment.items() if k != LOG_FOLDER))
    if key in _TRIED:
        return
    command = [sys.executable, "-c", _TRY]
    why = why_no_node(command, environment)
    if why is not None:  # once in thousands of starts a participant of Fast DDS hangs: it is tried again
        why = why_no_node(command, environment)
    if why is not None:
        raise ConfigError(f"ROS does not start here: {why}; `vln_ros doctor` looks for the reason")
    _TRIED.add(key)


def why_no_node(command: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Run a process that makes a node and ends. None: all went well; otherwise what it said, in one line."""
    try:
        done = subprocess.run(
            command, env=dict(environment), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace", timeout=START_TIMEOUT_S, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return f"a node did not come up in {START_TIMEOUT_S:g} s"
    if done.returncode == 0:
        return None
    if words := last_words(done.stderr):
        return words
    return f"status {done.returncode}" if done.returncode > 0 else why_died(done.returncode)


_COLORS = re.compile(r"\x1b\[[0-9;]*m")
_RAISED = re.compile(r"^[\w.]*(?:Error|Exception)\w*: ", re.MULTILINE)
_PLACE = re.compile(r",? at /\S+:\d+|^\[\w+\] \[[\d.]+\] |, exiting with \d+\.?", re.MULTILINE)


def last_words(text: str) -> str:
    """What a process that failed wrote at its end, as one line: no traceback, no place in a source file."""
    text = _COLORS.sub("", text).strip()
    raised = list(_RAISED.finditer(text))
    words = text[raised[-1].end() :] if raised else text.rpartition("\n")[2]
    return " ".join(_PLACE.sub("", words).split())


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


def _echo(output: IO[bytes], heard: Callable[[], None]) -> None:
    """Hand on what a node prints; when nobody reads it any more, the node must not notice.

    Args:
        heard: called before each line.
    """
    encoding = sys.stdout.encoding if sys.stdout else "utf-8"  # the node's, too: it has its locale from us
    with output:
        for line in output:
            heard()
            with contextlib.suppress(OSError):
                print(line.decode(encoding, "replace"), end="", flush=True)


class Graph:
    """The processes of one graph. Use as a context: leaving it ends all of them.

    They also end when this process is killed, or the thread that has started them ends. Before the first
    one it says where the graph is, and tries whether ROS can start at all.

    Args:
        folder: where parameter files and logs go.
        environment: see :func:`graph_environment`.
        prefix: put before each node's command, as ``ip netns exec NAME``.
        on_output: called when a node prints a line to the terminal, from another thread.
    """

    def __init__(
        self,
        folder: Path,
        environment: Mapping[str, str],
        prefix: Sequence[str] = (),
        on_output: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_output = on_output
        self._prefix = list(prefix)
        self._folder = folder
        self._environment = {**environment, PARENT: str(os.getpid())}
        self._environment.setdefault(LOG_FOLDER, str(folder / "ros"))
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._echoes: list[threading.Thread] = []
        self._begun = False
        folder.mkdir(parents=True, exist_ok=True)

    def log_path(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def try_ros(self) -> None:
        """Whether ROS starts here, for who has something else to do meanwhile; otherwise :meth:`start` asks.

        Raises:
            ConfigError: as :meth:`start`.
        """
        _try_ros(self._environment)

    def start(self, spec: NodeSpec) -> None:
        """Start a node; it is running, not yet ready, when this returns.

        Raises:
            ConfigError: no node can start on this machine, as it is and is set.
        """
        if not self._begun:
            say_where(domain_of(self._environment))
            self.try_ros()
            self._begun = True
        parameters = self._folder / f"{spec.key}.yaml"
        parameters.write_text(
            yaml.safe_dump(
                {
                    name if name.startswith("/") else f"/**/{name}": {"ros__parameters": dict(values)}
                    for name, values in {spec.name: spec.parameters, **spec.beside}.items()
                }
            )
        )
        command = [*self._prefix, sys.executable, "-m", MODULES[spec.name]]
        command += ["--ros-args", "--params-file", str(parameters)]
        if spec.namespace:
            command += ["-r", f"__ns:={spec.namespace}"]
        for known, other in spec.remaps.items():
            command += ["-r", f"{known}:={other}"]
        log: IO[bytes] | None = None
        if spec.quiet:
            log = self.log_path(spec.key).open("wb")
            self._logs.append(log)
        else:
            command += ["--log-level", "info" if spec.verbose else "warn"]
        with _interrupted_afterwards():
            process = subprocess.Popen(
                command,
                env=self._environment,
                stdout=log or subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
            self._processes[spec.key] = process
        if process.stdout is not None:
            echo = threading.Thread(
                target=_echo, args=(process.stdout, self._on_output), name="echo", daemon=True
            )
            echo.start()
            self._echoes.append(echo)

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
        for echo in self._echoes:
            echo.join(ECHO_TIMEOUT_S)
        for log in self._logs:
            log.close()

    def __enter__(self) -> Graph:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
