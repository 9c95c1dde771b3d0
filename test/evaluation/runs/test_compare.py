"""Other projects' files, read and written; two runs side by side."""

from __future__ import annotations

import dataclasses
import json
import math
from array import array
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from spawned import compare_and_report

from vln_ros.config import ConfigError
from vln_ros.evaluation.episode.metrics import EpisodeMetrics, summarise
from vln_ros.evaluation.runs.compare import compare, comparison_table, write_comparison
from vln_ros.evaluation.runs.loading import FORMATS, LoadedRun, export_run, load_result, load_run
from vln_ros.evaluation.runs.report import write_report
from vln_ros.evaluation.runs.results import EpisodeResult, Protocol, RunInfo
from vln_ros.evaluation.runs.run_folder import EpisodeOutcome, RunFolder

PROTOCOL = Protocol(
    name="r2r-vlnce",
    split="val_unseen",
    control="lockstep",
    goal_radius_m=3.0,
    forward_m=0.25,
    turn_deg=15.0,
    max_steps=500,
)
INFO = RunInfo(("vln_ros", "eval"), PROTOCOL, 7, {"seed": 7}, "abc")

# As the released scripts leave them: a summary without an end of line, to which a resumed run adds.
STREAMVLN = (
    '{"scene_id": "zsNo", "episode_id": "1", "success": 1.0, "spl": 0.9, "os": 1.0, "ne": 1.25, "steps": 31, '
    '"episode_instruction": "Walk past the sofa."}\n'
    '{"scene_id": "zsNo", "episode_id": "2", "success": 0.0, "spl": 0.0, "os": 1.0, "ne": 7.5, "steps": 80, '
    '"episode_instruction": "Leave."}\n'
    '{"sucs_all": 0.5, "spls_all": 0.45, "oss_all": 1.0, "ones_all": 4.375, "length": 2}'
    '{"scene_id": "zsNo", "episode_id": "2", "success": 0.0, "spl": 0.0, "os": 1.0, "ne": 7.5, "steps": 80, '
    '"episode_instruction": "Leave."}\n'
)
INTERNNAV = (
    '{"scene_id": "zsNo", "episode_id": 1, "success": 1.0, "spl": NaN, "os": 1.0, "ne": 0.5, "steps": 20, '
    '"ndtw": 0.8, "episode_instruction": "Go."}\n'
    '{"scene_id": "zsNo", "episode_id": 2, "success": 0.0, "spl": 0.0, "os": 0.0, "ne": Infinity, '
    '"steps": 9, "ndtw": 0.1, "episode_instruction": "Go."}\n'
)


def metrics(run: LoadedRun, episode_id: str) -> EpisodeMetrics:
    found = next(e.metrics for e in run.episodes if e.episode_id == episode_id)
    assert found is not None
    return found


def test_streamvlns_file_with_its_summary_in_the_midst(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(STREAMVLN)
    for path in (tmp_path, tmp_path / "result.json"):
        run = load_run(path)
        assert run.who == "streamvln" and len(run.episodes) == 2
        assert run.notes == ("1 episodes were there twice, the first counts",)
    m = metrics(run, "1")
    assert (m.success, m.spl, m.oracle_success, m.navigation_error_m, m.steps) == (True, 0.9, True, 1.25, 31)
    assert math.isnan(m.path_length_m) and math.isnan(m.ndtw) and math.isnan(m.collisions)


def test_internnavs_file_and_what_is_no_number_in_it(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text(INTERNNAV + '{"scene_id": "zsNo", "epis')
    run = load_run(tmp_path)
    assert run.who == "internnav" and run.notes == ("1 cut off, left out",)
    assert math.isnan(metrics(run, "1").spl) and metrics(run, "1").sdtw == 0.8
    assert metrics(run, "2").navigation_error_m == math.inf and metrics(run, "2").sdtw == 0.0


def test_navidas_files(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    stats = {"distance_to_goal": 2.0, "success": 1.0, "spl": 0.5, "path_length": 9.0, "oracle_success": 1.0,
             "ndtw": 0.5, "id": 17}  # fmt: skip
    (tmp_path / "log" / "stats_17.json").write_text(json.dumps(stats))
    (tmp_path / "log" / "stats_18.json").write_text('{"success": 1')
    for path in (tmp_path, tmp_path / "log"):
        run = load_run(path)
        assert run.who == "navida" and run.notes == ("1 cut off, left out",)
        assert metrics(run, "17").path_length_m == 9.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"episode_id": 1, "success": 1}\nnonsense\n{"episode_id": 2, "success": 1}\n', "line 2 is broken"),
        ("[1]\n", "line 1 is no JSON object"),
        ('{"episode_id": 1}\n', "success"),
        ('{"success": 1}\n', "no episode id"),
        ('{"episode_id": 1, "success": "yes"}\n', "is no number"),
        ("\n", "no episodes"),
    ],
)
def test_files_that_are_none_are_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_run(tmp_path)


