"""The executor node: action queues and odometry in, velocities out."""
