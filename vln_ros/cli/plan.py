"""``vln_ros plan``: what to expect of a checkpoint on a device, before buying either."""

from __future__ import annotations

import argparse
import json
import math
import textwrap
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from vln_ros.cli.arguments.parsing import rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.output.next_steps import print_next
from vln_ros.cli.output.waiting import waiting
from vln_ros.config import ConfigError, StreamConfig
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from vln_ros.capacity.estimate import Calibration, Device, Plan, Workload
    from vln_ros.capacity.roofline import Roofline
    from vln_ros.engine.checkpoint.profile import ContextSpec

HELP = "Estimate latency, frame rate, memory and robots per device, from the roofline and from measurements"
SHAPES = ("3B", "7B")
DEVICES = (
    "h200", "h100", "a100", "l40s", "4090", "3090", "thor", "orin", "orin-nx", "orin-nano", "measured",
)  # fmt: skip
DEVICES_OF_TABLE = DEVICES[:-1]
WEIGHTS = {"bf16": 2.0, "int8": 1.0, "4bit": 0.5}
PATCH, MERGE, TEMPORAL = 14, 2, 2
RELEASED_MIN_PIXELS, RELEASED_MAX_PIXELS = 3136, 12845056
"""Of the released preprocessor_config.json, where the profile sets no bound of its own."""
TEXT_TOKENS, QUESTION_TOKENS = 12, 24
TOKENS_PER_PHRASE = 2
LONG_RUN_PRIMITIVES = (64, 256)
"""A history is looked at between these."""
TABLE = (("3B", "activevln-r2r"), ("3B", "navida"), ("7B", "internvla-n1-s2"))
TABLE_CAMERA = "640x480@5"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shape", choices=SHAPES, help="size of the released Qwen2.5-VL")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        help="device to estimate for; measured: the one that --calibration was measured on",
    )
    parser.add_argument(
        "--table",
        action="store_true",
        help="print a Markdown table of all devices instead, as in the README",
    )
    parser.add_argument(
        "--camera", default="640x480@5", help="camera as WIDTHxHEIGHT@RATE (default: %(default)s)"
    )
    parser.add_argument(
        "--profile", default="qwen-zero-shot", help="profile of the checkpoint (default: %(default)s)"
    )
    parser.add_argument(
        "--decisions-per-s",
        type=float,
        default=1.0,
        help="decisions per second and robot; each needs a frame of its own (default: %(default)s)",
    )
    parser.add_argument(
        "--token-budget",
        type=int,
        default=StreamConfig().token_budget,
        help="most tokens in the stream of one robot (default: %(default)s)",
    )
    parser.add_argument(
        "--history-choice",
        choices=("profile", "stays"),
        default="profile",
        help="choice of past frames of profiles with a history, see qwen.stream.history_choice (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--decode",
        choices=("tree", "tokens"),
        default="tree",
        help="how queues are decoded (default: %(default)s)",
    )
    parser.add_argument(
        "--weights",
        choices=tuple(WEIGHTS),
        default="bf16",
        help="number format of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--calibration",
        type=Path,
        default=None,
        help="record of `vln_ros bench roofline`, measured on the device",
    )
    parser.add_argument(
        "--memory-gb", type=float, default=None, help="memory of the device, if it differs from the published"
    )
    add_json(parser)
    rename_options(parser, {"--checkpoint": "--shape"})


