"""Finds the files of a checkpoint and refuses what would be another model than was trained."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vln_ros.engine.checkpoint.lookup import CheckpointError as CheckpointError
from vln_ros.engine.checkpoint.lookup import find_local, published_like

if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig

ARCHITECTURE = "Qwen2_5_VLForConditionalGeneration"

_BITSANDBYTES = "bitsandbytes"
_CONFIG = "config.json"

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_OTHER_WEIGHTS = ("adapter_*.safetensors", "adapter_*.bin", "non_lora_trainables.*", "value_head.*")
"""Trained weights that from_pretrained passes over in silence: adapters, LLaVA's unmerged rest, a value "
"head."""


def find_folder(checkpoint: str) -> Path:
    """The folder of a checkpoint; one of the hub is downloaded, or taken from the hub's cache.

    Raises:
        CheckpointError: there is none; the message names the nearest one.
    """
    folder = find_local(checkpoint)
    if folder is not None:
        return folder
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return Path(
            snapshot_download(checkpoint, allow_patterns=["*.json", "*.safetensors", "*.txt", "*.jinja"])
        )
    except (HfHubHTTPError, OSError, ValueError) as e:  # not found or gated; no network; bad name
        raise CheckpointError(
            f"checkpoint {checkpoint!r}: no such directory here, and the hub did not deliver it "
            f"({type(e).__name__}: {str(e).splitlines()[0]}); check the name and the network, or copy it "
            f"here{published_like(checkpoint)}"
        ) from e


def find_base(folder: Path) -> tuple[Path, Path | None]:
    """The folder of the whole model, and that of the adapter to be merged into it, or None.

    A folder with an adapter alone names its model in ``base_model_name_or_path``.

    Raises:
        CheckpointError: the adapter names no model, one that is not there, or another adapter.
    """
    if (folder / _CONFIG).exists() or not (folder / ADAPTER_CONFIG).exists():
        return folder, None
    path = folder / ADAPTER_CONFIG
    named = read_json(path).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise CheckpointError(
            f"{path}: base_model_name_or_path is {named!r}: write the folder or hub name of the model that "
            "this LoRA adapter was trained on"
        )
    if not (folder / ADAPTER_WEIGHTS).exists():
        raise CheckpointError(f"{folder} has no {ADAPTER_WEIGHTS}; copy or download the adapter again")
    try:
        base = find_folder(named)
    except CheckpointError as e:
        raise CheckpointError(f"{path}: base_model_name_or_path: {e}") from e
    if not (base / _CONFIG).exists() and (base / ADAPTER_CONFIG).exists():
        raise CheckpointError(
            f"{path}: base_model_name_or_path = {named!r} is an adapter itself; merge that one into its "
            f"model first"
        )
    return base, folder


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
    """The network's configuration.

    Raises:
        CheckpointError: another family, class or code, a malformed file, an unknown quantisation.
    """
    path = folder / _CONFIG
    raw = read_json(path)
    family, architectures = raw.get("model_type"), raw.get("architectures") or []
    if family != "qwen2_5_vl" and ARCHITECTURE not in architectures:
        raise CheckpointError(
            f"{folder} is of model family {family!r} (architecture {', '.join(architectures) or 'unnamed'}); "
            "this engine runs Qwen2.5-VL (model_type qwen2_5_vl) only"
        )
    if architectures and ARCHITECTURE not in architectures:
        raise CheckpointError(
            f"{path}: architectures names {', '.join(architectures)}, whose computation may differ; this "
            f"engine runs {ARCHITECTURE}. Write that name there if the checkpoint is an unchanged "
            "Qwen2.5-VL"
        )
    if raw.get("auto_map"):
        raise CheckpointError(
            f"{path}: auto_map brings code of its own, which this engine does not run; save the checkpoint "
            f"as {ARCHITECTURE} if its computation is the released one"
        )
    quantisation_method(path, raw)
    from transformers import Qwen2_5_VLConfig  # who only looks for files waits for no library

    try:
        return Qwen2_5_VLConfig.from_dict(raw)
    except Exception as e:  # transformers raises many types for a malformed config
        raise CheckpointError(f"{path} is not a valid Qwen2.5-VL config: {e}") from e


def quantisation_method(path: Path, raw: dict[str, Any]) -> str | None:
    """How the weights were quantised when they were saved, as config.json states it; None: they were not.

    Raises:
        CheckpointError: stated in a form, or by a name, that the installed transformers does not know.
    """
    stated = raw.get("quantization_config") or raw.get("compression_config")
    if not stated:
        return None
    method = stated.get("quant_method") if isinstance(stated, dict) else None
    if (
        method is None
        and isinstance(stated, dict)
        and (stated.get("load_in_4bit") or stated.get("load_in_8bit"))
    ):
        method = _BITSANDBYTES  # as transformers reads files from before the key existed
    # Imported here: it loads every quantisation library that is installed.
    import transformers
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING as KNOWN

    if method != _BITSANDBYTES and method not in KNOWN:
        raise CheckpointError(
            f"{path}: quantization_config states quant_method {method!r}, which transformers "
            f"{transformers.__version__} does not know; known: {', '.join(sorted({*KNOWN, _BITSANDBYTES}))}"
        )
    return str(method)


def find_weights(folder: Path) -> list[Path]:
    """The safetensors files of a whole model.

    Raises:
        CheckpointError: a shard that the index names is missing; trained weights lie beside the model.
    """
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    others = sorted({p.name for pattern in _OTHER_WEIGHTS for p in folder.glob(pattern)})
    if others:
        raise CheckpointError(
            f"{folder} holds a whole model and {', '.join(others)} beside it, and nothing tells whether "
            "the one is merged into the other. Remove those files if it is; an adapter that is not "
            f"belongs into a folder of its own, whose {ADAPTER_CONFIG} names the model in "
            "base_model_name_or_path"
        )
    if single.exists() and index.exists():
        raise CheckpointError(
            f"{folder} holds both {single.name} and {index.name}: two sets of weights; remove the one that "
            f"is not meant"
        )
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


def weight_files(folder: Path, adapter: Path | None) -> list[Path]:
    """Of the model, and of the adapter that is merged into it."""
    added = [] if adapter is None else [adapter / ADAPTER_CONFIG, adapter / ADAPTER_WEIGHTS]
    return [*find_weights(folder), *added]


def checkpoint_fingerprint(checkpoint: str) -> str:
    """:attr:`vln_ros.engine.checkpoint.model.LoadedModel.fingerprint` without loading it, or any library for
    it. Raises CheckpointError."""
    folder, adapter = find_base(find_folder(checkpoint))
    return fingerprint_of(folder, weight_files(folder, adapter))


def fingerprint_of(folder: Path, weights: list[Path]) -> str:
    """Of the settings, and of the names, sizes, heads and tails of the weight files.

    Reading gigabytes to name a result would cost more than the result; the head holds every
    tensor's shape, and any training step changes the tail.
    """
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    digest.update((folder / "tokenizer.json").read_bytes())
    edge = 1 << 16
    for path in weights:
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as f:
            digest.update(f.read(edge))
            f.seek(max(0, size - edge))
            digest.update(f.read(edge))
    return digest.hexdigest()[:16]
