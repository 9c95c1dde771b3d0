"""Serves requests for the next episode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rcl_interfaces.msg import SetParametersResult
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vln_ros.config import ConfigError
from vln_ros.sim.episodes.episode import Episode

if TYPE_CHECKING:
    from vln_ros.nodes.sim_bridge.node import SimBridge

EPISODE_PARAMETER = "episode"


class EpisodeServices:
    """``~/reset``, and the parameter ``episode``. Both answer when the episode has begun, or could not."""

    def __init__(self, bridge: SimBridge) -> None:
        self._bridge = bridge
        bridge.create_service(Trigger, "~/reset", self._on_reset)
        bridge.add_on_set_parameters_callback(self._check)
        bridge.add_post_set_parameters_callback(self._load)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._restart(None)
        return response

    def _check(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name == EPISODE_PARAMETER:
                    self._bridge.order.find(str(parameter.value))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _load(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == EPISODE_PARAMETER:
                self._restart(self._bridge.order.find(str(parameter.value)))

    def _restart(self, wanted: Episode | None) -> tuple[bool, str]:
        """Begin ``wanted``, or without one the episode under way anew, or after its end the next one.

        Returns:
            Whether it has begun, and what there is to say.
        """
        bridge = self._bridge
        if bridge.run is not None and (bridge.run.ended is not None or bridge.lost is not None):
            bridge.tick()  # what has ended has a result
        for episode in (bridge.abandon(), wanted):
            if episode is not None:
                bridge.order.put_first(episode)
        bridge.tick()
        if bridge.run is not None:
            return True, f"episode {bridge.run.episode.episode_id}: {bridge.run.episode.instruction}"
        if bridge.idle:
            return True, "it begins as soon as somebody listens to camera and odometry"
        return False, "no episode is left, or this one cannot be run: the log says why"
