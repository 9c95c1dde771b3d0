"""Options of the guards that give up a run which gets nowhere."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True, kw_only=True)
class GuardsConfig:
    """When the navigator gives up a run that gets nowhere: it holds until there is a new instruction."""

    turns_in_place: int = option(
        -1,
        "Completed turns in a row, without a forward action between them, after which the run is given up. 0 "
        "never gives up, -1 takes the profile's limit; below a full turn (24 actions of 15 degrees) a robot "
        "that looks around is given up.",
        minimum=-1, maximum=10000,
    )  # fmt: skip
    to_and_fro: int = option(
        -1,
        "Changes between left and right turns without a forward action between them, or returns to a place "
        "where the model was asked before, after which the run is given up. 0 never gives up, -1 takes the "
        "profile's limit; low values give up a robot that looks about.",
        minimum=-1, maximum=10000,
    )  # fmt: skip
    stuck: int = option(
        -1,
        "Decisions in a row without the robot having moved or turned after which the run is given up. 0 "
        "never gives up, -1 takes the profile's limit; low values give up where somebody only stands in the "
        "way.",
        minimum=-1, maximum=10000,
    )  # fmt: skip
