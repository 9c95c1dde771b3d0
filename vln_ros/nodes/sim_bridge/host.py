"""Declares what a mode may ask of the bridge that runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from rclpy.node import Node

from vln_ros.config import BridgeConfig
from vln_ros.evaluation.episode.run import EpisodeRun
from vln_ros.nodes.robot_topics import RobotTopics
from vln_ros.nodes.sim_bridge.measures import MeasureTopics


class Host(Protocol):
    """It is whole before a mode is made: nothing here changes its meaning afterwards."""

    @property
    def node(self) -> Node:
        """For topics and services of the mode's own, and the log."""

    @property
    def config(self) -> BridgeConfig: ...

    @property
    def topics(self) -> RobotTopics: ...

    @property
    def measures(self) -> MeasureTopics: ...

    @property
    def run(self) -> EpisodeRun | None:
        """The episode under way."""

    @property
    def trouble(self) -> str:
        """Why the robot must stand, whatever the mode would do; empty: it need not."""

    def guard(self, act: Callable[[EpisodeRun], None]) -> str | None:
        """Do what needs the world. Where that is lost the episode is over; why, or None."""

    def tick(self) -> None:
        """Do at once what is due of the episode, its end for example, rather than at the next timer."""

    def give_up(self, why: str) -> None:
        """End the process: nobody answers."""
