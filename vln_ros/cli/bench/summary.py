"""Says in a sentence or two what each record of a bench shows, for the page above the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from vln_ros.cli.bench.record import Record

_PAGE = """# Benchmarks at a glance

Made by `vln_ros bench page` from the [records](records.md); do not edit. One line per bench: what it asks,
what came out, and when. Each title leads to its record, with the command, the machine and every figure.

**No figure here is from a GPU, from a released checkpoint or from a real robot.** All were measured on CPU
cores. Times depend on the machine; read the ratios. What a device is expected to do is
[calculated, not measured](../../README.md#hardware).
"""


_FLEET_WAYS = ("one fleet", "a navigator each")


@dataclass(frozen=True)
class _Headline:
    bench: str
    question: str
    answer: Callable[[Any], str]


def make_summary(records: Sequence[Record], titles: dict[str, str], anchor: Callable[[str], str]) -> str:
    """The page.

    Args:
        titles: heading of each bench's section on the page of records.
        anchor: of a heading.
    """
    by_name = {record.bench: record for record in records}
    parts = [_PAGE]
    for group, headlines in GROUPS.items():
        lines = [f"## {group}\n", "| question | answer | record |", "| --- | --- | --- |"]
        for line in headlines:
            record = by_name.get(line.bench)
            if record is None:
                continue
            link = _link_to(record, titles[line.bench], anchor)
            lines.append(f"| {line.question} | {_answer(line, record)} | {link} |")
        if len(lines) > 3:
            parts.append("\n".join(lines) + "\n")
    said = {line.bench for headlines in GROUPS.values() for line in headlines}
    if rest := [record for record in records if record.bench not in said]:
        links = [f"- {_link_to(r, titles[r.bench], anchor)}" for r in rest]
        parts.append("\n".join(["## More records\n", *links]) + "\n")
    return "\n".join(parts)


def _link_to(record: Record, title: str, anchor: Callable[[str], str]) -> str:
    return f"[{title}](records.md#{anchor(title)}), {record.day}"


def _answer(line: _Headline, record: Record) -> str:
    try:
        return line.answer(record.figures)
    except (KeyError, IndexError, StopIteration):
        return "See the record: it holds a part of the bench only."


def _faults(figures: dict[str, Any]) -> str:
    worst = max(figures, key=lambda name: float(figures[name]["max_ms"]))
    injections = sum(f["injections"] for f in figures.values())
    still = sum(f["still"] for f in figures.values())
    return (
        f"{len(figures)} faults were injected, {injections} times in all. It stood still in {still}. The "
        "longest wait "
        f"for zero was {figures[worst]['max_ms']:.0f} ms ({worst}), beyond the fault's own time-out."
    )


def _collisions(figures: dict[str, Any]) -> str:
    without, with_depth = figures["none"], figures["depth"]
    return (
        f"Of {with_depth['boxes']} boxes that appear before the driving robot it touched "
        f"{with_depth['box_contacts']}. "
        f"Without obstacle stops it touched {without['box_contacts']} of {without['boxes']}."
    )


def _link(figures: dict[str, Any]) -> str:
    slowest = max(c["to_zero_s"] for c in figures["cuts"])
    cuts = ", ".join(f"{c['cut_s']:g}" for c in figures["cuts"])
    return f"Yes, after at most {slowest:.2f} s, for cuts of {cuts} s. It went on by itself each time."


def _places(figures: dict[str, Any]) -> str:
    runs = {s["name"]: s for s in figures["settings"]}
    proof = runs["lockstep"]
    text = f"An oracle that points drives to {proof['successes']} of {proof['episodes']} goals in lockstep"
    if real := runs.get("real time, cmd_vel"):
        text += f", and to {real['successes']} of {real['episodes']} in real time"
    return f"{text}, in whole flats."


def _tracking(figures: dict[str, Any]) -> str:
    worst = max(by["blended"]["position_p95_m"] for by in figures.values())
    return (
        f"95 % of the queues end within {100 * worst:.1f} cm of where they lead, on the worst of "
        f"{len(figures)} bases, once the executor knows the base's delay."
    )


def _web(figures: dict[str, Any]) -> str:
    page = figures["settings"]["one page"]
    return (
        f"From the click on STOP to zero: {figures['stop_p50_ms']:.0f} ms in the median, "
        f"{figures['stop_max_ms']:.0f} ms "
        f"at most, {figures['stops']} times. A picture is on the screen after {page['screen_p50_ms']:.0f} ms."
    )


def _policy(figures: dict[str, Any]) -> str:
    kinds = {"room": "rooms", "small": "small flats", "flat": "whole flats"}
    reached = {
        b["kind"]: b["summary"]["success"]["mean"] for b in figures["baselines"] if b["name"] == "policy"
    }
    parts = [f"{100 * reached[kind]:.1f} % in {word}" for kind, word in kinds.items() if kind in reached]
    return f"{', '.join(parts)}, over {figures['episodes']} unseen episodes each."


def _fleet(figures: list[dict[str, Any]]) -> str:
    most = max(f["robots"] for f in figures)
    shared, each = (
        next(f for f in figures if f["robots"] == most and f["way"] == way) for way in _FLEET_WAYS
    )
    stood_ms = max(ms for f in figures for ms in f["stood_ms"])
    return (
        f"{most} robots with one fleet take {shared['memory_mb'] / 1e3:.1f} GB instead of "
        f"{each['memory_mb'] / 1e3:.1f} GB with a navigator each, and get {shared['decisions_per_s']:.1f} "
        f"instead of {each['decisions_per_s']:.1f} decisions a second. Killed, either way, all "
        f"stood within {stood_ms:.0f} ms."
    )


def _graph(figures: dict[str, Any]) -> str:
    step, real = figures["lockstep"], figures["realtime"]
    same = (
        "Two runs in lockstep are identical."
        if not figures["differing_episodes"]
        else "Runs in lockstep differ."
    )
    return (
        f"The oracle policy reaches {step['successes']} of {step['episodes']} goals in lockstep and "
        f"{real['successes']} of {real['episodes']} in real time. {same}"
    )


def _stream(figures: dict[str, Any]) -> str:
    point = figures["points"][0]
    return (
        f"The first token comes {point['features_speedup']:.0f} times sooner than with one shot that "
        "keeps vision "
        f"features, {point['with_newest_speedup']:.0f} times sooner than with `generate`. That holds for "
        "the small "
        "network here and for no other."
    )


def _engine(figures: dict[str, Any]) -> str:
    flat = figures["flat"]
    return (
        f"Yes. After {flat['frames']} frames a frame costs {flat['by_turns']['ratio']:.2f} times what it "
        "did in a new "
        f"stream, within {flat['token_budget']} tokens."
    )


def _history(figures: dict[str, Any]) -> str:
    rows = figures["rows"]
    gains = []
    for profile in dict.fromkeys(r["profile"] for r in rows):
        ours = [r for r in rows if r["profile"] == profile and r["every"] == 4]
        anew, ahead = ours[0], next(r for r in ours if r["way"] == "and prefilled ahead")
        gains.append(f"{anew['decide_cpu_ms'] / ahead['decide_cpu_ms']:.1f} times less for `{profile}`")
    return f"A decision computes {' and '.join(gains)}, with the same answers, when asked every 4 frames."


def _overlap(figures: dict[str, Any]) -> str:
    settings = figures["settings"]
    best = min(settings, key=lambda s: float(s["standing_s"]))
    return (
        f"{best['standing_s']:.1f} s an episode instead of {settings[0]['standing_s']:.1f} s, with "
        "`decide_ahead: "
        f"{best['decide_ahead']}` and {figures['who']}."
    )


def _reuse(figures: dict[str, Any]) -> str:
    walks = {w["motion"]: w for w in figures["walks"]["motions"]}
    turning, driving = walks["pan"], walks["forward"]
    return (
        f"From frame to action {driving['gain']:.2f} times the speed where the robot drives, with "
        f"{100 * driving['computed']:.0f} % of the tokens computed, and {turning['gain']:.2f} times where it "
        f"turns, with {100 * turning['computed']:.0f} %. That is a network of the 3B checkpoint's shape on a "
        "CPU. Off by default: the shipped policy's frames have too few tokens."
    )


def _prune(figures: dict[str, Any]) -> str:
    variants = figures["variants"]
    ratio = sum(variants["everything"]["total_s"]) / sum(variants["seen, 0.5 m"]["total_s"])
    return f"At best {100 * (1 - 1 / ratio):.0f} % of the time (`seen`, 0.5 m). Off by default."


def _roofline(figures: dict[str, Any]) -> str:
    errors = sorted(abs(e["predicted_s"] / e["measured_s"] - 1) for e in figures["errors"])
    return (
        f"{100 * errors[len(errors) // 2]:.0f} % off in the median and {100 * errors[-1]:.0f} % at worst, "
        "over "
        f"{len(errors)} configurations that it had not seen, on this CPU."
    )


def _nodes(figures: dict[str, Any]) -> str:
    streams = [s for s in figures["streams"] if s["reliability"] == "best_effort"]
    lost = {s["profile"]: f"{s['lost_percent']:.1f} %" for s in streams}
    return (
        f"{lost['shipped']} with the shipped Fast DDS profile, {lost['shipped, untuned kernel']} where the "
        f"kernel's socket buffer was not raised, {lost['none']} with Fast DDS as it comes (640x480 at 30 Hz)."
    )


def _soak(figures: dict[str, Any]) -> str:
    worst = max(figures["slope_mb_per_h"].values())
    return (
        f"In {figures['minutes']:g} minutes {figures['missed']} of {figures['control_periods']} control "
        "periods were more "
        f"than 20 ms late. Memory grew by at most {worst:.1f} MB an hour. Frames unaccounted for: "
        f"{figures['unexplained']}."
    )


def _startup(figures: dict[str, Any]) -> str:
    def active_s(node: str) -> float:
        return float(median(start["active_s"] for start in figures[node]["this checkout"]))

    return (
        f"The executor after {active_s('executor'):.2f} s, the navigator with the shipped policy after "
        f"{active_s('navigator, shipped policy'):.2f} s."
    )


def _setup(figures: dict[str, list[float]]) -> str:
    bare, warm = (median(seconds) for seconds in list(figures.values())[:2])
    return f"{bare:.0f} s with everything to install, {warm:.0f} s after that."


def _profiling(figures: dict[str, Any]) -> str:
    ratio = figures["ratio_to_off"]["spans"]["median"]
    return f"{100 * (ratio - 1):.1f} % of the time with level `spans`."


def _world(figures: dict[str, dict[str, float]]) -> str:
    return f"{figures['RGB-D frame 640x480']['median_ms']:.0f} ms for an RGB-D frame of 640x480."


def _eval(figures: dict[str, Any]) -> str:
    ways = {w["name"]: w for w in figures["ways"]}
    first = ways["per-step calls, every n-th episode of an unsorted file"]
    ours = ways["ours: queues of 4, whole scenes, longest first"]
    return (
        f"{first['calls'] / ours['calls']:.1f} times fewer calls and "
        f"{first['scene_loads'] / ours['scene_loads']:.1f} "
        "times fewer scene loads than with one call per step of an unsorted file."
    )


def _kill(figures: dict[str, Any]) -> str:
    killed = sum(sum(b["killed"].values()) for b in figures["backends"])
    results = sum(b["episodes"] for b in figures["backends"])
    return f"No. {killed} processes were killed; of {results} results none was missing, double or different."


GROUPS: dict[str, tuple[_Headline, ...]] = {
    "Does it stop?": (
        _Headline("faults", "Does the robot stand still when something breaks?", _faults),
        _Headline("collisions", "Does it hit what appears in its way?", _collisions),
        _Headline("link", "Does it stop when the link to the navigator is cut?", _link),
        _Headline("web", "How fast is STOP in the browser?", _web),
    ),
    "Does it get there?": (
        _Headline("policy", "How many goals does the shipped policy reach?", _policy),
        _Headline("graph", "Does the graph carry out what a policy decides?", _graph),
        _Headline("places", "Does the robot get to a pixel that a model points at?", _places),
        _Headline("tracking", "Does the robot stand where its actions lead?", _tracking),
    ),
    "Is it fast?": (
        _Headline("stream", "What does streaming bring?", _stream),
        _Headline("engine", "Does a frame still cost the same after a long run?", _engine),
        _Headline("history", "What does prefilling a history ahead bring?", _history),
        _Headline("overlap", "How long does the robot wait for a slow model?", _overlap),
        _Headline("reuse", "What does VLN-Cache bring?", _reuse),
        _Headline("prune", "What does leaving visual tokens out bring?", _prune),
        _Headline("roofline", "How far off is `vln_ros plan`?", _roofline),
    ),
    "Does it run well?": (
        _Headline("nodes", "Are camera frames lost on their way?", _nodes),
        _Headline("fleet", "What does one model for several robots bring?", _fleet),
        _Headline("soak", "Does it leak or fall behind in a long run?", _soak),
        _Headline("startup", "How soon are the nodes active?", _startup),
        _Headline("setup", "How long from a bare clone to the end of `make demo`?", _setup),
        _Headline("profiling", "What does profiling cost?", _profiling),
        _Headline("world", "How fast is the simulator?", _world),
        _Headline("eval", "What do queues and whole scenes save in an evaluation?", _eval),
        _Headline("kill", "Does an evaluation lose results when its processes are killed?", _kill),
    ),
}
