"""For all tests: a ROS graph of one's own, and no thread pool that fights with the other workers'."""

from __future__ import annotations

import os
import sys

# Before anything imports numpy, torch or rclpy. Child processes inherit it.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)

from vln_ros.ros.environment import isolate, own_domain

isolate(os.environ, own_domain())  # a test is a simulation: no robot may hear it
