"""Everything the nodes share that knows ROS: conversions, parameters, QoS and diagnostics."""
