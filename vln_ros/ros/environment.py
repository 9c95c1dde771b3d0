"""What the environment of a ROS process needs before ``rclpy.init``; on a sourced robot, nothing."""

from __future__ import annotations

import os
import sys
from pathlib import Path

FAST_DDS_PROFILE = Path(__file__).with_name("fastdds.xml")
"""Raises Fast DDS's shared-memory segment to 16 MB: without it 640x480 RGB-D at 30 Hz loses frames."""


def prepare_environment() -> None:
    """Fill in what is not set. Whatever the user has set stays.

    * ``AMENT_PREFIX_PATH``: rclpy from wheels has no setup script that sets it, and fails without.
    * ``FASTRTPS_DEFAULT_PROFILES_FILE``: the shipped shared-memory profile.
    """
    os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)
    if "FASTDDS_DEFAULT_PROFILES_FILE" not in os.environ:
        os.environ.setdefault("FASTRTPS_DEFAULT_PROFILES_FILE", str(FAST_DDS_PROFILE))
