"""The page in the browser: the newest of everything out, instructions and STOP in."""

from __future__ import annotations

from functools import partial

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.event_handler import PublisherEventCallbacks
from std_msgs.msg import String

from vln_ros.config import WebConfig
from vln_ros.datatypes import Pose
from vln_ros.nodes.instruction_input import TOPIC
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.nodes.web.commands import CommandMailbox
from vln_ros.nodes.web.inputs import FeedInputs
from vln_ros.nodes.web.pictures import PictureStream
from vln_ros.nodes.web.questions import QuestionTopics
from vln_ros.nodes.web.standstill import Standstill
from vln_ros.nodes.web.starts import StartTopics
from vln_ros.ros import convert, qos
from vln_ros.ros.diagnostics import Health, Level, diagnostics_from_health
from vln_ros.ros.parameters import declare_config
from vln_ros.web.feed import Feed
from vln_ros.web.server import PageServer, host_name

TICK_S = 0.1
DIAGNOSTICS_S = 1.0
REUSE_TOPIC = "navigator/reuse_image"


class WebNode(ProcessNode):
    """See docs/robot/web.md. The only thing it publishes that moves a robot is a driver's instruction; a
    simulated one may be put elsewhere, too."""

    def __init__(self) -> None:
        super().__init__("web")
        self.config = c = declare_config(self, WebConfig)
        self.feed = Feed()
        # Volatile: an instruction is for the navigator that is there, not for one that starts later. That one
        # of the listeners' subscriptions cannot hear it is no news: another one does.
        quiet = PublisherEventCallbacks(use_default_callbacks=False)
        self._instruction_pub = self.create_publisher(String, TOPIC, qos.commands(), event_callbacks=quiet)
        self._diagnostics_pub = self.create_publisher(DiagnosticArray, "/diagnostics", qos.diagnostics())
        self._inputs = FeedInputs(self, c, self.feed, self._show_goal, self._look)
        self._inputs.watch(False)
        self._questions = QuestionTopics(self, self.feed, self._inputs.refuse)
        self._starts = StartTopics(self, self.feed, self._inputs.refuse)
        self._standstill = Standstill(self, self.feed.put)
        compressed = c.color_transport == "compressed"
        self._camera = PictureStream(
            self, c, self.feed, "camera", c.color_topic, compressed, self._inputs.refuse
        )
        reuse = PictureStream(self, c, self.feed, "reuse", REUSE_TOPIC, False, self._inputs.refuse)
        self._pictures = [self._camera, reuse]
        name = host_name() + self.get_namespace().rstrip("/")
        self._commands = CommandMailbox(self)
        self.server = PageServer(c, self, self.feed, name, self.get_logger().error)
        self.server.start()
        self.get_logger().info(f"the page: {'   '.join(self.server.addresses)}")
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a simulated clock may stand still
        self.create_timer(TICK_S, self._tick, clock=steady)
        self.create_timer(DIAGNOSTICS_S, self._diagnose, clock=steady)

    def close(self) -> None:
        self.server.close()
        for stream in self._pictures:
            stream.close()

    # ------------------------------------------------------------------ of the server's protocol: its thread

    def stop(self, who: str) -> None:
        self._commands.put(partial(self._stop, who))

    def instruct(self, text: str, who: str) -> None:
        self._commands.put(partial(self._instruct, text, who))

    def ask(self, text: str, who: str) -> None:
        self._commands.put(partial(self._questions.ask, text, who))

    def release(self, who: str) -> None:
        self._commands.put(partial(self._release, who))

    def put(self, x_m: float, y_m: float, yaw_rad: float, who: str) -> None:
        self._commands.put(partial(self._starts.put, Pose.planar(x_m, y_m, yaw_rad), who))

    def begin(self, start: str, who: str) -> None:
        self._commands.put(partial(self._starts.begin, start, who))

    def watch(self, views: frozenset[str]) -> None:
        self._commands.put(partial(self._watch, views))

    # ------------------------------------------------------------------ in the node's thread

    def _stop(self, who: str) -> None:
        self._standstill.stop()
        self.feed.note("stop", f"STOP ({who})")
        self.get_logger().warning(f"STOP ({who})")

    def _release(self, who: str) -> None:
        if self._standstill.release():
            self.feed.note("release", f"released by {who}")
        else:
            self.feed.note("refused", "not released: no executor is there")

    def _instruct(self, text: str, who: str) -> None:
        msg = String(data=text)
        try:
            msg.data = convert.instruction_from_string(msg)
        except convert.MessageError as error:
            self.feed.note("refused", str(error))
            return
        state = self._inputs.state
        if self._standstill.is_asked or (state is not None and state.paused):
            self.feed.note("refused", "the robot is stopped: release it first, then send the instruction")
        elif not self._inputs.is_navigator_there:
            self.feed.note("refused", "no navigator is there that could follow an instruction")
        else:
            self.get_logger().info(f"instruction of {who}: {msg.data}")
            self._inputs.expect_navigator()
            self._instruction_pub.publish(msg)

    def _look(self) -> None:
        """Whether a STOP still holds."""
        inputs = self._inputs
        is_paused = inputs.state is not None and inputs.state.paused
        if said := self._standstill.look(inputs.executor, is_paused, inputs.is_executor_silent):
            self.feed.note("stop" if self._standstill.is_asked else "release", said)
            self.get_logger().warning(said)

    def _tick(self) -> None:
        self._look()
        self._standstill.tick()
        self._inputs.tick()
        self._questions.tick(self._inputs.is_navigator_there)
        self._starts.tick()

    def _show_goal(self, stamp_ns: int) -> None:
        self._camera.show_goal(stamp_ns)

    def _watch(self, views: frozenset[str]) -> None:
        self._inputs.watch(bool(views))
        for stream in self._pictures:
            stream.watch(stream.view in views)

    def _diagnose(self) -> None:
        refused = self._inputs.refused
        values: list[tuple[str, str | int | float | bool]] = [
            ("pages open", self.server.viewers),
            ("requests refused", self.server.refused),
        ]
        values += [(f"pictures encoded: {s.view}", s.encoded) for s in self._pictures]
        values += [(f"refused: {reason}", n) for reason, n in sorted(refused.items())]
        health = Health(
            Level.WARN if refused else Level.OK, f"serving at port {self.server.port}", tuple(values)
        )
        now_ns = self.get_clock().now().nanoseconds
        namespace = self.get_namespace()
        self._diagnostics_pub.publish(
            diagnostics_from_health(health, f"vln_ros: {self.get_name()}", namespace, now_ns)
        )


def main() -> None:
    run_node(WebNode)


if __name__ == "__main__":
    main()