def run(options: argparse.Namespace) -> int:
    width, height, rate = _camera(options.camera)
    if not 0 < options.decisions_per_s < math.inf:
        raise ConfigError(f"--decisions-per-s = {options.decisions_per_s:g}: must be positive")
    if options.token_budget < 64:
        raise ConfigError(f"--token-budget = {options.token_budget}: must be at least 64")
    if options.memory_gb is not None and not 0 < options.memory_gb < math.inf:
        raise ConfigError(f"--memory-gb = {options.memory_gb:g}: must be positive")
    missing = [f"--{name}" for name in ("shape", "device") if getattr(options, name) is None]
    if missing and not options.table:
        raise ConfigError(
            f"{' and '.join(missing)} missing: as in vln_ros plan --shape 3B --device orin; --table shows all"
        )
    with waiting("loading libraries"):
        from vln_ros.capacity.estimate import plan
        from vln_ros.capacity.roofline import Roofline
        from vln_ros.capacity.stages import published_config

    if options.table:
        print(device_table())
        return 0
    device, calibration, errors = _device(options)
    load = _workload(
        options.profile,
        width,
        height,
        rate,
        decisions_per_s=options.decisions_per_s,
        token_budget=options.token_budget,
        tree=options.decode == "tree",
        history_choice=options.history_choice,
    )
    roofline = Roofline(published_config(options.shape), 2)
    found = plan(roofline, device, load, calibration, WEIGHTS[options.weights])
    print(_text(options, roofline, device, load, calibration, found, errors))
    if options.json is not None:
        content = {"workload": asdict(load), "calibration": calibration.source, "plan": asdict(found)}
        write_atomically(options.json, json.dumps(content, indent=1) + "\n")
        print_next(f"{options.json} holds the figures; --table compares all devices")
    return 0


def _camera(text: str) -> tuple[int, int, float]:
    try:
        size, rate_text = text.split("@")
        width, height = (int(part) for part in size.split("x"))
        rate = float(rate_text)
    except ValueError:
        raise ConfigError(f"--camera = {text!r}: expected WIDTHxHEIGHT@RATE, as in 640x480@5") from None
    if min(width, height) < 28 or not 0 < rate < 1000:
        raise ConfigError(f"--camera = {text}: at least 28x28 pixels and a positive rate")
    return width, height, rate


def _device(options: argparse.Namespace) -> tuple[Device, Calibration, str]:
    """Device, calibration, and what is known of its error."""
    from vln_ros.capacity.estimate import ASSUMED, DEVICES, Device, calibrate, leave_one_out
    from vln_ros.cli.bench.roofline import read_measured

    if options.calibration is None:
        if options.device == "measured":
            raise ConfigError(
                "--device measured needs --calibration: run `vln_ros bench roofline --json FILE` there"
            )
        device, calibration, errors = DEVICES[options.device], ASSUMED, "unknown: nothing was measured"
    else:
        measured, peak = read_measured(options.calibration)
        calibration = calibrate(measured, f"{options.calibration}, {len(measured)} measured configurations")
        found = sorted(abs(e.relative) for e in leave_one_out(measured))
        errors = (
            f"of each measured configuration predicted from the others: {found[len(found) // 2]:.0%} in "
            f"the median, "
            f"{found[-1]:.0%} at worst"
            if found
            else "unknown: one configuration was measured"
        )
        known = DEVICES.get(options.device)
        if known is None and options.memory_gb is None:
            raise ConfigError("--device measured needs --memory-gb: how much memory the device has")
        device = known or Device(peak, 0.0)
    if options.memory_gb is not None:
        device = Device(device.peak, options.memory_gb * 1e9)
    return device, calibration, errors


def device_table() -> str:
    """Markdown: what to expect of every device with a checkpoint of each kind of context, by default options.

    Where the weights do not fit in 16 bits, in the most bits in which they do.
    """
    from vln_ros.capacity.estimate import ASSUMED, DEVICES, plan
    from vln_ros.capacity.roofline import Roofline
    from vln_ros.capacity.stages import published_config
    from vln_ros.cli.bench.page import table

    width, height, rate = _camera(TABLE_CAMERA)
    rooflines = {shape: Roofline(published_config(shape), 2) for shape in SHAPES}
    loads = {
        profile: _workload(
            profile,
            width,
            height,
            rate,
            decisions_per_s=1.0,
            token_budget=StreamConfig().token_budget,
            tree=True,
            history_choice="profile",
        )
        for _, profile in TABLE
    }
    rows = []
    for name in DEVICES_OF_TABLE:
        cells = [f"{name}, {DEVICES[name].memory_bytes / 1e9:.0f} GB"]
        for shape, profile in TABLE:
            for weights, weight_bytes in WEIGHTS.items():
                found = plan(rooflines[shape], DEVICES[name], loads[profile], ASSUMED, weight_bytes)
                if found.weights_bytes + found.robot_bytes <= 0.9 * DEVICES[name].memory_bytes:
                    ahead = f" + {1e3 * found.ahead_s:.0f}" if found.ahead_s else ""
                    note = "" if weights == "bf16" else f" ({weights})"
                    robots = f"{found.robots} / {found.batched_robots}" if found.busy <= 1 else "too slow"
                    cells.append(f"{1e3 * found.decision_s:.0f}{ahead} ms, {robots}{note}")
                    break
            else:
                cells.append("does not fit")
        rows.append(cells)
    return table(("device", *(f"{shape}, `{profile}`" for shape, profile in TABLE)), rows)


