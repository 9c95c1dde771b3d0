"""The nodes: a folder for each of the robot's, one for tools, and what they share."""

MODULES = {
    "navigator": "vln_ros.nodes.navigator.node",
    "executor": "vln_ros.nodes.executor.node",
    "fleet": "vln_ros.nodes.fleet.node",
    "sim_bridge": "vln_ros.nodes.sim_bridge.node",
    "bag_player": "vln_ros.nodes.tools.bag_player",
    "inspector": "vln_ros.nodes.tools.inspector",
    "recorder": "vln_ros.nodes.tools.recorder",
    "web": "vln_ros.nodes.web.node",
}
"""What runs a node, by its name (a key of :data:`vln_ros.config.NODES`)."""
