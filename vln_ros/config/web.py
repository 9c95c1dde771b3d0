"""Options of the page in the browser."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option
from vln_ros.config.robot import ColorInputConfig


@dataclass(frozen=True, kw_only=True)
class WebConfig(ColorInputConfig):
    """The page in the browser: shows what the robot does, takes instructions and STOP."""

    host: str = option(
        "127.0.0.1",
        "Address that the page is served at. The default is reached from this machine only; 0.0.0.0 serves "
        "the network, and then the printed address holds a token that is asked for.",
    )
    port: int = option(
        8765,
        "TCP port that the page is served at. 0 takes one that is free, which the log names.",
        minimum=0, maximum=65535,
    )  # fmt: skip
    token: str = option(
        "",
        "Secret in the address of the page, at least 16 letters and digits. Empty makes a random one at "
        "every start, or asks for none where host is this machine itself.",
    )
    driver_gone: str = option(
        "continue",
        "What becomes of the run when the driver's page has been gone for driver_grace_s. continue: nothing; "
        "hold: the same as STOP, somebody has to release the robot.",
        choices=("continue", "hold"),
    )
    driver_grace_s: float = option(
        5.0,
        "Time that a driver's page may be gone, reloading or without a network, before another one may drive "
        "without taking over. Too low gives the seat away at every reload.",
        unit="s", minimum=0.0, maximum=3600.0,
    )  # fmt: skip
    viewer_timeout_s: float = option(
        6.0,
        "Time without a sign of life of a page after which its connection is ended. Too low ends those of a "
        "slow network, too high notices late that a phone is out of reach.",
        unit="s", minimum=0.5, maximum=600.0,
    )  # fmt: skip
    viewers: int = option(
        20, "Most pages that may be open at once; more are refused.", minimum=1, maximum=1000
    )
    image_hz: float = option(
        10.0,
        "Most pictures per second that are encoded and sent. Higher costs more of a processor core and of "
        "the network; the navigator takes every frame all the same.",
        unit="Hz", minimum=0.1, maximum=60.0,
    )  # fmt: skip
    image_width_px: int = option(
        640,
        "Width above which pictures are made smaller before they are sent. JPEG images of a compressed "
        "topic are sent as they are.",
        unit="px", minimum=64, maximum=4096,
    )  # fmt: skip
    jpeg_quality: int = option(
        75,
        "Quality of the JPEG pictures. Lower needs less of the network and shows blocks.",
        minimum=1, maximum=100,
    )  # fmt: skip
    pose_hz: float = option(
        10.0,
        "Most positions per second that the map shows; with fewer the robot jumps on the map.",
        unit="Hz", minimum=0.5, maximum=50.0,
    )  # fmt: skip
    trail_spacing_m: float = option(
        0.05,
        "Way after which a point is added to the trail on the map. Smaller fills the trail sooner.",
        unit="m", minimum=0.001, maximum=10.0,
    )  # fmt: skip
    trail_points: int = option(
        2000, "Most points of the trail on the map; of more the oldest go.", minimum=2, maximum=100000
    )
    examples: str = option(
        "Go to the red lamp.; Turn around and stop.; Walk through the door and stop by the table.",
        "Sentences that the page offers to choose from, separated by semicolons. Empty offers none.",
    )