def peer_line(number: int, **values: object) -> str:
    line = {
        "scene_id": "s",
        "episode_id": number,
        "success": 0.0,
        "spl": 0.0,
        "os": 0.0,
        "ne": 5.0,
        "steps": 30,
    }
    return json.dumps({k: v for k, v in {**line, **values}.items() if v is not ...})


GOOD = {"success": 1.0, "spl": 0.8, "os": 1.0, "ne": 1.0}
NO_NUMBER = [math.nan, None, ...]  # the last: not there


def peer(tmp_path: Path, *lines: str, file: str = "result.json") -> LoadedRun:
    (tmp_path / file).write_text("\n".join(lines) + "\n", "utf-8")
    return load_run(tmp_path)


@pytest.mark.parametrize("file", ["result.json", "progress.json"])
@pytest.mark.parametrize("spl", [*NO_NUMBER, math.inf, -1.0, 0.3, 1.7, True])
def test_spl_of_a_failure_is_0_and_said(tmp_path: Path, file: str, spl: object) -> None:
    run = peer(tmp_path, peer_line(1, **GOOD), *(peer_line(n, spl=spl) for n in range(2, 6)), file=file)
    s = summarise([e.metrics for e in run.episodes if e.metrics is not None])
    assert s.spl.mean == pytest.approx(0.16) and s.spl.count == 5 and s.spl.mean <= s.success.mean
    assert any(n.startswith("4 failures had another SPL than 0") for n in run.notes)


def test_spl_that_nobody_states_is_unknown(tmp_path: Path) -> None:
    run = peer(tmp_path, peer_line(1, success=1.0, spl=...), peer_line(2, spl=...))
    assert all(math.isnan(metrics(run, n).spl) for n in "12")
    assert "spl none" in run.coverage
    one = peer(tmp_path, peer_line(1, **{**GOOD, "spl": math.nan}), peer_line(2, **GOOD), peer_line(3))
    assert math.isnan(metrics(one, "1").spl) and "spl 2 of 3" in one.coverage


@pytest.mark.parametrize("success", [*NO_NUMBER, math.inf, -1.0, 2.0])
def test_no_verdict_is_no_episode(tmp_path: Path, success: object) -> None:
    run = peer(tmp_path, peer_line(1, **GOOD), peer_line(2, success=success), peer_line(3, success=success))
    assert [e.episode_id for e in run.episodes] == ["1"]
    assert any(n.startswith("2 episodes have no success value") for n in run.notes)
    with pytest.raises(ConfigError, match="no episodes of streamvln in it: 1 episodes have no success value"):
        peer(tmp_path, peer_line(1, success=success))


