"""Makes a small random checkpoint with the true architecture and the true files.

Everything a released Qwen2.5-VL directory holds is there, under the released names and in the
released layout (flat ``config.json``, tensor names of the published weights, chat template,
optional shards), so that what loads this loads the real one.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from vln_ros.config import ConfigError, TinyConfig
from vln_ros.engine.checkpoint.model import RANDOM_WEIGHTS

# The published chat template of Qwen2.5-VL.
CHAT_TEMPLATE = (
    "{% set image_count = namespace(value=0) %}{% set video_count = namespace(value=0) %}"
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if content['type'] == 'image' or 'image' in content or 'image_url' in content %}"
    "{% set image_count.value = image_count.value + 1 %}"
    "{% if add_vision_id %}Picture {{ image_count.value }}: {% endif %}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif content['type'] == 'video' or 'video' in content %}"
    "{% set video_count.value = video_count.value + 1 %}"
    "{% if add_vision_id %}Video {{ video_count.value }}: {% endif %}"
    "<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% endif %}"
)

FIRST_SPECIAL_ID = 151643
TRUE_VOCABULARY_ROWS = 151936
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
"""In the order of their ids. The last eight are not ``special`` in the released tokenizer either."""
_FIRST_PLAIN_ADDED = SPECIAL_TOKENS.index("<tool_call>")

# Qwen's own split: contractions, words with one leading character, single digits, punctuation, space.
_WORD_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

_COLOURS = (
    "red",
    "green",
    "blue",
    "yellow",
    "white",
    "black",
    "brown",
    "orange",
    "purple",
    "grey",
    "pink",
    "cyan",
)
_THINGS = (
    *("sofa", "lamp", "table", "chair", "bed", "desk", "shelf", "wardrobe", "plant", "stool", "bench"),
    *("cabinet", "bookcase", "armchair", "box", "ball", "rug", "door", "wall", "window"),
)
_ROOMS = (
    *("bedroom", "kitchen", "bathroom", "hallway", "study", "office", "lounge", "corridor"),
    *("living room", "dining room"),
)
_PHRASES = (
    "system user assistant",
    "You are a robot. Follow the instruction.",
    "You are a helpful assistant.",
    "Instruction: Leave the room, turn left, walk past the sofa and stop next to the lamp.",
    "Go through the door on the right and wait at the end of the corridor.",
    "Walk straight ahead into the next room, then turn around and stop in front of the table.",
    "forward, forward, left, right, stop",
    "left, right, forward, stop",
    "right, forward, left, forward",
    "stop",
    "turn left 15 degrees, turn right 30 degrees, turn left 45 degrees, move forward 25cm, move forward 50cm",
    "move forward 75cm, turn right 60 degrees, turn left 90 degrees, stop",
    "forward 25 cm, turn left 15 degree, forward 75 cm, turn right 45 degree",
    "STOP ↑↑←→↓",
    "What do you see? Is the goal in view? Answer yes or no.",
)


def _corpus() -> Iterator[str]:
    """A few hundred lines of the English the embedded world speaks."""
    yield from _PHRASES * 20
    for i, colour in enumerate(_COLOURS):
        for j, thing in enumerate(_THINGS):
            room = _ROOMS[(i + j) % len(_ROOMS)]
            yield f"Leave the {room}, turn left and go past the {colour} {thing}."
            yield f"Enter the {room} and stop next to the {colour} {thing} on the right."


def build_tiny(path: Path, config: TinyConfig) -> None:
    """Write the checkpoint directory ``path``. The same config gives the same bytes.

    Raises:
        ConfigError: sizes that do not fit together, or a directory that already holds something.
    """
    _check(config)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise ConfigError(f"{path} exists already; name a new directory")
    # Under another name until it is whole: half a checkpoint looks like one.
    part = path.absolute().with_name(path.absolute().name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        _write_tiny(part, config)
        part.rename(path.absolute())
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def _write_tiny(path: Path, config: TinyConfig) -> None:
    tokenizer = _tokenizer(config)
    ids = {token["content"]: int(token["id"]) for token in tokenizer["added_tokens"]}
    rows = TRUE_VOCABULARY_ROWS if config.true_ids else -(-(max(ids.values()) + 1) // 64) * 64
    model_config = _model_config(config, ids, rows)
    _write_weights(path, config, model_config)
    _write_json(path / "config.json", model_config)
    _write_json(
        path / "generation_config.json",
        {
            "bos_token_id": ids["<|endoftext|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]],
            "do_sample": True,
            "repetition_penalty": 1.05,
            "temperature": 1e-06,
        },
    )
    _write_json(path / "tokenizer.json", tokenizer)
    _write_json(path / "vocab.json", tokenizer["model"]["vocab"])
    merges = "".join(f"{' '.join(pair)}\n" for pair in tokenizer["model"]["merges"])
    (path / "merges.txt").write_text(f"#version: 0.2\n{merges}", "utf-8")
    _write_json(path / "tokenizer_config.json", _tokenizer_config(tokenizer))
    _write_json(path / "chat_template.json", {"chat_template": CHAT_TEMPLATE})
    _write_json(
        path / "preprocessor_config.json",
        {
            "min_pixels": 3136,
            "max_pixels": 12845056,
            "patch_size": 14,
            "temporal_patch_size": 2,
            "merge_size": 2,
            "image_mean": [0.48145466, 0.4578275, 0.40821073],
            "image_std": [0.26862954, 0.26130258, 0.27577711],
            "image_processor_type": "Qwen2VLImageProcessor",
            "processor_class": "Qwen2_5_VLProcessor",
        },
    )


def _check(config: TinyConfig) -> None:
    for name, width, heads, multiple in (
        ("hidden", config.hidden, config.heads, 16),
        ("vision_hidden", config.vision_hidden, config.vision_heads, 8),
    ):
        if width % heads or (width // heads) % multiple:
            raise ConfigError(
                f"{name} = {width} over {heads} heads: the width of a head must be a multiple of {multiple}"
            )
    if config.heads % config.kv_heads:
        raise ConfigError(f"kv_heads = {config.kv_heads} must divide heads = {config.heads}")


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")


def _tokenizer(config: TinyConfig) -> dict[str, Any]:
    """``tokenizer.json`` of a byte-level BPE trained on the corpus, with Qwen's structure."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORD_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=config.vocabulary,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tree: dict[str, Any] = json.loads(tokenizer.to_str())
    vocabulary = tree["model"]["vocab"]
    if config.true_ids:  # entries that no text can produce take the room up to the first special id
        for i in range(len(vocabulary), FIRST_SPECIAL_ID):
            vocabulary[f"<unused_{i}>"] = i
    tree["model"]["vocab"] = dict(sorted(vocabulary.items(), key=lambda item: int(item[1])))
    first = len(vocabulary)
    tree["added_tokens"] = [
        {
            "id": first + i,
            "content": token,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": i < _FIRST_PLAIN_ADDED,
        }
        for i, token in enumerate(SPECIAL_TOKENS)
    ]
    return tree


