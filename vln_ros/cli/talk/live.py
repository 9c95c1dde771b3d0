"""``vln_ros live``: a simulated robot in real time, for sentences of one's own."""

from __future__ import annotations

import argparse
import importlib.util
import os
import queue
import shlex
import socket
import sys
import tempfile
import threading
import time
import webbrowser
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vln_ros.cli.arguments.parsing import SIZE
from vln_ros.cli.arguments.places import check_model, output_folder, run_folder
from vln_ros.cli.demo import SIMULATED_ROBOT, named_model, parse_size
from vln_ros.cli.graph import Graph, GraphError, NodeSpec, enter_graph
from vln_ros.cli.output.next_steps import print_report
from vln_ros.cli.output.waiting import waiting
from vln_ros.cli.talk.person import Person, seconds
from vln_ros.config import ConfigError, QwenConfig, Scalar
from vln_ros.nodes import MODULES
from vln_ros.questions import Question, QuestionAnswer
from vln_ros.ros.terminal.environment import DOMAIN
from vln_ros.sim.embedded.flat import KINDS

HELP = "A simulated robot in real time, for sentences of your own: type them, or use the page"
READY_S = 120.0
"""On the busiest machine, with the largest model."""
NEEDED = {"navigator", "executor", "sim_bridge"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kind", choices=KINDS, default="small", help="size of the flat (default: small)")
    parser.add_argument("--flat", type=int, default=0, help="which flat of val_unseen, from 0 (default: 0)")
    parser.add_argument(
        "--start", type=int, default=1, help="which of the flat's 5 starts the robot stands at (default: 1)"
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
    out = None if options.out is None else run_folder(options.out, "live")
    with tempfile.TemporaryDirectory(prefix="vln_ros_live_") as scratch:
        place = Path(scratch) if out is None else out
        with waiting("making the flat"):
            starts = _write_starts(place / "dataset", options)
        bridge: dict[str, Scalar] = {
            "episodes": str(starts),
            "episode": str(_first_number(options) + options.start),
            "mode": "live",
            "camera.width": width,
            "camera.height": height,
            "max_episode_s": options.limit_s,
            "run_folder": "" if out is None else str(out),
            "command": shlex.join(["vln_ros", *sys.argv[1:]]),
        }
        simulated: dict[str, Scalar] = {"use_sim_time": True}
        navigator: dict[str, Scalar] = {
            "engine": "qwen",
            "extrinsics": "parameters",
            "reliability": "reliable",
            **model,
            **simulated,
        }
        nodes = [
            NodeSpec("sim_bridge", bridge),
            NodeSpec("navigator", navigator),
            NodeSpec("executor", {**simulated, **SIMULATED_ROBOT}),
        ]
        page = "" if options.no_web else _page(nodes, simulated)
        try:
            with Graph(place / "logs", enter_graph(place / "logs")) as graph:
                for spec in nodes:
                    graph.start(spec)
                with Person(wait_s=READY_S) as person:
                    _Live(person, graph, options.limit_s).talk(begun_s, page)
        except GraphError as error:
            print(error, file=sys.stderr)
            return 1
        if out is not None:
            print_report(out)
    return 0


def _page(nodes: list[NodeSpec], simulated: Mapping[str, Scalar]) -> str:
    """Its address, and the node that serves it among ``nodes``; empty where that cannot be."""
    if "web" not in MODULES or importlib.util.find_spec("aiohttp") is None:
        return ""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes.append(NodeSpec("web", {"port": port, **simulated}))
    return f"http://127.0.0.1:{port}/"


def _first_number(options: argparse.Namespace) -> int:
    """Episodes of a split before those of this flat."""
    from vln_ros.sim.splits import EPISODES_PER_SCENE

    if not 1 <= options.start <= EPISODES_PER_SCENE:
        raise ConfigError(f"--start = {options.start}: a flat has 1 to {EPISODES_PER_SCENE}")
    return int(options.flat * EPISODES_PER_SCENE)


def _write_starts(root: Path, options: argparse.Namespace) -> Path:
    """The flat's episodes as a file; here they only say where the robot stands."""
    from vln_ros.sim.embedded.flat import AGENT_RADIUS_M, scene_id
    from vln_ros.sim.embedded.world import Scene
    from vln_ros.sim.episodes.episode import write_episodes
    from vln_ros.sim.splits import EPISODES_PER_SCENE, SPLITS, begin_episode

    split = SPLITS["val_unseen"]
    if not 0 <= options.flat < split.scenes:
        raise ConfigError(f"--flat = {options.flat}: val_unseen has 0 to {split.scenes - 1}")
    scene = Scene(scene_id(split.first_seed + options.flat, options.kind), AGENT_RADIUS_M)
    first = _first_number(options)
    episodes = [begin_episode(split.name, first + k, scene) for k in range(EPISODES_PER_SCENE)]
    names = ", ".join(sorted(f"the {name}" for name in scene.flat.referents.values()))
    print(f"{scene.flat.scene_id}: {', '.join(room.name for room in scene.flat.rooms)}; {names}")
    return write_episodes(root, split.name, episodes)


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

    def talk(self, begun_s: float, page: str) -> None:
        """Until the last line, or for ever where there is no terminal and nothing was typed."""
        with waiting("starting the nodes and the model"):
            ready = self._person.until(self._ready, READY_S)
        if not ready:
            raise GraphError(
                f"the nodes did not find each other within {READY_S:g} s; executor: {self._executor}"
            )
        self._is_ready = True
        print(f"ready after {time.monotonic() - begun_s:.1f} s")
        print(
            page
            or f"no page here (vln_ros web); to look on: {DOMAIN}={self._person.domain} rviz2 -d vln.rviz"
        )
        if page and sys.stdout.isatty() and (os.environ.get("DISPLAY") or sys.platform == "darwin"):
            webbrowser.open(page)
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

    def _ready(self) -> bool:
        """All who must hear a sentence are there, and the executor knows where the robot is."""
        self._graph.check()
        topic = self._person.node.resolve_topic_name("instruction")
        there = {info.node_name for info in self._person.node.get_subscriptions_info_by_topic(topic)}
        asks = self._asked.get_subscription_count() > 0 and self._cancel.service_is_ready()
        return there >= NEEDED and asks and self._executor != "" and not self._executor.startswith("stopped")

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
