"""Starts the process that Habitat lives in, talks to it, and finds out when it is dead.

Habitat cannot share our process: its Python is another (conda builds stop at 3.9), it runs one simulator
per process whose context belongs to one thread, and it ends the process when a GPU is missing.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from vln_ros.config import ConfigError
from vln_ros.datatypes import Float64Array
from vln_ros.protocols import WorldLostError

WORKER = Path(__file__).with_name("worker.py")
OURS_ALONE = (
    "LD_LIBRARY_PATH", "_ROS_WHEELS_BOOTSTRAP_COMPLETE", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV",
    "__PYVENV_LAUNCHER__",
)  # fmt: skip
"""Of the environment of a ROS process: another interpreter would load the wrong libraries and packages."""

_END_TIMEOUT_S = 5.0
_LOG_LINES = 12
_LOG_BYTES = 1 << 16
_CHATTER = tuple(
    re.compile(pattern)
    for pattern in (
        r"\s*$",
        r"I\d{4} [\d:.]+ +\d+ ",  # glog's information
        r"W\d{4} [\d:.]+ +\d+ ",  # and its warnings
        r"WARNING: Logging before InitGoogleLogging",
        r"\[[\d:.]+\]:(?!\[(Error|Critical|Fatal)\])\[",  # Habitat's own, unless they are errors
        r"PluginManager::Manager: duplicate static plugin",
        r"(Renderer|OpenGL version|Using optional features|Using driver workarounds): ?",
        r" {4}(GL_|EGL_|no-|mesa-|nv-|amd-|intel-|swiftshader-|arm-|svga3d-|angle-)[\w-]+$",
    )
)
"""What Habitat and Magnum say whenever they are started and ended, and nobody needs to read."""


STATE_BYTES = 128
"""Of the shared memory, before the pictures; see worker.py."""


@dataclass(frozen=True, eq=False)
class AgentState:
    """What a request left behind, in Habitat's axes.

    Attributes:
        position: ``[3]`` metres.
        rotation: ``[4]`` quaternion, scalar last.
        collided, travelled_m: of a step or a drive.
    """

    position: Float64Array
    rotation: Float64Array
    collided: bool
    travelled_m: float


class RefusedError(ValueError):
    """The worker is well and says that this cannot be done."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """What a worker found under the user's Python.

    Attributes:
        executable, python, numpy, habitat_sim: path and versions, as they call themselves.
        path: where habitat_sim was imported from.
        features: what this build has, by name.
    """

    executable: str
    python: str
    numpy: str
    habitat_sim: str
    path: str
    features: tuple[str, ...]


def last_words(log: str) -> list[str]:
    """The last lines of a worker's output that say something; none where it told of start and end only."""
    return [line for line in log.splitlines() if not any(p.match(line) for p in _CHATTER)][-_LOG_LINES:]


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """``environment`` without what is only right for this process's interpreter."""
    return {name: value for name, value in environment.items() if name not in OURS_ALONE}