@pytest.mark.parametrize(
    ("success", "counted", "note"),
    [
        (True, True, None),
        (False, False, None),
        (1, True, None),
        (0.7, True, "1 success values are neither 0 nor 1"),
        (0.2, False, "1 success values are neither 0 nor 1"),
        ("1.0", True, "1 values of success were written as text"),
        ("0", False, "1 values of success were written as text"),
    ],
)
def test_verdicts_that_are_one(tmp_path: Path, success: object, counted: bool, note: str | None) -> None:
    run = peer(tmp_path, peer_line(1, success=success))
    assert metrics(run, "1").success is counted
    assert [n.split(",")[0] for n in run.notes] == ([note] if note else [])


@pytest.mark.parametrize("value", [*NO_NUMBER, -0.5, True])
@pytest.mark.parametrize(
    ("key", "name"),
    [("ne", "navigation_error_m"), ("steps", "steps"), ("ndtw", "ndtw"), ("os", "oracle_success")],
)
def test_what_a_measure_cannot_be_is_left_out(tmp_path: Path, value: object, key: str, name: str) -> None:
    if key == "os" and value is True:
        pytest.skip("a verdict may be a boolean")
    run = peer(tmp_path, peer_line(1, **{**GOOD, "ndtw": 0.5}), peer_line(2, **{"ndtw": 0.5, key: value}))
    got = getattr(metrics(run, "2"), name)
    assert got is None if key == "os" else math.isnan(got)
    assert f"{name.removesuffix('_m').replace('_', ' ')} 1 of 2" in run.coverage
    assert bool(run.notes) == (value in (-0.5, True))
    s = summarise([e.metrics for e in run.episodes if e.metrics is not None])
    assert getattr(s, name).count == 1 and s.unreachable == 0
    assert "values behind the means" in comparison_table(compare(run, run))


def test_an_infinite_error_is_unreachable_and_huge_numbers_break_nothing(tmp_path: Path) -> None:
    lines = [
        peer_line(1, ne=math.inf),
        peer_line(2, ne=5.0).replace("5.0", "1" + "0" * 400),
        peer_line(3, steps=0.5),
    ]
    run = peer(tmp_path, *lines)
    assert metrics(run, "1").navigation_error_m == metrics(run, "2").navigation_error_m == math.inf
    assert (
        math.isnan(metrics(run, "3").steps)
        and "1 values of steps are no whole numbers, left out" in run.notes
    )


@pytest.mark.parametrize("value", ["far", [1.0], {"m": 1.0}, ""])
@pytest.mark.parametrize("key", ["success", "spl", "ne", "steps", "os", "ndtw"])
def test_what_is_no_number_at_all_is_named(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"line 2: {key} = .* is no number"):
        peer(tmp_path, peer_line(1), peer_line(2, **{key: value}))


def test_ids_that_differ_in_their_type_only_are_one(tmp_path: Path) -> None:
    run = peer(tmp_path, peer_line(1), peer_line(1, episode_id="1"), peer_line(1, episode_id=1.0))
    assert run.notes == ("2 episodes were there twice, the first counts",)
    run = peer(tmp_path, peer_line(1), peer_line(1, ne=4.0), peer_line(1, scene_id="other"))
    assert run.notes[1].startswith("2 of those that were there twice had other values")
    wrong: object
    for wrong in (True, None, [1], {}, "", 1.5):
        with pytest.raises(ConfigError, match="no episode id"):
            peer(tmp_path, peer_line(1, episode_id=wrong))


def test_a_summary_that_says_something_else(tmp_path: Path) -> None:
    lines = [peer_line(1, **GOOD), peer_line(2), '{"sucs_all": 0.75, "spls_all": 0.4, "length": 4}']
    assert peer(tmp_path, *lines).notes == ("its summary says success 75.0 %, its episodes 50.0 %",)
    lines[-1] = '{"sucs_all": NaN, "spls_all": 0.4}'
    assert len(peer(tmp_path, *lines).notes) == 1
    with pytest.raises(ConfigError, match="no episodes"):
        peer(tmp_path, lines[-1])


