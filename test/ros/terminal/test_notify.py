"""What a process tells who has started it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from vln_ros.ros.terminal.notify import ADDRESS, notify


@pytest.fixture(params=["file", "abstract"])
def told(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> socket.socket:
    """Who listens, at an address of either kind."""
    name = str(tmp_path / "notify")
    monkeypatch.setenv(ADDRESS, name if request.param == "file" else f"@{name}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    request.addfinalizer(listener.close)
    listener.setblocking(False)
    listener.bind(name if request.param == "file" else f"\0{name}")
    return listener


def test_states_come_one_by_one(told: socket.socket) -> None:
    notify("inactive")
    notify("active", ready=True)
    assert told.recv(100) == b"STATUS=inactive"
    assert told.recv(100) == b"STATUS=active\nREADY=1"


def test_a_reason_of_several_lines_stays_one(told: socket.socket) -> None:
    notify("cannot configure: no file\nREADY=1\n")
    assert told.recv(100) == b"STATUS=cannot configure: no file READY=1"


def test_nobody_who_listens_is_no_error(told: socket.socket) -> None:
    told.close()
    notify("active")


def test_one_who_does_not_read_holds_nobody_up(told: socket.socket) -> None:
    for number in range(10_000):  # more than any queue holds
        notify(f"still {number}")
    assert told.recv(100) == b"STATUS=still 0"


def test_without_an_address_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ADDRESS, raising=False)
    notify("active")
