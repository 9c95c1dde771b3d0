"""Two graphs on one machine do not hear each other."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from vln_ros.ros import environment
from vln_ros.ros.environment import DOMAINS, own_domain

ANOTHER = """
import sys
from vln_ros.ros import environment
environment.os.getpid = lambda: {pid}
print(environment.own_domain(), flush=True)
sys.stdin.read()
"""


def test_processes_with_the_same_number_get_domains_of_their_own() -> None:
    code = ANOTHER.format(pid=own_domain() - 1)  # all want what this process has
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) for _ in range(3)
    ]
    try:
        domains = []
        for process in processes:
            assert process.stdout is not None
            domains.append(int(process.stdout.readline()))
    finally:
        for process in processes:
            process.communicate()
    assert len({own_domain(), *domains}) == 4
    assert all(d in DOMAINS for d in domains)


def test_a_domain_in_which_somebody_talks_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    claims: list[socket.socket] = []
    monkeypatch.setattr(environment, "_claims", claims)
    monkeypatch.setattr(environment.os, "getpid", lambda: 40)
    find = own_domain.__wrapped__
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as somebody:
        try:
            somebody.bind(("", 7400 + 250 * 41 + 12))  # the second participant of domain 41
        except OSError:
            pytest.skip("somebody really talks there")
        assert find() != 41
    for claim in claims:
        claim.close()


def test_when_all_are_taken_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "_claims", [])
    monkeypatch.setattr(environment, "_somebody_talks_in", lambda _: True)
    with pytest.raises(RuntimeError, match="ROS_DOMAIN_ID"):
        own_domain.__wrapped__()
