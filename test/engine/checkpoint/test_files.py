"""Checkpoint folders that hold more, or something else, than a released Qwen2.5-VL in plain weights."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BitsAndBytesConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.config import TinyConfig
from vln_ros.engine.checkpoint.files import CheckpointError, checkpoint_fingerprint
from vln_ros.engine.checkpoint.model import LoadedModel, load_model
from vln_ros.engine.tiny import build_tiny

SMALL = TinyConfig(
    hidden=32, heads=2, kv_heads=1, layers=2, intermediate=48, vision_hidden=32, vision_heads=2
)
WIDE = replace(SMALL, hidden=64, intermediate=64, vision_hidden=64, vision_intermediate=64)
"""Four bits of it can be packed for any processor."""
IDS = torch.arange(40)[None]
Q = "model.layers.0.self_attn.q_proj"


def load(path: Path, quantisation: str = "none") -> LoadedModel:
    return load_model(str(path), device="cpu", dtype="float32", attention="sdpa", quantisation=quantisation)


@torch.no_grad()
def logits(model: LoadedModel) -> torch.Tensor:
    found: torch.Tensor = model.network(input_ids=IDS).logits
    return found


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("checkpoints") / "plain"
    build_tiny(path, SMALL)
    return path


@pytest.fixture
def copy(plain: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(plain, tmp_path / "checkpoint"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def with_tensors(folder: Path, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Path:
    file = folder / "model.safetensors"
    save_file({k: v.contiguous() for k, v in change(load_file(file)).items()}, file, {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("vggt.aggregator.patch_embed.weight", "towers, heads or layers"),  # a second, geometric tower
        ("model.latent_queries", "towers, heads or layers"),  # queries of a trajectory head
        ("traj_dit.blocks.0.attn.qkv.weight", "towers, heads or layers"),
        ("v_head.summary.weight", "towers, heads or layers"),  # reinforcement learning
        ("score.weight", "towers, heads or layers"),  # a classifier
        ("model.layers.9.mlp.up_proj.weight", "towers, heads or layers"),  # a config with too few layers
        ("visual.blocks.99.mlp.up_proj.weight", "towers, heads or layers"),
        (f"{Q}.lora_A.weight", "not merged"),
        (f"{Q}.lora_B.default.weight", "not merged"),
        (f"{Q}.base_layer.weight", "not merged"),
    ],
)
def test_a_tensor_without_a_place_is_refused_by_name(copy: Path, name: str, message: str) -> None:
    with_tensors(copy, lambda tensors: tensors | {name: torch.ones(2, 2)})
    last = name.rsplit(".", 2)[-2]
    with pytest.raises(CheckpointError, match=rf"{last}.*{message}|{message}.*{last}"):
        load(copy)


def test_what_old_releases_saved_and_nobody_needs_is_no_more(copy: Path, plain: Path) -> None:
    with_tensors(
        copy, lambda tensors: tensors | {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    )
    assert torch.equal(logits(load(copy)), logits(load(plain)))


def test_a_trained_head_under_a_tied_config_is_refused(copy: Path) -> None:
    edit(copy / "config.json", tie_word_embeddings=True)
    with pytest.raises(CheckpointError, match=r"tie_word_embeddings.*lm_head"):
        load(copy)
    with_tensors(
        copy, lambda tensors: tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}
    )
    network = load(copy).network  # equal values: the same model either way
    assert torch.equal(network.lm_head.weight, network.model.language_model.embed_tokens.weight)


@pytest.mark.parametrize(
    "file",
    ["adapter_model.safetensors", "adapter_model.bin", "non_lora_trainables.bin", "value_head.safetensors"],
)
def test_trained_weights_beside_the_model_are_refused(copy: Path, file: str) -> None:
    (copy / file).write_bytes(b"")
    with pytest.raises(CheckpointError, match=rf"{file.split('.')[0]}.*beside it"):
        load(copy)
    with pytest.raises(CheckpointError, match="beside it"):
        checkpoint_fingerprint(str(copy))


@pytest.mark.parametrize("file", ["optimizer.pt", "training_args.bin", "rng_state.pth", "README.md"])
def test_what_a_trainer_leaves_beside_the_model_does_no_harm(copy: Path, plain: Path, file: str) -> None:
    (copy / file).write_bytes(b"")
    assert torch.equal(logits(load(copy)), logits(load(plain)))


def test_two_sets_of_weights_are_refused(copy: Path) -> None:
    (copy / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(CheckpointError, match="two sets of weights"):
        load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"architectures": ["JanusVLNForConditionalGeneration"]}, "JanusVLN.*computation may differ"),
        ({"architectures": ["InternVLAN1ForCausalLM"], "model_type": "internvla_n1"}, "'internvla_n1'"),
        ({"architectures": ["Qwen2_5_VLForSequenceClassification"]}, "computation may differ"),
        ({"auto_map": {"AutoModel": "modeling.Mine"}}, "auto_map"),
    ],
)
def test_another_computation_under_the_same_family_is_refused(
    copy: Path, changes: dict[str, object], message: str
) -> None:
    edit(copy / "config.json", **changes)
    with pytest.raises(CheckpointError, match=message):
        load(copy)


# --- adapters ---------------------------------------------------------------------------------------------


def make_adapter(base: Path, out: Path, **options: object) -> torch.Tensor:
    """A LoRA adapter of random values, as peft saves it; returns the logits of peft's own model."""
    peft = pytest.importorskip("peft", reason="adapters are merged with peft")
    torch.manual_seed(3)
    network = Qwen2_5_VLForConditionalGeneration.from_pretrained(base, dtype=torch.float32)
    config = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    wrapped = peft.get_peft_model(network, peft.LoraConfig(**(config | options))).eval()
    wrapped.save_pretrained(out)
    edit(out / "adapter_config.json", base_model_name_or_path=str(base))
    with torch.no_grad():
        return torch.as_tensor(wrapped(input_ids=IDS).logits)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"use_rslora": True},
        {"use_dora": True},
        {"target_modules": "all-linear"},  # the vision tower, too
        {"modules_to_save": ["lm_head"]},
        {"rank_pattern": {"v_proj": 2}},
    ],
    ids=["lora", "rslora", "dora", "all", "saved-head", "ranks"],
)
def test_an_adapter_is_merged_into_the_model_that_it_names(
    plain: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    expected = make_adapter(plain, tmp_path / "adapter", **options)
    merged = load(tmp_path / "adapter")
    assert type(merged.network) is Qwen2_5_VLForConditionalGeneration
    assert (logits(merged) - logits(load(plain))).abs().max() > 1e-2
    torch.testing.assert_close(logits(merged), expected, atol=2e-5, rtol=2e-5)
    assert merged.fingerprint == checkpoint_fingerprint(str(tmp_path / "adapter"))
    assert merged.fingerprint != checkpoint_fingerprint(str(plain))


def test_an_adapter_with_the_names_of_older_transformers(plain: Path, tmp_path: Path) -> None:
    expected = make_adapter(plain, tmp_path / "a", target_modules="all-linear")
    file = tmp_path / "a/adapter_model.safetensors"
    tensors = load_file(file)
    old = {
        k.replace(".model.language_model.", ".model.").replace(".model.model.visual.", ".model.visual."): v
        for k, v in tensors.items()
    }
    assert not set(old) & set(tensors)
    save_file(old, file)
    torch.testing.assert_close(logits(load(tmp_path / "a")), expected, atol=2e-5, rtol=2e-5)


def test_adapters_that_do_not_fit_are_refused(plain: Path, tmp_path: Path) -> None:
    make_adapter(plain, tmp_path / "whole")
    file = "adapter_model.safetensors"
    tensors = load_file(tmp_path / "whole" / file)
    name = next(iter(tensors))

    def spoilt(case: str, tensors: dict[str, torch.Tensor] | None = None, **changes: object) -> Path:
        folder = Path(shutil.copytree(tmp_path / "whole", tmp_path / case))
        if tensors is not None:
            save_file(tensors, folder / file)
        edit(folder / "adapter_config.json", **changes)
        return folder

    wrong = {k.replace("layers.0", "layers.7"): v for k, v in tensors.items()}
    few = {k: v for k, v in tensors.items() if k != name}
    small = {k: v[:1] for k, v in tensors.items()}
    for folder, message in (
        (spoilt("wrong", wrong), "without a place"),
        (spoilt("few", few), "1 places without a tensor"),
        (spoilt("small", small), "cannot put this adapter"),
        (spoilt("nameless", base_model_name_or_path=None), "base_model_name_or_path is None"),
        (spoilt("nowhere", base_model_name_or_path="no where"), "base_model_name_or_path.*no such directory"),
        (spoilt("chain", base_model_name_or_path=str(tmp_path / "whole")), "is an adapter itself"),
        (spoilt("kind", peft_type="NEW"), "cannot put this adapter|cannot be merged"),
    ):
        with pytest.raises(CheckpointError, match=message):
            load(folder)
    (tmp_path / "whole" / file).unlink()
    with pytest.raises(CheckpointError, match=r"has no adapter_model\.safetensors"):
        load(tmp_path / "whole")


def test_an_adapter_needs_peft(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_adapter(plain, tmp_path / "a")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install peft"):
        load(tmp_path / "a")


# --- quantised when they were saved -----------------------------------------------------------------------


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantised_folder_is_loaded_where_its_library_is(tmp_path: Path, bits: int) -> None:
    plain = tmp_path / "plain"
    build_tiny(plain, WIDE)
    folder, made = quantised(plain, tmp_path / "quantised", bits)
    model = load(folder)
    with torch.no_grad():
        expected = made(input_ids=IDS).logits
    assert torch.equal(logits(model), expected)
    assert not torch.equal(logits(model), logits(load(plain)))
    with pytest.raises(CheckpointError, match=r"already quantised.*quantisation to none"):
        load(folder, quantisation="bitsandbytes-8bit")


def quantised(plain: Path, folder: Path, bits: int) -> tuple[Path, Qwen2_5_VLForConditionalGeneration]:
    """A folder with the weights of ``plain`` in so many bits, and the released model that wrote it."""
    pytest.importorskip("bitsandbytes", reason="the folder is made with it")
    config = BitsAndBytesConfig(load_in_4bit=bits == 4, load_in_8bit=bits == 8)
    made = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        plain, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    shutil.copytree(plain, folder)
    made.save_pretrained(folder)
    return folder, made


@pytest.mark.parametrize("shape", [{"hidden": 32}, {"intermediate": 80}, {"intermediate": 96}], ids=str)
def test_four_bits_that_the_processor_cannot_pack_are_refused(
    shape: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = tmp_path / "plain"
    build_tiny(plain, replace(WIDE, **shape))
    folder, _ = quantised(plain, tmp_path / "quantised", 4)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: True)
    for name, quantisation in ((folder, "none"), (plain, "bitsandbytes-4bit")):
        with pytest.raises(CheckpointError, match=r"model\..*multiples of 32 x 64.*use bitsandbytes-8bit"):
            load(name, quantisation)
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
    assert torch.isfinite(logits(load(folder))).all()


def test_an_fp8_folder_is_the_model_of_its_scaled_weights(tmp_path: Path) -> None:
    folder, block = tmp_path / "fp8", 128
    build_tiny(folder, TinyConfig(hidden=block, heads=2, kv_heads=1, layers=2, intermediate=2 * block))
    rounded = Path(shutil.copytree(folder, tmp_path / "rounded"))

    def quantise(tensors: dict[str, torch.Tensor], keep: bool) -> dict[str, torch.Tensor]:
        out = dict(tensors)
        for name, value in tensors.items():
            if "layers." not in name or not name.endswith("proj.weight"):
                continue
            rows, columns = (-(-n // block) for n in value.shape)
            padded = torch.zeros(rows * block, columns * block)
            padded[: value.shape[0], : value.shape[1]] = value
            blocks = padded.view(rows, block, columns, block)
            scale = blocks.abs().amax((1, 3)).clamp(min=1e-9) / 448
            small = (blocks / scale[:, None, :, None]).to(torch.float8_e4m3fn)
            whole = small if keep else small.float() * scale[:, None, :, None]
            out[name] = whole.view(padded.shape)[: value.shape[0], : value.shape[1]]
            if keep:
                out[name.replace(".weight", ".weight_scale_inv")] = scale
        return out

    with_tensors(folder, lambda tensors: quantise(tensors, True))
    with_tensors(rounded, lambda tensors: quantise(tensors, False))
    stated = {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [block, block]}
    edit(
        folder / "config.json", quantization_config=stated | {"modules_to_not_convert": ["visual", "lm_head"]}
    )
    torch.testing.assert_close(logits(load(folder)), logits(load(rounded)), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"}, "awq"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False}, "gptq"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "quanto", "weights": "int8"}, "quanto"),
        ({"quant_method": "auto-round", "bits": 4}, "auto-round"),
        ({"quant_method": "marlin9"}, "'marlin9', which transformers .* does not know"),
        ({"bits": 4}, "quant_method None"),
        ("int4", "quant_method None"),
    ],
    ids=lambda v: v.get("quant_method", "nameless") if isinstance(v, dict) else None,
)
def test_a_quantised_folder_is_refused_in_a_sentence_where_it_is_not(
    copy: Path, stated: object, message: str
) -> None:
    edit(copy / "config.json", quantization_config=stated)
    with pytest.raises(CheckpointError, match=message) as caught:
        load(copy)
    assert "\n" not in str(caught.value)


def test_scales_that_the_config_does_not_speak_of_are_refused(copy: Path) -> None:
    """As in a folder of which only the weights were copied."""
    with_tensors(copy, lambda tensors: tensors | {f"{Q}.weight_scale_inv": torch.ones(1)})
    with pytest.raises(CheckpointError, match="weight_scale_inv"):
        load(copy)


def test_who_only_names_a_checkpoint_waits_for_no_library() -> None:
    program = (
        "import sys; from vln_ros.engine.checkpoint.files import checkpoint_fingerprint; "
        "print(checkpoint_fingerprint('shipped:tiny'), *sorted({'torch', 'transformers'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert re.fullmatch(r"[0-9a-f]{16}\n", done.stdout), done.stdout
