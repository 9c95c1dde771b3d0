"""``vln_ros habitat bench``: what it costs that Habitat lives in a process of its own."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vln_ros.config import ConfigError, HabitatConfig

SIZES = ("640x480", "224x224")


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Steps per second with colour and depth of one size.

    Attributes:
        direct_hz: Habitat called in its own process, nobody in between.
        through_us_hz: the same actions from this process, pictures arrived and depth limited.
        ratio: how many times as fast the first is: median over pairs of blocks.
        low, high: quartiles of that.
        blocks, actions: pairs of blocks, and actions in each.
    """

    size: str
    direct_hz: float
    through_us_hz: float
    ratio: float
    low: float
    high: float
    blocks: int
    actions: int


def parse_sizes(texts: Sequence[str]) -> list[tuple[int, int]]:
    """Width and height of each. Raises ConfigError."""
    sizes = []
    for text in texts:
        try:
            width, height = (int(part) for part in text.split("x"))
        except ValueError:
            raise ConfigError(f"--sizes {text!r}: expected WIDTHxHEIGHT, as in 640x480") from None
        if min(width, height) < 1:
            raise ConfigError(f"--sizes {text!r}: width and height must be at least 1")
        sizes.append((width, height))
    return sizes


def measure(
    config: HabitatConfig, folder: Path, sizes: Sequence[tuple[int, int]], blocks: int, actions: int
) -> Iterator[Pace]:
    """One figure per size, each as soon as it is there.

    Args:
        config: interpreter and GPU; scene and agent are the test's own.
        folder: to write the scene to.
        sizes: width and height of the pictures.
        blocks: pairs of blocks, in turns: first one way, then the other.
        actions: in a block.

    Raises:
        ConfigError: the interpreter cannot run Habitat.
        WorldLostError: its process ended.
    """
    import numpy as np

    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel
    from vln_ros.sim.embedded.export import write_scene
    from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
    from vln_ros.sim.embedded.world import EmbeddedWorld
    from vln_ros.sim.habitat.check import FORWARD, HEIGHT_M, SCENE, TURN, places
    from vln_ros.sim.habitat.world import HabitatWorld

    embedded = EmbeddedWorld(CameraModel.from_hfov(16, 12, 1.3), base_from_optical(0.0, 0.0, HEIGHT_M))
    embedded.load(SCENE)
    write_scene(folder, embedded.scene)
    begin = places(embedded, 1)[0]
    todo = [FORWARD if number % 3 == 2 else TURN for number in range(actions)]
    for width, height in sizes:
        camera = CameraModel.from_hfov(width, height, math.radians(79.0))
        world = HabitatWorld(
            camera, HEIGHT_M, 0.0, replace(config, scenes=str(folder), radius_m=AGENT_RADIUS_M)
        )
        try:
            world.load(SCENE)
            direct_s, ours_s = [], []
            for number in range(blocks + 1):
                world.place(begin)
                took_s = world.pace_s(todo)
                world.place(begin)
                begun_s = time.perf_counter()
                for action in todo:
                    world.step(action)
                    world.render()
                if number:  # the first pair warms up
                    direct_s.append(took_s)
                    ours_s.append(time.perf_counter() - begun_s)
        finally:
            world.close()
        low, ratio, high = np.quantile(np.array(ours_s) / np.array(direct_s), [0.25, 0.5, 0.75])
        yield Pace(
            size=f"{width}x{height}",
            direct_hz=actions / float(np.median(direct_s)),
            through_us_hz=actions / float(np.median(ours_s)),
            ratio=float(ratio),
            low=float(low),
            high=float(high),
            blocks=blocks,
            actions=actions,
        )


def line(pace: Pace) -> str:
    """For the terminal."""
    return (
        f"{pace.size:>9}  called directly {pace.direct_hz:7.1f} steps/s, through the worker "
        f"{pace.through_us_hz:7.1f}: {pace.ratio:.3f} times as fast ({pace.low:.3f} to {pace.high:.3f}, "
        f"quartiles of {pace.blocks} pairs of {pace.actions} actions)"
    )


def write_json(path: Path, paces: Sequence[Pace]) -> None:
    """The figures as a list of objects."""
    path.write_text(json.dumps([asdict(p) for p in paces], indent=2) + "\n", "utf-8")
