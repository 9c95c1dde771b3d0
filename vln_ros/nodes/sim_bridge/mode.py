"""Declares what a mode is (how simulated time passes), and makes the one that the options name."""

from __future__ import annotations

from typing import Protocol

from vln_ros.datatypes import ActionChunk
from vln_ros.evaluation.episode.run import EpisodeRun
from vln_ros.nodes.sim_bridge.host import Host
from vln_ros.nodes.sim_bridge.lockstep import Lockstep
from vln_ros.nodes.sim_bridge.manual import Manual
from vln_ros.nodes.sim_bridge.realtime import RealTime


class Mode(Protocol):
    """What moves the robot, and the time with it."""

    @property
    def alone(self) -> bool:
        """Nobody needs to listen or to answer, and an episode is begun only when it is asked for."""

    def on_queue(self, run: EpisodeRun, chunk: ActionChunk) -> None:
        """The navigator's newest queue for this episode."""

    def another_navigator(self) -> None:
        """The first word of one that was started, or goes on, in the middle of an episode."""

    def tick(self, run: EpisodeRun) -> None:
        """A timer's period has passed; the first one begins the episode."""

    def end(self, run: EpisodeRun) -> None:
        """It has ended."""


def make_mode(host: Host) -> Mode:
    """The one that the options name."""
    match host.config.mode:
        case "lockstep":
            return Lockstep(host)
        case "realtime":
            return RealTime(host)
    return Manual(host)
