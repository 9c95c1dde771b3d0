"""``vln_ros scenes``: write flats of the embedded simulator for people and for other simulators."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from vln_ros.cli.arguments.places import output_folder
from vln_ros.cli.output.next_steps import print_next
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import CameraConfig, ConfigError
from vln_ros.sim.embedded.flat import KINDS

if TYPE_CHECKING:
    from vln_ros.sim.embedded.render import UInt8Array
    from vln_ros.sim.embedded.world import Scene
    from vln_ros.sim.episodes.episode import Episode

HELP = "Write embedded scenes: GLB, Habitat stage config, names, episodes, plan and views"

_VIEWS = 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=output_folder, required=True, help="folder to write to")
    parser.add_argument("--split", default="val_unseen", help="train, val_seen or val_unseen (default)")
    parser.add_argument(
        "--kind", choices=KINDS, default="flat", help="size of the flats (default: %(default)s)"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--count", type=int, default=1, help="number of scenes of the split (default: %(default)s)"
    )
    which.add_argument(
        "--seeds", type=int, nargs="+", help="numbers of scenes of the split, instead of --count"
    )
    parser.add_argument("--episodes", type=int, help="number of episodes to keep, from the first on")


def run(args: argparse.Namespace) -> int:
    if args.episodes is not None and args.episodes < 1:
        raise ConfigError(f"--episodes = {args.episodes}: must be at least 1")
    if args.count < 1:
        raise ConfigError(f"--count = {args.count}: must be at least 1")
    with waiting("loading the embedded simulator"):
        from tqdm import tqdm

        from vln_ros.sim.embedded.export import write_scene
        from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
        from vln_ros.sim.embedded.plan import draw_plan
        from vln_ros.sim.embedded.world import SceneCache
        from vln_ros.sim.episodes.episode import write_episodes
        from vln_ros.sim.splits import first_seeds, make_scene_episodes
    seeds = list(dict.fromkeys(args.seeds)) if args.seeds else first_seeds(args.split, args.count)
    cache = SceneCache(AGENT_RADIUS_M, 1)
    episodes: list[Episode] = []
    for seed in tqdm(seeds, "scenes", unit="scene", disable=None):
        episodes += make_scene_episodes(args.split, seed, args.kind)
        scene = cache.get(scene_id(seed, args.kind))
        glb = write_scene(args.out, scene)
        _write_png(glb.with_suffix(".plan.png"), draw_plan(scene.flat).image)
        _write_png(glb.with_suffix(".views.png"), _views(scene))
    episodes = episodes[: args.episodes]
    path = write_episodes(args.out / "episodes", args.split, episodes)
    print(f"{len(seeds)} scenes below {args.out / 'embedded'}, {len(episodes)} episodes in {path}")
    print_next(
        f"look at the .plan.png and .views.png below {args.out / 'embedded'}",
        f"vln_ros eval --engine expert --dataset {args.out / 'episodes'} --split {args.split} runs them",
    )
    return 0


def _views(scene: Scene) -> UInt8Array:
    """Two by two pictures ``[2 H, 2 W, 3]``, each across a room from that corner where most can be seen."""
    import numpy as np

    from vln_ros.axes import base_from_optical
    from vln_ros.datatypes import CameraModel, Pose

    options = CameraConfig()
    hfov_rad = math.radians(options.hfov_deg)
    camera = CameraModel.from_hfov(options.width, options.height, hfov_rad)
    small = CameraModel.from_hfov(options.width // 20, options.height // 20, hfov_rad)
    extrinsics = base_from_optical(0.0, 0.0, options.height_m, pitch_down_rad=math.radians(12.0))
    views = []
    for number in range(_VIEWS):
        x0, y0, x1, y1 = scene.flat.rooms[number % len(scene.flat.rooms)].inner
        poses = []
        for fx, fy in ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9)):
            place = scene.walkable.nearest(np.array([x0 + fx * (x1 - x0), y0 + fy * (y1 - y0)]))
            yaw_rad = math.atan2((y0 + y1) / 2 - place[1], (x0 + x1) / 2 - place[0])
            poses.append(Pose.planar(float(place[0]), float(place[1]), yaw_rad) @ extrinsics)
        open_m = [float(np.median(scene.renderer.render(small, pose)[1])) for pose in poses]
        order = np.argsort(open_m)[::-1]  # a scene of one room is shown from all its corners
        views.append(scene.renderer.render(camera, poses[order[number // len(scene.flat.rooms)]])[0])
    return np.vstack([np.hstack(views[:2]), np.hstack(views[2:])])


def _write_png(path: Path, rgb: UInt8Array) -> None:
    import cv2

    from vln_ros.evaluation.files import write_atomically

    encoded, png = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    assert encoded, "a picture in memory is encoded"
    write_atomically(path, png.tobytes())
