"""Qwen's own byte-pair encoding, as far as the texts of tests need it, and how it was cut out of the whole.

``qwen_bpe.json`` holds every published token that is part of a word of those texts, with its true id, and
the merges that lead to it: a text of such words is split as by the whole encoding. It was made from
``qwen.tiktoken``, which the package qwen-agent on PyPI ships (Apache-2.0)::

    python test/qwen_bpe.py qwen.tiktoken
"""

from __future__ import annotations

import base64
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import regex

DATA = Path(__file__).parent / "qwen_bpe.json"
WORD = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
"""Qwen2.5's words, each of which is encoded for itself."""
INSTRUCTIONS = (
    "Walk past the sofa and stop at the red chair.",
    "Turn around and walk out of this office. Turn towards your slight right at the chair. You can see an "
    "open door on your right side, go inside the open door. Stop at the computer monitor",
    "Leave the bedroom, go 3 m down the hall; wait by the 2nd door on the left.",
)
PROMPT = (
    "You are an autonomous navigation assistant. Your task is to <instruction> Where should you go next to "
    "stay on track? Please output the next waypoint's coordinates in the image. Please output STOP when you "
    "have successfully completed the task. These are your historical observations:",
    "You are a helpful assistant.",
    ". you can see", "you can see", ".", "system\n", "user\n", "assistant\n", "\n",
)  # fmt: skip
ANSWERS = (
    "↓",
    "←←←←",
    "→→→→",
    "↑↑↑↑",
    "↑←→↓",
    "STOP",
    "←STOP",
    "→STOP",
    "204 312",
    "0123456789",
    " you can see",
)


def split(ranks: dict[bytes, int], word: bytes, below: int | None = None) -> list[bytes]:
    """The tokens of a word: of all neighbours those with the lowest rank are joined, until none are left."""
    parts = [bytes([b]) for b in word]
    while True:
        pairs = [(ranks.get(a + b), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        found = [(r, i) for r, i in pairs if r is not None and (below is None or r < below)]
        if not found:
            return parts
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]


def cut_out(ranks: dict[bytes, int]) -> dict[str, Any]:
    words = {w.encode() for text in (*INSTRUCTIONS, *PROMPT, *ANSWERS) for w in regex.findall(WORD, text)} | {
        w.encode() for text in (*INSTRUCTIONS, *PROMPT) for w in regex.findall(WORD, f" {text}")
    }
    pieces = {w[i:j] for w in words for i in range(len(w)) for j in range(i + 1, len(w) + 1)}
    kept = {t: ranks[t] for t in pieces | {bytes([b]) for b in range(256)} if t in ranks}
    merges = [
        [base64.b64encode(half).decode() for half in split(ranks, token, rank)]
        for token, rank in sorted(kept.items(), key=lambda item: item[1])
        if len(token) > 1
    ]
    return {
        "ids": {base64.b64encode(t).decode(): r for t, r in sorted(kept.items(), key=lambda i: i[1])},
        "merges": merges,
    }


def as_tokenizer(tree: dict[str, Any]) -> dict[str, Any]:
    """A ``tokenizer.json`` of Qwen's structure with Qwen's own tokens in place of the ones that it has."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = bytes_to_unicode()
    data = json.loads(DATA.read_text("utf-8"))

    def spelt(encoded: str) -> str:
        return "".join(letters[b] for b in base64.b64decode(encoded))

    model = tree["model"] | {
        "vocab": {spelt(token): rank for token, rank in data["ids"].items()},
        "merges": [[spelt(a), spelt(b)] for a, b in data["merges"]],
    }
    return tree | {"model": model}


def main() -> None:
    lines = Path(sys.argv[1]).read_bytes().splitlines()
    ranks = {base64.b64decode(t): int(r) for t, r in (line.split() for line in lines)}
    DATA.write_text(json.dumps(cut_out(ranks), indent=None, separators=(",", ":")) + "\n", "utf-8")


if __name__ == "__main__":
    main()
