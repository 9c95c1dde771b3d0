"""Serves requests for the next episode."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rcl_interfaces.msg import SetParametersResult
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_srvs.srv import Trigger

from vln_ros.config import ConfigError
from vln_ros.sim.episodes.episode import Episode

EPISODE_PARAMETER = "episode"


class EpisodeServices:
    """``~/reset``, and the parameter ``episode``. Both answer when the episode has begun, or could not.

    Args:
        find: the episode of an id; raises ConfigError.
        restart: begins an episode, or without one that under way anew, or the next; whether it has begun,
            and what there is to say.
    """

    def __init__(
        self,
        node: Node,
        find: Callable[[str], Episode],
        restart: Callable[[Episode | None], tuple[bool, str]],
    ) -> None:
        self._find, self._restart = find, restart
        node.create_service(Trigger, "~/reset", self._on_reset)
        node.add_on_set_parameters_callback(self._check)
        node.add_post_set_parameters_callback(self._load)

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, response.message = self._restart(None)
        return response

    def _check(self, parameters: Sequence[Parameter]) -> SetParametersResult:
        try:
            for parameter in parameters:
                if parameter.name == EPISODE_PARAMETER:
                    self._find(str(parameter.value))
        except ConfigError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    def _load(self, parameters: Sequence[Parameter]) -> None:
        for parameter in parameters:
            if parameter.name == EPISODE_PARAMETER:
                self._restart(self._find(str(parameter.value)))
