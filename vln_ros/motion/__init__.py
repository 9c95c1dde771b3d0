"""From action chunks to velocities: queue, state machine, controller, faults; no ROS."""
