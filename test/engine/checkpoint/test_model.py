"""Loading: real directory structure, true ids, shards, and every way a checkpoint can be wrong."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.files import CheckpointError
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.checkpoint.settings import SpecialTokens
from vln_ros.engine.inputs.preprocess import patchify
from vln_ros.engine.tiny import build_tiny

SMALL = TinyConfig(
    hidden=32, heads=2, kv_heads=1, layers=2, intermediate=48, vision_hidden=32, vision_heads=2
)
TRUE_IDS = SpecialTokens(
    vision_start=151652, vision_end=151653, image_pad=151655, video_pad=151656, im_start=151644, im_end=151645
)


def load(path: Path, **changes: str) -> LoadedModel:
    options = {"device": "cpu", "dtype": "float32", "attention": "sdpa", "quantisation": "none"} | changes
    return load_model(str(path), **options)


@pytest.fixture(scope="module")
def real_like(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shards with an index, tied embeddings, Qwen's own token ids."""
    path = tmp_path_factory.mktemp("checkpoints") / "real_like"
    build_tiny(path, replace(SMALL, true_ids=True, tied=True, shards=3))
    return path


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "plain"
    build_tiny(path, SMALL)
    return path


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    """A checkpoint to spoil."""
    return Path(shutil.copytree(plain, tmp_path / "checkpoint"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def test_real_structure_loads_with_the_true_ids(real_like: Path) -> None:
    model = load(real_like)
    assert model.tokens == TRUE_IDS
    assert len(model.tokenizer) == 151665
    text: Any = model.network.config.text_config
    assert text.vocab_size == 151936
    assert not model.network.training
    assert not any(p.requires_grad for p in model.network.parameters())
    assert (model.pixels.token_side, model.pixels.min_pixels, model.pixels.max_pixels) == (28, 3136, 12845056)


def test_every_released_tensor_reaches_its_place(real_like: Path) -> None:
    network = load(real_like).network
    files: dict[str, torch.Tensor] = {}
    for shard in sorted(real_like.glob("model-*.safetensors")):
        files |= load_file(shard)
    assert "lm_head.weight" not in files
    assert network.lm_head.weight.data_ptr() == network.model.language_model.embed_tokens.weight.data_ptr()
    q = "layers.1.self_attn.q_proj.weight"
    assert torch.equal(files[f"model.{q}"], network.get_parameter(f"model.language_model.{q}"))
    merger = "visual.merger.mlp.2.bias"
    assert torch.equal(files[merger], network.get_parameter(f"model.{merger}"))
    in_memory = {p.data_ptr(): p for p in network.parameters()}
    assert sum(p.numel() for p in in_memory.values()) == sum(t.numel() for t in files.values())
    # Nothing that was loaded has been left at an initial value.
    sums = sorted(float(p.double().sum()) for p in in_memory.values())
    np.testing.assert_allclose(sums, sorted(float(t.double().sum()) for t in files.values()), rtol=1e-9)


def test_sharding_changes_no_weight(plain: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "sharded", replace(SMALL, shards=4))
    one, four = load(plain), load(tmp_path / "sharded")
    ids = torch.arange(40)[None]
    with torch.no_grad():
        assert torch.equal(one.network(input_ids=ids).logits, four.network(input_ids=ids).logits)
    assert one.fingerprint != four.fingerprint


def test_tokenizer_equals_the_released_loader(plain: Path) -> None:
    ours, theirs = load(plain).tokenizer, AutoTokenizer.from_pretrained(plain)
    text = "<|im_start|>user\nTurn left, don't STOP at 25cm: ↑→ größe\n\n  x<|im_end|>\n"
    assert ours(text).input_ids == theirs(text).input_ids
    assert ours.decode(ours(text).input_ids) == text
    chat = [{"role": "user", "content": "hello"}]
    assert ours.apply_chat_template(chat, tokenize=False) == theirs.apply_chat_template(chat, tokenize=False)


def test_loads_where_torchvision_cannot_be_imported(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision", None)  # makes every import of it fail
    model = load(plain)
    patches = patchify(np.zeros((56, 84, 3), np.uint8), model.pixels, None, None)
    features = model.network.model.get_image_features(patches.patches, patches.grid_thw).pooler_output
    assert features[0].shape == (6, SMALL.hidden)


def test_equals_the_auto_processor(plain: Path) -> None:
    pytest.importorskip("torchvision", reason="AutoProcessor needs torchvision")
    from PIL import Image
    from transformers import AutoProcessor

    model = load(plain)
    rgb = np.random.default_rng(0).integers(0, 256, (120, 160, 3), np.uint8)
    processor = AutoProcessor.from_pretrained(plain, use_fast=False)
    theirs = processor(
        text="<|vision_start|><|image_pad|><|vision_end|>go", images=Image.fromarray(rgb), return_tensors="pt"
    )
    ours = patchify(rgb, model.pixels, None, None)
    assert torch.equal(theirs["image_grid_thw"], ours.grid_thw)
    assert (theirs["pixel_values"] - ours.patches).abs().max() < 1e-5
    tokens = "<|image_pad|>" * (ours.grid_h * ours.grid_w // 4)
    text = f"<|vision_start|>{tokens}<|vision_end|>go"
    assert theirs["input_ids"][0].tolist() == model.tokenizer(text).input_ids


def test_settings_in_the_newer_layout(copy: Path) -> None:
    expected = load(copy).pixels
    old = json.loads((copy / "preprocessor_config.json").read_text())
    (copy / "preprocessor_config.json").unlink()
    old["size"] = {"shortest_edge": old.pop("min_pixels"), "longest_edge": old.pop("max_pixels")}
    (copy / "processor_config.json").write_text(json.dumps({"image_processor": old}))
    assert load(copy).pixels == expected


def test_fingerprint_follows_the_weights(copy: Path, plain: Path) -> None:
    assert load(copy).fingerprint == load(plain).fingerprint
    with (copy / "model.safetensors").open("r+b") as f:
        f.seek(-4, 2)
        f.write(b"\0\0\0\1")
    assert load(copy).fingerprint != load(plain).fingerprint


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"]
)
def test_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=name):
        load(copy)


def test_missing_weights(copy: Path) -> None:
    (copy / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor"):
        load(copy)
    (copy / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="converted to safetensors"):
        load(copy)


def test_missing_shards_are_named(real_like: Path, tmp_path: Path) -> None:
    broken = Path(shutil.copytree(real_like, tmp_path / "broken"))
    (broken / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 3 weight files: model-00002-of-00003"):
        load(broken)


def test_truncated_weights(copy: Path) -> None:
    whole = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load(copy)


def test_tensor_that_is_not_there(copy: Path) -> None:
    from safetensors.torch import save_file

    tensors = load_file(copy / "model.safetensors")
    del tensors["model.norm.weight"]
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights are missing.*norm\.weight"):
        load(copy)


def test_weights_of_another_size(copy: Path) -> None:
    edit(copy / "config.json", intermediate_size=64)
    with pytest.raises(CheckpointError, match="do not fit config"):
        load(copy)


def test_broken_json(copy: Path) -> None:
    (copy / "config.json").write_text('{"model_type": "qwen2_5_vl",')
    with pytest.raises(CheckpointError, match=r"config\.json cannot be read"):
        load(copy)


def test_broken_tokenizer(copy: Path) -> None:
    (copy / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json cannot be read as a tokenizer"):
        load(copy)


def test_other_family(copy: Path) -> None:
    edit(copy / "config.json", model_type="llava", architectures=["LlavaForConditionalGeneration"])
    with pytest.raises(CheckpointError, match=r"'llava'.*runs Qwen2\.5-VL"):
        load(copy)


def test_lora_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="LoRA"):
        load(tmp_path)


def test_tokenizer_of_another_checkpoint(copy: Path, real_like: Path) -> None:
    shutil.copy(real_like / "tokenizer.json", copy / "tokenizer.json")
    shutil.copy(real_like / "tokenizer_config.json", copy / "tokenizer_config.json")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json says 151652"):
        load(copy)


@pytest.mark.parametrize(
    ("key", "value"),
    [("patch_size", 16), ("merge_size", None), ("image_mean", [0.5]), ("resample", 2), ("do_resize", False)],
)
def test_odd_image_settings(copy: Path, key: str, value: object) -> None:
    edit(copy / "preprocessor_config.json", **{key: value})
    with pytest.raises(CheckpointError, match=key):
        load(copy)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("device", "gpu", "not a device"),
        ("device", "cuda:63", "63.*usable CUDA devices"),
        ("device", "meta", "only cpu, cuda and mps"),
        ("dtype", "float8", "choose one of auto, float32"),
        ("attention", "flash", "choose one of sdpa"),
        ("quantisation", "int3", "choose one of none"),
    ],
)
def test_bad_options(plain: Path, option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=f"{option}.*{message}"):
        load(plain, **{option: value})


@pytest.mark.parametrize("quantisation", ["bitsandbytes-4bit", "torchao-int8"])
def test_quantisation_library_missing(
    plain: Path, monkeypatch: pytest.MonkeyPatch, quantisation: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install"):
        load(plain, quantisation=quantisation)


def test_paths_that_are_no_checkpoint(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="no such directory"):
        load(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a file"):
        load(plain / "config.json")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="hub did not deliver"):
        load(Path("owner/name-that-is-not-cached"))


def test_half_precision(plain: Path) -> None:
    model = load(plain, dtype="bfloat16", attention="eager")
    assert model.dtype == torch.bfloat16 == model.network.lm_head.weight.dtype
