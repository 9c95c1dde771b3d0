"""``vln_ros live``: a simulated robot in real time, for sentences of one's own."""

from __future__ import annotations

import argparse
import queue
import shlex
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, get_args

from vln_ros.cli.arguments.parsing import SIZE, seconds
from vln_ros.cli.arguments.places import check_model, output_folder, run_folder
from vln_ros.cli.demo import SIMULATED_ROBOT, named_model, parse_size
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, enter_graph
from vln_ros.cli.output.next_steps import print_report
from vln_ros.cli.output.waiting import waiting
from vln_ros.cli.talk.page import GraphPage, graph_page
from vln_ros.cli.talk.person import Person
from vln_ros.config import (
    BridgeConfig,
    ConfigError,
    HabitatConfig,
    QwenConfig,
    Scalar,
    WorldName,
    from_flat,
)
from vln_ros.questions import Question, QuestionAnswer
from vln_ros.ros.terminal.environment import DOMAIN
from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, KINDS, scene_id

HELP = "A simulated robot in real time, for sentences of your own: type them, or use the page"
READY_S = 120.0
"""On the busiest machine, with the largest model."""
_SPLIT = "val_unseen"
NEEDED = {"navigator", "executor", "sim_bridge"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--world",
        choices=get_args(WorldName),
        default="embedded",
        help="where the robot is (default: embedded)",
    )
    parser.add_argument("--kind", choices=KINDS, default=None, help="size of the flat (default: small)")
    parser.add_argument(
        "--flat", type=int, default=None, help="which flat of val_unseen, from 0 (default: 0)"
    )
    parser.add_argument(
        "--start",
        type=int,
        default=None,
        help="which of the flat's 5 starts the robot stands at (default: 1)",
    )
    parser.add_argument(
        "--episode-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="instead of a flat: stand at the start of an episode of this file (VLN-CE json.gz)",
    )
    parser.add_argument("--episode", default="", help="id of the episode in FILE (default: the first)")
    parser.add_argument(
        "--python",
        default="",
        help="interpreter that has habitat_sim, for --world habitat (docs/evaluate/habitat.md)",
    )
    parser.add_argument(
        "--habitat-scenes",
        default="",
        help=f"folder of Habitat's scenes, for --world habitat (default: {HabitatConfig().scenes})",
    )
    parser.add_argument(
        "--profile", default=QwenConfig().profile, help="profile of the model (default: %(default)s)"
    )
    parser.add_argument(
        "--checkpoint",
        default="",
        help="folder or hub name of a checkpoint (default: the one that the profile names)",
    )
    parser.add_argument(
        "--size", metavar=SIZE, default="320x240", help="size of the camera's images (default: 320x240)"
    )
    parser.add_argument(
        "--limit-s", type=seconds, default=240.0, help="seconds that a sentence may take (default: 240)"
    )
    parser.add_argument("--no-web", action="store_true", help="serve no page")
    parser.add_argument(
        "--out",
        type=output_folder,
        default=None,
        help="write the sentences that are scored there, with videos and a report (the world stands while an "
        "episode is written)",
    )


def run(options: argparse.Namespace) -> int:
    begun_s = time.monotonic()
    width, height = parse_size(options.size)
    model = named_model(options.profile, options.checkpoint)
    check_model(str(model["qwen.checkpoint"]), options.profile)
    _check_flat(options)
    out = None if options.out is None else run_folder(options.out, "live")
    bridge: dict[str, Scalar] = {
        **_world(options),
        "mode": "live",
        "camera.width": width,
        "camera.height": height,
        "max_episode_s": options.limit_s,
        "run_folder": "" if out is None else str(out),
        "command": shlex.join(["vln_ros", *sys.argv[1:]]),
    }
    if options.world == "habitat":
        _check_habitat(bridge)
    with tempfile.TemporaryDirectory(prefix="vln_ros_live_") as scratch:
        place = Path(scratch) if out is None else out
        try:
            with Graph(place / "logs", enter_graph(place / "logs")) as graph:
                if options.episode_file is None:
                    with ThreadPoolExecutor(1) as beside, waiting("making the flat"):
                        tried = beside.submit(graph.try_ros)
                        bridge.update(_flat(place, options))
                        tried.result()
                page = None if options.no_web else graph_page({"use_sim_time": True})
                for spec in _nodes(bridge, model, page):
                    graph.start(spec)
                with Person(wait_s=READY_S) as person:
                    _Live(person, graph, options.limit_s).talk(begun_s, page)
        except GraphError as error:
            print(error, file=sys.stderr)
            return 1
        if out is not None:
            print_report(out)
    return 0


