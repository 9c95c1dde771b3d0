"""Loads a Qwen2.5-VL checkpoint: the released network, its tokenizer and its image settings.

No ``AutoProcessor``: it needs torchvision, which many robots lack. The tokenizer is read from
``tokenizer.json`` and the image settings from ``preprocessor_config.json``; the network is the
released ``Qwen2_5_VLForConditionalGeneration``, unpatched.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.util
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast, Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.checkpoint.adapter import merge_adapter
from vln_ros.engine.checkpoint.files import (
    CheckpointError,
    find_base,
    find_folder,
    fingerprint_of,
    quantisation_method,
    read_config,
    weight_files,
)
from vln_ros.engine.checkpoint.settings import (
    GenerationSettings,
    PixelSpec,
    SpecialTokens,
    check_pixels,
    read_generation_settings,
    read_pixel_spec,
    read_tokenizer,
    special_tokens,
)
from vln_ros.engine.finite import weights_not_finite
from vln_ros.engine.layer_spans import watch_network

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
ATTENTION_IMPLEMENTATIONS = ("sdpa", "eager", "flash_attention_2")
QUANTISATIONS = (
    "none",
    "bitsandbytes-8bit",
    "bitsandbytes-4bit",
    "torchao-int8",
    "torchao-fp8",
    "torchao-int4",
)
_AS_THEY_ARE = ["model.visual", "lm_head"]
"""Never quantised: the vision tower, which is arithmetic and not reading of weights, and the scores."""
_GROUP = 32
"""Weights that share a scale in four bits."""
_FOUR_BIT_ROWS = 32
"""Rows that bitsandbytes packs together on a processor."""

RANDOM_WEIGHTS = {"vln_ros.weights": "random"}
"""In the header of a weight file that nobody has trained; who trains it writes another."""


@dataclass(frozen=True, eq=False, kw_only=True)
class LoadedModel:
    """A checkpoint in memory. Stateless: many sessions may share one.

    Attributes:
        network: in eval mode, without gradients.
        fingerprint: 16 hex digits that tell checkpoints apart, for results.
        random_weights: the files say that nobody has trained them.
    """

    network: Qwen2_5_VLForConditionalGeneration
    tokenizer: PreTrainedTokenizerFast
    tokens: SpecialTokens
    pixels: PixelSpec
    generation: GenerationSettings
    device: torch.device
    dtype: torch.dtype
    fingerprint: str
    random_weights: bool = False


def load_model(checkpoint: str, *, device: str, dtype: str, attention: str, quantisation: str) -> LoadedModel:
    """Load a checkpoint of the Qwen2.5-VL family.

    Args:
        checkpoint: directory, ``owner/name`` on the Hugging Face hub (cached as usual), or
            ``shipped:tiny``, the package's own.
        device: ``cpu``, ``cuda``, ``cuda:1``, ``mps``, or ``auto``: a GPU where there is one.
        dtype: one of :data:`DTYPES`, or ``auto``: float32 on a CPU, else bfloat16.
        attention: one of :data:`ATTENTION_IMPLEMENTATIONS`.
        quantisation: one of :data:`QUANTISATIONS`; the library named must be installed.

    Raises:
        CheckpointError: the message names the file, value or package, and the remedy.
    """
    torch_device = _check_device(device)
    if dtype == "auto":
        dtype = "float32" if torch_device.type == "cpu" else "bfloat16"
    if dtype not in DTYPES:
        raise CheckpointError(f"dtype = {dtype!r}: choose one of auto, {', '.join(DTYPES)}")
    _check_attention(attention, torch_device)
    quantisation_config = _quantisation_config(quantisation, DTYPES[dtype], torch_device)

    folder, adapter = find_base(find_folder(checkpoint))
    config = read_config(folder)
    weights = weight_files(folder, adapter)
    tokenizer = read_tokenizer(folder)
    tokens = special_tokens(folder, tokenizer, config)
    pixels = read_pixel_spec(folder)
    check_pixels(folder, pixels, config)
    method = quantisation_method(folder / "config.json", config.to_dict())
    if method and (quantisation_config or adapter):
        raise CheckpointError(
            f"{folder} is already quantised ({method}); "
            + (
                "set quantisation to none"
                if quantisation_config
                else f"merge {adapter} into the model it was made of"
            )
        )
    generation = read_generation_settings(folder, tokens, config)

    arguments: dict[str, Any] = {}
    if method or quantisation_config:  # quantised weights are made on the device, not moved there
        arguments = {"device_map": {"": torch_device}}
    if quantisation_config:
        arguments["quantization_config"] = quantisation_config
    network = _read_network(
        folder, method, quantisation, dtype=DTYPES[dtype], attn_implementation=attention, **arguments
    )
    if adapter is not None:
        network = merge_adapter(network, adapter)
    if not arguments:
        network.to(torch_device)  # type: ignore[arg-type]
    network.eval().requires_grad_(False)
    _check_weights(folder, network, dtype)
    if torch_device.type == "cpu":
        _check_four_bits(folder, network)
    watch_network(network)
    return LoadedModel(
        network=network,
        tokenizer=tokenizer,
        tokens=tokens,
        pixels=pixels,
        generation=generation,
        device=torch_device,
        dtype=DTYPES[dtype],
        fingerprint=fingerprint_of(folder, weights),
        random_weights=adapter is None and all(_is_random(path) for path in weights),
    )


def _read_network(
    folder: Path, method: str | None, quantisation: str, **arguments: Any
) -> Qwen2_5_VLForConditionalGeneration:
    """The released network with the folder's weights, all of them and nothing else.

    Args:
        method: by which the folder says its weights are quantised.
        quantisation: by which they are quantised now.
    """
    try:
        # Annotated: with output_loading_info it returns a pair, which its signature does not say.
        pair: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, **arguments
        )
    except Exception as e:
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        if method is not None:  # each quantisation library fails in its own types
            raise CheckpointError(
                f"{folder} is quantised ({method}) and cannot be loaded here: {reason}. Install what it "
                "names, or give the checkpoint in bfloat16 and choose a quantisation that this machine has"
            ) from e
        if isinstance(e, (OSError, SafetensorError)):
            raise CheckpointError(
                f"{folder}: the weights cannot be read ({e}); copy or download the checkpoint again"
            ) from e
        if isinstance(e, RuntimeError) and ("size mismatch" in str(e) or "mismatched" in str(e)):
            raise CheckpointError(
                f"{folder}: the weights do not fit config.json; do both come from the same checkpoint? ({e})"
            ) from e
        if quantisation != "none":
            raise CheckpointError(
                f"quantisation = {quantisation!r} does not work for {folder} on this device: {reason}; "
                "choose another one, or none"
            ) from e
        raise
    network: Qwen2_5_VLForConditionalGeneration = pair[0]
    missing, more = sorted(pair[1]["missing_keys"]), sorted(pair[1]["unexpected_keys"])
    if adapted := [name for name in more if "lora_" in name or ".base_layer." in name]:
        raise CheckpointError(
            f"{folder}: the weights hold an adapter that is not merged, e.g. {adapted[0]}; save the model "
            "after peft's merge_and_unload"
        )
    if missing:
        raise CheckpointError(
            f"{folder}: {len(missing)} weights are missing, e.g. {missing[0]}; "
            "is this a LoRA adapter or a partial copy? Merge or copy the whole checkpoint"
        )
    if more:
        raise CheckpointError(
            f"{folder}: {len(more)} weights are of something that Qwen2.5-VL as config.json describes it "
            f"does not have, e.g. {more[0]}; without them it would be another model than was trained. Is "
            "it a model with more towers, heads or layers? Save it without them if they are not needed to "
            "act"
        )
    embedding = network.model.language_model.embed_tokens
    if (
        network.config.tie_word_embeddings
        and network.lm_head.weight.data_ptr() != embedding.weight.data_ptr()
    ):
        raise CheckpointError(
            f"{folder}: config.json ties the head to the embedding (tie_word_embeddings), but the weights "
            "hold a lm_head of their own with other values; set it to false if the head was trained, or "
            "remove lm_head.weight"
        )
    return network


def checkpoint_generation(checkpoint: str) -> GenerationSettings:
    """:attr:`LoadedModel.generation` without loading it. Raises CheckpointError."""
    folder, _ = find_base(find_folder(checkpoint))
    config = read_config(folder)
    return read_generation_settings(folder, special_tokens(folder, read_tokenizer(folder), config), config)


def deal_device(device: str, number: int) -> str:
    """``auto`` as the GPU for process ``number``, where this machine has several: dealt out in turn."""
    if device != "auto" or torch.cuda.device_count() < 2:
        return device
    return f"cuda:{number % torch.cuda.device_count()}"


def _check_device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise CheckpointError(f"device = {name!r}: not a device; use auto, cpu, cuda, cuda:1 or mps") from e
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise CheckpointError(
                f"device = {name!r}: this machine has {count} usable CUDA devices; use device cpu, "
                "or install a CUDA build of torch and check nvidia-smi"
            )
    elif device.type == "mps":
        if not torch.backends.mps.is_available():
            raise CheckpointError(f"device = {name!r}: no Metal device here; use device cpu")
    elif device.type != "cpu":
        raise CheckpointError(f"device = {name!r}: only cpu, cuda and mps are supported")
    return device


def _check_attention(name: str, device: torch.device) -> None:
    if name not in ATTENTION_IMPLEMENTATIONS:
        raise CheckpointError(f"attention = {name!r}: choose one of {', '.join(ATTENTION_IMPLEMENTATIONS)}")
    if name == "flash_attention_2":
        if importlib.util.find_spec("flash_attn") is None:
            raise CheckpointError(
                "attention = 'flash_attention_2': flash-attn is not installed; "
                "pip install flash-attn, or use sdpa"
            )
        if device.type != "cuda":
            raise CheckpointError("attention = 'flash_attention_2' needs a CUDA device; use sdpa")


def _quantisation_config(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """transformers' quantisation config, or None for ``none``. Of the decoder's layers; the rest stays."""
    if name not in QUANTISATIONS:
        raise CheckpointError(f"quantisation = {name!r}: choose one of {', '.join(QUANTISATIONS)}")
    if name == "none":
        return None
    for package in (name.split("-")[0], "accelerate"):
        if importlib.util.find_spec(package) is None:
            raise CheckpointError(
                f"quantisation = {name!r}: {package} is not installed; pip install {package}, or use none"
            )
    if name.startswith("torchao"):
        from transformers import TorchAoConfig

        return TorchAoConfig(_torchao_weights(name, dtype, device), modules_to_not_convert=_AS_THEY_ARE)
    from transformers import BitsAndBytesConfig

    if name == "bitsandbytes-8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=_AS_THEY_ARE)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=_AS_THEY_ARE,
    )


def _torchao_weights(name: str, dtype: torch.dtype, device: torch.device) -> Any:
    """torchao's config of weights that are computed with in ``dtype``."""
    from torchao.quantization import (
        Float8WeightOnlyConfig,
        Int4WeightOnlyConfig,
        Int8WeightOnlyConfig,
        IntxWeightOnlyConfig,
        PerGroup,
    )

    if name == "torchao-int8":
        return Int8WeightOnlyConfig()
    if name == "torchao-fp8":
        return Float8WeightOnlyConfig()
    if device.type != "cuda":  # no kernel packs two weights into a byte there: the same numbers, a byte each
        four_bits: Any = vars(torch)["int4"]  # not in torch's stubs
        return IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=PerGroup(_GROUP))
    if dtype is not torch.bfloat16:
        raise CheckpointError("quantisation = 'torchao-int4' on a GPU computes in bfloat16: set dtype to it")
    return Int4WeightOnlyConfig(group_size=_GROUP, int4_packing_format="tile_packed_to_4d")


