"""The checkpoints that ship: each one drives, under the profile of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

import vln_ros
from vln_ros.engine.checkpoint.model import load_model
from vln_ros.engine.checkpoint.profile import load_profile
from vln_ros.engine.qwen import QwenEngine
from vln_ros.sim.splits import make_episodes
from vln_ros.training.baselines import MAX_ACTIONS, Policy, metrics_of, run_all

SHIPPED = sorted(folder.name for folder in (Path(vln_ros.__file__).parent / "checkpoints").iterdir())
ROOMS, REACHED = 8, 5
"""Of so many rooms so many at least; each reaches more than four of five of 200."""


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_it_reaches_goals_in_rooms_it_has_never_seen(name: str) -> None:
    profile = load_profile(name)
    assert profile.checkpoint == f"shipped:{name}"
    model = load_model(
        profile.checkpoint, device="cpu", dtype="float32", attention="sdpa", quantisation="none"
    )
    engine = QwenEngine(model, profile, temperature=0.0, seed=0)
    policy = Policy(name, engine, make_episodes("val_unseen", ROOMS, "room"), looks=True)
    found = metrics_of(run_all(policy, MAX_ACTIONS["room"], (160, 120)))
    assert sum(m.success for m in found) >= REACHED
