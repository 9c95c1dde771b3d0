"""`vln_ros bench stream`: both ways answer alike; the figures mean what they say."""

import argparse
import json
from pathlib import Path

import pytest

from vln_ros.cli import bench_stream
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.model import load_model
from vln_ros.engine.stream_bench import Request, measure_native, measure_streaming
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
    assert streaming.answer == native.answer
    assert len(native.answer) == 4
    assert max(abs(a - b) for a, b in zip(streaming.first_logits, native.first_logits, strict=True)) < 1e-4
    assert streaming.context_tokens == native.context_tokens
    assert len(streaming.frame_s) == 3
    assert len(streaming.flops_by_frame) == -(-3 // chunk)
    assert 0 < streaming.ask_flops < streaming.all_flops
    assert 0 < native.first_token_s <= native.total_s


def test_lag_of_a_stream_that_keeps_up_and_of_one_that_does_not() -> None:
    assert bench_stream._lag((0.1,) * 10, 1, 5.0) == pytest.approx(0.1)
    assert bench_stream._lag((0.5,) * 10, 1, 5.0) == pytest.approx(10 * 0.5 - 9 / 5)
    assert bench_stream._lag((0.1,) * 10, 4, 5.0) == pytest.approx(0.2)  # the last chunk holds two frames


@pytest.mark.slow
def test_command_writes_table_json_and_plots(
    checkpoint: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    bench_stream.add_arguments(parser)
    arguments = ["--checkpoint", checkpoint, "--frames", "2", "--size", "84x56", "--answer-tokens", "3"]
    outputs = ["--sweep", "frames", "--json", str(tmp_path / "b.json"), "--plots", str(tmp_path / "plots")]
    assert bench_stream.run(parser.parse_args(arguments + outputs)) == 0
    assert "latency hiding" in capsys.readouterr().out
    points = json.loads((tmp_path / "b.json").read_text())["points"]
    assert [p["sweep"] for p in points] == ["main", "frames"]
    assert all(p["same_tokens"] == 1.0 for p in points)
    assert {p.name for p in (tmp_path / "plots").iterdir()} == {"frame_cost.png", "sweep_frames.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "640"], "WIDTHxHEIGHT"),
        (["--size", "10x10"], "at least 28x28"),
        (["--frames", "0"], "--frames = 0"),
        (["--fps", "0"], "rates must be positive"),
    ],
)
def test_bad_arguments(arguments: list[str], message: str) -> None:
    parser = argparse.ArgumentParser()
    bench_stream.add_arguments(parser)
    with pytest.raises(ConfigError, match=message):
        bench_stream.run(parser.parse_args(arguments))
