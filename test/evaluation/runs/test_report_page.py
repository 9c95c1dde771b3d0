"""The page of a run in a real browser, and as one file; the page of two runs."""

from __future__ import annotations

import base64
import html
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browsers import Complaints, launched

from vln_ros.cli import main
from vln_ros.config import Scalar
from vln_ros.datatypes import STOP, Action, ActionChunk, Float64Array, Pose
from vln_ros.evaluation.episode.metrics import measure_episode
from vln_ros.evaluation.episode.record import END_FRAMES, EpisodeInfo, Step
from vln_ros.evaluation.runs.compare import compare, write_comparison
from vln_ros.evaluation.runs.lines import read_filmed
from vln_ros.evaluation.runs.loading import load_run
from vln_ros.evaluation.runs.results import Protocol, RunInfo
from vln_ros.evaluation.runs.run_folder import RunFolder

FORWARD = Action(forward_m=0.25)
GOAL = np.array([2.0, 0.0])
STEPS = 10
FRAMES = STEPS + END_FRAMES
CONFIG = {
    "navigator.engine": "qwen",
    "navigator.qwen.profile": "tiny",
    "navigator.qwen.checkpoint": "shipped:tiny",
}


class Plan:
    """100 px per metre, the origin in the middle."""

    image = np.full((800, 1200, 3), 235, np.uint8)

    def to_pixel(self, xy: Float64Array) -> Float64Array:
        return np.stack([600.0 + 100.0 * xy[..., 0], 400.0 - 100.0 * xy[..., 1]], axis=-1)


def write_run(path: Path, errors_m: dict[str, float], command: str = "eval", **config: Scalar) -> Path:
    """A finished run; an episode succeeds whose error is below a metre. The last one has no video."""
    protocol = Protocol(
        name="custom", split="x", control="lockstep", goal_radius_m=1.0, forward_m=0.25, turn_deg=15.0,
        max_steps=100,
    )  # fmt: skip
    info = RunInfo(("vln_ros", command, "--out", "a b"), protocol, 0, {**CONFIG, **config}, "f1n9er")
    with RunFolder(path, info, resume=False) as folder:
        for number, (episode_id, error_m) in enumerate(errors_m.items()):
            start = EpisodeInfo(
                episode_id=episode_id,
                scene_id="flat",
                instruction=f"Go to <the lamp> of {episode_id}.",
                goal=GOAL,
                goal_radius_m=1.0,
                reference_path=np.array([[0.0, 0.0], [2.0, 0.0]]),
            )
            recorder = folder.start_episode(start, video=number < len(errors_m) - 1)
            recorder.show_plan(Plan())
            recorder.step(Step.discrete(0, Pose.identity(), None, False))
            recorder.decision(ActionChunk(1, 1, 0, (FORWARD, STOP)), 12.5)
            for n in range(STEPS):
                recorder.frame(np.full((48, 64, 3), 20 * n, np.uint8), None, n * 10**9, 0)
                pose = Pose.planar(0.2 * (n + 1), 0.1 * (n + 1), 0.0)
                recorder.step(Step.discrete((n + 1) * 10**9, pose, FORWARD, False))
            positions = np.array([(s.x_m, s.y_m) for s in recorder.steps])
            distances = np.linalg.norm(positions - GOAL, axis=1)
            distances[-1] = error_m
            metrics = measure_episode(
                positions, distances, stop_called=True, goal_radius_m=1.0, reference_path=positions,
                collisions=0, steps=STEPS,
            )  # fmt: skip
            folder.add(recorder.finish("stop", 1.0, metrics), Plan())
        folder.finish(None)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "first", {"a": 0.5, "b": 3.0, "c": 2.0})


def exported(run: Path, out: Path) -> str:
    with pytest.raises(SystemExit) as end:
        main(["report", str(run), "--export", "html", "--out", str(out)])
    assert end.value.code == 0
    (page,) = out.iterdir()
    assert page.name == f"{run.name}.html"
    return page.read_text("utf-8")