def test_texts_that_only_unicode_takes_for_lines(tmp_path: Path) -> None:
    line = peer_line(1, episode_instruction="Go @ on.").replace("@", "\u2028\x85")
    (tmp_path / "result.json").write_text("\ufeff" + line + "\r\n" + peer_line(2) + "\r\n", "utf-8")
    run = load_run(tmp_path)
    assert len(run.episodes) == 2 and run.notes == ()
    assert run.episodes[0].instruction == "Go \u2028\x85 on."


def test_lists_without_end_are_no_lines(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="line 1 is broken"):
        peer(tmp_path, "[" * 100_000, peer_line(1))


def result(number: int, *, success: bool, error_m: float = 1.0, spl: float = 0.8) -> EpisodeResult:
    m = EpisodeMetrics(
        success=success,
        spl=spl if success else 0.0,
        oracle_success=success,
        navigation_error_m=error_m,
        path_length_m=9.5,
        ndtw=0.75,
        sdtw=0.75 * success,
        collisions=number % 3,
        steps=30 + number,
    )
    return EpisodeResult(
        episode_id=str(number),
        scene_id="mp3d/zsNo/zsNo.glb",
        instruction=f"Go to {number}.",
        folder=str(number),
        ended="stop",
        wall_s=2.5,
        decisions=4,
        latencies_ms=array("d", [20.0] * 4),
        video_frames=0,
        metrics=m,
    )


def loaded(name: str, episodes: list[EpisodeResult], protocol: Protocol | None = PROTOCOL) -> LoadedRun:
    return LoadedRun(name, "vln_ros", tuple(episodes), protocol, ())


@pytest.mark.parametrize("who", FORMATS)
def test_what_is_written_reads_back(tmp_path: Path, who: str) -> None:
    episodes = [result(n, success=n % 2 == 0, error_m=0.5 * n) for n in range(1, 6)]
    episodes[2] = result(3, success=False, error_m=math.inf)
    files = export_run(episodes, who, tmp_path)
    assert files and all(f.exists() for f in files)
    run = load_run(tmp_path)
    assert run.who == who.replace("janusvln", "streamvln") and not run.notes
    kept = {"streamvln": 5, "janusvln": 5, "internnav": 6, "navida": 6}[who]
    for e in episodes:
        m, back = e.metrics, metrics(run, e.episode_id)
        assert m is not None
        names = ("success", "spl", "oracle_success", "navigation_error_m", "steps", "ndtw", "path_length_m")
        same = [n for n in names if getattr(m, n) == getattr(back, n)]
        assert len(same) >= kept, same
    with pytest.raises(ConfigError, match="exists"):
        export_run(episodes, who, tmp_path)


def test_the_summaries_are_averaged_as_theirs_are(tmp_path: Path) -> None:
    episodes = [result(1, success=True, error_m=1.0), result(2, success=False, error_m=math.inf)]
    export_run(episodes, "streamvln", tmp_path / "s")
    summary = json.loads((tmp_path / "s" / "result.json").read_text().splitlines()[-1])
    assert summary["sucs_all"] == 0.5 and summary["ones_all"] == math.inf and summary["length"] == 2
    export_run(episodes, "internnav", tmp_path / "i")
    assert json.loads((tmp_path / "i" / "result.json").read_text())["nes_all"] == 1.0  # infinity is dropped
    with pytest.raises(ConfigError, match="choose one of"):
        export_run(episodes, "habitat", tmp_path)


def test_pairs_wins_and_losses() -> None:
    a = loaded("a", [result(n, success=n <= 6, error_m=1.0 if n <= 6 else 8.0 + n) for n in range(1, 13)])
    b = loaded("b", [result(n, success=n % 2 == 0, error_m=2.0) for n in range(1, 11)])
    c = compare(a, b)
    assert (c.pairs, c.only_a, c.only_b) == (10, 2, 0)
    assert [p[0].episode_id for p in c.wins] == ["10", "8"]  # where a ended farthest away comes first
    assert sorted(p[0].episode_id for p in c.losses) == ["1", "3", "5"]
    assert (c.both, c.neither) == (3, 2)
    success = c.differences[0]
    assert success.difference.mean == pytest.approx(100 * (5 - 6) / 10)
    assert success.difference.low < -10 < success.difference.high
    table = comparison_table(c)
    assert "10 episodes in both" in table and "2 only B, 3 only A, 3 both, 2 neither" in table
    assert success.p_value == 1.0 and "exact McNemar p = 1" in table  # 2 : 3
    assert not success.differs and "9 measures are looked at at once" in table and "Bonferroni" in table