class HabitatProcess:
    """One worker, started at once. Used from one thread only.

    Args:
        python: the user's interpreter that has habitat_sim, or a script that ends in ``exec python "$@"``.
        pixels: of the pictures that will be taken, ``H * W``.
        timeout_s: how long an answer may take; loading a scene is one.

    Raises:
        ConfigError: there is no such program, it is no Python >= 3.8, or it cannot import habitat_sim.
    """

    def __init__(self, python: str, pixels: int, timeout_s: float) -> None:
        self._python = python
        self._timeout_s = timeout_s
        descriptor = os.memfd_create("vln_ros_habitat")
        size = STATE_BYTES + pixels * 8
        os.truncate(descriptor, size)
        self._memory = mmap.mmap(descriptor, size)
        self._state = np.frombuffer(self._memory, np.float64, STATE_BYTES // 8)
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        try:
            self._process = subprocess.Popen(
                [python, str(WORKER), str(theirs.fileno()), str(descriptor)],
                env=worker_environment(os.environ),
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                pass_fds=(theirs.fileno(), descriptor),
                start_new_session=True,  # Ctrl-C is for us; the worker ends when the socket closes
            )
        except OSError as error:
            ours.close()
            self._log.close()
            raise ConfigError(
                f"habitat.python = {python!r} cannot be started ({error.strerror}): "
                "name the interpreter of the environment that has habitat_sim"
            ) from error
        finally:
            theirs.close()
            os.close(descriptor)
        self._socket = ours
        self._socket.settimeout(timeout_s)
        self._stream = ours.makefile("rb")
        try:
            self.interpreter = self._greet()
        except BaseException:
            self.kill()
            raise

    def _greet(self) -> Interpreter:
        try:
            hello = self._receive()
        except WorldLostError as error:
            raise ConfigError(
                f"habitat.python = {self._python!r} is not a Python that Habitat runs in: {error}"
            ) from error
        if "error" in hello:
            found = hello["found"]
            raise ConfigError(
                f"habitat.python = {self._python!r} (Python {found['python']}) cannot use Habitat: "
                f"{hello['error']}; install it there: "
                "conda install habitat-sim headless -c conda-forge -c aihabitat"
            )
        found = hello["ok"]
        features = tuple(name for name, there in found["features"].items() if there)
        return Interpreter(
            executable=found["executable"],
            python=found["python"],
            numpy=found["numpy"],
            habitat_sim=found["habitat_sim"],
            path=found["habitat_sim_path"],
            features=features,
        )

    @property
    def timeout_s(self) -> float:
        """How long the next answers may take."""
        return self._timeout_s

    @timeout_s.setter
    def timeout_s(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._socket.settimeout(timeout_s)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: str, **values: object) -> dict[str, Any]:
        """The worker's answer.

        Raises:
            RefusedError: it cannot be done.
            WorldLostError: the worker has died or does not answer; it is gone after this.
        """
        try:
            self._socket.sendall(json.dumps({"do": request, **values}).encode() + b"\n")
        except OSError as error:
            raise self._lost(f"could not be asked to {request}") from error
        answer = self._receive()
        if "error" in answer:
            raise RefusedError(answer["error"])
        result: dict[str, Any] = answer["ok"]
        return result

    def _receive(self) -> dict[str, Any]:
        try:
            line = self._stream.readline()
        except TimeoutError as error:
            raise self._lost(f"did not answer within {self._timeout_s:g} s (habitat.timeout_s)") from error
        except OSError as error:
            raise self._lost("has hung up") from error
        if not line.endswith(b"\n"):
            raise self._lost("has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _lost(self, what: str) -> WorldLostError:
        try:  # it may be about to end by itself; how it does says why
            self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            status = "was ended by us"
        else:
            code = self._process.returncode
            status = f"ended with status {code}"
            if code < 0:
                name = signal.Signals(-code).name if -code in list(signal.Signals) else str(-code)
                status = f"was ended by {name}"
        tail = self._log_tail()
        self.kill()
        return WorldLostError(
            f"Habitat's process {what}; it {status}" + (f"; the end of what it said:\n{tail}" if tail else "")
        )

    def _log_tail(self) -> str:
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, size - _LOG_BYTES))
        return "\n".join(last_words(self._log.read().decode("utf-8", "replace")))

    @property
    def state(self) -> AgentState:
        """As the last request left it."""
        s = self._state
        return AgentState(s[:3].copy(), s[3:7].copy(), bool(s[7]), float(s[8]))

    def pictures(self, height: int, width: int) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
        """Colour ``[H, W, 4]`` and depth ``[H, W]`` where the worker left them, until the next request."""
        pixels = height * width
        depth = np.frombuffer(self._memory, np.float32, pixels, STATE_BYTES).reshape(height, width)
        rgba = np.frombuffer(self._memory, np.uint8, 4 * pixels, STATE_BYTES + 4 * pixels)
        return rgba.reshape(height, width, 4), depth

    def close(self) -> None:
        """Let it end; kill it when it does not."""
        self._hang_up()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_END_TIMEOUT_S)
        self.kill()

    def kill(self) -> None:
        """End it at once."""
        self._hang_up()
        self._process.kill()
        self._process.wait()
        self._log.close()

    def _hang_up(self) -> None:
        self._stream.close()
        self._socket.close()