def _nodes(
    bridge: Mapping[str, Scalar], model: Mapping[str, Scalar], page: GraphPage | None
) -> list[NodeSpec]:
    """The navigator takes longest, and the page is wanted first."""
    simulated: dict[str, Scalar] = {"use_sim_time": True}
    navigator: dict[str, Scalar] = {
        "engine": "qwen",
        "extrinsics": "parameters",
        "reliability": "reliable",
        **model,
        **simulated,
    }
    return [
        NodeSpec("navigator", navigator),
        *([] if page is None else [page.node]),
        NodeSpec("sim_bridge", bridge),
        NodeSpec("executor", {**simulated, **SIMULATED_ROBOT}),
    ]


def _world(options: argparse.Namespace) -> dict[str, Scalar]:
    """The bridge's parameters of the world; where an episode file is given, also of where the robot stands.

    Raises:
        ConfigError: no such episode; or options that do not go together.
    """
    of_flats = {"--kind": options.kind, "--flat": options.flat, "--start": options.start}
    chosen = [name for name, value in of_flats.items() if value is not None]
    if options.world == "habitat" and options.episode_file is None:
        raise ConfigError(
            "--world habitat: name the episodes whose starts the robot may stand at (--episode-file)"
        )
    if options.episode_file is not None and chosen:
        raise ConfigError(f"{', '.join(chosen)}: with --episode-file the file says where the robot stands")
    if options.episode_file is None and options.episode:
        raise ConfigError(f"--episode = {options.episode!r}: of which file (--episode-file)?")
    of_habitat = {"habitat.python": options.python, "habitat.scenes": options.habitat_scenes}
    given: dict[str, Scalar] = {name: value for name, value in of_habitat.items() if value}
    if options.world != "habitat" and given:
        flags = {"habitat.python": "--python", "habitat.scenes": "--habitat-scenes"}
        names = ", ".join(flags[name] for name in given)
        raise ConfigError(f"{names}: only --world habitat has an interpreter and scenes of its own")
    parameters: dict[str, Scalar] = {"world": options.world, **given}
    if options.episode_file is None:
        return parameters
    return {**parameters, "episodes": str(options.episode_file), "episode": _episode_id(options)}


def _check_habitat(bridge: Mapping[str, Scalar]) -> None:
    """Raises ConfigError, before anything is started: Habitat does not run here, and why."""
    from vln_ros.sim.worlds import open_world

    open_world(from_flat(BridgeConfig, bridge)).close()


def _episode_id(options: argparse.Namespace) -> str:
    """Of the episode that was asked for, or the first. Raises ConfigError: there is none."""
    from vln_ros.nodes.sim_bridge.episodes import EpisodeOrder
    from vln_ros.sim.episodes.episode import read_episodes

    episodes = read_episodes(options.episode_file)
    order = EpisodeOrder(episodes, lambda _: False)
    episode = order.find(options.episode) if options.episode else episodes[0]
    print(f"{episode.scene_id}: start of episode {episode.episode_id} ({episode.instruction})")
    return episode.episode_id


def _check_flat(options: argparse.Namespace) -> None:
    """Raises ConfigError: no such flat, or start in it."""
    if options.flat is None and options.start is None:
        return
    from vln_ros.sim.splits import EPISODES_PER_SCENE, SPLITS

    flats = SPLITS[_SPLIT].scenes
    if options.flat is not None and not 0 <= options.flat < flats:
        raise ConfigError(f"--flat = {options.flat}: {_SPLIT} has 0 to {flats - 1}")
    if options.start is not None and not 1 <= options.start <= EPISODES_PER_SCENE:
        raise ConfigError(f"--start = {options.start}: a flat has 1 to {EPISODES_PER_SCENE}")


