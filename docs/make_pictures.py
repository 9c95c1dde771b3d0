"""Draws the pictures of the README and the docs, so that they do not rot.

Run by `make pictures`; `python -m docs.make_pictures NAME` draws some of them: drive, web, live, run, reuse.

drive: an animation of one episode that the shipped policy drives. web: the page of a robot in a simulated
flat. live: the page of `vln_ros live`. run: the pages of an evaluation and of a comparison. reuse: what
VLN-Cache makes of a frame. The pages are those of a headless Chromium.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.measure.chromium import chromium
from benchmarks.measure.frames import motion_frames
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, SIMULATED_ROBOT, write_split
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.cli.talk.page import graph_page
from vln_ros.config import NavigatorConfig, ReuseConfig, Scalar, from_flat
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
from vln_ros.training.demonstrations import robot_camera

FOLDER = Path(__file__).parent / "pictures"
EPISODE = ("val_unseen", 6, "small")
"""Split, number, kind of flat: one that the policy drives well and that is not over at once."""
CAMERA = (320, 240)
WIDTH_PX = 960
FRAME_MS, LAST_MS = 200, 2500
COLOURS = 128
DESKTOP, PHONE = {"width": 1360, "height": 1000}, {"width": 390, "height": 844}
QUALITY = 85
DRIVES_S = 9.0
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "dark", "is_mobile": True, "device_scale_factor": 2},
}
EVALUATED = ("--kind", "room", "--episodes", "8", "--videos", "1", "--workers", "1")
IN_MIDST = """() => {
  const bar = document.querySelector(".player[data-way] .scrubber input");
  bar.value = Math.floor(bar.max / 2);
  bar.dispatchEvent(new Event("input"));
}"""


class Animation(VideoWriter):
    """Takes the frames of a video and keeps them."""

    def __init__(self) -> None:
        self.pictures: list[Image.Image] = []

    def add(self, frame: npt.NDArray[np.uint8]) -> None:
        view = Image.fromarray(frame)
        height = round(view.height * WIDTH_PX / view.width)
        self.pictures.append(view.resize((WIDTH_PX, height), Image.Resampling.LANCZOS))

    def close(self) -> None:
        """Nothing is open."""

    def discard(self) -> None:
        self.pictures.clear()


def animate(split: str, number: int, kind: str) -> list[Image.Image]:
    """The frames of an episode that the shipped policy drives without ROS, as it would with it."""
    episode = make_episodes(split, number + 1, kind)[number]
    world = EmbeddedWorld(*robot_camera(*CAMERA))
    config = from_flat(NavigatorConfig, {"qwen.checkpoint": "shipped:tiny", "qwen.profile": "tiny"})
    animation = Animation()
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


def draw_drive() -> None:
    """The animation of the README."""
    write_gif(animate(*EPISODE), FOLDER / "drive.gif")


def shoot(page: Any, name: str) -> None:
    """What is in sight of a page."""
    page.screenshot(path=str(FOLDER / f"{name}.jpg"), quality=QUALITY)


def draw_web() -> None:
    """The page of a robot that drives by the oracle policy, light, dark and on a phone; and stopped."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        episodes = write_split(folder / "dataset", "val_unseen", 1, "flat")
        environment = enter_graph(folder / "ros")
        bridge: dict[str, Scalar] = {"episodes": str(episodes), "mode": "realtime", "max_episode_s": 3000.0}
        navigator: dict[str, Scalar] = {
            "engine": "expert",
            "expert.episodes": str(episodes),
            "expert.clearance_m": EXPERT_CLEARANCE_M,
            "extrinsics": "parameters",
            "reliability": "reliable",
            "use_sim_time": True,
        }
        served = graph_page({"use_sim_time": True})
        assert served is not None, "requirements.txt has aiohttp"
        with Graph(folder / "logs", environment) as graph, chromium() as browser:
            graph.start(served.node)
            while not served.is_served:
                graph.check()
                time.sleep(0.05)
            pages = {look: browser.new_context(**options).new_page() for look, options in LOOKS.items()}
            for page in pages.values():
                page.goto(served.address)
                page.wait_for_function(
                    "() => document.getElementById('connection').textContent === 'connected'"
                )
            graph.start(NodeSpec("sim_bridge", bridge))
            graph.start(NodeSpec("navigator", navigator))
            graph.start(NodeSpec("executor", {"use_sim_time": True, **SIMULATED_ROBOT}))
            first = pages["light"]
            first.wait_for_selector("#state[data-level=moving]", timeout=120_000)
            first.wait_for_timeout(DRIVES_S * 1e3)
            for look, page in pages.items():
                shoot(page, f"web-{look}")
            first.keyboard.press("Escape")
            first.wait_for_selector("#release", state="visible")
            first.wait_for_timeout(500)
            shoot(first, "web-stopped")
            graph.check()