def _workload(
    profile_name: str,
    width: int,
    height: int,
    rate: float,
    *,
    decisions_per_s: float,
    token_budget: int,
    tree: bool,
    history_choice: str,
) -> Workload:
    from vln_ros.capacity.estimate import Workload
    from vln_ros.engine.checkpoint.profile import load_profile
    from vln_ros.engine.inputs.preprocess import smart_resize

    profile = load_profile(profile_name)
    spec = profile.context
    if history_choice != "profile":
        if spec.strategy != "history":
            raise ConfigError(f"--history-choice {history_choice}: profile {profile.name} has no history")
        spec = replace(spec, history_choice=history_choice, history_limit=0)
    side = PATCH * MERGE
    if profile.image.resize is not None:
        width, height = profile.image.resize
    h, w = smart_resize(
        height,
        width,
        factor=side,
        min_pixels=RELEASED_MIN_PIXELS,
        max_pixels=profile.image.max_pixels or RELEASED_MAX_PIXELS,
    )
    frame_tokens = (h // side) * (w // side)
    # STOP ends a queue, so it has nothing below it.
    ways = len(profile.vocabulary) - 1
    nodes = TOKENS_PER_PHRASE * sum(ways**i for i in range(1, profile.max_phrases))
    asked = asked_vision = restart = 0
    ahead = kept = 0.0
    if spec.strategy == "history":
        asked = (spec.history_frames or 0) + 1
        kept, ahead = history_pictures(spec, profile.max_phrases)
    elif spec.strategy == "delayed_batch":
        frames = (spec.recent_frames or 0) + (spec.important_frames or 0)
        asked = asked_vision = math.ceil(frames / TEMPORAL)  # so many frames of a video are one picture
    elif spec.strategy == "window_reset":
        restart = spec.history_frames or 0
    context = token_budget
    if asked:  # each question is a chat of its own
        context = QUESTION_TOKENS + asked * (frame_tokens + TEXT_TOKENS)
    return Workload(
        grid_h=h // PATCH,
        grid_w=w // PATCH,
        frame_tokens=frame_tokens,
        frames_per_s=rate,
        decisions_per_s=decisions_per_s,
        text_tokens=TEXT_TOKENS,
        question_tokens=QUESTION_TOKENS,
        context_tokens=context,
        tree_nodes=min(nodes, StreamConfig().most_nodes(pays_by_row=False)) if tree else 0,
        answer_tokens=TOKENS_PER_PHRASE * profile.max_phrases,
        unasked=_unasked(spec),
        asked_pictures=asked,
        ahead_pictures=ahead,
        kept_pictures=kept,
        asked_vision=asked_vision,
        restart_pictures=restart,
    )


def history_pictures(spec: ContextSpec, primitives: int) -> tuple[float, float]:
    """Past pictures that a question shows, on average of a long run with that many primitives in between.

    Returns:
        Those that lie in the common beginning with the question before, and the others, which are prefilled
        while the robot moves.
    """
    limit = spec.history_limit or math.inf
    kept = new = questions = 0
    before: tuple[int, ...] = ()
    for past in range(*LONG_RUN_PRIMITIVES, primitives):
        gone = int(max(past - limit, 0))
        shown = tuple(gone + i for i in spec.choose_history(past - gone))
        same = next((i for i, (a, b) in enumerate(zip(before, shown, strict=False)) if a != b), None)
        same = min(len(before), len(shown)) if same is None else same
        if before:
            kept, new, questions = kept + same, new + len(shown) - same, questions + 1
        before = shown
    return kept / questions, new / questions


def _unasked(spec: ContextSpec) -> str:
    """What the engine does with a frame that nobody asks about."""
    if spec.strategy == "delayed_batch" or (spec.strategy == "append" and spec.unasked_frames == "drop"):
        return "unseen"
    return "prefilled" if spec.unasked_frames == "keep" else "seen"


def _text(
    options: argparse.Namespace,
    roofline: Roofline,
    device: Device,
    load: Workload,
    calibration: Calibration,
    found: Plan,
    errors: str,
) -> str:
    peak = device.peak
    lines = [
        f"{options.shape} ({options.weights}) on {options.device}, camera {options.camera}, profile "
        f"{options.profile}: {load.frame_tokens} tokens a frame"
        + (f", {load.asked_pictures} pictures shown at each question" if load.asked_pictures else "")
        + (
            f": {load.kept_pictures:.1f} kept from the one before, {load.ahead_pictures:.1f} prefilled ahead"
            if load.ahead_pictures
            else ""
        ),
        "",
        f"  frame that nobody asks about{_ms(found.frame_s)}   {load.unasked}",
        f"  frame and its decision      {_ms(found.decision_s)}   (roofline {_ms(found.least_s).strip()})",
        *(f"    {name:<26}{_ms(seconds)}" for name, seconds in found.parts.items() if seconds),
        *(
            [f"  prefilled before a question {_ms(found.ahead_s)[1:]}   while the robot moves"]
            if found.ahead_s
            else []
        ),
        *(
            [f"  stream dropped, begun anew  {_ms(found.restart_s)}   {load.restart_pictures} pictures"]
            if load.restart_pictures
            else []
        ),
        f"  frames per second           {found.frames_per_s:>9.1f}      each decided on",
        f"  device busy for one robot   {100 * found.busy:>9.1f} %    at {load.frames_per_s:g} frames and "
        f"{min(load.decisions_per_s, load.frames_per_s):g} decisions per second"
        + ("" if found.busy <= 1 else ": TOO MUCH, frames are skipped"),
        "",
        f"  weights                     {found.weights_bytes / 1e9:>9.1f} GB",
        f"  one robot's full cache      {found.robot_bytes / 1e9:>9.2f} GB   {load.context_tokens} tokens, "
        f"full after {_duration(found.filled_after_s)}",
        f"  memory over time            {_over_time(found)}",
        f"  robots per device           {found.robots:>9d}      bounded by {found.limit}, without batching"
        + ("" if found.robots else ": one is too many"),
        f"  robots in one batch         {found.batched_robots:>9d}      each waits "
        f"{_ms(found.batched_decision_s).strip()} for its decision",
        "",
        "assumptions",
        f"  device: {peak.flops_per_s / 1e12:.4g} TFLOP/s, {peak.bytes_per_s / 1e9:.0f} GB/s "
        f"({peak.source}), "
        f"{device.memory_bytes / 1e9:.0f} GB of which 90 % can be used",
        *_wrapped(f"times: {calibration.source}"),
        *_wrapped(f"error: {errors}"),
        f"  context: full, {load.context_tokens} tokens; {TEXT_TOKENS} tokens of text with each frame, "
        f"{QUESTION_TOKENS} before an answer",
        f"  answer: {load.tree_nodes} nodes of possible queues in one forward"
        if load.tree_nodes
        else f"  answer: {load.answer_tokens} tokens, one by one",
        f"  cache: {roofline.token_bytes / 1024:.0f} KiB per token in 16 bits; activations are not counted",
    ]
    return "\n".join(lines)


def _over_time(found: Plan) -> str:
    """Weights and one robot's cache, from the first frame to a full context."""
    full_s = found.filled_after_s
    times_s = (0.0, 30.0, 300.0) if math.isinf(full_s) else (0.0, full_s / 4, full_s / 2, full_s)
    sizes = [f"{found.memory_bytes(s) / 1e9:.1f} GB at {s:.0f} s" for s in times_s]
    return ", ".join(sizes) + ("" if math.isinf(full_s) else " and from then on")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, 108, initial_indent="  ", subsequent_indent="    ")


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:>9.1f} ms"


def _duration(seconds: float) -> str:
    if math.isinf(seconds):
        return "ever"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.1f} s"
