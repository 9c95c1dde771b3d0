"""The inspector node: markers, trail, annotated image and plots, only while somebody looks."""

from __future__ import annotations

import math
import time
from collections import deque

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from nav_msgs.msg import Odometry, Path
from rclpy.subscription import Subscription
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory
from visualization_msgs.msg import MarkerArray

from vln_ros.config import ExtrinsicsConfig, InspectorConfig, OdometryConfig
from vln_ros.datatypes import ActionChunk
from vln_ros.evaluation.episode.video import Overlay, annotate
from vln_ros.nodes.instruction_input import Info, InstructionFilter, hear_instructions
from vln_ros.nodes.process import ProcessNode, run_node
from vln_ros.nodes.tools.inspecting import AnsweredPicture, DiagnosticPlots, ExecutorZones, OnDemand
from vln_ros.ros import convert, markers, qos
from vln_ros.ros.odometry import BaseOdometry, hear_odometry
from vln_ros.ros.parameters import declare_config


class Inspector(ProcessNode):
    """See docs/reference/nodes.md for topics. Nothing that it does is needed for driving."""

    def __init__(self) -> None:
        super().__init__("inspector")
        self.config = c = declare_config(self, InspectorConfig)
        self._text = ""
        self._queue: ActionChunk | None = None
        self._left = 0
        self._decisions = 0
        self._begun_s = time.monotonic()
        self._path: Path | None = None
        self._color: Image | CompressedImage | None = None
        self._depth: Image | CompressedImage | None = None
        self._trail: deque[PoseStamped] = deque(maxlen=c.trail_points)
        self._answered = AnsweredPicture()
        self._zones = ExecutorZones(self)
        self._plots = DiagnosticPlots(self)
        odometry = OdometryConfig(source=c.odometry.source, child_frame=c.odometry.child_frame)
        where = ExtrinsicsConfig(base_frame=c.base_frame, extrinsics="parameters", odometry=odometry)
        self._odometry = BaseOdometry(where, "", None)

        create, sensor = self.create_publisher, qos.sensor("reliable", 1)
        self._outputs = [
            OnDemand(create(Image, "~/annotated_image", sensor), self._hear_images, self._show_image),
            OnDemand(create(MarkerArray, "~/markers", qos.diagnostics()), list, self._show_markers),
            OnDemand(create(Path, "~/trail", qos.diagnostics()), list, self._show_trail),
        ]
        hear_instructions(self, self._on_instruction, InstructionFilter())
        self.create_subscription(DiagnosticArray, "instruction_status", self._on_status, qos.latched())
        self.create_subscription(JointTrajectory, "action_queue", self._on_queue, qos.commands())
        self.create_subscription(JointTrajectory, "queue_progress", self._on_progress, qos.commands())
        self.create_subscription(Path, "predicted_path", self._on_path, qos.diagnostics())
        hear_odometry(self, self._on_odometry, self._odometry, c.odom_frame, 5)
        self.create_timer(1.0 / c.rate_hz, self._tick)

    # ------------------------------------------------------------------ what comes in

    def _hear_images(self) -> list[Subscription]:
        c, sensor = self.config, qos.sensor("best_effort", 1)
        found = []
        for topic, transport, suffix, store in (
            (c.color_topic, c.color_transport, "compressed", self._on_color),
            (c.depth_topic, c.depth_transport, "compressedDepth", self._on_depth),
        ):
            if transport == "compressed":
                found.append(self.create_subscription(CompressedImage, f"{topic}/{suffix}", store, sensor))
            else:
                found.append(self.create_subscription(Image, topic, store, sensor))
        return found

    def _on_color(self, msg: Image | CompressedImage) -> None:
        self._color = msg

    def _on_depth(self, msg: Image | CompressedImage) -> None:
        self._depth = msg

    def _on_instruction(self, msg: String, _: Info) -> None:
        self._begin(msg.data)

    def _on_status(self, msg: DiagnosticArray) -> None:
        """What is told as a goal of the action comes by no other topic."""
        values = {v.key: v.value for v in msg.status[-1].values} if msg.status else {}
        if values.get("status") == "accepted" and values.get("instruction", self._text) != self._text:
            self._begin(values["instruction"])

    def _begin(self, text: str) -> None:
        self._text, self._begun_s, self._decisions = text, time.monotonic(), 0
        self._trail.clear()

    def _on_queue(self, msg: JointTrajectory) -> None:
        if (chunk := self._chunk(msg)) is not None:
            self._queue, self._left = chunk, len(chunk.actions)
            self._decisions += bool(chunk.actions) and not chunk.goes_on
            self._answered.told(chunk)

    def _on_progress(self, msg: JointTrajectory) -> None:
        left = self._chunk(msg)
        if left is not None and self._queue is not None and left.queue == self._queue.queue:
            self._left = len(left.actions)

    def _chunk(self, msg: JointTrajectory) -> ActionChunk | None:
        try:
            return convert.chunk_from_trajectory(msg)
        except convert.MessageError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=2.0)
            return None

    def _on_path(self, msg: Path) -> None:
        self._path = msg

    def _on_odometry(self, msg: Odometry) -> None:
        if self._odometry.from_tf and not self._odometry.knows(msg.child_frame_id):
            return  # something else hangs on the odometry frame, too
        p = msg.pose.pose.position
        last = self._trail[-1].pose.position if self._trail else None
        if last is None or math.hypot(p.x - last.x, p.y - last.y) >= self.config.trail_spacing_m:
            self._trail.append(PoseStamped(header=msg.header, pose=msg.pose.pose))

    # ------------------------------------------------------------------ what goes out

    def _tick(self) -> None:
        for output in self._outputs:
            output.tick(self)

    def _show_image(self) -> None:
        color, depth, queue = self._color, self._depth, self._queue
        if color is None:
            return
        self._color = None  # an image that nobody replaced is not shown as if it were new
        try:
            rgb = convert.rgb_from_message(color)
            depth_m = None if depth is None else convert.depth_from_message(depth)
        except convert.MessageError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=2.0)
            return
        actions = queue.actions if queue is not None else ()
        stamp_ns = convert.stamp_ns_from_time(color.header.stamp)
        self._answered.shown(stamp_ns, rgb)
        overlay = Overlay(
            instruction=self._text,
            actions=actions,
            executing=len(actions) - self._left if actions else None,
            step=self._decisions,
            time_s=time.monotonic() - self._begun_s,
            collided=False,
            answered=self._answered.picture,
        )
        drawn = np.ascontiguousarray(annotate(rgb, depth_m, overlay))
        self._outputs[0].publisher.publish(convert.image_from_rgb(drawn, stamp_ns, color.header.frame_id))

    def _show_markers(self) -> None:
        drawn = []
        zones = self._zones.get()
        if zones is not None:
            drawn += markers.zone_markers(zones, self.config.base_frame)
        path = self._path
        if path is not None and path.poses:
            stamp_ns = convert.stamp_ns_from_time(path.header.stamp)
            goal = path.poses[-1].pose
            drawn += markers.goal_markers(goal, path.header.frame_id, stamp_ns, self._text)
            if self._queue is not None and self._queue.place is not None:
                place, pixel = self._queue.place, self._answered.pixel
                drawn += markers.place_markers(place, pixel, path.header.frame_id, stamp_ns)
        if drawn:
            self._outputs[1].publisher.publish(MarkerArray(markers=drawn))

    def _show_trail(self) -> None:
        if self._trail:
            self._outputs[2].publisher.publish(Path(header=self._trail[-1].header, poses=list(self._trail)))


def main() -> None:
    run_node(Inspector)


if __name__ == "__main__":
    main()
