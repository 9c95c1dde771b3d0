"""Action queues and odometry in; velocities out."""
