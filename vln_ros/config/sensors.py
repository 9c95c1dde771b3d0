"""Options of the sensors that a simulated robot has, as real robots have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from vln_ros.config.options import option

LensName = Literal["none", "plumb_bob", "rational_polynomial", "equidistant"]
DepthName = Literal["registered", "own"]
DepthCompression = Literal["png", "rvl"]
OdometryOutput = Literal["topic", "tf"]


@dataclass(frozen=True, kw_only=True)
class SensorsConfig:
    """How the sensors of the simulated robot differ from ideal ones, as those of real robots do."""

    distortion: LensName = option(
        "none",
        "Lens of the simulated colour camera, in the words of CameraInfo; the navigator undistorts its "
        "images. none: an ideal pinhole; plumb_bob: bent as by a webcam; rational_polynomial: as by an RGB-D "
        "camera; equidistant: as by a fisheye.",
        choices=get_args(LensName),
    )
    depth: DepthName = option(
        "registered",
        "What depth images are. registered: of the colour camera's pixels; own: of a camera beside it, with "
        "a size, field of view, frame and calibration of its own, on camera/depth.",
        choices=get_args(DepthName),
    )
    depth_width: int = option(
        424,
        "Width of the images of a depth camera of its own. Too small a value blurs the edges of obstacles, a "
        "large one costs time to render and to register.",
        unit="px", minimum=16, maximum=4096,
    )  # fmt: skip
    depth_height: int = option(
        240,
        "Height of the images of a depth camera of its own. Too small a value blurs the edges of obstacles, "
        "a large one costs time to render and to register.",
        unit="px", minimum=16, maximum=4096,
    )  # fmt: skip
    depth_hfov_deg: float = option(
        87.0,
        "Horizontal field of view of a depth camera of its own. A low one, narrower than that of colour, "
        "leaves the rim of the registered depth without readings; a high one has few readings per pixel of "
        "colour.",
        unit="deg", minimum=10.0, maximum=150.0,
    )  # fmt: skip
    depth_left_m: float = option(
        0.05,
        "Distance of a depth camera of its own to the left of the colour camera. Large values leave wide "
        "shadows without depth beside near things.",
        unit="m", minimum=-0.5, maximum=0.5,
    )  # fmt: skip
    depth_compression: DepthCompression = option(
        "png",
        "How depth images are compressed with compressed transport, as compressed_depth_image_transport "
        "does. png: smaller; rvl: faster where it runs in C++.",
        choices=get_args(DepthCompression),
    )
    odometry: OdometryOutput = option(
        "topic",
        "How odometry is published. topic: as messages on odom, and on /tf beside; tf: on /tf alone, as some "
        "robots do, which needs tf2_msgs.",
        choices=get_args(OdometryOutput),
    )