def test_the_page_names_who_decides_before_anything_else(run: Path) -> None:
    head = (run / "report.html").read_text("utf-8").partition("<pre>")[0]
    for words in ("engine qwen", "profile tiny", "shipped:tiny", "vln_ros "):
        assert words in head


def test_every_frame_of_a_video_knows_its_pose(run: Path) -> None:
    poses = read_filmed(run / "episodes/a")
    assert [round(s.x_m, 3) for s in poses] == [
        round(0.2 * n, 3) for n in [*range(STEPS), *[STEPS] * END_FRAMES]
    ]
    assert read_filmed(run / "episodes/c") == (), "it has no video"


def test_one_file_holds_all_that_it_shows(run: Path, tmp_path: Path) -> None:
    page = exported(run, tmp_path)
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert addresses and all(a.startswith("data:") for a in addresses)
    inside = {base64.b64decode(a.partition(",")[2]) for a in addresses}
    for name in ("a/video.mp4", "b/video.mp4", "a/map.png", "b/map.png", "c/map.png"):
        assert (run / "episodes" / name).read_bytes() in inside, name
    (data,) = re.findall(r'href="data:application/json;base64,([^"]+)" download="result.json"', page)
    assert json.loads(base64.b64decode(data)) == json.loads((run / "result.json").read_text("utf-8"))
    assert page.count("image/jpeg") == 3, "a small map of every episode in the table"


def test_one_file_of_shards(tmp_path: Path) -> None:
    for number, names in ((0, {"a": 0.5, "b": 3.0}), (1, {"c": 0.5, "d": 3.0})):
        write_run(tmp_path / f"run/shard_{number}_of_2", names)
    page = exported(tmp_path / "run", tmp_path / "out")
    assert not [a for a in re.findall(r'(?:src|href)="([^"]+)"', page) if not a.startswith("data:")]
    assert page.count("<video ") == 2


def test_a_run_of_an_earlier_release_is_shown_without_the_robot_on_its_map(run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "old")
    (tmp_path / "old/episodes/a/video.json").unlink()
    with pytest.raises(SystemExit) as end:
        main(["report", str(tmp_path / "old")])
    assert end.value.code == 0
    page = (tmp_path / "old/report.html").read_text("utf-8")
    assert page.count("<video ") == 2 and page.count("data-way=") == 1


def test_an_episode_that_was_filmed_after_its_line_was_written_has_its_scrubber(tmp_path: Path) -> None:
    """As those of an evaluation have that the page shows large."""
    write_run(tmp_path / "run", {"a": 0.5, "b": 3.0})
    lines = (tmp_path / "run/episodes.jsonl").read_text("utf-8")
    assert f'"video_frames": {FRAMES}' in lines
    (tmp_path / "run/episodes.jsonl").write_text(
        lines.replace(f'"video_frames": {FRAMES}', '"video_frames": 0'), "utf-8"
    )
    with pytest.raises(SystemExit):
        main(["report", str(tmp_path / "run")])
    page = (tmp_path / "run/report.html").read_text("utf-8")
    assert f'data-frames="{FRAMES}"' in page and f'max="{FRAMES - 1}"' in page


def test_files_that_do_not_belong_together_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, text in enumerate(("", "[]", '{"pose_of_frame": [99]}', '{"pose_of_frame": ["x"]}')):
        old = tmp_path / str(number)
        shutil.copytree(run, old)
        (old / "episodes/a/video.json").write_text(text, "utf-8")
        with pytest.raises(SystemExit) as end:
            main(["report", str(old)])
        assert end.value.code == 2
        assert "video.json and trajectory.jsonl do not belong together" in capsys.readouterr().err


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


