"""Knows what was published of a checkpoint and how, and what it takes to evaluate it like that again.

A figure stands here only where a page of its authors states it, which :attr:`Published.source` names. None of
them has been measured with this package: that needs weights and scenes that are not ours to hand out.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vln_ros.config import ConfigError, EvalConfig, Scalar, to_flat
from vln_ros.evaluation.episode.metrics import Summary
from vln_ros.evaluation.intervals import Estimate
from vln_ros.sim.episodes.episode import read_episodes, split_file

_EPISODES = {
    "R2R_VLNCE_v1-3_preprocessed": "R2R_VLNCE_v1-3_preprocessed, from github.com/jacobkrantz/VLN-CE",
    "RxR_VLNCE_v0": "RxR_VLNCE_v0, from github.com/jacobkrantz/VLN-CE",
}
_SCENES = "Matterport3D for Habitat (task mp3d), by agreement: https://niessner.github.io/Matterport/"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One published evaluation.

    Attributes:
        checkpoint: hub name.
        dataset: folder of the episodes below data/datasets.
        options: of ``vln_ros eval``, by dotted name: whatever decides the result.
        figures: measure -> what was published, in the units of :class:`Summary` (rates in [0, 1]).
        source: who states the figures, and where the rules are from.
        deviations: where this package does something else, so that a difference may come from it.
    """

    name: str
    checkpoint: str
    dataset: str
    options: Mapping[str, Scalar]
    figures: Mapping[str, float]
    source: str
    deviations: tuple[str, ...]


def _options(profile: str, protocol: str, languages: str = "") -> dict[str, Scalar]:
    return {
        "world": "habitat",
        "protocol": protocol,
        "split": "val_unseen",
        "episodes": 0,
        "languages": languages,
        "limits.as_stop": True,  # as the released evaluations end an episode
        "camera.width": 640,
        "camera.height": 480,
        "navigator.engine": "qwen",
        "navigator.qwen.profile": profile,
        "navigator.qwen.stream.decode": "free",  # what is said is read, as there
        "navigator.qwen.stream.history_choice": "profile",
    }


_HELD = "text that cannot be read ends the episode (hold); there a random action is drawn"
_PUBLISHED = (
    Published(
        name="navida-r2r",
        checkpoint="waynechu/NaVIDA",
        dataset="R2R_VLNCE_v1-3_preprocessed",
        options=_options("navida", "r2r-vlnce"),
        figures={"success": 0.614, "spl": 0.547, "navigation_error_m": 4.32, "oracle_success": 0.695},
        source="github.com/waynechu1021/NAVIDA, README at 3afbfd6; rules: config/vln_r2r.yaml",
        deviations=(
            _HELD,
            "a frame is resized once from 640x480; there it is halved and sent through JPEG first",
            "its samples (temperature 0.2) are drawn from another random stream",
        ),
    ),
    Published(
        name="navida-rxr",
        checkpoint="waynechu/NaVIDA",
        dataset="RxR_VLNCE_v0",
        options=_options("navida", "r2r-vlnce", "en-US,en-IN"),
        figures={"success": 0.574, "spl": 0.496, "navigation_error_m": 5.23, "ndtw": 0.670},
        source="github.com/waynechu1021/NAVIDA, README at 3afbfd6; rules: config/vln_rxr.yaml",
        deviations=(
            _HELD,
            "a frame is resized once from 640x480; there it is halved and sent through JPEG first",
            "its samples (temperature 0.2) are drawn from another random stream",
            "the languages are English ones; the page does not say which were evaluated",
        ),
    ),
    Published(
        name="activevln-sft-r2r",
        checkpoint="Arvil/Qwen2.5-VL-3B_sft_r2r_envdrop_multiturn",
        dataset="R2R_VLNCE_v1-3_preprocessed",
        options=_options("activevln-r2r", "r2r-vlnce"),
        figures={"success": 0.385},
        source="github.com/arvillion/ActiveVLN, README at 0395c3f; rules: examples/vlnce/eval_r2r.sh",
        deviations=(_HELD,),
    ),
    Published(
        name="internvla-n1-s2-r2r",
        checkpoint="InternRobotics/InternVLA-N1-System2",
        dataset="R2R_VLNCE_v1-3_preprocessed",
        options=_options("internvla-n1-s2", "streamvln")
        | {"navigator.qwen.stream.decode": "tree", "limits.as_stop": False},
        figures={"success": 0.609, "spl": 0.552, "navigation_error_m": 4.25, "oracle_success": 0.683},
        source="github.com/InternRobotics/InternNav, README at 00fc29c (System 2 and a follower of shortest "
        "paths); rules: scripts/eval/configs/vln_r2r.yaml at 1a4287c",
        deviations=(
            "the way to a pixel is this package's, not that of a follower of shortest paths on the mesh",
            "the words before the picture are always the same; there they are drawn from seven",
        ),
    ),
)
PUBLISHED: Mapping[str, Published] = {p.name: p for p in _PUBLISHED}