def _flat(place: Path, options: argparse.Namespace) -> dict[str, Scalar]:
    """The flat's episodes as a file, which here only says where the robot may stand; and which of them."""
    from vln_ros.sim.embedded.world import Scene
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.episodes.sentences import inventory
    from vln_ros.sim.splits import SPLITS, begin_scene

    seed = SPLITS[_SPLIT].first_seed + (options.flat or 0)
    scene = Scene(scene_id(seed, options.kind or "small"), AGENT_RADIUS_M)
    episodes = begin_scene(_SPLIT, scene)
    print(inventory(scene))
    path = write_episodes(place / "dataset", _SPLIT, episodes)
    return {"episodes": str(path), "episode": episodes[(options.start or 1) - 1].episode_id}


class _Waiting:
    """What a person sees until a sentence can be followed: where the page is, and what is still missing.

    Args:
        live: knows what is missing.
        page: None: there is none.
        begun_s: monotonic, when the command was given.
    """

    def __init__(self, live: _Live, page: GraphPage | None, begun_s: float) -> None:
        self._live, self._page, self._begun_s = live, page, begun_s
        self._is_terminal = sys.stdout.isatty()
        self._said = ""

    def look(self) -> bool:
        """Nothing is missing."""
        missing = self._live.missing()
        if self._page is not None and self._page.is_served:
            self.end()
            print(f"{self._page.address} (after {time.monotonic() - self._begun_s:.1f} s)", flush=True)
            self._page.open()
            self._page = None
        if missing and self._is_terminal:
            print(f"\r\x1b[K{missing}, {time.monotonic() - self._begun_s:.0f} s", end="", flush=True)
        elif missing and missing != self._said:
            print(missing, flush=True)
        self._said = missing
        return not missing and self._page is None

    def end(self) -> None:
        """Take back the line that changes."""
        if self._is_terminal:
            print("\r\x1b[K", end="")


