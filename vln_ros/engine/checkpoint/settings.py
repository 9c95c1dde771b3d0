"""Reads the files beside the weights: tokenizer, special tokens, image and generation settings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast, Qwen2_5_VLConfig

from vln_ros.engine.checkpoint.files import (
    CheckpointError,
    read_json,
)

_BICUBIC = 3  # PIL's number, as written in preprocessor_config.json


@dataclass(frozen=True, kw_only=True)
class SpecialTokens:
    """Ids of the tokens that structure a conversation."""

    vision_start: int
    vision_end: int
    image_pad: int
    video_pad: int
    im_start: int
    im_end: int


@dataclass(frozen=True, kw_only=True)
class PixelSpec:
    """How the checkpoint wants its images, as in its ``preprocessor_config.json``.

    Attributes:
        patch_size: side of a patch, pixels.
        merge_size: patches per side that become one token.
        temporal_patch_size: frames per patch; a single image is repeated to fill it.
        mean, std: per channel, of values in ``[0, 1]``.
        min_pixels, max_pixels: bounds on width x height after resizing.
    """

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int
    max_pixels: int

    @property
    def token_side(self) -> int:
        """Side of the square of pixels behind one token."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class GenerationSettings:
    """How the checkpoint wants to be asked, as in its ``generation_config.json``.

    Attributes:
        end_tokens: any of these ends an answer; the end of a chat turn is always among them, first.
        temperature: 0 where it says ``do_sample: false``.
        top_k, top_p, repetition_penalty: 0, 1 and 1 where it does not name them: all, and none.
    """

    end_tokens: tuple[int, ...]
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float


def read_tokenizer(folder: Path) -> PreTrainedTokenizerFast:
    # AutoTokenizer would also accept vocab.json + merges.txt alone, and rebuild what tokenizer.json
    # states; reading the one file keeps exactly the tokenizer the checkpoint was trained with.
    for name in ("tokenizer.json", "tokenizer_config.json"):
        read_json(folder / name)
    try:
        tokenizer: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(
            folder, local_files_only=True
        )
    except Exception as e:  # the tokenizers library raises bare Exception for a bad file
        raise CheckpointError(
            f"{folder / 'tokenizer.json'} cannot be read as a tokenizer ({e}); copy or download it again"
        ) from e
    return tokenizer


def special_tokens(
    folder: Path, tokenizer: PreTrainedTokenizerFast, config: Qwen2_5_VLConfig
) -> SpecialTokens:
    names = ("vision_start", "vision_end", "image_pad", "video_pad", "im_start", "im_end")
    vocabulary = tokenizer.get_vocab()
    ids: dict[str, int] = {}
    for name in names:
        token = f"<|{name}|>"
        if token not in vocabulary:
            raise CheckpointError(
                f"{folder / 'tokenizer.json'} has no token {token}: not a Qwen2.5-VL tokenizer"
            )
        ids[name] = vocabulary[token]
    stated = {
        "vision_start": config.vision_start_token_id,
        "vision_end": config.vision_end_token_id,
        "image_pad": config.image_token_id,
        "video_pad": config.video_token_id,
    }
    for name, expected in stated.items():
        if ids[name] != expected:
            raise CheckpointError(
                f"{folder}: config.json says token {expected} for <|{name}|>, "
                f"tokenizer.json says {ids[name]}; do both come from the same checkpoint?"
            )
    rows: int = config.get_text_config().vocab_size
    if max(ids.values()) >= rows:
        raise CheckpointError(
            f"{folder}: token id {max(ids.values())} is beyond the {rows} rows of the embedding; "
            "do tokenizer and weights come from the same checkpoint?"
        )
    return SpecialTokens(**ids)


