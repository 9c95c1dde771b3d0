"""The files of a checkpoint: where they lie, what they say they are, and what is wrong with them."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path
from typing import Any

from transformers import Qwen2_5_VLConfig

from vln_ros.config import ConfigError

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"

_SHIPPED = "shipped:"
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


class CheckpointError(ConfigError):
    """The checkpoint cannot be loaded as asked; the message says why and what would help."""


def find_folder(checkpoint: str) -> Path:
    if checkpoint.startswith(_SHIPPED):
        path = Path(str(resources.files("vln_ros"))) / "checkpoints" / checkpoint.removeprefix(_SHIPPED)
        if not path.is_dir():
            raise CheckpointError(f"checkpoint {checkpoint!r}: the package ships {_SHIPPED}tiny only")
        return path
    path = Path(checkpoint).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise CheckpointError(
            f"checkpoint {checkpoint!r} is a file; give the directory that holds config.json"
        )
    if not _HUB_NAME.fullmatch(checkpoint):
        raise CheckpointError(
            f"checkpoint {checkpoint!r}: no such directory; give an existing directory or a hub name "
            "(owner/name). `vln_ros tiny OUT` makes a small one"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"])
        )
    except (HfHubHTTPError, OSError, ValueError) as e:  # not found or gated; no network; bad name
        raise CheckpointError(
            f"checkpoint {checkpoint!r}: no such directory here, and the hub did not deliver it "
            f"({type(e).__name__}: {str(e).splitlines()[0]}); check the name and the network, or copy it here"
        ) from e


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as e:
        raise CheckpointError(
            f"{path.parent} has no {path.name}: it is not a whole checkpoint; copy or download it again"
        ) from e
    except (OSError, ValueError) as e:
        raise CheckpointError(f"{path} cannot be read ({e}); copy or download the checkpoint again") from e
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(value).__name__}")
    return value


def read_config(folder: Path) -> Qwen2_5_VLConfig:
    if (folder / "adapter_config.json").exists() and not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} is a LoRA adapter; merge it into its base model and load the result")
    raw = read_json(folder / "config.json")
    family, architectures = raw.get("model_type"), raw.get("architectures") or []
    if family != "qwen2_5_vl" and ARCHITECTURE not in architectures:
        raise CheckpointError(
            f"{folder} is of model family {family!r} (architecture {', '.join(architectures) or 'unnamed'}); "
            "this engine runs Qwen2.5-VL (model_type qwen2_5_vl) only"
        )
    try:
        return Qwen2_5_VLConfig.from_dict(raw)
    except Exception as e:  # transformers raises many types for a malformed config
        raise CheckpointError(f"{folder / 'config.json'} is not a valid Qwen2.5-VL config: {e}") from e


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files; every shard named by the index must be there."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if single.exists():
        return [single]
    if not index.exists():
        found = sorted(p.name for p in folder.glob("*.bin"))
        hint = f"; {found[0]} must be converted to safetensors first" if found else ""
        raise CheckpointError(
            f"{folder} has neither model.safetensors nor model.safetensors.index.json{hint}"
        )
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; copy or download the checkpoint again")
    shards = sorted({folder / str(name) for name in weight_map.values()})
    if missing := [p.name for p in shards if not p.exists()]:
        raise CheckpointError(
            f"{folder} lacks {len(missing)} of {len(shards)} weight files: {', '.join(missing)}; "
            "copy or download them"
        )
    return shards