class _Live:
    """What a person types, and what comes of it."""

    def __init__(self, person: Person, graph: Graph, limit_s: float) -> None:
        from std_msgs.msg import String
        from std_srvs.srv import Trigger

        from vln_ros.ros import convert, qos
        from vln_ros.ros.questions import ANSWER_TOPIC, QUESTION_TOPIC, string_from_question

        self._person, self._graph, self._limit_s = person, graph, limit_s
        self._convert, self._string_from_question = convert, string_from_question
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._typed: list[str | None] = []
        self._ended = self._is_ready = False
        self._executor = ""
        self._answers: dict[str, QuestionAnswer] = {}
        self._questions = 0
        node = person.node
        self._told = node.create_publisher(String, "instruction", qos.latched())
        self._asked = node.create_publisher(String, QUESTION_TOPIC, qos.events())
        self._cancel = node.create_client(Trigger, "navigator/cancel")
        person.hear(String, "sim_bridge/live", self._on_news, qos.events())
        person.hear(String, ANSWER_TOPIC, self._on_answer, qos.events())
        person.hear(String, "decision_held", self._on_held, qos.events())
        person.hear(String, "engine_failure", self._on_failure, qos.events())
        person.hear(String, "executor_state", self._on_state, qos.latched())

    def talk(self, begun_s: float, page: GraphPage | None) -> None:
        """Until the last line, or for ever where there is no terminal and nothing was typed."""
        wait = _Waiting(self, page, begun_s)
        ready = self._person.until(wait.look, READY_S)
        wait.end()
        if not ready:
            raise GraphError(
                f"the nodes did not find each other within {READY_S:g} s; executor: {self._executor}"
            )
        self._is_ready = True
        print(f"ready after {time.monotonic() - begun_s:.1f} s")
        if page is None:
            print(f"no page here (vln_ros web); to look on: {DOMAIN}={self._person.domain} rviz2 -d vln.rviz")
        print("a sentence, a question that ends with ?, or stop; Ctrl-D ends", flush=True)
        threading.Thread(target=self._read, name="terminal", daemon=True).start()
        terminal, lines = sys.stdin.isatty(), 0
        while True:
            self._person.until(self._has_line, None)
            line = self._typed.pop(0)
            if line is None and (terminal or lines):
                return
            if line is None:
                print("no terminal: sentences come by the page or `vln_ros say`; SIGTERM ends it", flush=True)
                self._person.until(self._checked, None)
            elif words := line.strip():
                lines += 1
                if not terminal:
                    print(f"> {words}", flush=True)
                self._do(words, wait=not terminal)

    def _do(self, words: str, *, wait: bool) -> None:
        if words.lower().rstrip(".! ") == "stop":
            self._stop()
        elif words.endswith("?"):
            self._ask(words, wait=wait)
        else:
            self._say(words, wait=wait)

    def _say(self, words: str, *, wait: bool) -> None:
        from std_msgs.msg import String

        try:
            text = self._convert.instruction_from_string(String(data=words))
        except self._convert.MessageError as error:
            print(error)
            return
        self._ended = False
        self._told.publish(self._convert.string_from_instruction(text))
        # Simulated time is what counts, and it may be slower than real time.
        if wait and not self._person.until(lambda: self._checked() or self._ended, 10 * self._limit_s):
            raise GraphError(f"the world stands: no word of it in {10 * self._limit_s:g} s")

    def _ask(self, words: str, *, wait: bool) -> None:
        self._questions += 1
        name = f"live-{self._questions}"
        self._asked.publish(self._string_from_question(Question(name, words)))
        if wait and not self._person.until(lambda: self._checked() or name in self._answers, READY_S):
            print("no answer came")

    def _stop(self) -> None:
        """The run is over, and the next sentence begins the next; for a pause there is `vln_ros stop`."""
        from std_srvs.srv import Trigger

        future = self._cancel.call_async(Trigger.Request())
        if self._person.until(lambda: self._checked() or future.done(), READY_S):
            print("the robot stands", flush=True)

    def _read(self) -> None:
        for line in sys.stdin:
            self._lines.put(line)
        self._lines.put(None)

    def _has_line(self) -> bool:
        self._checked()
        while not self._lines.empty():
            self._typed.append(self._lines.get())
        return bool(self._typed)

    def _checked(self) -> bool:
        """Never true. Raises GraphError if a node has ended."""
        self._graph.check()
        return False

    def missing(self) -> str:
        """What keeps a sentence from being followed; empty: nothing.

        Raises:
            GraphError: a node has ended.
        """
        self._graph.check()
        topic = self._person.node.resolve_topic_name("instruction")
        there = {info.node_name for info in self._person.node.get_subscriptions_info_by_topic(topic)}
        starting = sorted(NEEDED - {"navigator"} - there)
        if starting:
            return f"starting {', '.join(starting)}"
        asks = self._asked.get_subscription_count() > 0 and self._cancel.service_is_ready()
        if "navigator" not in there or not asks:
            return "the model loads"
        if not self._executor or self._executor.startswith("stopped"):
            return f"executor: {self._executor or 'nothing yet'}"
        return ""

    def _on_news(self, msg: Any) -> None:
        """That the last sentence is over because of this one is no end of this one."""
        from vln_ros.sim.episodes.sentences import ANOTHER_SENTENCE

        print(msg.data, flush=True)
        over = msg.data.startswith(("reached", "not reached", "over"))
        if over and ANOTHER_SENTENCE not in msg.data:
            self._ended = True

    def _on_answer(self, msg: Any) -> None:
        from vln_ros.ros.questions import answer_from_string

        answer = answer_from_string(msg)
        self._answers[answer.question_id] = answer
        said = answer.message if answer.spoken is None else answer.spoken.text or "(nothing)"
        print(f"answer: {said}", flush=True)

    def _on_held(self, msg: Any) -> None:
        print(f"the robot holds: {msg.data}", flush=True)

    def _on_failure(self, msg: Any) -> None:
        self._ended = True
        print(f"the engine failed: {msg.data}", flush=True)

    def _on_state(self, msg: Any) -> None:
        if msg.data != self._executor and self._is_ready and msg.data.startswith("stopped"):
            print(f"executor: {msg.data}", flush=True)
        self._executor = msg.data
