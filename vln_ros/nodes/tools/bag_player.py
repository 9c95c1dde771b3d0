"""Plays a recording to the other nodes and notes what they answer."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from nav_msgs.msg import Odometry
from rclpy.publisher import Publisher
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header, String
from tqdm import tqdm
from trajectory_msgs.msg import JointTrajectory

from vln_ros.config import OWN_DEPTH_INFO_TOPIC, ConfigError, PlayerConfig
from vln_ros.nodes.navigator.sensors import COLOR_TOPIC, DEPTH_TOPIC, INFO_TOPIC
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.nodes.robot_topics import ASK_AGAIN_S
from vln_ros.nodes.static_frames import publish_static_frames
from vln_ros.nodes.tools.play_report import PlayedDecision, PlayReport
from vln_ros.ros import convert, qos
from vln_ros.ros.bag.reader import Bag, BagTopics, Stream
from vln_ros.ros.parameters import declare_config


class BagPlayer(ProcessNode):
    """Publishes the recording's messages as they are, under the topic names of this package.

    A thread of its own keeps the time; with ``rate`` 0 it waits for each frame to be processed.
    """

    def __init__(self) -> None:
        super().__init__("bag_player")
        self.config = c = declare_config(self, PlayerConfig)
        if not c.bag:
            raise ConfigError("bag is empty: name a recording")
        self._bag = Bag(Path(c.bag), BagTopics(c.color, c.depth, c.camera_info, c.odometry))
        sensor = qos.sensor(c.reliability, 30)
        self._outputs: dict[Stream, Publisher] = {
            Stream.COLOR: self._image_publisher(Stream.COLOR, COLOR_TOPIC, "compressed"),
            Stream.DEPTH: self._image_publisher(Stream.DEPTH, DEPTH_TOPIC, "compressedDepth"),
            Stream.CAMERA_INFO: self.create_publisher(CameraInfo, INFO_TOPIC, sensor),
            Stream.ODOMETRY: self.create_publisher(Odometry, "odom", qos.sensor("reliable", 100)),
        }
        self._needed = tuple(self._outputs.values())
        if Stream.DEPTH_INFO in self._bag.connections:
            self._outputs[Stream.DEPTH_INFO] = self.create_publisher(CameraInfo, OWN_DEPTH_INFO_TOPIC, sensor)
        self._frames_pub = publish_static_frames(self, self._bag)
        self._instruction_pub = self.create_publisher(String, "instruction", qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.sensor("reliable", 50))
        self.create_subscription(Header, "frame_processed", self._on_processed, qos.sensor("reliable", 50))
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, qos.diagnostics())
        self._changed = threading.Condition()
        self._answered_ns: int | None = None
        self._published_s: dict[int, float] = {}
        self._taken_ms: dict[int, float] = {}
        self._seen = PlayReport()
        self._diagnosed_s = 0.0
        self._closing = False
        self._thread = threading.Thread(target=self._play, name="player", daemon=True)
        self._thread.start()

    def _image_publisher(self, stream: Stream, topic: str, transport: str) -> Publisher:
        sensor = qos.sensor(self.config.reliability, 30)
        if self._bag.is_compressed(stream):
            return self.create_publisher(CompressedImage, f"{topic}/{transport}", sensor)
        return self.create_publisher(Image, topic, sensor)

    def close(self) -> None:
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._bag.close()

    # ------------------------------------------------------------------ what comes back

    def _on_queue(self, msg: JointTrajectory) -> None:
        arrived_s = time.monotonic()
        chunk = convert.chunk_from_trajectory(msg)
        with self._changed:
            self._answered_ns = max(chunk.frame_stamp_ns, self._answered_ns or 0)
            published_s = self._published_s.get(chunk.frame_stamp_ns)
            if chunk.actions and published_s is not None:
                after_ms = (arrived_s - published_s) * 1e3
                self._seen.decisions.append(PlayedDecision.of(chunk, after_ms))
            self._changed.notify_all()

    def _on_processed(self, msg: Header) -> None:
        arrived_s = time.monotonic()
        stamp_ns = convert.stamp_ns_from_time(msg.stamp)
        with self._changed:
            if stamp_ns in self._published_s:
                self._taken_ms[stamp_ns] = (arrived_s - self._published_s[stamp_ns]) * 1e3
            self._changed.notify_all()

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.name == "vln_ros: navigator":
                with self._changed:
                    values = tuple((v.key, v.value) for v in status.values)
                    self._seen.hear(values, status.message if status.level == DiagnosticStatus.ERROR else "")
                    self._diagnosed_s = time.monotonic()
                    self._changed.notify_all()

    def _wait(self, condition: Callable[[], bool], timeout_s: float) -> bool:
        """Until the condition holds; False after the time-out or when the process ends."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing or condition(), timeout_s)
            return not self._closing and condition()

    def _play(self) -> None:
        """The player's thread."""
        status = 1
        try:
            status = self._play_all()
        except ConfigError as error:
            self.get_logger().error(str(error))
        finally:  # whatever happened: the process must not stay
            if not self.done.done():
                self.done.set_result(status)

    def _play_all(self) -> int:
        c = self.config
        while not self._is_heard():
            self._wait(lambda: False, 0.05)
            if self._closing:
                return 1
        if not self._told():
            raise ConfigError(f"the navigator did not take the instruction in {c.answer_timeout_s:g} s")
        self._await_diagnostics(time.monotonic())
        self._stream()
        self._seen.quiet = False
        self._wait(self._settled, c.answer_timeout_s)
        self._await_diagnostics(time.monotonic())
        if c.report:
            self._seen.published, self._seen.processed = len(self._published_s), len(self._taken_ms)
            self._seen.taken_ms = list(self._taken_ms.values())
            self._seen.write(Path(c.report))
        return 0

    def _is_heard(self) -> bool:
        """All topics by somebody, the pictures by as many as are wanted."""
        color = self._outputs[Stream.COLOR].get_subscription_count()
        return color >= self.config.listeners and all(p.get_subscription_count() for p in self._needed)

    def _told(self) -> bool:
        """The instruction is given again and again; whether the navigator has answered in time."""
        wait_s = min(ASK_AGAIN_S, self.config.answer_timeout_s)
        for _ in range(math.ceil(self.config.answer_timeout_s / wait_s)):
            self._instruction_pub.publish(convert.string_from_instruction(self.config.instruction))
            if self._wait(lambda: self._answered_ns is not None, wait_s) or self._closing:
                return not self._closing
        return False

    def _await_diagnostics(self, since_s: float) -> None:
        """Until the navigator has said how it is; without its counts a recording says nothing.

        Raises:
            ConfigError: it says nothing.
        """
        timeout_s = self.config.answer_timeout_s
        if not self._wait(lambda: self._diagnosed_s > since_s, timeout_s) and not self._closing:
            raise ConfigError(f"the navigator said nothing on /diagnostics for {timeout_s:g} s")

    def _settled(self) -> bool:
        """The last frame was taken in (the newest wins) or refused, and what was taken in is answered."""
        last_ns, taken_ns = max(self._published_s, default=0), max(self._taken_ms, default=0)
        answered = bool(self._seen.failure) or (self._answered_ns or 0) >= taken_ns
        return answered and (last_ns in self._taken_ms or self._seen.quiet)

    def _stream(self) -> None:
        """Publish everything, in time."""
        c = self.config
        begun_s = time.monotonic()
        first_ns: int | None = None
        with tqdm(total=self._bag.count(Stream.COLOR), unit="frame", file=sys.stderr, disable=None) as bar:
            for message in self._bag.messages():
                first_ns = message.time_ns if first_ns is None else first_ns
                if c.rate > 0.0:
                    due_s = begun_s + (message.time_ns - first_ns) / 1e9 / c.rate
                    self._wait(lambda: False, due_s - time.monotonic())
                    self._seen.late_ms = max(self._seen.late_ms, (time.monotonic() - due_s) * 1e3)
                if self._closing:
                    return
                if message.stream is Stream.COLOR:
                    bar.update()
                try:  # bytes that are no message would end whoever subscribes
                    whole = deserialize_message(message.data, self._outputs[message.stream].msg_type)
                except RuntimeError:
                    self._seen.unreadable += 1
                    continue
                if message.stream is Stream.COLOR:
                    self._before_color(convert.stamp_ns_from_time(whole.header.stamp))
                self._outputs[message.stream].publish(message.data)

    def _before_color(self, stamp_ns: int) -> None:
        c = self.config
        if c.rate == 0.0 and self._published_s:
            last = max(self._published_s)
            if not self._wait(lambda: last in self._taken_ms, c.frame_timeout_s):
                self.get_logger().warning(f"frame {last} was not taken in {c.frame_timeout_s:g} s; going on")
        with self._changed:
            self._published_s[stamp_ns] = time.monotonic()


def main() -> None:
    run_node(BagPlayer)


if __name__ == "__main__":
    main()
