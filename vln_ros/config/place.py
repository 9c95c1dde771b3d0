"""Options of driving to a place that the model points at, and the size of the robot that fits there."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True)
class PlaceConfig:
    """How the robot gets to a place that the model points at (a pixel goal)."""

    robot_radius_m: float = option(
        0.25,
        "Radius of the circle that holds the robot, for which ways are planned; give the executor's "
        "safety.robot_radius_m the same value",
        unit="m",
        minimum=0.05,
        maximum=2.0,
    )
    margin_m: float = option(
        0.02, "A planned way keeps the robot's circle at least so far from obstacles", unit="m",
        minimum=0.0, maximum=1.0,
    )  # fmt: skip
    stop_distance_m: float = option(
        0.15,
        "A forward action is planned only where so much way is free beyond its end; at the executor's "
        "safety.stop_distance_m it is not stopped there",
        unit="m",
        minimum=0.0,
        maximum=3.0,
    )
    keep_away_m: float = option(
        0.25,
        "Ways that come nearer to obstacles than this, besides the margin, are planned only where the others "
        "are much longer",
        unit="m",
        minimum=0.0,
        maximum=2.0,
    )
    min_height_m: float = option(
        0.1, "What is lower is floor; above base_link", unit="m", minimum=-2.0,
        maximum=2.0,
    )  # fmt: skip
    max_height_m: float = option(
        1.4, "What is higher is no obstacle; above base_link", unit="m", minimum=0.0,
        maximum=3.0,
    )  # fmt: skip
    reached_within_m: float = option(
        0.25,
        "The place is reached when the robot is nearer to it than this, and the model is asked again",
        unit="m",
        minimum=0.05,
        maximum=2.0,
    )
    max_actions: int = option(
        8,
        "The model is asked again after so many actions toward one place, reached or not; 0 goes on until it "
        "is reached",
        minimum=0,
        maximum=1000,
    )
    queue_actions: int = option(
        4, "After so many actions the way is planned anew from what is seen by then", minimum=1, maximum=64
    )
    max_distance_m: float = option(
        10.0, "A place farther away than this is not driven to", unit="m", minimum=0.5, maximum=100.0
    )
    max_shift_m: float = option(
        1.0,
        "Where the place itself cannot be reached, the nearest one at most so far from it that can is driven "
        "to instead",
        unit="m",
        minimum=0.0,
        maximum=10.0,
    )
    max_detour: float = option(
        4.0,
        "A place is given up when the way to it costs more than so many times the straight one (a way along "
        "obstacles counts up to four times)",
        minimum=1.0,
        maximum=1000.0,
    )
