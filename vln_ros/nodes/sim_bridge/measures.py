"""Publishes the measures of an episode as topics, to be plotted."""

from __future__ import annotations

import math

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import QoSProfile
from std_msgs.msg import Float64

from vln_ros.evaluation.episode.metrics import EpisodeMetrics
from vln_ros.evaluation.episode.run import EpisodeRun
from vln_ros.ros import qos

_DISTANCE = "distance_to_goal_m"
_PROGRESS = ("path_length_m", "steps", "collisions")
_FINAL = ("success", "oracle_success", "spl", "navigation_error_m", "ndtw", "sdtw")
_RATE = "success_rate"


class MeasureTopics:
    """Publishes how the episode under way goes, and what came of the last one.

    What is live is computed only while somebody listens. What is final is latched: who comes late gets the
    last episode's.
    """

    def __init__(self, node: Node) -> None:
        def publishers(names: tuple[str, ...], profile: QoSProfile) -> dict[str, Publisher]:
            return {name: node.create_publisher(Float64, f"~/measures/{name}", profile) for name in names}

        self._live = publishers((_DISTANCE, *_PROGRESS), qos.diagnostics())
        self._final = publishers((*_FINAL, _RATE), qos.latched())
        self.finished = self.successes = 0

    def live(self, run: EpisodeRun) -> None:
        """After a step, or with an image."""
        if self._live[_DISTANCE].get_subscription_count():
            self._live[_DISTANCE].publish(Float64(data=float(run.distance_to_goal_m)))
        if any(self._live[name].get_subscription_count() for name in _PROGRESS):
            progress = run.progress
            for name in _PROGRESS:
                self._live[name].publish(Float64(data=float(getattr(progress, name))))

    def final(self, metrics: EpisodeMetrics) -> None:
        """An episode has ended."""
        self.finished += 1
        self.successes += metrics.success
        for name in _FINAL:
            value = getattr(metrics, name)
            self._final[name].publish(Float64(data=math.nan if value is None else float(value)))
        self._final[_RATE].publish(Float64(data=self.successes / self.finished))