def find_published(name: str) -> Published:
    """Raises ConfigError: there is none of that name; the message lists all."""
    if name not in PUBLISHED:
        raise ConfigError(f"--reproduce = {name!r}: there are {', '.join(PUBLISHED)}")
    return PUBLISHED[name]


def reproduction_options(published: Published) -> dict[str, object]:
    """Options of ``vln_ros eval`` by dotted name, places included; what a user says comes before them."""
    places = {
        "dataset": f"data/datasets/{published.dataset}",
        "navigator.qwen.checkpoint": published.checkpoint,
    }
    return {**published.options, **places}


def missing(published: Published, config: EvalConfig) -> tuple[str, ...]:
    """What the evaluation needs and is not there, each with where it comes from and where it goes."""
    found = _missing_dataset(published, config)
    if config.world == "habitat":
        found += _missing_scenes(config)
    found += _missing_checkpoint(config.navigator.qwen.checkpoint)
    if config.world == "habitat":
        found += _missing_interpreter(config.habitat.python)
    return tuple(found)


def changes(published: Published, config: EvalConfig) -> tuple[str, ...]:
    """In what the options differ from those that decide the published result."""
    flat = to_flat(config)
    return tuple(
        f"{name} = {flat[name]!r}, where the published evaluation is {value!r}"
        for name, value in published.options.items()
        if flat[name] != value
    )


def reproduction_table(published: Published, summary: Summary) -> str:
    """Published figures beside ours, with the interval of ours; a difference outside it is marked."""
    lines = [f"{'':<24}{'published':>10}{'ours':>8}   95 % interval"]
    rows = (
        ("Success rate [%]", "success", 100.0, ".1f"),
        ("SPL [%]", "spl", 100.0, ".1f"),
        ("Oracle success [%]", "oracle_success", 100.0, ".1f"),
        ("Navigation error [m]", "navigation_error_m", 1.0, ".2f"),
        ("nDTW [%]", "ndtw", 100.0, ".1f"),
    )
    for label, name, scale, form in rows:
        theirs, ours = published.figures.get(name), getattr(summary, name)
        assert isinstance(ours, Estimate)
        cells = ["-" if theirs is None else f"{scale * theirs:{form}}", _number(ours.mean, scale, form)]
        low, high = ours.low, ours.high
        known = not (math.isnan(low) or math.isnan(high))
        span = f"{_number(low, scale, form)} to {_number(high, scale, form)}" if known else "-"
        outside = known and theirs is not None and not low <= theirs <= high
        lines.append(f"{label:<24}{cells[0]:>10}{cells[1]:>8}   {span}" + ("  OUTSIDE" if outside else ""))
    lines.append(f"published by: {published.source}")
    return "\n".join(lines)


def _number(value: float, scale: float, form: str) -> str:
    return "-" if math.isnan(value) else f"{scale * value:{form}}"


def _missing_dataset(published: Published, config: EvalConfig) -> list[str]:
    try:
        split_file(Path(config.dataset), config.split)
    except ConfigError as error:
        return [
            f"episodes: {error}. Put {_EPISODES[published.dataset]}, at {config.dataset} (or name --dataset)"
        ]
    return []


def _missing_scenes(config: EvalConfig) -> list[str]:
    folder = Path(config.habitat.scenes).expanduser()
    where = f"Put {_SCENES}, below {folder} (or name --set habitat.scenes=FOLDER)"
    try:
        path = split_file(Path(config.dataset), config.split)
        wanted = sorted({e.scene_id for e in read_episodes(path, _languages(config.languages))})
    except (ConfigError, ValueError):  # said elsewhere; which scenes it takes is not known then
        wanted = []
    if not folder.is_dir():
        return [f"scenes: no folder {folder}. {where}"]
    gone = [scene for scene in wanted if not (folder / scene).is_file()]
    if gone:
        return [
            f"scenes: {len(gone)} of {len(wanted)} are not there, the first is {folder / gone[0]}. {where}"
        ]
    return []


def _languages(text: str) -> Sequence[str]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _missing_checkpoint(checkpoint: str) -> list[str]:
    if checkpoint.startswith("shipped:") or (Path(checkpoint).expanduser() / "config.json").is_file():
        return []
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(checkpoint, "config.json"), str):
            return []
    except HFValidationError:
        return [f"checkpoint: {checkpoint} is neither a folder with a config.json nor a name of the hub"]
    return [
        f"checkpoint: {checkpoint} is not on this machine. `hf download {checkpoint}` brings it into the "
        "cache of the hub; a folder elsewhere is named by --checkpoint"
    ]


def _missing_interpreter(python: str) -> list[str]:
    if python and shutil.which(str(Path(python).expanduser())):
        return []
    said = f"habitat.python = {python!r} is no program" if python else "habitat.python is not set"
    remedy = "--set habitat.python=PYTHON names one that has habitat_sim (docs/evaluate/habitat.md)"
    return [f"Habitat: {said}. {remedy}"]