def _tokenizer_config(tokenizer: dict[str, Any]) -> dict[str, Any]:
    added = tokenizer["added_tokens"]
    return {
        "add_prefix_space": False,
        "add_bos_token": False,
        "added_tokens_decoder": {
            str(token["id"]): {key: value for key, value in token.items() if key != "id"} for token in added
        },
        "additional_special_tokens": list(SPECIAL_TOKENS[1:_FIRST_PLAIN_ADDED]),
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": "<|im_end|>",
        "errors": "replace",
        "model_max_length": 131072,
        "pad_token": "<|endoftext|>",
        "split_special_tokens": False,
        "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None,
    }


def _model_config(config: TinyConfig, ids: dict[str, int], rows: int) -> dict[str, Any]:
    half = config.hidden // config.heads // 2
    temporal, spatial = half * 16 // 64, half * 24 // 64  # the released proportions, 16 : 24 : 24
    return {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "attention_dropout": 0.0,
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "vision_token_id": ids["<|vision_pad|>"],
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "hidden_act": "silu",
        "hidden_size": config.hidden,
        "initializer_range": 0.02,
        "intermediate_size": config.intermediate,
        "max_position_embeddings": 128000,
        "max_window_layers": config.layers,
        "model_type": "qwen2_5_vl",
        "num_attention_heads": config.heads,
        "num_hidden_layers": config.layers,
        "num_key_value_heads": config.kv_heads,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": config.tied,
        "torch_dtype": "float32",
        "use_cache": True,
        "use_sliding_window": False,
        "vision_config": {
            "depth": config.vision_depth,
            "hidden_act": "silu",
            "hidden_size": config.vision_hidden,
            "intermediate_size": config.vision_intermediate,
            "num_heads": config.vision_heads,
            "in_chans": 3,
            "out_hidden_size": config.hidden,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "spatial_patch_size": 14,
            "window_size": 112,
            "fullatt_block_indexes": [config.vision_depth - 1],
            "tokens_per_second": 2,
            "temporal_patch_size": 2,
        },
        "rope_scaling": {"type": "mrope", "mrope_section": [temporal, spatial, half - temporal - spatial]},
        "vocab_size": rows,
    }


