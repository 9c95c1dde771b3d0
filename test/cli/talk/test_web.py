"""``vln_ros web`` as a person types it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

from web_graph import printed_address

from vln_ros.cli.graph import graph_environment

pytestmark = [pytest.mark.ros, pytest.mark.slow]

COMMAND = [sys.executable, "-m", "vln_ros", "web"]
DEADLINE_S = 60.0


def test_it_says_where_the_page_is_serves_it_and_ends(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("/**/web: {ros__parameters: {examples: Go home.}}\n", "utf-8")
    arguments = ["--port", "0", "--namespace", "left", "--params-file", str(tmp_path / "mine.yaml")]
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*COMMAND, *arguments], env=graph_environment(), stdout=output, stderr=output
        )
    try:
        end_s = time.monotonic() + DEADLINE_S
        while not printed_address(log):
            assert process.poll() is None, log.read_text("utf-8")
            assert time.monotonic() < end_s, "no address"
            time.sleep(0.05)
        with urllib.request.urlopen(printed_address(log), timeout=DEADLINE_S) as answer:
            assert b"STOP" in answer.read()
        process.send_signal(signal.SIGINT)
        assert process.wait(DEADLINE_S) == 0
    finally:
        process.kill()
        process.wait()
    assert "[left.web]" in log.read_text("utf-8")
    assert "Traceback" not in log.read_text("utf-8")


def test_a_port_that_cannot_be_had_is_said() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        for arguments, words in (
            (["--port", port], (port, "another program")),
            (["--port", "99999"], ("port", "[0, 65535]")),
        ):
            done = subprocess.run(
                [*COMMAND, *arguments], env=graph_environment(), capture_output=True, text=True,
                timeout=DEADLINE_S, check=False,
            )  # fmt: skip
            assert done.returncode == 2, done.stderr
            assert "Traceback" not in done.stderr
            assert all(word in done.stderr for word in words), done.stderr