def _is_random(path: Path) -> bool:
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).items() >= RANDOM_WEIGHTS.items()


def _check_weights(folder: Path, network: Qwen2_5_VLForConditionalGeneration, dtype: str) -> None:
    """Every weight is a number: one pass over them at memory speed, on the device that they are on."""
    bad = weights_not_finite(network)
    if not bad:
        return
    remedy = "the file is damaged, or its training diverged: copy it again or take another one"
    if dtype == "float16":
        remedy = f"float16 ends at 65504: load it with dtype bfloat16 or float32, or {remedy}"
    raise CheckpointError(f"{folder}: {len(bad)} weights are NaN or infinite, e.g. {bad[0]}; {remedy}")


def _check_four_bits(folder: Path, network: Qwen2_5_VLForConditionalGeneration) -> None:
    """On a processor with AVX512-BF16 bitsandbytes repacks weights of four bits, for some shapes in vain."""
    for name, module in network.named_modules():
        if not getattr(module, "support_avx512bf16_for_cpu", False):
            continue
        state = module.weight.quant_state
        rows, columns = state.shape
        if rows % _FOUR_BIT_ROWS or columns % state.blocksize:
            raise CheckpointError(
                f"{folder}: {name} is a matrix of {rows} x {columns}; in four bits bitsandbytes takes "
                f"multiples of {_FOUR_BIT_ROWS} x {state.blocksize} on this processor (it has AVX512-BF16): "
                "use bitsandbytes-8bit, or a GPU"
            )


def free_memory() -> None:
    """Give the memory of models that nobody holds any more back to the device and the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        # glibc keeps what was freed for itself; a musl system has no such call, and no need.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
