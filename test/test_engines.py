"""The composition root builds what options name, and says what they lack before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vln_ros.config import ConfigError, NavigatorConfig, Scalar, from_flat
from vln_ros.datatypes import ActionChunk, Frame, Instruction
from vln_ros.engine.decision import DecisionLoop
from vln_ros.engines import SharedEngines, build_drive, build_engine, build_engines, build_loop, free_memory


def test_so_many_engines_as_asked_for() -> None:
    config = from_flat(NavigatorConfig, {"engine": "paced", "paced.decision_ms": 0.0})
    engines = build_engines(config, 3)
    assert len({id(engine) for engine in engines}) == 3
    for engine in engines:
        engine.close()
    free_memory(config)  # of an engine without a model there is none


def test_the_loop_has_the_options() -> None:
    config = from_flat(NavigatorConfig, {"engine": "paced", "decide_ahead": 2, "lost_after_s": 1.5})
    loop = build_loop(build_engine(config), config)
    assert isinstance(loop, DecisionLoop)
    assert (loop.decide_ahead, loop.lost_after_ns) == (2, 1_500_000_000)


def test_forwards_that_cannot_be_recorded_here_run_all_the_same(caplog: pytest.LogCaptureFixture) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("graphs can be recorded here")
    options = {"engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.accelerate": "graphs"}
    engine = build_engine(from_flat(NavigatorConfig, options))
    assert "graphs are for a CUDA device" in dict(engine.vitals())["accelerate"]  # type: ignore[attr-defined]
    assert any("going on without" in record.message for record in caplog.records)
    engine.close()


def test_an_engine_that_there_is_not() -> None:
    with pytest.raises(ConfigError, match=r"engine = 'qwem': unknown"):
        build_engine(NavigatorConfig(engine="qwem"))  # type: ignore[arg-type]


TRY = """
import json, sys
from vln_ros.config import ConfigError, NavigatorConfig, from_flat
from vln_ros.engines import build_engine
try:
    build_engine(from_flat(NavigatorConfig, json.loads(sys.argv[1])))
    said = ""
except ConfigError as error:
    said = str(error)
print(json.dumps([said, sorted(sys.modules)]))
"""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"engine": "expert"}, "expert.episodes is empty"),
        ({"engine": "qwen"}, "qwen.checkpoint is empty"),
        ({"engine": "qwen", "qwen.profile": "nosuch"}, "nosuch"),
        ({"engine": "paced"}, ""),
    ],
)
def test_what_options_lack_is_said_before_anything_heavy_is_loaded(
    options: dict[str, object], said: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", TRY, json.dumps(options)], capture_output=True, text=True, check=True
    )
    found, modules = json.loads(done.stdout)
    assert (said in found) and bool(found) is bool(said)
    assert not {"torch", "transformers", "scipy", "vln_ros.sim", "vln_ros.evaluation"} & set(modules)


POLICY: dict[str, Scalar] = {"engine": "qwen", "qwen.checkpoint": "shipped:tiny", "qwen.device": "cpu"}


@pytest.mark.slow
def test_robots_share_the_weights_until_the_last_one_goes() -> None:
    pytest.importorskip("torch")
    from vln_ros.engine.qwen import QwenEngine

    shared = SharedEngines()
    own: list[dict[str, Scalar]] = [{}, {"qwen.profile": "navida", "qwen.seed": 3, "decide_ahead": 2}]
    first, second = (shared.build(from_flat(NavigatorConfig, {**POLICY, **more})) for more in own)
    assert isinstance(first, QwenEngine) and isinstance(second, QwenEngine)
    assert first.session.network is second.session.network
    assert first.session is not second.session and second.profile.name == "navida"
    for name, value in (
        ("qwen.dtype", "bfloat16"), ("qwen.attention", "eager"), ("qwen.checkpoint", "elsewhere"),
        ("qwen.device", "cuda"), ("qwen.quantisation", "torchao-int8"), ("engine", "paced"),
    ):  # fmt: skip
        with pytest.raises(ConfigError, match=f"^{name} = '{value}': another robot of this process has"):
            shared.build(from_flat(NavigatorConfig, {**POLICY, name: value}))
    shared.release(first)
    assert shared.is_loaded, "the other one still needs them"
    shared.release(second)
    assert not shared.is_loaded
    third = shared.build(from_flat(NavigatorConfig, {**POLICY, "qwen.attention": "eager"}))
    shared.release(third)


def test_a_robot_that_cannot_begin_leaves_nothing_behind() -> None:
    shared = SharedEngines()
    with pytest.raises(ConfigError, match=r"qwen.checkpoint is empty"):
        shared.build(NavigatorConfig())
    engine = shared.build(from_flat(NavigatorConfig, {"engine": "paced"}))
    assert not shared.is_loaded
    with pytest.raises(ConfigError, match=r"^engine = 'expert': another robot of this process has 'paced'"):
        shared.build(from_flat(NavigatorConfig, {"engine": "expert"}))
    shared.release(engine)


class Silent:
    """An engine that nobody asks."""

    def start(self, instruction: Instruction) -> None: ...

    def observe(self, frame: Frame) -> None: ...

    def decide(self, queue: int) -> ActionChunk:
        raise AssertionError("asked")

    def close(self) -> None: ...


@pytest.mark.parametrize(
    ("options", "drives"),
    [
        ({"engine": "paced"}, False),
        ({"engine": "expert"}, False),
        ({"engine": "qwen", "qwen.profile": "tiny"}, False),
        ({"engine": "qwen", "qwen.profile": "internvla-n1-s2"}, True),
        ({"engine": "pixel_oracle"}, True),
        ({"engine": "pixel_oracle", "decide_on": "frame"}, False),
        ({"engine": "pixel_oracle", "drive": "nav2"}, False),
    ],
)
def test_places_are_driven_to_where_the_profile_has_them(options: dict[str, Scalar], drives: bool) -> None:
    loop = build_loop(Silent(), from_flat(NavigatorConfig, options))
    assert (loop.drive is not None) == drives


@pytest.mark.parametrize("options", [{"decide_on": "frame"}, {"decide_ahead": 1}])
def test_nav2_reports_goals_and_not_actions(options: dict[str, Scalar]) -> None:
    config = from_flat(NavigatorConfig, {"engine": "pixel_oracle", "drive": "nav2", **options})
    with pytest.raises(ConfigError, match="leave progress and 0"):
        build_loop(Silent(), config)


def test_without_a_robot_there_is_no_nav2() -> None:
    with pytest.raises(ConfigError, match="leave drive at queue"):
        build_drive(from_flat(NavigatorConfig, {"engine": "pixel_oracle", "drive": "nav2"}))
