"""Tokens, origins and hosts: who is let in."""

from __future__ import annotations

import pytest

from vln_ros.config import ConfigError
from vln_ros.web.access import Access, is_loopback

TOKEN = "0123456789abcdef"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.5", "::1", "localhost", "LOCALHOST"])
def test_this_machine_asks_no_token(host: str) -> None:
    access = Access(host, "")
    assert is_loopback(host)
    assert access.token == ""
    assert access.is_token("")
    assert access.is_token("anything")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.5", "robot.local", "127.0.0.1.example.org", ""])
def test_a_network_asks_for_a_random_one(host: str) -> None:
    first, second = Access(host, ""), Access(host, "")
    assert len(first.token) == 32
    assert first.token != second.token
    assert first.is_token(first.token)
    for wrong in ("", second.token, first.token[:-1], first.token + "0", first.token.upper() + "é", "\ud800"):
        assert not first.is_token(wrong)


def test_a_token_of_ones_own_is_asked_for_everywhere() -> None:
    access = Access("127.0.0.1", TOKEN)
    assert access.is_token(TOKEN)
    assert not access.is_token("")
    assert access.addresses(80) == [f"http://127.0.0.1:80/?token={TOKEN}"]


@pytest.mark.parametrize(
    "token", ["short", "0123456789abcde", "0123456789abcde/", "0123456789abcdeé", " " * 20]
)
def test_a_token_that_can_be_guessed_or_not_typed_is_refused(token: str) -> None:
    with pytest.raises(ConfigError, match="at least 16 letters and digits"):
        Access("0.0.0.0", token)


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("127.0.0.1:8765", True),
        ("localhost:9000", True),
        ("[::1]:8765", True),
        ("localhost", True),
        ("evil.example:8765", False),
        ("localhost.evil.example", False),
        ("192.168.1.5:8765", False),
        ("", False),
        ("[::1", False),
    ],
)
def test_a_foreign_name_that_leads_here_is_refused(host: str, here: bool) -> None:
    """DNS rebinding: a page of elsewhere whose name is made to lead to this machine."""
    assert (Access("127.0.0.1", "").why_not_here(host) == "") == here
    assert Access("0.0.0.0", "").why_not_here(host) == "", "there the token is what keeps others out"


@pytest.mark.parametrize(
    ("origin", "own"),
    [
        ("http://robot:8765", True),
        ("https://robot:8765", True),
        ("http://ROBOT:8765", True),
        ("http://robot:8766", False),
        ("http://robot", False),
        ("http://evil.example", False),
        ("http://robot:8765.evil.example", False),
        ("http://evil.example/robot:8765", False),
        ("http://user@robot:8765", False),
        ("file://robot:8765", False),
        ("null", False),
        ("", False),
        ("http://[::1", False),
        (None, False),
    ],
)
def test_only_the_servers_own_page_connects(origin: str | None, own: bool) -> None:
    assert (Access("0.0.0.0", "").why_foreign(origin, "robot:8765") == "") == own


def test_addresses_can_be_typed() -> None:
    assert Access("127.0.0.1", "").addresses(8765) == ["http://127.0.0.1:8765/"]
    assert Access("::1", "").addresses(1) == ["http://[::1]:1/"]
    every = Access("0.0.0.0", TOKEN).addresses(8765)
    assert every[0] == f"http://127.0.0.1:8765/?token={TOKEN}"
    assert not any("0.0.0.0" in address for address in every)
