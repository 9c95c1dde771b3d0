"""Takes the pictures of docs/robot/web.md: a simulated robot in a flat, its page in a headless Chromium.

.venv/bin/python docs/web_pictures.py docs/images
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measure.chromium import chromium
from vln_ros.cli.demo import EXPERT_CLEARANCE_M, SIMULATED_ROBOT, write_split
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import Scalar

DESKTOP = {"width": 1360, "height": 1000}
PHONE = {"width": 390, "height": 844}
DRIVES_S = 9.0
QUALITY = 85


def main(out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
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
        with Graph(folder / "logs", environment) as graph, chromium() as browser:
            graph.start(NodeSpec("web", {"port": 0, "use_sim_time": True}))
            log = graph.log_path("web")
            while "the page: " not in (log.read_text("utf-8") if log.exists() else ""):
                graph.check()
                time.sleep(0.05)
            address = log.read_text("utf-8").partition("the page: ")[2].split()[0]
            pages = [_page(browser, address, **look) for look in LOOKS.values()]
            graph.start(NodeSpec("sim_bridge", bridge))
            graph.start(NodeSpec("navigator", navigator))
            graph.start(NodeSpec("executor", {"use_sim_time": True, **SIMULATED_ROBOT}))
            pages[0].wait_for_selector("#state[data-level=moving]", timeout=120_000)
            pages[0].wait_for_timeout(DRIVES_S * 1e3)
            for look, page in zip(LOOKS, pages, strict=True):
                page.screenshot(path=str(out / f"web-{look}.jpg"), quality=QUALITY)
            pages[0].keyboard.press("Escape")
            pages[0].wait_for_selector("#release", state="visible")
            pages[0].wait_for_timeout(500)
            pages[0].screenshot(path=str(out / "web-stopped.jpg"), quality=QUALITY)
            graph.check()


LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": DESKTOP, "color_scheme": "light"},
    "dark": {"viewport": DESKTOP, "color_scheme": "dark"},
    "phone": {"viewport": PHONE, "color_scheme": "dark", "is_mobile": True, "device_scale_factor": 2},
}


def _page(browser: Any, address: str, **look: Any) -> Any:
    page = browser.new_context(**look).new_page()
    page.goto(address)
    page.wait_for_function("() => document.getElementById('connection').textContent === 'connected'")
    return page


if __name__ == "__main__":
    main(Path(sys.argv[1]))
