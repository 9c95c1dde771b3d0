"""The small checkpoint: same seed, same bytes; true structure; the command."""

import argparse
import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from vln_ros.cli import tiny as command
from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.tiny import SPECIAL_TOKENS, build_tiny

SMALL = TinyConfig(hidden=32, heads=2, kv_heads=1, layers=2, vision_hidden=32, vision_depth=2)
RELEASED_FILES = {
    "chat_template.json",
    "config.json",
    "generation_config.json",
    "merges.txt",
    "model.safetensors",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
}


def digests(path: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in path.iterdir()}


def test_same_seed_same_bytes_in_another_process(tmp_path: Path) -> None:
    build_tiny(tmp_path / "here", SMALL)
    code = (
        "import sys; from pathlib import Path; from vln_ros.config import TinyConfig;"
        "from vln_ros.engine.tiny import build_tiny;"
        "build_tiny(Path(sys.argv[1]), TinyConfig(hidden=32, heads=2, kv_heads=1, layers=2, vision_hidden=32,"
        " vision_depth=2))"
    )
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "there")], cwd=root, check=True, timeout=60)
    assert digests(tmp_path / "here") == digests(tmp_path / "there")
    for i in range(8):  # what changes from call to call may be the same twice
        build_tiny(tmp_path / f"here again {i}", SMALL)
        assert digests(tmp_path / f"here again {i}") == digests(tmp_path / "here")
    assert set(digests(tmp_path / "here")) == RELEASED_FILES


def test_another_seed_changes_the_weights_only(tmp_path: Path) -> None:
    build_tiny(tmp_path / "a", SMALL)
    build_tiny(tmp_path / "b", replace(SMALL, seed=1))
    a, b = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert {name for name in a if a[name] != b[name]} == {"model.safetensors"}


def test_command_builds_what_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    out = str(tmp_path / "deep" / "tiny")
    assert command.run(parser.parse_args([out])) == 0
    assert "2.9" in capsys.readouterr().out  # million parameters, as documented
    model = load_model(out, device="cpu", dtype="float32", attention="sdpa", quantisation="none")
    ids = torch.tensor([model.tokenizer("Instruction: turn left and stop.").input_ids])
    with torch.no_grad():
        logits = model.network(input_ids=ids).logits[0]
    assert logits.std() > 1.0  # not flat: greedy choices are not ties
    assert len(logits.argmax(-1).unique()) > 1


def test_action_words_are_single_tokens(tmp_path: Path) -> None:
    build_tiny(tmp_path / "tiny", SMALL)
    config = json.loads((tmp_path / "tiny" / "tokenizer.json").read_text("utf-8"))
    vocabulary = config["model"]["vocab"]
    for word in ("forward", "Ġforward", "left", "Ġleft", "right", "Ġright", "stop", "Ġstop", ","):
        assert word in vocabulary
    assert [t["content"] for t in config["added_tokens"]] == list(SPECIAL_TOKENS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": 40, "heads": 2}, "hidden = 40 over 2 heads"),
        ({"vision_hidden": 36, "vision_heads": 4}, "vision_hidden = 36"),
        ({"heads": 2, "kv_heads": 3}, "kv_heads = 3 must divide"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_tiny(tmp_path / "tiny", replace(SMALL, **changes))


def test_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ConfigError, match="exists already"):
        build_tiny(tmp_path, SMALL)
    with pytest.raises(ConfigError, match="exists already"):
        build_tiny(tmp_path / "file", SMALL)
    assert (tmp_path / "file").read_text() == "mine"
