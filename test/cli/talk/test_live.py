"""`vln_ros live`: a sentence is understood, driven and judged, in a world that goes on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("rclpy", reason="needs ROS")
pytest.importorskip("torch", reason="needs the engine's libraries")

from habitat_fakes import fake_python
from progress_lines import complaints

from vln_ros.evaluation.runs.loading import load_run
from vln_ros.sim.embedded.export import write_scene
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M
from vln_ros.sim.embedded.world import Scene
from vln_ros.sim.episodes.episode import write_episodes
from vln_ros.sim.splits import make_scene_episodes

pytestmark = [pytest.mark.ros, pytest.mark.slow]

DEADLINE_S = 110.0


def live(typed: str, *options: str) -> tuple[int, str, str]:
    return command("live", "--kind", "room", "--size", "112x112", *options, typed=typed)


def command(*arguments: str, typed: str = "") -> tuple[int, str, str]:
    """Status, what it said, and what it complained about."""
    done = subprocess.run(
        [sys.executable, "-m", "vln_ros", *arguments],
        input=typed,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, complaints(done.stderr)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--start", "0"], "--start = 0"),
        (["--start", "6"], "--start = 6"),
        (["--flat", "-1"], "--flat = -1"),
        (["--flat", "100000"], "--flat = 100000"),
        (["--kind", "castle"], "invalid choice"),
        (["--size", "big"], "--size"),
        (["--start", "1", "--episode-file", "f"], "--kind, --start: with --episode-file"),
        (["--limit-s", "0"], "--limit-s"),
        (["--checkpoint", "/nowhere"], "no such directory"),
        (["--profile", "unheard"], "unheard"),
    ],
)
def test_what_cannot_be_begun_is_said_before_anything_starts(options: list[str], words: str) -> None:
    status, out, error = live("", *options)
    assert status == 2 and "ready" not in out
    assert words in error


@pytest.mark.timeout(180)
def test_sentences_questions_and_stop_in_their_order(tmp_path: Path) -> None:
    out_folder = tmp_path / "run"
    typed = (
        "please walk past the dragon\n"  # names nothing that a flat may have
        "stop\n"
        "stop at the nearest thing, the lamp\n"
        "what do you see?\n"
        "\n"
        "stop by the \x07\n"
    )
    status, out, error = live(typed, "--limit-s", "8", "--out", str(out_folder))
    assert (status, error) == (0, "")
    assert re.search(r"ready after \d+\.\d s", out)
    scene, *_ = out.splitlines()
    assert scene.startswith("embedded/room_900000/") and "the " in scene
    unscored = out.index("words that the flats' instructions do not have: please, dragon")
    assert "names no thing to stop at, so it is not scored" in out
    assert re.search(r"^over \((stop|time limit)\); it was not scored$", out, re.MULTILINE)
    stands = out.index("the robot stands")
    assert unscored < stands
    assert "control characters" in out
    assert out.index("answer: ") > stands
    if "lamp" not in scene:
        assert "There is no lamp here" in out
        return
    goal = out.index("The goal is the ")
    assert stands < goal
    verdict = re.search(r"^(not )?reached: .* beside the \w+ lamp.*m is the shortest way$", out, re.MULTILINE)
    assert verdict is not None
    (episode,) = load_run(out_folder).episodes
    assert episode.metrics is not None
    assert episode.metrics.success == (verdict[1] is None)
    assert f"report: {out_folder / 'report.html'}" in out


def test_without_a_terminal_and_without_a_word_it_stays() -> None:
    """For a page, or for `vln_ros say`, in a container."""
    process = subprocess.Popen(
        [sys.executable, "-m", "vln_ros", "live", "--kind", "room", "--size", "112x112"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    domain, seen = "", ""
    try:
        for line in process.stdout:
            seen += line
            domain = (re.search(r"ROS_DOMAIN_ID=(\d+)", line) or ["", domain])[1]
            if "no terminal" in line:
                break
        else:
            raise AssertionError(seen)
        said = subprocess.run(
            [sys.executable, "-m", "vln_ros", "say", "walk on", "--domain", domain],
            capture_output=True, text=True, timeout=DEADLINE_S, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        assert "it goes: " in said.stdout
        heard = next((line for line in process.stdout if "not scored" in line), "")
    finally:
        process.terminate()
        process.communicate(timeout=DEADLINE_S)
    assert heard, "the world's word of it came before the end"
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--world", "habitat"], "--episode-file"),
        (["--world", "habitat", "--episode-file", "FILE"], "habitat.python is empty"),
        (
            ["--world", "habitat", "--episode-file", "FILE", "--python", "/nowhere/python"],
            "cannot be started",
        ),
        (["--world", "habitat", "--episode-file", "FILE", "--python", sys.executable], "habitat_sim"),
        (
            ["--world", "habitat", "--episode-file", "/nowhere.json.gz", "--python", sys.executable],
            "/nowhere.json.gz",
        ),
        (["--episode-file", "FILE", "--start", "2"], "--start: with --episode-file the file says"),
        (["--episode-file", "FILE", "--episode", "77"], "'77': none of the 2 episodes"),
        (["--episode", "7"], "--episode = '7': of which file"),
        (["--python", "/usr/bin/python3"], "--python: only --world habitat"),
        (["--habitat-scenes", "scenes"], "--habitat-scenes: only --world habitat"),
        (["--world", "mars"], "invalid choice"),
    ],
)
def test_a_world_that_cannot_be_had_is_refused_with_the_reason(
    tmp_path: Path, options: list[str], words: str
) -> None:
    file = write_episodes(tmp_path, "starts", make_scene_episodes("val_unseen", 900_003, "small")[:2])
    status, out, error = command("live", *(o.replace("FILE", str(file)) for o in options))
    assert status == 2 and "ready" not in out
    assert words in error


@pytest.mark.timeout(180)
def test_habitat_is_a_world_to_talk_in(tmp_path: Path) -> None:
    """With a Habitat that is no renderer: the sentence is followed there, and not scored."""
    episodes = make_scene_episodes("val_unseen", 900_003, "small")[:2]
    write_scene(tmp_path / "scenes", Scene(episodes[0].scene_id, AGENT_RADIUS_M))
    file = write_episodes(tmp_path, "starts", episodes)
    options = ["--world", "habitat", "--episode-file", str(file), "--episode", episodes[1].episode_id]
    options += ["--habitat-scenes", str(tmp_path / "scenes"), "--python", fake_python(tmp_path)]
    status, out, error = command(
        "live", "--size", "112x112", "--limit-s", "5", *options, typed="walk on\nstop\n"
    )
    assert (status, error) == (0, "")
    assert f"start of episode {episodes[1].episode_id} ({episodes[1].instruction})" in out
    assert "it was not scored" in out and "the robot stands" in out