def test_pairing_is_what_makes_a_small_difference_visible() -> None:
    rng = np.random.default_rng(0)
    errors = rng.uniform(0, 20, 400)
    a = loaded("a", [result(n, success=False, error_m=float(e)) for n, e in enumerate(errors)])
    b = loaded(
        "b",
        [
            result(n, success=False, error_m=float(e) - 0.1)
            for n, e in enumerate(errors + 0.1 * rng.random(400))
        ],
    )
    row = next(d for d in compare(a, b).differences if d.label.startswith("Navigation"))
    assert row.difference.high < 0 and row.differs and row.p_value is None
    same = compare(a, a)
    assert all(d.difference.mean == 0.0 and not d.differs for d in same.differences)
    assert "nan" not in comparison_table(same) and "+0.00 – +0.00" not in comparison_table(same)


@pytest.mark.parametrize(
    ("wins", "losses", "p_value", "differs"),
    [
        (0, 0, 1.0, False),
        (4, 0, 0.125, False),
        (5, 0, 0.0625, False),
        (6, 0, 0.03125, True),
        (9, 1, 0.0215, True),
    ],
)
def test_success_is_judged_by_the_pairs_that_differ(
    wins: int, losses: int, p_value: float, differs: bool
) -> None:
    kinds = [(False, True)] * wins + [(True, False)] * losses + [(True, True)] * 10
    a = loaded("a", [result(n, success=k[0]) for n, k in enumerate(kinds)])
    b = loaded("b", [result(n, success=k[1]) for n, k in enumerate(kinds)])
    row = compare(a, b).differences[0]
    assert row.p_value == pytest.approx(p_value, abs=5e-5) and row.differs == differs
    assert compare(b, a).differences[0].p_value == row.p_value


def test_a_comparison_of_few_shows_dashes() -> None:
    a = loaded("a", [result(n, success=True) for n in range(4)])
    b = loaded("b", [result(n, success=False, error_m=9.0 + n) for n in range(4)])
    c = compare(a, b)
    assert all(d.difference.interval("+.2f") == "–" for d in c.differences)
    assert not any(d.differs for d in c.differences) and "nan" not in comparison_table(c)


def test_only_pairs_that_both_measured_count() -> None:
    a = [result(n, success=True, error_m=float(n)) for n in range(4)]
    b = [result(n, success=True, error_m=math.inf if n == 0 else n + 1.0) for n in range(4)]
    row = next(d for d in compare(loaded("a", a), loaded("b", b)).differences if d.label.startswith("Nav"))
    assert row.difference.count == 3 and row.a == 2.0 and row.b == 3.0


def test_what_cannot_be_compared() -> None:
    a = loaded("a", [result(1, success=True)])
    with pytest.raises(ConfigError, match="no measured episode in common"):
        compare(a, loaded("b", [result(2, success=True)]))
    other = EpisodeResult(
        episode_id="1",
        scene_id="mp3d/x/x.glb",
        instruction="",
        folder="",
        ended="",
        wall_s=0.0,
        decisions=0,
        latencies_ms=array("d"),
        video_frames=0,
        metrics=a.episodes[0].metrics,
    )
    with pytest.raises(ConfigError, match="episode 1 is in zsNo in a, in x in b"):
        compare(a, loaded("b", [other]))
    protocol = Protocol(
        name="r2r-vlnce",
        split="val_unseen",
        control="lockstep",
        goal_radius_m=3.0,
        forward_m=0.25,
        turn_deg=30.0,
        max_steps=500,
    )
    assert compare(a, loaded("b", list(a.episodes), protocol)).notes == ("another turn_deg: 15.0 and 30.0",)
    greedy = dataclasses.replace(PROTOCOL, generation="greedy")
    assert compare(loaded("a", list(a.episodes), greedy), a).notes == ("another generation: greedy and none",)
    assert "note:" not in comparison_table(compare(a, a))