def draw_live() -> None:
    """The page of `vln_ros live`: the plan of the flat, and the policy on its way to a thing in it."""
    with tempfile.TemporaryDirectory() as name, chromium() as browser:
        said = Path(name) / "said"
        with said.open("w", encoding="utf-8") as out, subprocess.Popen(
            [sys.executable, "-m", "vln_ros", "live", "--kind", "small"],
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
        ) as live:  # fmt: skip
            try:
                page = browser.new_context(**LOOKS["light"]).new_page()
                page.goto(_said(live, said, r"(http://127\.0\.0\.1:\d+/)"))
                _said(live, said, r"(ready after)")
                thing = _said(live, said, r"the (\w+ \w+)")
                page.fill("#instruction", f"go to the {thing}")
                page.press("#instruction", "Enter")
                page.wait_for_selector("#state[data-level=moving]", timeout=120_000)
                page.wait_for_timeout(DRIVES_S * 1e3)
                shoot(page, "live")
            finally:
                live.terminate()


def _said(command: subprocess.Popen[bytes], said: Path, pattern: str) -> str:
    """The pattern's first group, once the command has said it."""
    while (found := re.search(pattern, text := said.read_text(encoding="utf-8"))) is None:
        if command.poll() is not None:
            raise RuntimeError(f"vln_ros live has ended: {text}")
        time.sleep(0.05)
    return str(found[1])


def draw_run() -> None:
    """The pages of an evaluation of the shipped policy, and of its comparison with the oracle policy."""
    with tempfile.TemporaryDirectory() as name:

        def command(*arguments: str) -> None:
            subprocess.run([sys.executable, "-m", "vln_ros", *arguments], cwd=name, check=True)

        command(
            "eval", "--checkpoint", "shipped:tiny", "--profile", "tiny", *EVALUATED, "--out", "runs/policy"
        )
        command("eval", "--engine", "expert", *EVALUATED, "--out", "runs/oracle")
        command("compare", "runs/policy", "runs/oracle", "--out", "runs/compared")
        report, comparison = (
            (Path(name) / f"runs/{page}").as_uri() for page in ("policy/report.html", "compared/compare.html")
        )
        with chromium() as browser:
            for look, options in LOOKS.items():
                page = browser.new_context(**options).new_page()
                page.goto(report)
                page.wait_for_selector(".player[data-way] .scrubber", state="visible")
                page.evaluate(IN_MIDST)
                if look == "phone":
                    page.locator(".player[data-way]").first.scroll_into_view_if_needed()
                page.wait_for_timeout(500)
                shoot(page, f"run-{look}")
            page = browser.new_context(**LOOKS["light"]).new_page()
            page.goto(comparison)
            shoot(page, "compare")


def draw_reuse() -> None:
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
    Image.fromarray(painted).save(FOLDER / "reuse.jpg", quality=QUALITY)


GROUPS: dict[str, Callable[[], None]] = {
    "drive": draw_drive, "web": draw_web, "live": draw_live, "run": draw_run, "reuse": draw_reuse,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(GROUPS)} (default: all)")
    names = parser.parse_args().names or list(GROUPS)
    if unknown := set(names) - set(GROUPS):
        parser.error(f"{', '.join(sorted(unknown))}: choose of {', '.join(GROUPS)}")
    FOLDER.mkdir(exist_ok=True)
    for name in names:
        GROUPS[name]()
    for path in sorted(FOLDER.iterdir()):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
