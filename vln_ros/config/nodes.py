"""Names the option group of every node."""

from __future__ import annotations

from collections.abc import Mapping

from vln_ros.config.executor import ExecutorConfig
from vln_ros.config.robot import FleetConfig, NavigatorConfig
from vln_ros.config.simulation import BridgeConfig
from vln_ros.config.tools import InspectorConfig, PlayerConfig, RecorderConfig, WebConfig

NODES: Mapping[str, type] = {
    "navigator": NavigatorConfig,
    "executor": ExecutorConfig,
    "fleet": FleetConfig,
    "sim_bridge": BridgeConfig,
    "bag_player": PlayerConfig,
    "inspector": InspectorConfig,
    "recorder": RecorderConfig,
    "web": WebConfig,
}
"""The parameters of every node, by its name."""