def test_the_page_shows_both(tmp_path: Path) -> None:
    a = loaded("a", [result(n, success=n <= 6) for n in range(1, 13)])
    b = loaded("b<&>", [result(n, success=n % 2 == 0) for n in range(1, 11)], None)
    page = write_comparison(compare(a, b), tmp_path).read_text()
    assert "b&lt;&amp;&gt;" in page and "Only A succeeded (3)" in page and "do not state the protocol" in page
    for name in ("differences.svg", "errors.svg"):
        assert name in page and (tmp_path / name).read_text().startswith("<?xml")


def write_run(
    path: Path, episodes: list[EpisodeResult], *, info: RunInfo = INFO, complete: bool = True
) -> None:
    with RunFolder(path, info, resume=False) as folder:
        for e in episodes:
            folder.store(EpisodeOutcome(e, {}))
        folder.finish(None, complete=complete)


def test_shards_are_one_run(tmp_path: Path) -> None:
    write_run(tmp_path / "shard_0_of_2", [result(1, success=True), result(3, success=False)])
    one = load_run(tmp_path)
    assert one.notes == ("the run is not complete",)  # the other shard is missing
    write_run(tmp_path / "shard_1_of_2", [result(2, success=True)])
    (tmp_path / "shard_1_of_2" / "episodes" / "2" / "map.png").write_bytes(b"png")
    whole = load_result(tmp_path)
    assert whole.complete and sorted(e.episode_id for e in whole.episodes) == ["1", "2", "3"]
    page = write_report(whole, tmp_path).read_text()
    assert 'src="shard_1_of_2/episodes/2/map.png"' in page
    write_run(tmp_path / "shard_2_of_3", [result(2, success=True)])
    with pytest.raises(ConfigError, match="another shard"):
        load_result(tmp_path)


def test_shards_of_different_runs_are_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "shard_0_of_2", [result(1, success=True)])
    other = RunInfo(INFO.command, PROTOCOL, 8, INFO.config, "abc")
    write_run(tmp_path / "shard_1_of_2", [result(2, success=True)], info=other)
    with pytest.raises(ConfigError, match="another seed"):
        load_result(tmp_path)
    with pytest.raises(ConfigError, match="no run there"):
        load_run(tmp_path / "nothing")
    (tmp_path / "shard_0_of_2" / "result.json").write_text("{")
    with pytest.raises(ConfigError, match="not valid JSON"):
        load_result(tmp_path)


LINES = 20_000
"""``vln_ros bench eval`` has five times as many."""


def many_lines(path: Path, seed: int) -> None:
    """A run folder as a very large evaluation leaves it, written at once."""
    write_run(path, [])
    rng = np.random.default_rng(seed)
    with (path / "episodes.jsonl").open("w") as file:
        for n in range(LINES):
            e = result(
                n,
                success=bool(rng.random() < 0.5),
                error_m=float(rng.uniform(0, 20)),
                spl=float(rng.random()),
            )
            file.write(e.to_json() + "\n")


@pytest.mark.slow
def test_many_lines_are_no_trouble(tmp_path: Path) -> None:
    for k in range(2):
        many_lines(tmp_path / str(k), k)
    # In a process of its own: what other tests have held would count, too.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
        pairs, page_bytes, most_kb = alone.submit(compare_and_report, tmp_path).result()
    assert pairs == LINES
    assert page_bytes < 200 * LINES
    assert most_kb < 5e5
