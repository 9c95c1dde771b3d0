"""`vln_ros live` and `vln_ros replay --web` in a browser: the shipped policy drives and answers."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("torch", reason="needs the engine's libraries")
pytest.importorskip("aiohttp", reason="needs aiohttp, the extra web")

from browsers import Complaints, launched

pytestmark = [pytest.mark.ros, pytest.mark.slow, pytest.mark.browser, pytest.mark.timeout(240)]

DEADLINE_S = 110.0
HOLDS = """([selector, text]) => {
  const element = document.querySelector(selector);
  return element && !element.hidden && element.textContent.includes(text);
}"""


class Command:
    """A command that goes on, and what it has said so far."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "vln_ros", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.said = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Until it has said so."""
        end_s = time.monotonic() + DEADLINE_S
        while (found := re.search(pattern, self.said)) is None:
            assert time.monotonic() < end_s and self.process.poll() is None, self.said
            time.sleep(0.02)
        return found

    def end(self) -> int:
        self.process.terminate()
        status = self.process.wait(DEADLINE_S)
        self._thread.join()
        return status


@contextmanager
def running(*arguments: str) -> Iterator[Command]:
    command = Command(*arguments)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.end()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    complaints, context = Complaints(), browser.new_context()
    complaints.expected = ("ERR_CONNECTION_REFUSED",)  # the command ends before the page is closed
    complaints.listen(context)
    yield context.new_page()
    context.close()
    assert not complaints.texts


def sees(page: Any, selector: str, text: str) -> None:
    page.wait_for_function(HOLDS, arg=[selector, text], timeout=DEADLINE_S * 1e3)


def types(page: Any, selector: str, text: str) -> None:
    page.fill(selector, text)
    page.press(selector, "Enter")


def test_the_shipped_policy_drives_and_answers_on_the_page(page: Any) -> None:
    with running("live", "--kind", "room", "--size", "112x112") as live:
        address = live.wait_for(r"(http://127\.0\.0\.1:\d+/) \(after")[1]
        assert "ready" not in live.said, "the page is there first"
        page.goto(address)
        sees(page, "#navigator", "avigator")
        types(page, "#instruction", "Go.")
        sees(page, "#refusal", "No navigator is there that could follow an instruction")
        live.wait_for(r"ready after \d+\.\d s")
        page.wait_for_selector("#navigator", state="hidden", timeout=DEADLINE_S * 1e3)
        names = live.wait_for(r"embedded/\S+: (.*)")[1]
        room, thing = re.split(r"[;,] ?", names)[0], re.findall(r"the (\w+ \w+)", names)[0]
        types(page, "#instruction", f"please go to the {thing}")
        sees(page, "#log", "words that the flats' instructions do not have: please")
        sees(page, "#log", f"The goal is the {thing} in the {room}")
        page.wait_for_selector("#state[data-level=moving]", timeout=DEADLINE_S * 1e3)
        types(page, "#question", "What is in front of you? | a wall | a door")
        sees(page, "#answer", "What is in front of you?")
        answer = page.text_content("#answer")
        shares = [int(share) for share in re.findall(r"(\d+)%", answer)]
        assert len(shares) == 2 and 98 <= sum(shares) <= 102, answer
        types(page, "#question", "What do you see?")
        sees(page, "#answer", "What do you see? – ")
        assert page.is_hidden("#refusal")
        page.click("#stop")
        sees(page, "#standstill", "stands still; the run is over")
        page.click("#release")
        page.wait_for_selector("#release", state="hidden")
        types(page, "#instruction", f"Stop in the {room}.")
        sees(page, "#log", "reached: another sentence: ")
        sees(page, "#log", f"The goal is the {room}, 0.0 m on foot")
        assert live.end() == 130, live.said
    assert "Traceback" not in live.said


def test_a_recording_is_played_once_somebody_looks(page: Any, tmp_path: Path) -> None:
    with running(
        "replay", "shipped:flat", "--web", "--speed", "4", "--no-video", "--out", str(tmp_path / "run")
    ) as replay:
        address = replay.wait_for(r"(http://127\.0\.0\.1:\d+/): the recording is played once somebody looks")[
            1
        ]
        time.sleep(2.0)  # nothing may come of it: there is nothing to wait for
        assert not (tmp_path / "run/played.json").exists()
        page.goto(address)
        page.wait_for_selector("#no-picture", state="hidden", timeout=DEADLINE_S * 1e3)
        page.wait_for_selector("#task", state="visible", timeout=DEADLINE_S * 1e3)
        replay.wait_for(r"report: ")
        assert replay.process.wait(DEADLINE_S) == 0, replay.said
    assert (tmp_path / "run/report.html").exists()
