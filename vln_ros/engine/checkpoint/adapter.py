"""Merges a LoRA adapter into its model with peft when it is loaded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLForConditionalGeneration

from vln_ros.engine.checkpoint.files import ADAPTER_CONFIG, ADAPTER_WEIGHTS, CheckpointError

_PREFIX = "base_model.model."
# Until transformers 4.51 the network's parts had other names, and adapters trained with it keep those.
_OLD_NAMES = (
    (
        re.compile(rf"^{re.escape(_PREFIX)}model\.(?=layers\.|embed_tokens\.|norm\.)"),
        f"{_PREFIX}model.language_model.",
    ),
    (re.compile(rf"^{re.escape(_PREFIX)}visual\."), f"{_PREFIX}model.visual."),
)


def merge_adapter(
    network: Qwen2_5_VLForConditionalGeneration, adapter: Path
) -> Qwen2_5_VLForConditionalGeneration:
    """The network with the adapter's change added to its weights; the network passed in is used up.

    Every tensor of the adapter must find its place, and every place its tensor: peft itself only warns.

    Raises:
        CheckpointError: peft is missing or cannot read it, or the adapter is of another network.
    """
    if importlib.util.find_spec("peft") is None:
        raise CheckpointError(
            f"{adapter} is an adapter, and peft is not installed: pip install peft, or give the merged model"
        )
    from peft import PeftConfig, get_peft_model, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    try:
        config = PeftConfig.from_pretrained(str(adapter))
        if config.peft_type != "LORA":
            raise CheckpointError(
                f"{adapter / ADAPTER_CONFIG}: peft_type {config.peft_type} cannot be merged; give a LoRA "
                f"adapter"
            )
        config.inference_mode = True
        tensors = {_current_name(k): v for k, v in load_peft_weights(str(adapter), device="cpu").items()}
        wrapped: Any = get_peft_model(network, config)
        result: Any = set_peft_model_state_dict(wrapped, tensors)
    except CheckpointError:
        raise
    except Exception as e:  # peft raises many types for a file that does not fit
        raise CheckpointError(
            f"{adapter}: peft cannot put this adapter on its model ({_first_line(e)})"
        ) from e
    unused = sorted(result.unexpected_keys)
    # The model's own tensors are "missing" in an adapter; places that the adapter made are not.
    empty = sorted(k for k in result.missing_keys if "lora_" in k or "modules_to_save" in k)
    if unused or empty:
        raise CheckpointError(
            f"{adapter / ADAPTER_WEIGHTS} does not fit the model: {len(unused)} tensors without a place, "
            f"{len(empty)} places without a tensor, e.g. {(unused or empty)[0]}; does "
            f"base_model_name_or_path "
            "name the model that it was trained on?"
        )
    merged: Qwen2_5_VLForConditionalGeneration = wrapped.merge_and_unload(safe_merge=True)
    return merged


def _current_name(name: str) -> str:
    for old, new in _OLD_NAMES:
        name = old.sub(new, name)
    return name


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
