"""Makes ``shipped_tiny.npz``: what transformers 4.50.3 computes, with which released evaluations were run.

Of this package it takes pictures of the embedded world and words of a profile, nothing that it has computed.
From the root of a checkout, in an environment of its own:

    python3 -m venv golden
    golden/bin/pip install torch pillow numpy scipy trimesh embreex shapely pyyaml tqdm transformers==4.50.3
    PYTHONPATH=. golden/bin/python test/engine/golden/make.py

It has to be made anew only when the shipped checkpoint changes.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import AutoProcessor, Qwen2_5_VLForConditionalGeneration

from benchmarks.measure.frames import motion_frames
from vln_ros.engine.checkpoint.profile import load_profile

VERSION = "4.50.3"
CHECKPOINT = Path("vln_ros/checkpoints/tiny")
OUT = Path(__file__).with_name("shipped_tiny.npz")
INSTRUCTION = "walk to the red chair and stop"
TURNS = 4
OTHER_SIZES = ((150, 110), (57, 203))
"""Pictures that the processor has to resize; width and height."""


def main() -> None:
    if transformers.__version__ != VERSION:
        raise SystemExit(f"transformers {transformers.__version__}: the golden file is made with {VERSION}")
    torch.set_num_threads(1)
    model: Any = Qwen2_5_VLForConditionalGeneration.from_pretrained(
        CHECKPOINT, torch_dtype=torch.float32, attn_implementation="sdpa"
    ).eval()
    processor: Any = AutoProcessor.from_pretrained(CHECKPOINT, use_fast=False)
    profile = load_profile("tiny")
    assert profile.image.resize is not None
    pictures = [frame.rgb[::4, ::4] for frame in motion_frames("orbit", TURNS)]
    shown = [Image.fromarray(p).resize(profile.image.resize, Image.Resampling.BICUBIC) for p in pictures]
    messages: list[dict[str, Any]] = [{"role": "system", "content": profile.system}]
    arrays: dict[str, Any] = {}
    for turn in range(TURNS):
        template = profile.next_turn if turn else profile.first_turn
        before, after = template.replace("{instruction}", INSTRUCTION).split("{image}")
        content = [{"type": "text", "text": before}, {"type": "image"}, {"type": "text", "text": after}]
        messages.append({"role": "user", "content": [c for c in content if c.get("text") != ""]})
        text = processor.apply_chat_template(messages, add_generation_prompt=True)
        inputs = processor(text=[text], images=shown[: turn + 1], return_tensors="pt")
        said = model.generate(**inputs, do_sample=False, repetition_penalty=1.0, max_new_tokens=16)
        said = said[0, inputs.input_ids.shape[1] :]
        arrays[f"answer_{turn}"] = said.numpy()
        reply = processor.tokenizer.decode(said, skip_special_tokens=True)
        messages.append({"role": "assistant", "content": reply})
    with torch.no_grad():
        output = model(**inputs)
        positions, _ = model.get_rope_index(inputs.input_ids, inputs.image_grid_thw)
    arrays |= {
        "text": np.array(text),
        "ids": inputs.input_ids[0].numpy(),
        "positions": positions[:, 0].numpy(),
        "logits": output.logits[0].numpy(),
    }
    others = [Image.fromarray(p).resize(s) for p, s in zip(pictures, OTHER_SIZES, strict=False)]
    for name, some in (("picture", [Image.fromarray(p) for p in pictures]), ("other", others)):
        for i, picture in enumerate(some):
            arrays[f"{name}_{i}"] = np.asarray(picture)
            seen = processor.image_processor(
                images=[shown[i] if name == "picture" else picture], return_tensors="pt"
            )
            with torch.no_grad():
                features = model.visual(seen.pixel_values, seen.image_grid_thw)
            arrays[f"{name}_{i}_grid"] = seen.image_grid_thw[0].numpy()
            arrays[f"{name}_{i}_pixels"] = seen.pixel_values.numpy()
            arrays[f"{name}_{i}_features"] = features.numpy()
    weights = hashlib.sha256((CHECKPOINT / "model.safetensors").read_bytes()).hexdigest()
    arrays |= {
        "instruction": np.array(INSTRUCTION),
        "transformers": np.array(transformers.__version__),
        "torch": np.array(torch.__version__),
        "weights_sha256": np.array(weights),
    }
    np.savez_compressed(OUT, **arrays)
    print(f"{OUT}: {len(arrays['ids'])} tokens, {OUT.stat().st_size / 1e3:.0f} kB, {text!r}")


if __name__ == "__main__":
    main()