PLAYER = """() => {
  const player = document.querySelector(".player[data-way]"), video = player.querySelector("video");
  const here = player.querySelector(".here").getBoundingClientRect();
  const map = player.querySelector(".map img").getBoundingClientRect();
  return { time: video.currentTime, length: video.duration, controls: video.controls,
    moment: Number(player.querySelector("input").value), told: player.querySelector("output").textContent,
    wide: map.width, column: here.x + here.width / 2 - map.x,
    high: map.height, row: here.y + here.height / 2 - map.y };
}"""


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("alone", [False, True])
def test_one_scrubber_moves_video_and_robot(run: Path, browser: Any, tmp_path: Path, alone: bool) -> None:
    address = (run / "report.html").as_uri()
    if alone:
        exported(run, tmp_path)
        address = (tmp_path / f"{run.name}.html").as_uri()
    complaints = Complaints()
    context = browser.new_context(viewport={"width": 1300, "height": 900})
    complaints.listen(context)
    page = context.new_page()
    page.goto(address)
    page.wait_for_selector(".player[data-way] .scrubber", state="visible")
    way = json.loads(page.get_attribute(".player[data-way]", "data-way"))
    assert len(way) == FRAMES
    for frame in (0, 4, FRAMES - 1, 2):
        page.evaluate(
            """frame => { const bar = document.querySelector(".player[data-way] input");
            bar.value = frame; bar.dispatchEvent(new Event("input")); }""",
            frame,
        )
        at = page.evaluate(PLAYER)
        assert at["moment"] == frame and f"frame {frame + 1} of {FRAMES}" in at["told"]
        assert int(at["time"] / at["length"] * FRAMES) == frame and not at["controls"]
        assert at["column"] == pytest.approx(way[frame][0] * at["wide"], abs=1.0)
        assert at["row"] == pytest.approx(way[frame][1] * at["high"], abs=1.0)
    assert way[4][0] - way[0][0] == pytest.approx((way[8][0] - way[4][0]), abs=1e-3), "a straight way"
    assert way[4][0] > way[0][0] and way[4][1] < way[0][1]
    page.click(".player[data-way] .scrubber button")
    page.wait_for_function("() => Number(document.querySelector('.player[data-way] input').value) > 5")
    page.click(".player[data-way] .scrubber button")
    page.wait_for_function("() => document.querySelector('.player[data-way] video').paused")
    context.close()
    assert not complaints.texts


@pytest.mark.browser
@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_pages_fit_a_phone_in_light_and_dark(
    run: Path, browser: Any, tmp_path: Path, scheme: str
) -> None:
    other = write_run(tmp_path / "second", {"a": 3.0, "b": 0.5, "c": 1.5})
    pages = [
        run / "report.html",
        write_comparison(compare(load_run(run), load_run(other)), tmp_path / "both"),
    ]
    complaints = Complaints()
    context = browser.new_context(viewport={"width": 390, "height": 780}, color_scheme=scheme)
    complaints.listen(context)
    page = context.new_page()
    for path in pages:
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = sum(map(int, back.removeprefix("rgb(").removesuffix(")").split(",")))
        assert shade < 120 if scheme == "dark" else shade > 600
    context.close()
    assert not complaints.texts


def test_two_runs_are_introduced_and_lead_to_their_episodes(run: Path, tmp_path: Path) -> None:
    errors_m = {"a": 3.0, "b": 1.5, "c": 4.0}
    other = write_run(
        tmp_path / "b & <c> #1? 100%", errors_m, "demo", **{"navigator.qwen.profile": "streamvln"}
    )
    c = compare(load_run(run), load_run(other))
    assert [p[0].episode_id for p in c.losses] == ["a"] and not c.wins
    assert [p[0].episode_id for p in c.better] == ["b"] and [p[0].episode_id for p in c.worse] == ["c"]
    path = write_comparison(c, tmp_path / "pages/compared")
    page = path.read_text("utf-8")
    for words in (
        "vln_ros eval --out &#39;a b&#39;", "vln_ros demo", "shipped:tiny (fingerprint f1n9er)", "streamvln",
        "Only A succeeded (1)", "B ended nearer to the goal (1)", "A ended nearer to the goal (1)",
        "Options that differ (1)", "navigator.qwen.profile", "python 3.",
    ):  # fmt: skip
        assert words in page, words
    assert "<c>" not in page
    links = [unquote(html.unescape(a)) for a in re.findall(r'href="([^"]+)"', page)]
    assert all((path.parent / link).is_file() for link in links), links
    assert sum(link.endswith("report.html") for link in links) == 2
    assert sum(link.endswith("map.png") for link in links) == 6
    assert sum(link.endswith("video.mp4") for link in links) == 4
