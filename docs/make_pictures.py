"""Draws the pictures of the README and the docs, so that they do not rot.

Run by `make pictures`. The animation is one episode that the shipped policy drives: what its camera sees,
what it has decided, and where it is on the plan of the flat.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from benchmarks.measure.frames import motion_frames
from vln_ros.config import NavigatorConfig, ReuseConfig, from_flat
from vln_ros.datatypes import Float64Array
from vln_ros.engine.stream.partial_tower import window_of_token
from vln_ros.engines import build_engine, build_loop
from vln_ros.evaluation.episode.lockstep import run_lockstep
from vln_ros.evaluation.episode.record import EpisodeRecorder
from vln_ros.evaluation.episode.run import EpisodeLimits, EpisodeRun, episode_info
from vln_ros.evaluation.episode.video import VideoWriter
from vln_ros.geometry.correspondence import TokenGrid
from vln_ros.reuse.frame_plan import FramePlanner
from vln_ros.reuse.overlay import paint
from vln_ros.sim.embedded.world import EmbeddedWorld
from vln_ros.sim.splits import make_episodes
from vln_ros.sim.worlds import plan_of
from vln_ros.training.demonstrations import robot_camera

FOLDER = Path(__file__).parent / "pictures"
EPISODE = ("val_unseen", 6, "small")
"""Split, number, kind of flat: one that the policy drives well and that is not over at once."""
CAMERA = (320, 240)
WIDTH_PX = 960
FRAME_MS, LAST_MS = 200, 2500
COLOURS = 128
TRAIL, HERE, GOAL = (214, 37, 140), (20, 24, 32), (26, 143, 75)


class Animation(VideoWriter):
    """Takes the frames of a video, puts the plan of the flat beside each, and keeps them."""

    def __init__(self, world: EmbeddedWorld, goal: Float64Array, radius_m: float) -> None:
        plan = plan_of(world)
        assert plan is not None, "embedded flats have plans"
        self._world, self._plan, self._goal, self._radius_m = world, plan, goal, radius_m
        self._trail: list[Float64Array] = []
        self.pictures: list[Image.Image] = []

    @property
    def frames(self) -> int:
        return len(self.pictures)

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        self._trail.append(self._world.pose.position[:2].copy())
        view = Image.fromarray(frame)
        map_ = self._map(view.height)
        whole = Image.new("RGB", (view.width + 4 + map_.width, view.height), (17, 20, 26))
        whole.paste(view, (0, 0))
        whole.paste(map_, (view.width + 4, 0))
        height = round(whole.height * WIDTH_PX / whole.width)
        self.pictures.append(whole.resize((WIDTH_PX, height), Image.Resampling.LANCZOS))

    def close(self) -> None:
        """Nothing is open."""

    def discard(self) -> None:
        self.pictures.clear()

    def _map(self, height_px: int) -> Image.Image:
        plan = self._plan
        image = Image.fromarray(plan.image).convert("RGB")
        draw = ImageDraw.Draw(image)
        px_per_m = float(np.linalg.norm(plan.to_pixel(np.array([1.0, 0.0])) - plan.to_pixel(np.zeros(2))))
        x, y = plan.to_pixel(self._goal)
        r = self._radius_m * px_per_m
        draw.ellipse((x - r, y - r, x + r, y + r), outline=GOAL, width=8)
        trail = [tuple(float(v) for v in plan.to_pixel(p)) for p in self._trail]
        if len(trail) > 1:
            draw.line(trail, fill=TRAIL, width=10, joint="curve")
        pose = self._world.pose
        ahead = pose.matrix[:2, 0]
        left = np.array([-ahead[1], ahead[0]])
        at = pose.position[:2]
        corners = [at + 0.35 * ahead, at - 0.2 * ahead + 0.2 * left, at - 0.2 * ahead - 0.2 * left]
        draw.polygon([tuple(float(v) for v in plan.to_pixel(c)) for c in corners], fill=HERE)
        return image.resize(
            (round(image.width * height_px / image.height), height_px), Image.Resampling.LANCZOS
        )


def animate(split: str, number: int, kind: str) -> list[Image.Image]:
    """The frames of an episode that the shipped policy drives without ROS, as it would with it."""
    episode = make_episodes(split, number + 1, kind)[number]
    world = EmbeddedWorld(*robot_camera(*CAMERA))
    config = from_flat(NavigatorConfig, {"qwen.checkpoint": "shipped:tiny", "qwen.profile": "tiny"})
    world.load(episode.scene_id)
    goal, radius_m = np.asarray(episode.goal, np.float64)[:2], episode.goal_radius_m
    assert radius_m is not None, "embedded episodes have goals"
    animation = Animation(world, goal, radius_m)
    run = EpisodeRun(
        world,
        episode,
        start_ns=0,
        step_period_ns=250_000_000,
        limits=EpisodeLimits(120),
        recorder=EpisodeRecorder(episode_info(episode), animation),
    )
    engine = build_engine(config)
    run_lockstep(run, build_loop(engine, config), 1)
    record = run.finish()
    engine.close()
    assert record.metrics is not None and record.metrics.success, "choose an episode that it can"
    return animation.pictures


def write_gif(pictures: list[Image.Image], path: Path) -> None:
    """One palette for all, so that what stands still costs nothing."""
    palette = pictures[len(pictures) // 2].quantize(COLOURS)
    few = [p.quantize(palette=palette, dither=Image.Dither.NONE) for p in pictures]
    times = [FRAME_MS] * (len(few) - 1) + [LAST_MS]
    few[0].save(path, save_all=True, append_images=few[1:], duration=times, loop=0, optimize=True)


def draw_reuse(path: Path) -> None:
    """What becomes of a frame behind a 15-degree turn, as the navigator paints it."""
    first, second = motion_frames("pan", 2)
    grid = TokenGrid(17, 23)
    window = window_of_token((grid.rows, grid.columns), 4)
    planner = FramePlanner(ReuseConfig(), 1, lambda _: 0.0, lambda _: window)
    planner.begin()
    for image_id, frame in enumerate((first, second), 1):
        picture = np.asarray(Image.fromarray(frame.rgb).resize((644, 476), Image.Resampling.BICUBIC))
        plan = planner.before_vision(image_id, frame, grid, picture, lambda numbers: numbers)
        planner.on_frame(image_id)
        planner.on_cached(image_id, np.arange(1, grid.count + 1), None)
    painted = paint(second.rgb, plan.label.reshape(grid.rows, grid.columns))
    Image.fromarray(painted).save(path, quality=85)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episode", type=int, default=EPISODE[1], help="number of the episode in its split")
    parser.add_argument("--kind", default=EPISODE[2], help="size of the flat (default: %(default)s)")
    options = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    pictures = animate(EPISODE[0], options.episode, options.kind)
    path = FOLDER / "drive.gif"
    write_gif(pictures, path)
    print(f"{path}: {len(pictures)} frames, {path.stat().st_size / 1e6:.2f} MB")
    draw_reuse(FOLDER / "reuse.jpg")


if __name__ == "__main__":
    main()