def read_pixel_spec(folder: Path) -> PixelSpec:
    """The image settings of a checkpoint directory. Raises CheckpointError."""
    path = folder / "preprocessor_config.json"
    if path.exists() or not (folder / "processor_config.json").exists():
        raw = read_json(path)
    else:  # newer releases nest the same settings in one file
        path = folder / "processor_config.json"
        raw = read_json(path).get("image_processor") or {}
    for key in ("do_resize", "do_rescale", "do_normalize"):
        if raw.get(key, True) is not True:
            raise CheckpointError(f"{path}: {key} = {raw[key]} is not supported; Qwen2.5-VL has true")
    if raw.get("resample", _BICUBIC) != _BICUBIC:
        raise CheckpointError(
            f"{path}: resample = {raw['resample']} is not supported; Qwen2.5-VL has 3 (bicubic)"
        )
    if abs(raw.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-9:
        raise CheckpointError(
            f"{path}: rescale_factor = {raw['rescale_factor']} is not supported, only 1/255"
        )
    size = raw.get("size") or {}
    values = {
        "patch_size": raw.get("patch_size"),
        "merge_size": raw.get("merge_size"),
        "temporal_patch_size": raw.get("temporal_patch_size"),
        # The older pair of keys overrides `size`, as in the released processor.
        "min_pixels": raw.get("min_pixels") or size.get("shortest_edge"),
        "max_pixels": raw.get("max_pixels") or size.get("longest_edge"),
    }
    for key, value in values.items():
        if not isinstance(value, int) or value < 1:
            raise CheckpointError(f"{path}: {key} is {value!r}; expected a positive integer")
    channels: dict[str, tuple[float, float, float]] = {}
    for key in ("image_mean", "image_std"):
        value = raw.get(key)
        if not isinstance(value, list) or len(value) != 3:
            raise CheckpointError(f"{path}: {key} is {value!r}; expected three numbers")
        channels[key] = (float(value[0]), float(value[1]), float(value[2]))
    return PixelSpec(
        patch_size=int(values["patch_size"] or 0),
        merge_size=int(values["merge_size"] or 0),
        temporal_patch_size=int(values["temporal_patch_size"] or 0),
        mean=channels["image_mean"],
        std=channels["image_std"],
        min_pixels=int(values["min_pixels"] or 0),
        max_pixels=int(values["max_pixels"] or 0),
    )


def check_pixels(folder: Path, pixels: PixelSpec, config: Qwen2_5_VLConfig) -> None:
    vision: Any = config.vision_config
    for name, ours, theirs in (
        ("patch_size", pixels.patch_size, vision.patch_size),
        ("merge_size", pixels.merge_size, vision.spatial_merge_size),
        ("temporal_patch_size", pixels.temporal_patch_size, vision.temporal_patch_size),
    ):
        if ours != theirs:
            raise CheckpointError(
                f"{folder}: preprocessor_config.json says {name} {ours}, config.json says {theirs}; "
                "do both come from the same checkpoint?"
            )


def read_generation_settings(
    folder: Path, tokens: SpecialTokens, config: Qwen2_5_VLConfig
) -> GenerationSettings:
    """The ``generation_config.json`` of a checkpoint directory; without one, greedy and no penalty.

    Raises:
        CheckpointError: a value that cannot be; the message names file, key and value.
    """
    path = folder / "generation_config.json"
    raw = read_json(path) if path.exists() else {}

    def number(key: str, otherwise: float, least: float, most: float) -> float:
        value = raw.get(key)
        if value is None:
            return otherwise
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise CheckpointError(f"{path}: {key} = {value!r}; expected a number from {least:g} to {most:g}")
        return float(value)

    sample = raw.get("do_sample", False)
    if not isinstance(sample, bool):
        raise CheckpointError(f"{path}: do_sample = {sample!r}; expected true or false")
    text: Any = config.get_text_config()
    ends = raw.get("eos_token_id")
    if ends is None:
        ends = [] if text.eos_token_id is None else text.eos_token_id
    ends = ends if isinstance(ends, list) else [ends]
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end < text.vocab_size:
            raise CheckpointError(
                f"{path}: eos_token_id = {raw.get('eos_token_id')!r}; expected token ids "
                f"below {text.vocab_size}"
            )
    return GenerationSettings(
        end_tokens=(tokens.im_end, *(e for e in dict.fromkeys(ends) if e != tokens.im_end)),
        temperature=number("temperature", 1.0, 0.0, 100.0) if sample else 0.0,
        top_k=round(number("top_k", 0, 0, 10_000_000)),
        top_p=number("top_p", 1.0, 1e-6, 1.0),
        repetition_penalty=number("repetition_penalty", 1.0, 0.01, 100.0),
    )
