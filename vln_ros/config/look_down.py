"""Options of the second picture: what a model sees when it asks to look down, and points at places in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vln_ros.config.options import option

LookDownPicture = Literal["profile", "same", "camera"]


@dataclass(frozen=True, kw_only=True)
class LookDownConfig:
    """The picture in which a model points at places."""

    picture: LookDownPicture = option(
        "profile",
        "Which picture the model is shown when it asks to look down. profile: as the profile says; same: the "
        "newest picture again, for a camera that is fixed, as the released robot server does; camera: the "
        "newest picture of a second camera that looks down, as in the released evaluation.",
    )
    max_age_s: float = option(
        0.5,
        "Largest difference between the stamps of the second camera's picture and of the newest frame. "
        "Without a picture within it the robot holds and says so. Too low holds with a slow second camera, "
        "too high shows what lies behind the robot by now.",
        unit="s", minimum=0.0, maximum=10.0,
    )  # fmt: skip
    color_topic: str = option(
        "camera_down/color/image_raw",
        "Topic of the second camera's colour images, which must be rectified. Transport, quality of service "
        "and everything else are as the first camera's.",
    )
    depth_topic: str = option(
        "camera_down/aligned_depth_to_color/image_raw",
        "Topic of the second camera's depth images, registered to its colour.",
    )
    camera_info_topic: str = option(
        "camera_down/color/camera_info",
        "Topic of the second camera's calibration. It must be the one of its colour images.",
    )
    pitch_down_deg: float = option(
        30.0,
        "Downward tilt of the second camera where extrinsics is parameters; its place is then that of the "
        "first. With extrinsics tf the transform counts. A wrong tilt puts every place at a wrong distance.",
        unit="deg", minimum=-90.0, maximum=90.0,
    )  # fmt: skip
