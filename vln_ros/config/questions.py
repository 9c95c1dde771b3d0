"""Declares the options of questions about a run."""

from __future__ import annotations

from dataclasses import dataclass

from vln_ros.config.options import option


@dataclass(frozen=True)
class QuestionConfig:
    """Questions that are answered beside the run (docs/nodes.md)."""

    max_waiting: int = option(
        4,
        "Most questions that wait while another one is answered; further ones are refused as busy. Too few "
        "refuse people who ask at once, too many answer long after the question.",
        minimum=1, maximum=1000,
    )  # fmt: skip
    timeout_s: float = option(
        30.0,
        "How long a question waits for the model to be free between decisions, or for the first frame of a "
        "run, before it is refused. Too low refuses questions to a robot that drives on a slow machine; too "
        "high lets people wait for nothing.",
        unit="s", minimum=0.1, maximum=3600.0,
    )  # fmt: skip
    max_question_tokens: int = option(
        512,
        "Longest question in tokens, its choices included; longer ones are refused. Too low refuses what "
        "people ask; each token takes memory and time beside the run.",
        minimum=1, maximum=100000,
    )  # fmt: skip
    max_answer_tokens: int = option(
        64,
        "Longest answer in tokens; it is cut off there, and says so. Too low cuts sentences, too high keeps "
        "the machine busy where the model does not come to an end.",
        minimum=1, maximum=10000,
    )  # fmt: skip
