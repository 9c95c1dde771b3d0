"""``vln_ros bench web``: what the page in the browser shows how late, costs, and does to the control loop."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vln_ros.cli.arguments.parsing import SIZE, rename_options
from vln_ros.cli.arguments.places import add_json
from vln_ros.cli.graph import Graph, NodeSpec, enter_graph
from vln_ros.config import ConfigError, Scalar
from vln_ros.evaluation.files import write_atomically

if TYPE_CHECKING:
    from benchmarks.measure.plain_base import PlainBase

TITLE = "The page in the browser"
HELP = (
    "How late the page shows a picture and stands the robot still, what it costs, what the control loop feels"
)
SETTINGS = {
    "no web node": (0, 0, 0),
    "nobody looks": (0, 0, 0),
    "ten pages without a browser, one stalled": (0, 9, 1),
    "one page": (1, 0, 0),
    "ten pages, one stalled": (1, 8, 1),
}
"""Pages in a browser, others that read, others that do not."""
STARTUP_S = 60.0
TICKS_S = os.sysconf("SC_CLK_TCK")
NOTE_PICTURES = """
window.shown = [];
document.addEventListener("picture-shown", (event) => {
  window.shown.push([event.detail.stampNs, performance.timeOrigin + performance.now()]);
});
document.addEventListener("click", (event) => {
  if (event.target.id === "stop") window.clickedMs = performance.timeOrigin + performance.now();
}, true);
"""


@dataclass(frozen=True, kw_only=True)
class WebFigures:
    """One setting, all rounds of it.

    Attributes:
        shown_hz: pictures per second on the page's screen; None without one.
        screen_p50_ms, screen_p95_ms: from publication until the browser draws it.
        web_cpu, executor_cpu: share of a core that the process took.
        late_p999_ms: how late the executor's control periods began, median of the rounds; ``low``, ``high``:
            least and most of them.
        late_worst_ms: of all.
        missed: control periods that began more than 20 ms late, of ``periods``.
    """

    shown_hz: float | None
    screen_p50_ms: float | None
    screen_p95_ms: float | None
    web_cpu: float | None
    executor_cpu: float
    late_p999_ms: float
    late_p999_low_ms: float
    late_p999_high_ms: float
    late_worst_ms: float
    missed: int
    periods: int


@dataclass(frozen=True, kw_only=True)
class Round:
    """One measurement of one setting."""

    shown_ms: tuple[float, ...]
    web_cpu: float | None
    executor_cpu: float
    late_p999_ms: float
    late_worst_ms: float
    missed: int
    periods: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--duration-s",
        type=float,
        default=20.0,
        help="how long each measurement takes, seconds (default: %(default)g)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="how often every setting is measured, by turns (default: 3)"
    )
    parser.add_argument(
        "--stops", type=int, default=20, help="how often STOP is clicked on a robot that drives (default: 20)"
    )
    parser.add_argument(
        "--size",
        metavar=SIZE,
        default="640x480",
        help="size of the camera's pictures, pixels (default: %(default)s)",
    )
    add_json(parser)
    rename_options(parser, {"--seconds": "--duration-s", "--rounds": "--repeats"})


def run(options: argparse.Namespace) -> int:
    from benchmarks.measure.chromium import why_no_chromium
    from vln_ros.cli.demo import parse_size

    if why := why_no_chromium():
        raise ConfigError(why)
    if options.repeats < 1 or options.stops < 1 or options.duration_s < 1.0:
        raise ConfigError("--repeats, --stops and --duration-s must be at least 1")
    size = parse_size(options.size)
    rounds: dict[str, list[Round]] = {name: [] for name in SETTINGS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = enter_graph(folder / "ros")
        with _base(*size) as base:
            for i in range(options.repeats):
                for setting in SETTINGS:
                    place = folder / f"{i}-{setting.replace(' ', '-')}"
                    rounds[setting].append(_measure(place, environment, base, setting, options.duration_s))
            stops_ms = _stop(folder / "stops", environment, base, options.stops)
    figures = {setting: _figures(found, options.duration_s) for setting, found in rounds.items()}
    content = {
        "size": options.size,
        "seconds": options.duration_s,
        "rounds": options.repeats,
        "settings": {setting: asdict(f) for setting, f in figures.items()},
        "stops": len(stops_ms),
        "stop_p50_ms": round(statistics.median(stops_ms), 1),
        "stop_max_ms": round(max(stops_ms), 1),
    }
    print(section(content))
    if options.json is not None:
        write_atomically(options.json, json.dumps(content, indent=2) + "\n")
    return 0


@contextmanager
def _base(width: int, height: int) -> Iterator[PlainBase]:
    from rclpy.context import Context

    from benchmarks.measure.plain_base import PlainBase

    context = Context()
    context.init(args=[])
    base = PlainBase(context, width, height)
    try:
        yield base
    finally:
        base.end()
        base.destroy_node()
        context.try_shutdown()


@contextmanager
def _graph(
    folder: Path, environment: dict[str, str], base: PlainBase, web: bool
) -> Iterator[tuple[Graph, str]]:
    """Executor, navigator and web node; and where the page is served."""
    nodes: dict[str, dict[str, Scalar]] = {
        "executor": {"safety.obstacles": "none", "extrinsics": "parameters"},
        "navigator": {"engine": "paced", "extrinsics": "parameters"},
        **({"web": {"port": 0}} if web else {}),
    }
    with Graph(folder, environment) as graph:
        for name, parameters in nodes.items():
            graph.start(NodeSpec(name, parameters))
        address = ""
        if web:
            _until(graph, lambda: bool(_address(graph.log_path("web"))), "the page")
            address = _address(graph.log_path("web"))
        _until(graph, lambda: base.is_watched, "the navigator")
        told = len(base.commands)
        _until(graph, lambda: len(base.commands) > told, "the executor")
        yield graph, address
        graph.check()


def _address(log: Path) -> str:
    text = log.read_text("utf-8", "replace") if log.exists() else ""
    return text.partition("the page: ")[2].split()[0] if "the page: " in text else ""


def _until(graph: Graph, holds: Callable[[], bool], what: str) -> None:
    end_s = time.monotonic() + STARTUP_S
    while not holds():
        graph.check()
        if time.monotonic() > end_s:
            raise ConfigError(f"{what} did not come up in {STARTUP_S:g} s")
        time.sleep(0.02)


@contextmanager
def _page(address: str) -> Iterator[Any]:
    from benchmarks.measure.chromium import chromium

    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.add_init_script(NOTE_PICTURES)
        page.goto(address)
        page.wait_for_function("() => document.getElementById('connection').textContent === 'connected'")
        yield page


def _measure(
    folder: Path, environment: dict[str, str], base: PlainBase, setting: str, seconds: float
) -> Round:
    from benchmarks.measure.page_viewers import watching

    browsers, reading, stalled = SETTINGS[setting]
    with ExitStack() as stack:
        graph, address = stack.enter_context(_graph(folder, environment, base, setting != "no web node"))
        base.tell("Go on.")
        _until(graph, lambda: base.is_moving, "driving")
        page = stack.enter_context(_page(address)) if browsers else None
        if reading or stalled:
            stack.enter_context(watching(address, reading, stalled))
        books = stack.enter_context(_books())
        if page is not None:
            page.wait_for_function("() => window.shown.length > 5")
            page.evaluate("window.shown.length = 0")
        before = {name: _cpu_s(graph, name) for name in ("executor", "web")}
        begun_s = time.monotonic()
        if page is None:
            time.sleep(seconds)
        else:
            page.wait_for_timeout(seconds * 1e3)
        passed_s = time.monotonic() - begun_s
        used = {name: _cpu_s(graph, name) for name in before}
        shown = page.evaluate("window.shown") if page is not None else []
        late = books()
    web, web_before = used["web"], before["web"]
    executor, executor_before = used["executor"], before["executor"]
    assert executor is not None and executor_before is not None, "it was checked to run"
    return Round(
        shown_ms=tuple(at_ms - int(stamp_ns) / 1e6 for stamp_ns, at_ms in shown),
        web_cpu=None if web is None or web_before is None else (web - web_before) / passed_s,
        executor_cpu=(executor - executor_before) / passed_s,
        late_p999_ms=float(late["control late p99.9 [ms]"]),
        late_worst_ms=float(late["control late worst [ms]"]),
        missed=int(late["control periods 20 ms late"]),
        periods=int(late["control periods"]),
    )


@contextmanager
def _books() -> Iterator[Callable[[], dict[str, str]]]:
    """What the executor says of its control periods, since it was started."""
    import rclpy
    from diagnostic_msgs.msg import DiagnosticArray
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor

    from vln_ros.ros import qos

    context = Context()
    context.init(args=[])
    node = rclpy.create_node("books", context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(node)
    newest: dict[str, str] = {}

    def hear(msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "vln_ros: executor":
                newest.update({item.key: item.value for item in status.values})

    node.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.diagnostics())

    def read() -> dict[str, str]:
        newest.clear()
        end_s = time.monotonic() + STARTUP_S
        while "control periods" not in newest:
            executor.spin_once(0.1)
            if time.monotonic() > end_s:
                raise ConfigError("the executor says nothing of itself")
        return newest

    try:
        yield read
    finally:
        executor.shutdown()
        node.destroy_node()
        context.try_shutdown()


def _cpu_s(graph: Graph, name: str) -> float | None:
    """Processor time that a node has used; None where it does not run."""
    try:
        pid = graph.pid(name)
    except KeyError:
        return None
    user, system = Path(f"/proc/{pid}/stat").read_text("ascii").rsplit(")", 1)[1].split()[11:13]
    return (int(user) + int(system)) / TICKS_S


def _stop(folder: Path, environment: dict[str, str], base: PlainBase, count: int) -> list[float]:
    """Milliseconds from the click on STOP until the base hears zero, of a robot that drives."""
    taken_ms: list[float] = []
    with _graph(folder, environment, base, True) as (_, address), _page(address) as page:

        def until(holds: Callable[[], bool], what: str) -> None:
            end_s = time.monotonic() + STARTUP_S
            while not holds():
                if time.monotonic() > end_s:
                    raise ConfigError(f"{what} did not happen in {STARTUP_S:g} s")
                page.wait_for_timeout(5)

        while len(taken_ms) < count:
            page.fill("#instruction", f"Go on, {len(taken_ms)}.")
            page.press("#instruction", "Enter")
            until(lambda: base.is_moving, "driving")
            page.click("#stop")
            clicked_s = page.evaluate("window.clickedMs") / 1e3
            page.wait_for_selector("#release", state="visible")
            until(lambda at=clicked_s: any(z and t > at for t, z in base.commands[-500:]), "zero")  # type: ignore[misc]
            commands = base.commands[-500:]
            if any(t > clicked_s - 0.05 and not zero for t, zero in commands):  # not between two queues
                taken_ms.append((next(t for t, zero in commands if zero and t > clicked_s) - clicked_s) * 1e3)
            page.click("#release")
            page.wait_for_selector("#release", state="hidden")
    return taken_ms


def _figures(rounds: list[Round], seconds: float) -> WebFigures:
    shown = [ms for r in rounds for ms in r.shown_ms]
    p50_ms, p95_ms = np.percentile(shown, [50, 95]) if shown else (None, None)
    cpu = [r.web_cpu for r in rounds if r.web_cpu is not None]
    late = sorted(r.late_p999_ms for r in rounds)
    return WebFigures(
        shown_hz=len(shown) / (len(rounds) * seconds) if shown else None,
        screen_p50_ms=None if p50_ms is None else float(p50_ms),
        screen_p95_ms=None if p95_ms is None else float(p95_ms),
        web_cpu=statistics.mean(cpu) if cpu else None,
        executor_cpu=statistics.mean(r.executor_cpu for r in rounds),
        late_p999_ms=statistics.median(late),
        late_p999_low_ms=late[0],
        late_p999_high_ms=late[-1],
        late_worst_ms=max(r.late_worst_ms for r in rounds),
        missed=sum(r.missed for r in rounds),
        periods=sum(r.periods for r in rounds),
    )


def section(figures: dict[str, Any]) -> str:
    from vln_ros.cli.bench.page import table

    def ms(value: float | None) -> str:
        return "–" if value is None else f"{value:.0f} ms"

    rows = [
        (
            setting,
            "–" if f["shown_hz"] is None else f"{f['shown_hz']:.1f} Hz",
            f"{ms(f['screen_p50_ms'])} / {ms(f['screen_p95_ms'])}",
            "–" if f["web_cpu"] is None else f"{f['web_cpu']:.0%}",
            f"{f['executor_cpu']:.0%}",
            f"{ms(f['late_p999_ms'])} ({f['late_p999_low_ms']:.0f} – {f['late_p999_high_ms']:.0f})",
            f"{f['missed']} of {f['periods']}",
        )
        for setting, f in figures["settings"].items()
    ]
    text = (
        f"A camera of {figures['size']} at 10 Hz on a base without a world, executor and navigator "
        "(which only takes time) as processes, one page in a headless Chromium on the same machine. "
        f"{figures['rounds']} rounds of {figures['seconds']:g} s per setting, by turns. *To the screen* is "
        "from the picture's stamp until the browser draws it; *late* is how late control periods begin "
        "(median of the rounds, least to most).\n\n"
    )
    text += table(
        (
            "who looks",
            "pictures shown",
            "to the screen p50 / p95",
            "web node, of a core",
            "executor, of a core",
            "control late p99.9",
            "periods 20 ms late",
        ),
        rows,
    )
    return text + (
        f"\nFrom the click on STOP to zero at the base, {figures['stops']} times in mid-drive: p50 "
        f"{figures['stop_p50_ms']:.0f} ms, most {figures['stop_max_ms']:.0f} ms.\n"
    )
