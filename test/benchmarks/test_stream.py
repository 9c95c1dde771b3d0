"""`vln_ros bench stream`: both ways answer alike; the figures mean what they say."""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import stream_points
from benchmarks.measure.stream import Request, measure_features, measure_native, measure_streaming
from benchmarks.suites import stream as bench_stream
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.tiny import build_tiny


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("checkpoints") / "tiny"
    build_tiny(path, TinyConfig(hidden=64, heads=2, kv_heads=1, layers=2, vision_hidden=32, vision_depth=2))
    return str(path)


@pytest.mark.parametrize("chunk", [1, 2])
def test_both_ways_give_the_same_answer(checkpoint: str, chunk: int) -> None:
    request = Request(
        checkpoint, "cpu", "float32", frames=3, width=84, height=56, chunk=chunk, answer_tokens=4
    )
    model = load_model(checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    streaming, native = measure_streaming(model, request), measure_native(model, request)
    features = measure_features(model, request)
    assert streaming.answer == features.answer == native.answer
    for one in (streaming, features):  # the newest frame costs them, and native nothing on top
        assert one.with_newest_s == pytest.approx(one.first_token_s + sorted(one.frame_s)[1])
    assert native.with_newest_s == native.first_token_s
    assert features.context_tokens == native.context_tokens
    assert max(abs(a - b) for a, b in zip(features.first_logits, native.first_logits, strict=True)) < 1e-4
    assert len(native.answer) == 4
    assert max(abs(a - b) for a, b in zip(streaming.first_logits, native.first_logits, strict=True)) < 1e-4
    assert streaming.context_tokens == native.context_tokens
    assert len(streaming.frame_s) == 3
    assert len(streaming.flops_by_frame) == -(-3 // chunk)
    assert 0 < streaming.ask_flops < streaming.all_flops
    assert 0 < native.first_token_s <= native.total_s


def test_lag_of_a_stream_that_keeps_up_and_of_one_that_does_not() -> None:
    assert stream_points.lag_s((0.1,) * 10, 1, 5.0) == pytest.approx(0.1)
    assert stream_points.lag_s((0.5,) * 10, 1, 5.0) == pytest.approx(10 * 0.5 - 9 / 5)
    assert stream_points.lag_s((0.1,) * 10, 4, 5.0) == pytest.approx(0.2)  # the last chunk holds two frames


@pytest.mark.slow
def test_command_writes_table_json_and_plots(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    bench_stream.add_arguments(parser)
    arguments = ["--checkpoint", checkpoint, "--frames", "2", "--size", "84x56", "--answer-tokens", "3"]
    arguments += ["--repeats", "1"]
    outputs = ["--sweep", "frames", "--json", str(tmp_path / "b.json"), "--plots", str(tmp_path / "plots")]
    assert bench_stream.run(parser.parse_args(arguments + outputs)) == 0
    assert "latency hiding" in capsys.readouterr().out
    points = json.loads((tmp_path / "b.json").read_text())["points"]
    assert [p["sweep"] for p in points] == ["main", "frames"]
    assert all(p["same_tokens"] == 1.0 for p in points)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"frame_cost.png", "sweep_frames.png"}


def request_of(frames: int) -> Request:
    return Request("c", "cpu", "float32", frames, 84, 56, 1, 4)


@pytest.mark.parametrize(
    ("fits", "stride", "log"), [(64, 1, []), (20, 4, [64, 32]), (1, 64, [64, 32, 16, 8, 4, 2])]
)
def test_out_of_memory_steps_down_and_still_compares(fits: int, stride: int, log: list[int]) -> None:
    def measure(way: str, request: Request) -> Any:
        if way == "native" and len(request.shown) > fits:
            raise stream_points.OutOfMemoryError("too much")
        return way, len(request.shown)

    steps: list[stream_points.StepDown] = []
    request, *results = stream_points.compare(request_of(64), measure, {}, steps)
    found: list[Any] = results
    assert request.stride == stride
    assert found == [(way, 64 // stride) for way in ("streaming", "features", "native")]
    assert [s.shown for s in steps] == log
    assert all("too much" in s.describe() for s in steps)


def test_a_single_frame_that_does_not_fit_is_an_error() -> None:
    def measure(way: str, request: Request) -> Any:
        raise stream_points.OutOfMemoryError("too much")

    with pytest.raises(ConfigError, match="single frame"):
        stream_points.compare(request_of(3), measure, {}, [])


@pytest.mark.slow
def test_a_process_that_hits_its_limit_says_so(checkpoint: str, tmp_path: Path) -> None:
    request = replace(request_of(4), checkpoint=checkpoint, memory_limit_mb=200)
    with pytest.raises(stream_points.OutOfMemoryError, match="memory"):
        stream_points.measure("native", request, tmp_path)


def memory_of_one_frame_mb(checkpoint: str, folder: Path) -> int:
    """What the limit counts, of a process that has answered about a single frame."""
    (folder / "one.json").write_text(json.dumps(asdict(replace(request_of(1), checkpoint=checkpoint))))
    code = (
        "import sys; from benchmarks.measure.stream import main; main('native', *sys.argv[1:]);"
        "print(next(x.split()[1] for x in open('/proc/self/status') if x.startswith('VmData:')))"
    )
    command = [sys.executable, "-c", code, str(folder / "one.json"), str(folder / "result.json")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1]) // 1000


@pytest.mark.slow
def test_with_real_limits_the_command_steps_down_and_compares(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    limit_mb = memory_of_one_frame_mb(checkpoint, tmp_path) + 120  # 16 frames need twice as much, four a half
    parser = argparse.ArgumentParser()
    bench_stream.add_arguments(parser)
    arguments = ["--checkpoint", checkpoint, "--frames", "16", "--size", "476x364", "--answer-tokens", "2"]
    arguments += ["--repeats", "1", "--memory-limit-mb", str(limit_mb), "--json", str(tmp_path / "s.json")]
    assert bench_stream.run(parser.parse_args(arguments)) == 0
    figures = json.loads((tmp_path / "s.json").read_text())
    (point,), steps = figures["points"], figures["stepped_down"]
    assert point["request"]["stride"] == 2 ** len(steps) > 1
    assert [s["stride"] for s in steps] == [2**k for k in range(len(steps))]
    assert point["same_tokens"] == 1.0
    assert point["streaming"]["context_tokens"] == point["native"]["context_tokens"]
    said = capsys.readouterr().out
    for step in steps:
        assert "memory" in step["reason"]
        assert f"ran out of memory with {step['shown']} of 16 frames" in said
        assert f"ran out of memory with {step['shown']} of 16 frames" in bench_stream.section(figures)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "640"], "WIDTHxHEIGHT"),
        (["--size", "10x10"], "at least 28x28"),
        (["--frames", "0"], "--frames = 0"),
        (["--memory-limit-mb", "-1"], "memory-limit-mb = -1"),
        (["--fps", "0"], "rates must be positive"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    bench_stream.add_arguments(parser)
    with pytest.raises(ConfigError, match=message):
        bench_stream.run(parser.parse_args(arguments))