def _write_weights(path: Path, config: TinyConfig, model_config: dict[str, Any]) -> None:
    with torch.device("meta"):
        network = Qwen2_5_VLForConditionalGeneration(
            Qwen2_5_VLConfig.from_dict(json.loads(json.dumps(model_config)))
        )
    shapes = {_released_name(name): tuple(p.shape) for name, p in network.named_parameters()}
    generator = torch.Generator().manual_seed(config.seed)
    tensors = {
        name: _random(name, shape, generator)
        for name, shape in sorted(shapes.items())
        if not (config.tied and name == "lm_head.weight")
    }
    if config.shards == 1:
        _save(tensors, path / "model.safetensors")
        return
    names = list(tensors)
    if config.shards > len(names):
        raise ConfigError(f"shards = {config.shards}: there are only {len(names)} tensors")
    weight_map: dict[str, str] = {}
    for i in range(config.shards):
        part = names[i * len(names) // config.shards : (i + 1) * len(names) // config.shards]
        file = f"model-{i + 1:05d}-of-{config.shards:05d}.safetensors"
        _save({name: tensors[name] for name in part}, path / file)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    _write_json(
        path / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map}
    )


def _save(tensors: dict[str, torch.Tensor], path: Path) -> None:
    # save_file would leave the file readable by its owner only.
    content = save(tensors, metadata={"format": "pt", **RANDOM_WEIGHTS})
    # safetensors writes the metadata in an order that changes from call to call.
    size = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = json.dumps(header, separators=(",", ":")).encode().ljust(size)
    path.write_bytes(content[:8] + sorted_header + content[8 + size :])


def _released_name(name: str) -> str:
    """Name in the published files of a parameter of the current code."""
    return name.replace("model.visual.", "visual.", 1).replace("model.language_model.", "model.", 1)


def _random(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    """Width-aware initialisation: a fixed 0.02 leaves a narrow model's logits flat."""
    if len(shape) == 1:
        if name.endswith(".bias"):
            return torch.empty(shape).normal_(0.0, 0.1, generator=generator)
        return torch.empty(shape).normal_(1.0, 0.1, generator=generator)
    if "embed_tokens" in name:
        std = 0.5
    else:
        fan_in = math.prod(shape[1:])
        residual = any(part in name for part in ("o_proj", "down_proj", "attn.proj"))
        gain = 0.4 if residual else 2.0 if name == "lm_head.weight" else 1.0
        std = gain / math.sqrt(fan_in)
    return torch.empty(shape).normal_(0.0, std, generator=generator)
