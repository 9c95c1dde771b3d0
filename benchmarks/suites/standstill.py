"""``vln_ros bench standstill``: how many frames of a robot that stands, or moves, show nothing new."""

from __future__ import annotations

import argparse
import io
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.bench.plot import plot_bars
from vln_ros.config import CameraConfig, ConfigError, StandstillConfig
from vln_ros.datatypes import CameraModel, Frame, Pose
from vln_ros.evaluation.files import write_atomically
from vln_ros.geometry.standstill import Standstill

TITLE = "Frames with nothing new"
HELP = "Count the frames of a standing and of a moving camera for which nothing is computed"
_RATE_HZ = 30
_WANDER_M = 0.0005
_SCENE = 5

Picture = npt.NDArray[np.uint8]
Noisy = Callable[[Picture, np.random.Generator], Picture]


@dataclass(frozen=True)
class Count:
    """Of one camera.

    Attributes:
        frames: that came.
        computed: of these, those that showed something new.
        noise: standard deviation of the difference of two pictures, grey levels; None where unknown.
        gate_ms: median wall time to look at one frame.
    """

    frames: int
    computed: int
    noise: float | None
    gate_ms: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--duration-s", type=float, default=5.0, help="length of each drive (default: 5)")
    parser.add_argument(
        "--bag", type=Path, default=None, metavar="RECORDING", help="also count those of a recording (ROS 2)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    if args.duration_s <= 0.0:
        raise ConfigError(f"--duration-s {args.duration_s:g}: must be above 0")
    count = round(args.duration_s * _RATE_HZ)
    drives = _drives(count)
    if args.bag is not None:
        from benchmarks.measure.frames import bag_frames

        drives[f"recording {args.bag.name}"] = bag_frames(args.bag)
    figures: dict[str, Count] = {}
    for name, frames in drives.items():
        figures[name] = c = count_frames(frames)
        print(
            f"{name:44}{c.computed:5d} of {c.frames:4d} frames computed, noise {_said(c.noise)} grey levels, "
            f"{c.gate_ms:.1f} ms a frame"
        )
    if args.json is not None:
        write_atomically(
            args.json, json.dumps({name: asdict(c) for name, c in figures.items()}, indent=1) + "\n"
        )
    return 0


def count_frames(frames: Iterable[Frame]) -> Count:
    """As an engine counts them that is enabled with the default tolerances."""
    gate = Standstill(StandstillConfig(enabled=True))
    computed, times_ms = 0, []
    for frame in frames:
        began = time.perf_counter()
        nothing_new = gate.shows_nothing_new(frame)
        times_ms.append((time.perf_counter() - began) * 1e3)
        if not nothing_new:
            computed += 1
            gate.show(frame)
    return Count(len(times_ms), computed, gate.noise, float(np.median(times_ms)))


def _drives(count: int) -> dict[str, Iterable[Frame]]:
    from vln_ros.axes import base_from_optical
    from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
    from vln_ros.sim.embedded.world import Scene

    options = CameraConfig()
    scene = Scene(scene_id(_SCENE, "small"), AGENT_RADIUS_M)
    camera = CameraModel.from_hfov(640, 480, math.radians(options.hfov_deg))
    extrinsics = base_from_optical(0.0, 0.0, options.height_m)
    middle = np.array(scene.flat.rooms[0].inner).reshape(2, 2).mean(0)
    x, y = scene.walkable.nearest(middle)

    def drive(noisy: Noisy, turn_deg_s: float = 0.0, ahead_m_s: float = 0.0) -> Iterator[Frame]:
        rng = np.random.default_rng(0)
        seen: dict[tuple[float, float], Picture] = {}
        for k in range(count):
            yaw = math.radians(turn_deg_s * k / _RATE_HZ)
            ahead_m = ahead_m_s * k / _RATE_HZ
            pose = Pose.planar(float(x) + ahead_m, float(y), yaw) @ extrinsics
            if (yaw, ahead_m) not in seen:
                seen = {(yaw, ahead_m): scene.renderer.render(camera, pose)[0]}
            rgb = noisy(seen[yaw, ahead_m], rng)
            pose = replace(pose, position=pose.position + rng.normal(0.0, _WANDER_M, 3))
            yield Frame(k, k * 1_000_000_000 // _RATE_HZ, rgb, None, camera, pose, pose)

    def passing(picture: Picture, rng: np.random.Generator) -> Picture:
        """Somebody crosses the picture now and then, one second in three."""
        shown = picture.copy()
        at = int(rng.integers(0, 3 * picture.shape[1]))
        shown[100:400, at : at + 120] = 90
        return _gauss(1.0)(shown, rng)

    return {
        "standing, noise of 1 grey level": drive(_gauss(1.0)),
        "standing, noise of 3 grey levels": drive(_gauss(3.0)),
        "standing, bright is noisier": drive(_shot),
        "standing, JPEG of quality 85": drive(_jpeg),
        "standing, somebody in a third of the frames": drive(passing),
        "turning by 15 degrees a second": drive(_gauss(1.0), turn_deg_s=15.0),
        "turning by 2 degrees a second": drive(_gauss(1.0), turn_deg_s=2.0),
        "driving 0.05 m a second": drive(_gauss(1.0), ahead_m_s=0.05),
    }


def _gauss(sigma: float) -> Noisy:
    def noisy(picture: Picture, rng: np.random.Generator) -> Picture:
        return (picture + rng.normal(0.0, sigma, picture.shape)).round().clip(0, 255).astype(np.uint8)

    return noisy


def _shot(picture: Picture, rng: np.random.Generator) -> Picture:
    spread = 0.5 + np.sqrt(picture) / 5.0
    return (picture + rng.normal(0.0, 1.0, picture.shape) * spread).round().clip(0, 255).astype(np.uint8)


def _jpeg(picture: Picture, rng: np.random.Generator) -> Picture:
    from PIL import Image

    held = io.BytesIO()
    Image.fromarray(_gauss(2.0)(picture, rng)).save(held, "jpeg", quality=85)
    return np.asarray(Image.open(held))


def _said(noise: float | None) -> str:
    return "unknown" if noise is None else f"{noise:.2f}"


def plot(figures: dict[str, dict[str, float]], folder: Path) -> None:
    shares = {name: 100.0 * c["computed"] / c["frames"] for name, c in figures.items()}
    bars = [(name, share, share, share) for name, share in shares.items()]
    plot_bars(folder / "standstill.png", TITLE, "frames computed, %", bars, logarithmic=False)


def section(figures: dict[str, dict[str, float]]) -> str:
    from vln_ros.cli.bench.page import table

    rows = [
        (
            name,
            f"{c['computed']} of {c['frames']}",
            _said(c["noise"]),
            f"{c['gate_ms']:.1f} ms",
        )
        for name, c in figures.items()
    ]
    return table(("", "frames computed", "noise, grey levels", "per frame"), rows)
